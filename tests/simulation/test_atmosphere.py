"""Laws of the embedded planet, and that its store can be interrupted, repeated and trusted."""

import hashlib
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.polynomial import legendre

from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.errors import DataError, RecipeError
from etesian.simulation import atmosphere as module
from etesian.simulation.atmosphere import COAST, EARTHLIKE, Planet, planet, simulate

pytestmark = pytest.mark.skipif(not find_spec("dinosaur"), reason="the extra 'simulate' is not installed")

LEVELS = (250, 500, 850)
RADIUS = 6.37122e6
GAS_CONSTANT = 1004 * 2 / 7


@pytest.fixture(scope="module")
def model() -> Planet:
    # As `simulate` asks for it, so that it is compiled once.
    return planet("T21", LEVELS, 6, EARTHLIKE)


@pytest.fixture(scope="module")
def weather(model):
    """The state after 90 days, and the fields of 15 more, once a day."""
    state = model.start(0)
    for _ in range(360):
        state = model.advance(state)
    days, first = [], state
    for _ in range(15):
        days.append(model.fields(state))
        for _ in range(4):
            state = model.advance(state)
    return first, {name: np.stack([day[name] for day in days]) for name in days[0]}


def tree(path: Path) -> dict[str, str]:
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def brief(path: Path, **settings) -> Path:
    simulate(str(path), **{"days": 3, "spinup_days": 2, "levels": LEVELS, **settings})
    return path


@pytest.fixture
def daily_blocks(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_DAYS", 1)


def area_mean(values, grid):
    _, weights = legendre.leggauss(grid.latitude.size)
    return values.mean(-1) @ weights / 2


def test_jets_blow_from_the_west_at_middle_latitudes_and_trades_from_the_east(model, weather):
    _, fields = weather
    wind = fields["u_component_of_wind"].mean((0, 3))
    latitude = model.grid.latitude
    for hemisphere in (latitude > 0, latitude < 0):
        jet = np.argmax(np.where(hemisphere, wind[0], -np.inf))
        assert 25 < abs(latitude[jet]) < 50
        assert 18 < wind[0, jet] < 45
    assert wind[2, abs(latitude) < 15].mean() < -0.1
    speed = np.hypot(fields["u_component_of_wind"], fields["v_component_of_wind"])
    assert 35 < speed.max() < 120


def test_a_planet_of_greater_contrast_has_colder_poles_and_a_stronger_jet(model, weather):
    first, fields = weather
    other = planet("T21", LEVELS, 6, 75.0)
    state, days = first, []
    for step in range(120):
        state = other.advance(state)
        if step >= 80 and step % 4 == 0:
            days.append(other.fields(state))
    polar = abs(model.grid.latitude) > 60
    temperature = np.stack([day["temperature"][2] for day in days])
    assert temperature[:, polar].mean() < fields["temperature"][:, 2, polar].mean() - 2
    wind = np.stack([day["u_component_of_wind"][0] for day in days]).mean((0, 2))
    assert wind.max() > fields["u_component_of_wind"][:, 0].mean((0, 2)).max() + 2


def test_weather_is_made_of_eddies_that_move(model, weather):
    _, fields = weather
    wind = np.stack([fields["u_component_of_wind"][:, 0], fields["v_component_of_wind"][:, 0]])
    moving = area_mean((wind.var(1)).sum(0) / 2, model.grid)
    standing = wind.mean(1) - wind.mean((1, 3))[..., None]
    assert moving > 40
    assert moving > 2 * area_mean((standing**2).sum(0) / 2, model.grid)


def test_nothing_is_missing_and_all_lies_in_the_catalogues_range(weather):
    from etesian.core.channels import CATALOGUE

    _, fields = weather
    for name, values in fields.items():
        assert np.isfinite(values).all(), name
        assert values.min() >= CATALOGUE[name].minimum, name
        assert values.max() <= CATALOGUE[name].maximum, name


def test_mass_is_conserved(model, weather):
    _, fields = weather
    mass = area_mean(fields["surface_pressure"], model.grid)
    assert np.ptp(mass) < 2e-4 * mass.mean()


def test_geopotential_is_the_hydrostatic_integral_of_temperature_and_meets_the_ground(weather):
    state, _ = weather
    levels = tuple(range(30, 1001, 10))
    dense = Planet("T21", levels, 6, EARTHLIKE)
    fields = dense.fields(state)
    depth = np.log(np.array(levels, dtype=np.float64) * 100)
    temperature = fields["temperature"].astype(np.float64)
    geopotential = fields["geopotential"].astype(np.float64)
    layers = GAS_CONSTANT * (temperature[1:] + temperature[:-1]) / 2 * np.diff(depth)[:, None, None]
    np.testing.assert_allclose(geopotential[:-1] - geopotential[1:], layers, rtol=4e-3)

    surface = np.log(fields["surface_pressure"].astype(np.float64))
    for row, column in np.ndindex(32, 64):
        if surface[row, column] < depth[-1]:
            ground = np.interp(surface[row, column], depth, geopotential[:, row, column])
            assert ground == pytest.approx(STANDARD_GRAVITY * dense.orography[row, column], abs=1)


def test_sea_level_pressure_is_the_surface_pressure_at_height_zero_and_higher_below_mountains(model, weather):
    _, fields = weather
    excess = fields["mean_sea_level_pressure"] - fields["surface_pressure"]
    expected = (
        fields["surface_pressure"] * STANDARD_GRAVITY * model.orography / (GAS_CONSTANT * fields["2m_temperature"])
    )
    flat = abs(model.orography) < 50
    np.testing.assert_allclose(excess[:, flat], expected[:, flat], atol=3)
    assert excess[:, model.orography > 1500].min() > 12000


def test_vorticity_and_divergence_are_the_winds_own(model, weather):
    _, fields = weather
    sine = np.sin(np.radians(model.grid.latitude))[:, None]
    cosine = np.sqrt(1 - sine**2)
    wavenumber = np.arange(33)

    def east(values):
        return np.fft.irfft(1j * wavenumber * np.fft.rfft(values), n=64)

    def north(values):
        """d/d(sine), exact: even zonal wavenumbers are polynomials in the sine, odd ones times the cosine."""
        waves = np.fft.rfft(values)
        result = np.empty_like(waves)
        for m in wavenumber:
            factor = cosine[:, 0] if m % 2 else np.ones(32)
            fit = legendre.legfit(sine[:, 0], waves[:, m] / factor, 31)
            slope = legendre.legval(sine[:, 0], legendre.legder(fit))
            result[:, m] = factor * slope - (m % 2) * sine[:, 0] / factor * waves[:, m] / factor
        return np.fft.irfft(result, n=64)

    u, v = (fields[f"{name}_component_of_wind"][0, 0].astype(np.float64) * cosine for name in "uv")
    vorticity = (east(v) / cosine**2 - north(u)) / RADIUS
    divergence = (east(u) / cosine**2 + north(v)) / RADIUS
    np.testing.assert_allclose(fields["vorticity"][0, 0], vorticity, atol=2e-8)
    np.testing.assert_allclose(fields["divergence"][0, 0], divergence, atol=2e-8)


def test_land_is_where_the_model_has_mountains(model):
    np.testing.assert_array_equal(model.land_sea_mask == 1, model.orography > COAST)
    assert 0.2 < area_mean(model.land_sea_mask, model.grid) < 0.4
    assert model.orography.min() > -60


def test_the_store_is_canonical(tmp_path, model):
    dataset = xr.open_zarr(brief(tmp_path / "planet.zarr"), consolidated=True)
    assert dataset["temperature"].dims == ("time", "level", "latitude", "longitude")
    assert dataset["temperature"].shape == (12, 3, 32, 64)
    assert dataset["temperature"].attrs["standard_name"] == "air_temperature"
    assert dataset["temperature"].dtype == np.float32
    assert dataset["level"].values.tolist() == list(LEVELS)
    assert dataset["time"].values[[0, 1]].tolist() == np.array(["2000-01-01T00", "2000-01-01T06"], "M8[ns]").tolist()
    assert (np.diff(dataset["latitude"]) > 0).all()
    assert dataset["longitude"].values[[0, 1]].tolist() == [0, 5.625]
    np.testing.assert_array_equal(dataset["orography"], model.orography)
    state = model.start(0)
    for _ in range(4 * 2 + 5):
        state = model.advance(state)
    np.testing.assert_array_equal(dataset["geopotential"][5], model.fields(state)["geopotential"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_weather(tmp_path):
    first = brief(tmp_path / "first.zarr")
    assert tree(first) == tree(brief(tmp_path / "second.zarr"))
    other = xr.open_zarr(brief(tmp_path / "other.zarr", seed=1))
    assert abs(other["surface_pressure"] - xr.open_zarr(first)["surface_pressure"]).max() > 100


def test_a_run_interrupted_or_killed_continues_to_the_same_bytes(tmp_path, monkeypatch, daily_blocks):
    path, work = tmp_path / "planet.zarr", tmp_path / "planet.zarr.partial"
    advance, count = Planet.advance, []

    def observed(self, state):
        count.append(1)
        if len(count) in (3, 15):
            # What is on the disk at this moment is what a kill at it leaves behind.
            shutil.copytree(work, tmp_path / f"killed at {len(count)}")
        return advance(self, state)

    def interrupted(self, state):
        count.append(1)
        if len(count) == 14:
            raise KeyboardInterrupt
        return advance(self, state)

    with monkeypatch.context() as context:
        context.setattr(Planet, "advance", observed)
        whole = tree(brief(path))
        shutil.rmtree(path)
        count.clear()
        context.setattr(Planet, "advance", interrupted)
        with pytest.raises(KeyboardInterrupt):
            brief(path)
        assert not path.exists()
        work.rename(tmp_path / "killed at 14")

        context.setattr(Planet, "advance", lambda self, state: (count.append(1), advance(self, state))[1])
        for steps in (3, 14, 15):
            count.clear()
            (tmp_path / f"killed at {steps}").rename(work)
            assert tree(brief(path)) == whole
            assert len(count) == 20 - (steps - 1) // 4 * 4
            assert not work.exists()
            shutil.rmtree(path)


def test_a_finished_store_is_left_as_it_is(tmp_path, monkeypatch):
    path = brief(tmp_path / "planet.zarr", days=1)
    monkeypatch.setattr(Planet, "advance", None)
    brief(path, days=1)
    with pytest.raises(DataError, match=r"planet\.zarr exists, made with days = 1 instead of 2; use --overwrite"):
        brief(path, days=2)


def test_overwriting_replaces_another_planet(tmp_path):
    path = brief(tmp_path / "planet.zarr", days=1)
    brief(path, days=2, overwrite=True)
    assert xr.open_zarr(path).sizes["time"] == 8


def test_what_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("words")
    with pytest.raises(DataError, match="thesis exists and holds no fields that etesian wrote"):
        brief(tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "words"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"days": 0}, "days = 0 must be at least 1"),
        ({"step_hours": 5}, "step_hours = 5 must divide 24"),
        ({"levels": (500, 500)}, r"levels = \[500, 500\] must be different pressures"),
        ({"levels": (50000,)}, "from 10 to 1000 hPa"),
        ({"contrast": 0.0}, "contrast = 0 must be 20 to 120 K"),
    ],
)
def test_impossible_settings_are_named_and_leave_nothing_behind(tmp_path, settings, message):
    with pytest.raises(RecipeError, match=message):
        brief(tmp_path / "planet.zarr", **settings)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_extra_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dinosaur", None)
    with pytest.raises(RecipeError, match=r"pip install 'etesian\[simulate\]'"):
        brief(tmp_path / "planet.zarr", levels=(300, 400))
    assert list(tmp_path.iterdir()) == []
