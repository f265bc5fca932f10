"""Members of filled fields scatter by the stated deviation about the analysis, however they are made."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from etesian.core import Channel, Grid, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.fill import members as drawing
from etesian.fill.months import LAND
from etesian.fill.run import fill_to
from etesian.fill.task import GapFillTask
from etesian.networks.gapfiller import GapFiller
from etesian.samples.windows import Period
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
SST = "sea_surface_temperature"
GRID = Grid(30 + 0.25 * np.arange(8), 10 + 0.25 * np.arange(20))
NOISE = 0.2


def task(tile: tuple[int, int] = (8, 12), *, target: str = "daily", **options: Any) -> GapFillTask:
    torch.manual_seed(0)
    layout = Layout((Channel(SST),), (Channel(SST),), GRID, statics=(LAND,))
    small = {"dim": 16, "heads": 2, "depth": 1, "hidden": 8, "pooling_heads": 2, "daily": True, "variance": True}
    small |= {"residual": "kriging", "kernels": [(1.0, 80.0, 1.5), (0.5, 300.0, 5.0)]}
    made = GapFillTask(
        lambda own: GapFiller(own, **(small | options)), layout, Statistics((Channel(SST), LAND), np.array([290.0, 0]),
        np.array([2.0, 1.0])), anomalies=False,
    )  # fmt: skip
    if (kriging := made.network.kriging) is not None:
        with torch.no_grad():
            kriging.noise_logarithm[:] = np.log(NOISE) / 10
            kriging.stretch_logarithms[:] = np.log(0.6) / 10
        kriging.neighbors = ((1.0, 16), (0.2, 6))
    made.spread_factor.fill_(1.25)
    cut = {"target": target, "months": 1, "margin": 2, "tile": list(tile), "overlap": 4}
    made.provenance = {"gap_filling": cut}
    return made.eval()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Every other day of 50 from the middle of January on, half of it under clouds, with two columns of land."""
    time = xr.date_range("2001-01-16", periods=50)
    random = np.random.default_rng(0)
    values = 290 + np.cumsum(0.4 * random.standard_normal((50, *GRID.shape)), 0)
    clouds = random.random((50, 4, 5)).repeat(2, 1).repeat(4, 2) < 0.6
    values[clouds] = np.nan
    values[::2] = np.nan
    values[:, :, :2] = np.nan
    land = np.zeros(GRID.shape)
    land[:, :2] = 1
    dims = ("time", "latitude", "longitude")
    dataset = xr.Dataset(
        {SST: (dims, values.astype(np.float32), {"units": "K"}), "land_sea_mask": (dims[1:], land, {"units": "1"})},
        {"time": time, "latitude": GRID.latitude, "longitude": GRID.longitude},
    )
    path = tmp_path_factory.mktemp("members") / "store.zarr"
    prepare_dataset(dataset, path)
    return Store(path)


def fill(path: Path, made: GapFillTask, store: Store, *period: str, **options: Any) -> xr.Dataset:
    fill_to(made, store, str(path), Period(*period), source={"run": "run"}, **options)
    return xr.open_zarr(path).load()


def test_members_are_the_analysis_and_their_scatter_is_what_it_states(store: Store, tmp_path: Path) -> None:
    made = task()
    # Else the factor of their variance lets members scatter by more than the noise.
    torch.nn.init.zeros_(made.network.kriging.doubt)
    analysis = fill(tmp_path / "analysis.zarr", made, store, "2001-02", "2001-02")
    found = fill(tmp_path / "members.zarr", made, store, "2001-02", "2001-02", members=40, seed=1)
    assert found[SST].dims == ("time", "number", "latitude", "longitude")
    for name in (f"{SST}_standard_deviation", f"{SST}_observations", f"{SST}_flag"):
        xr.testing.assert_identical(found[name], analysis[name])
    members, stated = found[SST], analysis[f"{SST}_standard_deviation"]
    assert np.isnan(members[..., :2]).all()
    sea = members[..., 2:]
    off = (sea.mean("number") - analysis[SST][..., 2:]) / stated[..., 2:] * 40**0.5
    assert abs(off).max() < 5
    assert float((off**2).mean()) == pytest.approx(1, abs=0.2)
    ratio = sea.std("number", ddof=1) / stated[..., 2:]
    assert 0.5 < ratio.min() < ratio.max() < 1.6
    assert float(ratio.mean()) == pytest.approx(1, abs=0.03)
    # Members scatter about what was observed by no more than its noise, of a deviation of 2 K and the run's factors.
    seen = np.isfinite(store.read(np.searchsorted(store.time, _seconds(found)))[:, 0])
    scatter = members.std("number", ddof=1).values
    assert np.sqrt(np.mean(scatter[seen] ** 2)) < 1.25 * 2 * NOISE < np.nanmin(scatter[~seen & np.isfinite(scatter)])


def test_members_are_the_same_however_many_and_however_the_work_is_divided(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # More than are drawn together.
    monkeypatch.setattr(drawing, "TOGETHER", 2)
    made = task()
    both = fill(tmp_path / "both.zarr", made, store, "2001-02", "2001-03", members=3, seed=4)
    few = fill(tmp_path / "few.zarr", made, store, "2001-03", "2001-03", members=2, seed=4)
    xr.testing.assert_identical(both[SST].sel(time="2001-03", number=slice(0, 1)), few[SST].sel(time="2001-03"))
    monkeypatch.setattr(drawing, "_LARGEST", 1)
    alone = fill(tmp_path / "alone.zarr", made, store, "2001-02", "2001-02", members=2, seed=4)
    xr.testing.assert_identical(both[SST].sel(time="2001-02", number=slice(0, 1)), alone[SST])
    others = fill(tmp_path / "others.zarr", made, store, "2001-02", "2001-02", members=1, seed=5)
    assert float(abs(others - alone)[SST].mean()) > 0.3
    fields = drawing.Scatter._field

    def breaks(self: drawing.Scatter, draw: drawing.Draw, *rest: Any) -> Any:
        if draw.member == 1 and rest[1].min() > 11375:
            raise KeyboardInterrupt
        return fields(self, draw, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(drawing.Scatter, "_field", breaks)
        with pytest.raises(KeyboardInterrupt):
            fill(tmp_path / "again.zarr", made, store, "2001-02", "2001-03", members=3, seed=4)
    assert not (tmp_path / "again.zarr").exists()
    again = fill(tmp_path / "again.zarr", made, store, "2001-02", "2001-03", members=3, seed=4)
    xr.testing.assert_identical(both, again)


def test_members_have_no_seams_between_tiles_and_go_on_from_month_to_month(store: Store, tmp_path: Path) -> None:
    cut, whole = (
        fill(tmp_path / f"{width}.zarr", task((8, width)), store, "2001-02", "2001-03", members=4) for width in (12, 20)
    )
    scatter, other = (each[SST] - each[SST].mean("number") for each in (cut, whole))
    steps, without = (abs(each.diff("longitude")).mean(("time", "number", "latitude"))[2:] for each in (scatter, other))
    assert float(abs(steps / without - 1).max()) < 0.25
    assert float(xr.corr(scatter, other)) > 0.97
    steps = (
        np.abs(scatter.diff("time"))
        .mean(("number", "latitude", "longitude"))
        .sel(time=slice("2001-02-20", "2001-03-05"))
    )
    assert float(steps.sel(time="2001-03-01") / steps.mean()) < 1.5


@pytest.mark.parametrize(
    ("options", "asked", "message"),
    [
        ({"residual": "analysis"}, {"members": 2}, "residual: kriging, or fill without members"),
        ({"variance": False}, {"members": 2}, "set variance: true"),
        ({"target": "monthly"}, {"members": 2}, "target: daily and take means of its members"),
        ({}, {"members": 2, "empty": "climatology"}, "as if it were known exactly; leave out empty: climatology, or"),
        ({}, {"members": 0}, "members = 0 must be 1 or more"),
        ({}, {"members": 2, "seed": -1}, "seed = -1 must be 0 or more"),
    ],
)
def test_what_has_no_members_says_why(
    options: dict[str, Any], asked: dict[str, Any], message: str, store: Store, tmp_path: Path
) -> None:
    if "residual" in options:
        options = options | {"kernels": None}
    with pytest.raises(RecipeError, match=message):
        fill(tmp_path / "none.zarr", task(**options), store, "2001-02", "2001-02", **asked)
    assert not (tmp_path / "none.zarr").exists()


def _seconds(dataset: xr.Dataset) -> np.ndarray:
    return dataset.time.values.astype("datetime64[s]").astype(np.int64)
