"""What was never observed in training is missing in every kind of forecast, and units go with every channel."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import small_tasks
import torch
import xarray as xr

from etesian.core import Layout
from etesian.core.channels import Channel
from etesian.core.errors import DataError, RecipeError
from etesian.core.statistics import Statistics
from etesian.downscale.data import DownscalingData
from etesian.downscale.run import downscale_to
from etesian.downscale.task import DownscaleTask
from etesian.forecast.baselines import baseline_task
from etesian.forecast.data import ForecastData
from etesian.forecast.latent import LatentForecastTask
from etesian.forecast.run import predict_to
from etesian.forecast.task import ForecastTask
from etesian.networks.climax import ClimaX
from etesian.networks.downscaler import Downscaler
from etesian.networks.network import Network
from etesian.networks.unet import UNet
from etesian.networks.weathermesh import WeatherMesh
from etesian.samples.windows import WindowReader
from etesian.scores.series import open_forecast
from etesian.store.prepare import prepare_dataset
from etesian.store.reader import Store
from etesian.training.checkpoint import load_task
from etesian.training.field_task import FieldTask
from etesian.training.task import channel_units

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
LATITUDE, LONGITUDE = np.linspace(-78.75, 78.75, 8), np.arange(16) * 22.5
LAND = np.zeros((8, 16), dtype=bool)
LAND[2:6, :5] = True
FLUX = Channel("moisture_flux")


def sea(
    path: Path, latitude: Any = LATITUDE, longitude: Any = LONGITUDE, land: Any = LAND, units: str = "g m-1 s-1"
) -> str:
    """Forty days of a sea with clouds, and of a flux that no catalogue knows, which is everywhere."""
    random = np.random.default_rng(3)
    shape = (40, len(latitude), len(longitude))
    surface = 285 + 5 * random.standard_normal(shape).astype(np.float32)
    surface[random.random(shape) < 0.1] = np.nan
    surface[:, land] = np.nan
    flux = random.standard_normal(shape).astype(np.float32)
    temperature = 270 + random.standard_normal((40, 1, *shape[1:])).astype(np.float32)
    axes: dict[str, Any] = {
        "time": pd.date_range("2003-01-01", periods=40),
        "latitude": latitude,
        "longitude": longitude,
    }
    fields: dict[str, Any] = {
        "sea_surface_temperature": (tuple(axes), surface, {"units": "K"}),
        str(FLUX): (tuple(axes), flux, {"units": units}),
    }
    fields["temperature"] = ("time", "level", "latitude", "longitude"), temperature, {"units": "K"}
    axes["level"] = [850]
    prepare_dataset(xr.Dataset(fields, axes), path, train_end="2003-01-30")
    return str(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sea(tmp_path_factory.mktemp("sea") / "sea.zarr")


def data(store: str, **options: Any) -> ForecastData:
    chosen: dict[str, Any] = {"statics": [], "leads": [24, 48]} | options
    return ForecastData([store], ("2003-01-01", "2003-01-25"), ("2003-01-26", "2003-01-30"), **chosen)


def saved(task: FieldTask, source: Any, folder: Path) -> FieldTask:
    """Write a checkpoint as training does, and load it without any store."""
    task.provenance = source.provenance
    loaded = load_task(small_tasks.saved(task, folder / "run"))
    assert isinstance(loaded, FieldTask)
    return loaded


def climax(layout: Layout) -> Network:
    return ClimaX(layout, patch=4, dim=16, depth=1, heads=2, validity=True)


def mesh(layout: Layout) -> Network:
    return WeatherMesh(
        layout, patch=(1, 2, 2), dim=16, heads=2, window=(1, 3, 3), encoder_depth=1, decoder_depth=1,
        processors={24: 1}, surface_width=4,
    )  # fmt: skip


KINDS: dict[str, Any] = {
    "lead-conditioned": (ForecastTask, climax, {}),
    "anomalies": (ForecastTask, climax, {"anomalies": True, "predict": "departure"}),
    "iterated": (ForecastTask, climax, {"step_hours": 24}),
    "latent": (LatentForecastTask, mesh, {}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_forecast_of_the_sea_is_missing_on_land_and_nowhere_else(kind: str, store: str, tmp_path: Path) -> None:
    task_class, network, options = KINDS[kind]
    module = data(store)
    task = saved(task_class(network, module.layout, module.statistics, **options), module, tmp_path)
    given = Store(store)
    batch = WindowReader(given, replace(module.layout, targets=module.layout.inputs)).start(given.time[[30, 33]])
    alone = task.predict(batch, task.target_frame(batch, (24, 48)))
    predict_to(task, given, str(tmp_path / "f.zarr"), given.time[[30, 33]], (24, 48), source={})
    written = xr.open_zarr(tmp_path / "f.zarr")
    for known in (alone.filled(float("nan"))[:, :, 0].numpy(), written.sea_surface_temperature.values):
        assert (np.isnan(known) == LAND).all()
    assert np.isfinite(written[str(FLUX)].values).all()


def test_a_checkpoint_that_does_not_tell_asks_the_store(store: str, tmp_path: Path) -> None:
    module = data(store)
    task = saved(ForecastTask(climax, module.layout, replace(module.statistics, observed=None)), module, tmp_path)
    assert task.observed is None
    given = Store(store)
    predict_to(task, given, str(tmp_path / "f.zarr"), given.time[[30]], (24,), source={})
    written = xr.open_zarr(tmp_path / "f.zarr").sea_surface_temperature.values
    assert (np.isnan(written) == LAND).all()


def test_a_store_of_an_earlier_version_tells_it_by_its_seasonal_cycle(store: str) -> None:
    given, known = Store(store), Store(store).observed
    given.dataset = given.dataset.drop_vars("observed")
    assert np.array_equal(given.observed, known)
    assert np.array_equal(~known[0], LAND)


@pytest.mark.parametrize("name", ["seasonal_cycle", "damped_persistence", "ridge"])
def test_a_fitted_baseline_holds_nothing_on_land(name: str, store: str, tmp_path: Path) -> None:
    given = Store(store)
    task = baseline_task(name, given, given.channels, (24,))
    predict_to(task, given, str(tmp_path / "b.zarr"), given.time[[30]], (24,), source={})
    written = xr.open_zarr(tmp_path / "b.zarr")
    assert (np.isnan(written.sea_surface_temperature.values) == LAND).all()
    assert np.isfinite(written[str(FLUX)].values).all()


def test_downscaled_fields_are_missing_where_the_fine_ones_always_are(store: str, tmp_path: Path) -> None:
    latitude, longitude = np.linspace(-75, 75, 16), np.arange(32) * 11.25
    land = np.zeros((16, 32), dtype=bool)
    land[5:9, 3:9] = True
    fine = sea(tmp_path / "fine.zarr", latitude, longitude, land)
    module = DownscalingData(store, fine, ("2003-01-01", "2003-01-25"), ("2003-01-26", "2003-01-30"), statics=[])
    task = DownscaleTask(
        lambda layout: Downscaler(layout, lambda inner: UNet(inner, (0,), width=8)), module.layout, module.statistics
    )
    task = saved(task, module, tmp_path)
    given = Store(store)
    downscale_to(task, given, str(tmp_path / "d.zarr"), given.time[[30]], source={})
    written = xr.open_zarr(tmp_path / "d.zarr")
    assert (np.isnan(written.sea_surface_temperature.values) == land).all()
    assert written[str(FLUX)].attrs["units"] == "g m-1 s-1"


def test_units_that_no_catalogue_knows_go_with_the_forecast_and_are_scored(store: str, tmp_path: Path) -> None:
    module = data(store)
    task = saved(ForecastTask(climax, module.layout, module.statistics), module, tmp_path)
    given = Store(store)
    predict_to(task, given, str(tmp_path / "f.zarr"), given.time[[30]], (24,), source={})
    assert open_forecast("f", tmp_path / "f.zarr").units(FLUX) == "g m-1 s-1"
    task.provenance.pop("units")  # as a checkpoint of an earlier version
    assert channel_units(task, [given])[FLUX] == "g m-1 s-1"


def test_states_in_other_units_than_those_of_training_are_refused(store: str, tmp_path: Path) -> None:
    module = data(store)
    task = saved(ForecastTask(climax, module.layout, module.statistics), module, tmp_path)
    other = Store(sea(tmp_path / "other.zarr", units="kg m-1 s-1"))
    with pytest.raises(DataError, match=r"'moisture_flux' is in kg m-1 s-1 in .*other.*, but the run .* in g m-1 s-1"):
        predict_to(task, other, str(tmp_path / "f.zarr"), other.time[[30]], (24,), source={})
    with pytest.raises(DataError, match=r"'moisture_flux' is in g m-1 s-1 in .* and in kg m-1 s-1 in .*other"):
        ForecastData([store, other.path], ("2003-01-01", "2003-01-25"), ("2003-01-26", "2003-01-30"), [24])


def test_a_forecast_without_a_number_is_refused_and_nothing_is_left(store: str, tmp_path: Path) -> None:
    module = data(store)
    task = ForecastTask(climax, module.layout, module.statistics).eval()
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.mul_(torch.nan)
    given = Store(store)
    with pytest.raises(DataError, match="hold not a single number, so nothing was written: the states at all 2 i"):
        predict_to(task, given, str(tmp_path / "f.zarr"), given.time[[30, 31]], (24,), source={}, batch_size=1)
    assert not list(tmp_path.iterdir())


def test_leads_that_a_network_would_have_to_guess_are_refused(store: str, tmp_path: Path) -> None:
    module, given = data(store), Store(store)

    def ask(leads: tuple[int, ...], network: Any = climax, task_class: Any = ForecastTask, **options: Any) -> None:
        task = task_class(network, module.layout, module.statistics, **options).eval()
        task.provenance = module.provenance
        predict_to(task, given, str(tmp_path / "f.zarr"), given.time[[30]], leads, source={}, overwrite=True)

    for lead in (6, 72, 1_000_000):
        with pytest.raises(RecipeError, match=f"trained for leads of 24 to 48 h, not for {lead} h; ask for those"):
            ask((24, lead))
    assert not list(tmp_path.iterdir())
    ask((36,))
    ask((24, 120), step_hours=24)
    ask((24, 120), mesh, LatentForecastTask)
    with pytest.raises(RecipeError, match="25 h is no whole number of the steps of 24 h that the run takes"):
        ask((25,), step_hours=24)


def test_places_that_were_observed_stay_with_their_channel() -> None:
    statistics = Statistics((FLUX,), np.zeros(1), np.ones(1), observed=np.eye(2, dtype=bool)[None])
    assert statistics.without_seasons().select([FLUX]).observed is not None
