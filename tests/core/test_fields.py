"""Values keep their frame."""

import pytest
import torch

from etesian.core import Batch, Channel, Fields, Frame, Grid
from etesian.core.errors import ChannelError

CHANNELS = (Channel("temperature", 500), Channel("temperature", 850), Channel("2m_temperature"))
GRID = Grid([-45, 45], [0, 120, 240])


def fields() -> Fields:
    values = torch.arange(2 * 2 * 3 * 6).float().reshape(2, 2, 3, 2, 3)
    return Fields(values, Frame(CHANNELS, torch.tensor([[0, 6], [1, 7]]), GRID), values % 5 > 0)


def test_shapes_that_disagree_with_the_frame_are_refused() -> None:
    good = fields()
    with pytest.raises(ValueError, match=r"values have shape \(2, 2, 2, 2, 3\), their frame \(2, 2, 3, 2, 3\)"):
        Fields(good.values[:, :, :2], good.frame)


def test_channels_are_selected_by_name_with_their_mask() -> None:
    chosen = fields().select(CHANNELS[::-2])
    assert chosen.frame.channels == CHANNELS[::-2]
    assert torch.equal(chosen.values, fields().values[:, :, [2, 0]])
    assert torch.equal(chosen.valid, fields().valid[:, :, [2, 0]])
    with pytest.raises(ChannelError, match="no channel 'temperature_700'; did you mean 'temperature_"):
        fields().select([Channel("temperature", 700)])


@pytest.mark.parametrize("position", [0, 1, -1, -2])
def test_one_time_keeps_its_axis(position: int) -> None:
    one = fields().at(position)
    assert one.frame.time.tolist() == fields().frame.time[:, [position]].tolist()
    assert torch.equal(one.values, fields().values[:, [position]])
    assert torch.equal(one.valid, fields().valid[:, [position]])


def test_values_that_are_not_valid_are_filled() -> None:
    assert fields().filled(-1.0).eq(-1).sum() == (~fields().valid).sum()
    whole = Fields(fields().values, fields().frame)
    assert whole.filled(-1.0) is whole.values


def test_a_batch_moves_all_its_parts() -> None:
    moved = Batch(fields(), targets=fields(), statics=fields()).to("meta")
    assert len(moved) == 2
    assert moved.forcings is None
    for part in (moved.inputs, moved.targets, moved.statics):
        assert {part.values.device.type, part.valid.device.type} == {"meta"}
        # Times stay with the code that reads them.
        assert part.frame.time.device.type == "cpu"
