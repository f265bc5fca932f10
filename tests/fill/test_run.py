"""Filled fields come tile by tile without seams, keep what is known of each month, and never invent one."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from etesian.core import Channel, Fields, Frame, Grid, Layout
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.core.statistics import Statistics
from etesian.files.open import open_store
from etesian.fill import run as filler
from etesian.fill.data import GapFillData
from etesian.fill.months import LAND
from etesian.fill.run import Filler, fill_to
from etesian.fill.task import GapFillTask
from etesian.networks.network import Distribution, Reconstruction, find_months
from etesian.samples.windows import Period
from etesian.simulation.clouds import CloudLibrary
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
SST = "sea_surface_temperature"
GLOBE = Grid.equiangular(11.25)
BOX = Grid(np.arange(20, 45.0), np.arange(300, 330.0))


class TileMean(Reconstruction):
    """Answers every point with the mean of what was observed in the tile, and the tile's own offset."""

    gives_variance = True

    def __init__(self, layout: Layout, *, offset: float = 0.0) -> None:
        super().__init__()
        self.layout, self.offset = layout, offset

    def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
        assert inputs.valid is not None
        seen = inputs.valid.double()
        mean = (inputs.values.double() * seen).sum(dim=(1, 3, 4)) / seen.sum(dim=(1, 3, 4)).clamp(min=1)
        east = np.radians(float(inputs.frame.grid.longitude.mean()))
        shift = self.offset * np.cos(east) + self.offset * np.radians(float(inputs.frame.grid.latitude.mean()))
        values = (mean + shift)[:, None, :, None, None].expand(*target.time.shape, -1, *target.grid.shape)
        return Distribution(values, torch.full_like(values, 0.25))


def task(
    grid: Grid, *, target: str = "monthly", months: int = 1, margin: int = 0, tile: tuple[int, int], overlap: int,
    offset: float = 0.0,
) -> GapFillTask:  # fmt: skip
    layout = Layout((Channel(SST),), (Channel(SST),), grid, statics=(LAND,))
    physical = Statistics((Channel(SST), LAND), np.zeros(2), np.ones(2))
    made = GapFillTask(lambda own: TileMean(own, offset=offset), layout, physical, anomalies=False)
    cut = {"target": target, "months": months, "margin": margin, "tile": list(tile), "overlap": overlap}
    made.provenance = {"gap_filling": cut}
    return made


def sea(grid: Grid, *, value: float | None = 285.25, calendar: str = "standard", days: int = 150) -> xr.Dataset:
    """A sea of one temperature, half under clouds; the first two rows are land, March is overcast."""
    time = xr.date_range("2001-01-01", periods=days, calendar=calendar, use_cftime=calendar != "standard")
    random = np.random.default_rng(0)
    values = np.full((days, *grid.shape), value, dtype=np.float32)
    values[random.random(values.shape) < 0.5] = np.nan
    values[:, :2] = np.nan
    values[[day.month == 3 for day in pd.Series(time)]] = np.nan
    lsm = np.zeros(grid.shape, dtype=np.float32)
    lsm[:2] = 1
    dims = ("time", "latitude", "longitude")
    return xr.Dataset(
        {SST: (dims, values, {"units": "K"}), "land_sea_mask": (dims[1:], lsm, {"units": "1"})},
        {"time": time, "latitude": grid.latitude, "longitude": grid.longitude},
    )


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("box") / "box.zarr"
    dataset = sea(BOX)
    dataset[SST][0, 5, 5] = 286  # else it would not vary at all
    prepare_dataset(dataset, path)
    return Store(path)


@pytest.fixture(scope="module")
def globe(tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("globe") / "globe.zarr"
    dataset = sea(GLOBE, days=60)
    dataset[SST][0, 5, 5] = 286
    prepare_dataset(dataset, path)
    return Store(path)


def write(path: Path, made: GapFillTask, store: Store, *period: str, **options: Any) -> xr.Dataset:
    fill_to(made, store, str(path), Period(*period), source={"run": "run"}, **options)
    return xr.open_zarr(path)


def test_a_constant_field_comes_out_exactly(box: Store, tmp_path: Path) -> None:
    found = write(tmp_path / "out.zarr", task(BOX, tile=(8, 12), overlap=3), box, "2001-02", "2001-02")
    assert found[SST].dims == ("time", "latitude", "longitude")
    assert found[SST].dtype == np.float32
    assert found.time.values.astype("datetime64[D]").tolist() == [np.datetime64("2001-02-01").item()]
    assert (found[SST][0, 2:] == 285.25).all()
    assert (found[f"{SST}_standard_deviation"][0, 2:] == 0.5).all()
    assert (found[f"{SST}_flag"][0, 2:] == 0).all()


def test_land_holds_nothing_and_says_so(box: Store, tmp_path: Path) -> None:
    found = write(tmp_path / "out.zarr", task(BOX, tile=(8, 12), overlap=3), box, "2001-02", "2001-02")
    for name in (SST, f"{SST}_standard_deviation"):
        assert np.isnan(found[name][:, :2]).all()
    assert (found[f"{SST}_flag"][:, :2] == 2).all()
    assert (found[f"{SST}_observations"][:, :2] == 0).all()
    assert found[f"{SST}_flag"].attrs["flag_meanings"].split() == ["filled", "nothing_observed_in_month", "land"]


def test_observations_are_the_days_on_which_a_point_was_seen(box: Store, tmp_path: Path) -> None:
    found = write(tmp_path / "out.zarr", task(BOX, tile=(8, 12), overlap=3), box, "2001-01", "2001-04")
    dated = box.dataset.fields[:, 0].assign_coords(time=box.times(range(len(box.time))))
    expected = dated.notnull().resample(time="MS").sum().sel(time=slice("2001-01", "2001-04"))
    np.testing.assert_array_equal(found[f"{SST}_observations"], expected)


@pytest.mark.parametrize("target", ["monthly", "daily"])
def test_a_month_without_observation_is_flagged_and_never_invented(box: Store, tmp_path: Path, target: str) -> None:
    made = task(BOX, tile=(8, 12), overlap=3, target=target)
    found = write(tmp_path / "out.zarr", made, box, "2001-02", "2001-04")
    assert found.sizes["time"] == (3 if target == "monthly" else 28 + 31 + 30)
    march = found.sel(time="2001-03")
    assert np.isnan(march[SST]).all()
    assert np.isnan(march[f"{SST}_standard_deviation"]).all()
    assert (march[f"{SST}_flag"][:, 2:] == 1).all()
    for month in ("2001-02", "2001-04"):
        assert (found.sel(time=month)[SST][:, 2:] == 285.25).all()
        assert (found.sel(time=month)[f"{SST}_flag"][:, 2:] == 0).all()
    usual = write(tmp_path / "usual.zarr", made, box, "2001-02", "2001-04", empty="climatology")
    assert abs(usual.sel(time="2001-03")[SST][:, 2:] - 285.25).max() < 0.1
    xr.testing.assert_equal(usual[f"{SST}_flag"], found[f"{SST}_flag"])
    assert np.isnan(usual.sel(time="2001-03")[f"{SST}_standard_deviation"]).all()


def test_the_network_is_not_asked_about_tiles_without_observation(tmp_path: Path) -> None:
    dataset = sea(BOX, days=31)
    dataset[SST][:, :, 15:] = np.nan
    dataset[SST][0, 5, 5] = 286
    prepare_dataset(dataset, tmp_path / "half.zarr")
    made = task(BOX, tile=(25, 10), overlap=0)
    found = write(tmp_path / "out.zarr", made, Store(tmp_path / "half.zarr"), "2001-01", "2001-01")
    # The tile of columns 10 to 19 saw something, the one of 20 to 29 nothing.
    assert np.isfinite(found[SST][0, 2:, :20]).all()
    assert np.isnan(found[SST][0, :, 20:]).all()
    assert (found[f"{SST}_flag"][0, 2:, 20:] == 1).all()


def test_no_step_is_left_where_tiles_meet_not_even_at_the_date_line(globe: Store, tmp_path: Path) -> None:
    """Tiles answer differently, smoothly so from tile to tile; the blend has no step larger than its own slope."""
    steps = {}
    for overlap in (0, 4):
        made = task(GLOBE, tile=(8, 8), overlap=overlap, offset=10.0)
        found = write(tmp_path / f"out{overlap}.zarr", made, globe, "2001-01", "2001-01")[SST].values[0, 2:]
        round_the_globe = np.concatenate([found, found[:, :1]], axis=1)
        steps[overlap] = max(abs(np.diff(round_the_globe, axis=1)).max(), abs(np.diff(found, axis=0)).max())
    assert steps[0] > 9
    # Spread over the five points between, along sin², at most about 0.38 of it falls between two neighbours.
    assert steps[4] < 0.45 * steps[0]


def test_tiles_across_the_date_line_read_the_points_they_stand_for(tmp_path: Path) -> None:
    dataset = sea(GLOBE, days=31)
    dataset[SST][:] = np.where(np.isnan(dataset[SST]), np.nan, GLOBE.longitude)
    dataset[SST].attrs["units"] = "1"
    prepare_dataset(dataset, tmp_path / "east.zarr")
    store = Store(tmp_path / "east.zarr")
    seen: list[tuple[float, float]] = []

    class Watch(TileMean):
        def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
            assert inputs.valid is not None
            own = torch.from_numpy(inputs.frame.grid.longitude % 360).expand_as(inputs.values)[inputs.valid]
            seen.append((float((inputs.values[inputs.valid] - own).abs().max()), inputs.frame.grid.longitude[-1]))
            return super().distribution(inputs, target, statics=statics)

    made = task(GLOBE, tile=(16, 12), overlap=2)
    made.network = Watch(made.layout)
    write(tmp_path / "out.zarr", made, store, "2001-01", "2001-01")
    assert max(error for error, _ in seen) == 0
    assert any(last >= 360 for _, last in seen)


def test_several_months_are_asked_together_and_each_is_written_once(box: Store, tmp_path: Path) -> None:
    made = task(BOX, tile=(8, 12), overlap=3, months=2)
    asked: list[tuple[int, ...]] = []

    class Watch(TileMean):
        def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
            asked.append(tuple(find_months(inputs.frame, target).member.sum(1)[0].tolist()))
            return super().distribution(inputs, target, statics=statics)

    made.network = Watch(made.layout)
    found = write(tmp_path / "out.zarr", made, box, "2001-01", "2001-05")
    assert found.time.dt.month.values.tolist() == [1, 2, 3, 4, 5]
    assert set(asked) == {(31, 28), (31, 30), (30, 31)}
    assert (found.sel(time=["2001-04", "2001-05"])[SST][:, 2:] == 285.25).all()
    # March and April are one stretch; that April was seen does not fill March.
    assert (found.sel(time="2001-03")[f"{SST}_flag"][:, 2:] == 1).all()


@pytest.mark.parametrize("target", ["monthly", "daily"])
def test_days_of_the_margin_are_given_and_only_those_of_the_month_are_counted_and_written(
    box: Store, tmp_path: Path, target: str
) -> None:
    made = task(BOX, target=target, margin=3, tile=(8, 12), overlap=3)
    given: list[np.ndarray] = []

    class Watch(TileMean):
        """Answers each day with its number, each month with 0."""

        def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
            assert inputs.valid is not None
            given.append(np.flatnonzero(inputs.valid[0].any(dim=(1, 2, 3))))
            times = torch.arange(target.time.shape[1]).float()[None, :, None, None, None]
            values = times.expand(1, -1, 1, *target.grid.shape)
            return Distribution(values, torch.ones_like(values))

    made.network = Watch(made.layout)
    found = write(tmp_path / "out.zarr", made, box, "2001-02", "2001-02")
    # 29 to 31 January and all of February; March is overcast.
    assert all(days.tolist() == list(range(31)) for days in given)
    observed = np.isfinite(xr.open_zarr(box.path).fields.sel(time="2001-02")).sum("time")[0].values
    assert (found[f"{SST}_observations"] == observed).all()
    expected = np.arange(3, 31) if target == "daily" else np.zeros(1)
    np.testing.assert_allclose(found[SST][:, 10, 10], expected, atol=1e-6)


def test_a_stopped_filling_goes_on_and_equals_an_undisturbed_one(
    box: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, calls, fill = task(BOX, tile=(8, 12), overlap=3), [], Filler.fill

    def counted(*arguments: Any) -> Any:
        calls.append(arguments[1].months[-1])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return fill(*arguments)

    expected = write(tmp_path / "undisturbed.zarr", made, box, "2001-01", "2001-04").load()
    monkeypatch.setattr(filler.Filler, "fill", counted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out.zarr", made, box, "2001-01", "2001-04")
    assert not (tmp_path / "out.zarr").exists()
    xr.testing.assert_identical(write(tmp_path / "out.zarr", made, box, "2001-01", "2001-04").load(), expected)
    assert len(calls) == 3 + 2
    # The same again is there already; anything else is refused by what differs.
    xr.testing.assert_identical(write(tmp_path / "out.zarr", made, box, "2001-01", "2001-04").load(), expected)
    assert len(calls) == 3 + 2
    with pytest.raises(DataError, match=r"out.zarr exists, made with times = \[.*; use --overwrite to replace it"):
        write(tmp_path / "out.zarr", made, box, "2001-01", "2001-03")


def test_a_model_calendar_is_kept(tmp_path: Path) -> None:
    dataset = sea(BOX, calendar="360_day", days=60)
    dataset[SST][0, 5, 5] = 286
    prepare_dataset(dataset, tmp_path / "model.zarr")
    made = task(BOX, tile=(8, 12), overlap=3, target="daily")
    found = write(tmp_path / "out.zarr", made, Store(tmp_path / "model.zarr"), "2001-02", "2001-02")
    assert [str(day)[:10] for day in found.time.values[[0, -1]]] == ["2001-02-01", "2001-02-30"]
    assert (found[SST][:, 2:] == 285.25).all()


def test_what_cannot_be_filled_is_said(box: Store, globe: Store, tmp_path: Path) -> None:
    made = task(BOX, tile=(8, 12), overlap=3)
    with pytest.raises(
        DataError, match=r"no whole month in 2001-02-03 to 2001-02-20, .* holds 2001-01-01 to 2001-05-30"
    ):
        write(tmp_path / "out.zarr", made, box, "2001-02-03", "2001-02-20")
    with pytest.raises(GridError, match="lies on 16×32"):
        write(tmp_path / "out.zarr", made, globe, "2001-01", "2001-01")
    made.provenance = {}
    with pytest.raises(RecipeError, match="does not tell its months and tiles; train it with GapFillData"):
        write(tmp_path / "out.zarr", made, box, "2001-01", "2001-01")


def test_data_and_prediction_cut_the_same_tiles(box: Store) -> None:
    data = GapFillData(box.path, ("2001-01", "2001-02"), ("2001-04", "2001-04"), tile=(8, 12), overlap=3)
    made = task(BOX, tile=(1, 1), overlap=0)
    made.provenance = data.provenance
    own = Filler(made, box, "missing").tiling
    assert [tile.grid for tile in own.tiles] == [tile.grid for tile in data.tiling.tiles]


class ObservedMean(Reconstruction):
    """Answers with the mean of what was observed at each point, 0 where nothing was."""

    gives_variance = False

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def distribution(self, inputs: Fields, target: Frame, *, statics: Fields | None = None) -> Distribution:
        assert inputs.valid is not None
        count = inputs.valid.sum(dim=1, keepdim=True).clamp(min=1)
        return Distribution(inputs.filled().double().sum(dim=1, keepdim=True) / count, None)


def test_the_globe_at_a_quarter_of_a_degree_is_filled_under_real_clouds(shared: Path, tmp_path: Path) -> None:
    globe = open_store(shared / "data" / "ostia_global_daily")[[SST]].load()
    library = CloudLibrary.of(open_store(shared / "data/alboran_sst_gappy_daily/alboranSST_small.nc")[SST].load())
    land = globe[SST].isnull().any("time")
    random = np.random.default_rng(0)
    clouds = np.stack([library.draw(random, land.shape) for _ in globe.time])
    assert 0.3 < clouds.mean() < 0.95
    globe["land_sea_mask"] = land.astype(np.float32).assign_attrs(units="1")
    globe[SST] = globe[SST].where(~clouds).assign_attrs(units="K")
    prepare_dataset(globe, tmp_path / "globe.zarr")
    store = Store(tmp_path / "globe.zarr")
    made = task(store.grid, tile=(200, 320), overlap=24)
    made.network = ObservedMean(made.layout)
    found = write(tmp_path / "out.zarr", made, store, "2017-06", "2017-06").load()
    np.testing.assert_array_equal(found[f"{SST}_flag"][0] == 2, land)
    np.testing.assert_array_equal(found[f"{SST}_observations"][0], globe[SST].notnull().sum("time"))
    seen = globe[SST].mean("time").values
    known = np.isfinite(seen)
    np.testing.assert_allclose(found[SST].values[0][known], seen[known], rtol=0, atol=1e-3)
    # Tiles reach across the date line: both sides of it were seen, and filled.
    assert known[:, 0].any()
    assert known[:, -1].any()
