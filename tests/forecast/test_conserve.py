"""An area mean that is to be conserved stays what it was, step after step."""

from functools import partial
from typing import Any

import pytest
import torch

from etesian import Batch, ForecastTask, Layout, Region, UNet
from etesian.core.errors import RecipeError
from etesian.samples.windows import WindowReader
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


def task_of(store: str, layout: dict[str, Any] | None = None, **options: Any) -> ForecastTask:
    given = Store(store)
    torch.manual_seed(0)
    chosen = {"conserve": ("surface_pressure",), "anomalies": True, "predict": "departure", "step_hours": 6} | options
    made = Layout(**({"inputs": given.channels, "targets": given.channels, "grid": given.grid} | (layout or {})))
    task = ForecastTask(partial(UNet, leads=(6, 12), width=4), made, given.statistics, **chosen)
    torch.nn.init.normal_(task.network.leave.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    return task.eval()


def start(store: str) -> Batch:
    given = Store(store)
    reader = WindowReader(given, Layout(given.channels, given.channels, given.grid))
    return reader.start(given.time[[3, 8]])


@pytest.mark.parametrize("steps", [None, 6])
def test_the_area_mean_stays_and_nothing_else_does(store: str, steps: int | None) -> None:
    free, kept = (task_of(store, step_hours=steps, conserve=chosen) for chosen in ((), ("surface_pressure",)))
    batch = start(store)
    frame = free.target_frame(batch, [6, 12])
    weight = torch.from_numpy(frame.grid.area_weights)[:, None]

    def means(values: torch.Tensor) -> torch.Tensor:
        return (values.double() * weight).sum((-2, -1)) / (weight.sum() * values.shape[-1])

    before, loose, held = (
        means(batch.inputs.values),
        free.predict(batch, frame).values,
        kept.predict(batch, frame).values,
    )
    torch.testing.assert_close(means(held)[:, :, 2], before[:, :, 2].expand(-1, 2), rtol=1e-7, atol=0)
    assert (means(loose)[:, :, 2] - before[:, :, 2]).abs().min() > 1
    # Everywhere alike: what is left of a difference is rounding.
    first = (held - loose)[:, 0, 2]
    assert (first - first.mean((-2, -1), keepdim=True)).abs().max() < 0.05
    torch.testing.assert_close(held[:, 0, :2], loose[:, 0, :2])


def test_what_cannot_be_conserved_is_refused(store: str, gappy_store: str) -> None:
    channels, grid = Store(store).channels, Store(store).grid
    with pytest.raises(RecipeError, match="conserve names 'humidity', which is not among the inputs and the targets"):
        task_of(store, conserve=("humidity",))
    with pytest.raises(RecipeError, match="conserve names 'surface_pressure', which is not among the inputs and"):
        task_of(store, {"targets": channels[:2]}, step_hours=None)
    with pytest.raises(RecipeError, match="conserved on the whole globe only"):
        task_of(store, {"grid": grid.crop(Region(-50, 50, 300, 60))})
    gappy = task_of(gappy_store)
    batch = start(gappy_store)
    with pytest.raises(RecipeError, match="conserved of fields without holes"):
        gappy.predict(batch, gappy.target_frame(batch, [6]))


def test_what_is_fed_back_stays_within_the_limit(store: str) -> None:
    batch = start(store)
    free, far, near = (task_of(store, limit=limit, conserve=()) for limit in (None, 1e6, 3.0))
    frame = free.target_frame(batch, list(range(6, 246, 6)))
    for task in (free, far, near):
        torch.nn.init.normal_(task.network.leave.weight, std=1.0)  # type: ignore[union-attr, arg-type]
        task.network.load_state_dict(free.network.state_dict())
    loose, same, held = (task(task.normalized(batch), frame) for task in (free, far, near))
    torch.testing.assert_close(same[:, :3], loose[:, :3])
    assert loose[:, -1].abs().max() > 1e3
    assert held.abs().max() < 100
    torch.testing.assert_close(held[:, :1], loose[:, :1])
    with pytest.raises(RecipeError, match="limit: 3 is for what steps feed back"):
        task_of(store, limit=3.0, step_hours=None)
