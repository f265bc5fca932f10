import json

import pytest

from etesian.core import Channel, Grid, Layout
from etesian.core.errors import CheckpointError
from etesian.core.recorded import Recorded, from_plain, rebuild, to_plain


class Thing(Recorded):
    def __init__(self, layout: Layout, width: int = 3, *, widths: tuple[int, ...] = (1, 2)) -> None:
        self.layout, self.width, self.widths = layout, width, widths


def test_a_description_survives_json_and_rebuilds_an_equal_object() -> None:
    thing = Thing(Layout((Channel("temperature", 850),), (Channel("2m_temperature"),), Grid.equiangular(30)), width=7)
    again = rebuild(json.loads(json.dumps(thing.describe() | {"class": f"{__name__}.Thing"})))
    assert again.layout == thing.layout
    assert (again.width, again.widths) == (7, (1, 2))


def test_a_checkpoint_cannot_call_arbitrary_code() -> None:
    with pytest.raises(CheckpointError, match="not one of its kind"):
        rebuild({"class": "subprocess.Popen", "arguments": {"args": "true"}})


def test_keys_that_are_numbers_stay_numbers() -> None:
    weights = {24: 1.5, 48: 0.5}
    assert from_plain(json.loads(json.dumps(to_plain(weights)))) == weights
