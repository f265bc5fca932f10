"""ClimateBench's files as windows of years: members, units, history, and what cannot be read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from etesian.core.errors import ChannelError, DataError, EtesianError, GridError, RecipeError
from etesian.projection.climatebench import read_climatebench, read_simulations
from etesian.projection.data import ProjectionData, SimulationData
from etesian.simulation import climate
from etesian.simulation.climate import simulate_scenarios

LATITUDE, LONGITUDE = np.array([60.0, 0.0, -60.0]), np.array([-90.0, 0.0, 90.0, 180.0])
SPANS = {"historical": (1850, 1870), "ssp126": (1870, 1890), "ssp245": (1870, 1890), "hist-GHG": (1850, 1870)}
OFFSET = {"historical": 0.0, "hist-GHG": 1000.0, "ssp126": 2000.0, "ssp245": 3000.0}


def write(folder: Path, name: str, years: np.ndarray | None = None) -> None:
    """Write a scenario whose every number tells its year and scenario; members differ by 1 about the truth."""
    years = np.arange(*SPANS[name]) if years is None else years
    number = (years + OFFSET[name])[:, None, None]
    space = (len(LATITUDE), len(LONGITUDE))
    south_north = np.broadcast_to(LATITUDE[:, None] / 1000, space)
    maps = number + south_north
    xr.Dataset(
        {
            "CO2": ("time", number.ravel()),
            "CH4": ("time", 2 * number.ravel()),
            "SO2": (("time", "latitude", "longitude"), maps),
            "BC": (("time", "latitude", "longitude"), 3 * maps),
        },
        {"time": years, "latitude": LATITUDE, "longitude": LONGITUDE},
    ).to_netcdf(folder / f"inputs_{name}.nc")
    members = np.stack([maps - 1, maps, maps + 1])
    axes = ("member", "time", "lat", "lon")
    xr.Dataset(
        {
            "tas": (axes, members, {"units": "K"}),
            "diurnal_temperature_range": (axes, members),
            "pr": (axes, members / 86400),
            "pr90": (axes, members / 86400),
        },
        {"member": [1, 2, 3], "time": years, "lat": LATITUDE, "lon": LONGITUDE, "quantile": 0.9},
    ).to_netcdf(folder / f"outputs_{name}.nc")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in SPANS:
        write(tmp_path, name)
    return tmp_path


def data(folder: Path, **options: object) -> ProjectionData:
    arguments = {"train": ["historical", "ssp126", "hist-GHG"], "validate": "1880-1882", "test_years": (1885, 1889)}
    return ProjectionData(str(folder), **(arguments | options))  # type: ignore[arg-type]


def test_members_are_averaged_rates_are_per_day_and_rows_run_from_south_to_north(folder: Path) -> None:
    found = read_climatebench(folder, ["historical"])
    assert found.grid.latitude.tolist() == [-60, 0, 60]
    assert found.grid.longitude.tolist() == [0, 90, 180, 270]
    assert found.units == ("K", "K", "mm/day", "mm/day")
    run = found.runs["historical"]
    expected = run.years[:, None] + np.array([-0.06, 0, 0.06])
    for target in range(4):
        np.testing.assert_allclose(run.targets[:, target, :, 2], expected, rtol=1e-6)
    np.testing.assert_allclose(run.inputs[:, 0], run.years[:, None, None] * np.ones((3, 4)))
    np.testing.assert_allclose(run.inputs[:, 1, ..., 1], expected, rtol=1e-6)


def test_history_joins_a_scenario_without_gap_and_nothing_of_another_scenario(folder: Path) -> None:
    runs = read_climatebench(folder, ["ssp126", "ssp245", "hist-GHG"]).runs
    for name in ("ssp126", "ssp245"):
        assert runs[name].years.tolist() == list(range(1850, 1890))
        offset = np.where(runs[name].years < 1870, 0, OFFSET[name])
        np.testing.assert_array_equal(runs[name].inputs[:, 0, 0, 0], runs[name].years + offset)
        np.testing.assert_allclose(runs[name].targets[:, 0, 1, 0], runs[name].years + offset)
    assert runs["hist-GHG"].years.tolist() == list(range(1850, 1870))


def test_windows_end_at_the_year_of_their_map_and_each_historical_year_is_trained_on_once(folder: Path) -> None:
    module = data(folder)
    dataset = module.dataset("train")
    batch = dataset[list(range(len(dataset)))]
    assert batch.targets is not None
    inputs, target = batch.inputs, batch.targets
    assert inputs.values.shape[1] == 10
    assert torch.equal(inputs.frame.time[:, -1:], target.frame.time)
    steps = inputs.frame.time.diff(dim=1)
    assert torch.all(steps == 365 * 86400)
    np.testing.assert_allclose(inputs.values[:, -1, 0, 1, 0], target.values[:, 0, 0, 1, 0])
    numbers = target.values[:, 0, 0, 1, 0].round().long().tolist()
    historical = list(range(1859, 1870))
    future = [year + 2000 for year in range(1870, 1890) if not 1880 <= year <= 1882]
    assert numbers == historical + future + [year + 1000 for year in historical]
    first_of_future = inputs.values[len(historical), :, 0, 0, 0].long().tolist()
    assert first_of_future == [*range(1861, 1870), 3870]


def test_test_years_and_held_out_years_are_apart_from_those_to_train_on(folder: Path) -> None:
    module = data(folder)
    years = {
        part: {(run.name, int(run.years[place])) for run, place in module.samples[part]} for part in module.samples
    }
    assert years["test"] == {("ssp245", year) for year in range(1885, 1890)}
    assert years["validate"] == {("ssp126", year) for year in range(1880, 1883)}
    assert not years["train"] & (years["validate"] | years["test"])
    assert not any(name == "ssp245" for name, _ in years["train"])
    by_scenario = data(folder, train=["historical"], validate="ssp126")
    assert {run.name for run, _ in by_scenario.samples["validate"]} == {"ssp126"}
    assert len(by_scenario.samples["validate"]) == 20


def test_statistics_are_of_the_years_to_train_on(folder: Path) -> None:
    module = data(folder, train=["historical"], validate="ssp126")
    known = module.statistics
    years = np.arange(1859, 1870)
    assert known.mean[known.channels.index(module.layout.inputs[0])] == pytest.approx(years.mean(), rel=1e-6)
    assert known.std[known.channels.index(module.layout.inputs[0])] == pytest.approx(years.std(), rel=1e-4)


def test_batches_of_an_epoch_hold_every_year_once(folder: Path) -> None:
    module = data(folder, batch_size=8)
    loader = module.train_dataloader()
    seen = torch.cat([batch.targets.values[:, 0, 0, 1, 0] for batch in loader])  # type: ignore[union-attr]
    expected, _ = np.unique(module.dataset("train").arrays()[1][:, 0, 1, 0], return_counts=True)
    assert sorted(seen.tolist()) == expected.tolist()


def test_an_epochs_years_depend_on_seed_and_epoch_though_the_epoch_is_told_after_the_loader_has_begun(
    folder: Path,
) -> None:
    """As a trainer does that goes on with a run; the order of the years is that of a run that was not interrupted."""
    module = data(folder, batch_size=8, seed=5)
    dataset, loader = module.dataset("train"), module.train_dataloader()
    begun = iter(loader)
    loader.sampler.set_epoch(3)  # type: ignore[attr-defined]
    shares = np.array_split(np.random.default_rng((5, 3)).permutation(len(dataset)), len(loader))
    for batch, numbers in zip(begun, shares, strict=True):
        assert batch.targets is not None
        expected = dataset[numbers.tolist()].targets
        assert expected is not None
        assert torch.equal(batch.targets.values, expected.values)
        assert torch.equal(batch.targets.frame.time, expected.frame.time)


Damage = Callable[[Path], object]


def rewrite(path: Path, change: Callable[[xr.Dataset], xr.Dataset]) -> None:
    changed = change(xr.load_dataset(path))
    path.unlink()
    changed.to_netcdf(path)


def nan(dataset: xr.Dataset) -> xr.Dataset:
    dataset["tas"][0, 0, 0, 0] = np.nan
    dataset["tas"][1, 0, 0, 0] = np.nan
    dataset["tas"][2, 0, 0, 0] = np.nan
    return dataset


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: (f / "outputs_ssp126.nc").unlink(), DataError, "there is no .*outputs_ssp126.nc; did you mean"),
        (
            lambda f: rewrite(f / "outputs_ssp126.nc", lambda d: d.isel(time=slice(1, None))),
            DataError,
            "inputs_ssp126.nc has the years 1870–1889, but outputs_ssp126.nc 1871–1889",
        ),
        (
            lambda f: rewrite(f / "inputs_ssp126.nc", lambda d: d.drop_isel(time=3)),
            DataError,
            "goes from the year 1872 to 1874",
        ),
        (lambda f: write(f, "ssp126", np.arange(1871, 1890)), DataError, "begins in 1871, but historical ends in 1869"),
        (lambda f: rewrite(f / "inputs_ssp126.nc", lambda d: d.drop_vars("CH4")), ChannelError, "has no 'CH4'"),
        (lambda f: rewrite(f / "outputs_ssp126.nc", nan), DataError, "'tas' has 1 missing values"),
        (
            lambda f: rewrite(f / "inputs_ssp126.nc", lambda d: d.assign_coords(latitude=[50.0, 0.0, -50.0])),
            GridError,
            "inputs_ssp126.nc is on another grid than outputs_ssp126.nc",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(
    folder: Path, damage: Damage, error: type[EtesianError], message: str
) -> None:
    damage(folder)
    with pytest.raises(error, match=message):
        data(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ["historical", "ssp245"]}, "'ssp245' is held out"),
        ({"validate": "ssp245"}, "'ssp245' is held out"),
        ({"validate": "1700-1710"}, "there is no year to validate on"),
        ({"validate": "1882-1880"}, "end before they begin"),
        ({"test_years": (2080, 2100)}, "there is no year to test on"),
        ({"window": 0}, "must be at least 1"),
    ],
)
def test_impossible_parts_are_refused(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        data(folder, **options)


def simulation(path: Path, warming: float) -> None:
    time = xr.date_range("1900-06-01", periods=60, freq="YS-JUN", calendar="360_day", use_cftime=True)
    values = 280 + warming * np.arange(60)[:, None, None] * np.ones((1, 3, 4)) + LATITUDE[::-1, None]
    xr.Dataset(
        {"tas": (("time", "latitude", "longitude"), values, {"units": "K"})},
        {"time": time, "latitude": LATITUDE[::-1], "longitude": [0.0, 90.0, 180.0, 270.0]},
        {"planet": "simulated"},
    ).to_netcdf(path)


def test_simulations_without_emissions_are_told_only_what_came_before(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / f"{name}.nc") for name in ("A", "B")}
    simulation(tmp_path / "A.nc", 0.1)
    simulation(tmp_path / "B.nc", 0.05)
    read = read_simulations(paths, "2m_temperature", (1900, 1909))
    assert read.planet == {"planet": "simulated"}
    run = read.runs["A"]
    assert run.years.tolist() == list(range(1910, 1960))
    anomaly = 0.1 * (run.years - 1904.5)
    np.testing.assert_allclose(run.targets[:, 0, 2, 3], anomaly, atol=1e-4)
    np.testing.assert_allclose(run.inputs[:, 0, 0, 0], anomaly - 0.1 * 5.5, atol=1e-4)
    module = SimulationData(paths, "2m_temperature", ["A"], "1940-1942", "B", (1950, 1959), (1900, 1909))
    assert len(module.dataset("test")) == 10
    with pytest.raises(DataError, match="has the years 1900–1959, not all of 1850–1859"):
        read_simulations(paths, "2m_temperature", (1850, 1859))


def test_generated_scenarios_are_the_same_for_the_same_seed_and_warm_with_emissions(tmp_path: Path) -> None:
    for name in ("a", "b"):
        simulate_scenarios(str(tmp_path / name), resolution=30, members=2)
    first, second = (read_climatebench(tmp_path / name, ["ssp126", "ssp245", "ssp585"]) for name in ("a", "b"))
    warming = []
    for name, run in first.runs.items():
        np.testing.assert_array_equal(run.targets, second.runs[name].targets)
        assert run.years.tolist() == list(range(1850, 2101))
        warming.append((run.targets[-20:, 0].mean(-1) * first.grid.cosine_weights).mean())
    assert 1 < warming[0] < warming[1] < warming[2] < 6
    before = (tmp_path / "a" / "inputs_ssp126.nc").stat().st_mtime_ns
    simulate_scenarios(str(tmp_path / "a"), resolution=30, members=2)
    assert (tmp_path / "a" / "inputs_ssp126.nc").stat().st_mtime_ns == before
    with pytest.raises(DataError, match=r"a exists, made with members = 2 instead of 1; use --overwrite to replace it"):
        simulate_scenarios(str(tmp_path / "a"), resolution=30, members=1)
    simulate_scenarios(str(tmp_path / "a"), resolution=30, members=1, overwrite=True)
    with xr.open_dataset(tmp_path / "a" / "outputs_ssp126.nc") as replaced:
        assert replaced.sizes["member"] == 1


def test_generated_scenarios_are_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(DataError, match="holds no scenarios that etesian wrote"):
        simulate_scenarios(str(tmp_path / "mine"), resolution=45, members=1)
    asked = iter(range(2))
    spread = climate._spread
    monkeypatch.setattr(climate, "_spread", lambda *given: (next(asked), spread(*given))[1])
    with pytest.raises(StopIteration):
        simulate_scenarios(str(tmp_path / "half"), resolution=45, members=1)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
