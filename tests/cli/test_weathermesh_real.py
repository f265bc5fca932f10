"""Analyses of ERA5 on 37 levels and the GFS on 26 go through the 25 levels of WeatherMesh into forecasts on disk."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from running import etesian
from small_tasks import saved

from etesian.core import Channel, Layout
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.task import ForecastTask
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_sizes import WM2_LEVELS
from etesian.samples.windows import WindowReader
from etesian.store.reader import Store

pytestmark = pytest.mark.filterwarnings("ignore")
LEADS = (6, 24, 336)
ALOFT = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind")
CASES: dict[str, tuple[str, Sequence[str], str]] = {
    "ERA5": ("era5_tl31_fullstate/era5_tl31_19590102T00.nc", (*ALOFT, "specific_humidity"), "1959"),
    "GFS": (
        "gfs_grib2/gfs.t12z.pgrbf120.2p5deg.grib2",
        (*ALOFT, "relative_humidity", "2m_temperature", "mean_sea_level_pressure", "sea_ice_cover"),
        "2011",
    ),
}


def small(layout: Layout) -> WeatherMesh:
    return WeatherMesh(
        layout, levels=WM2_LEVELS, patch=(4, 8, 8), dim=16, heads=2, window=(5, 7, 7), encoder_depth=1,
        decoder_depth=1, processors={1: 1, 6: 1}, surface_width=4,
    )  # fmt: skip


def untrained_run(store: Store, folder: Path) -> ForecastTask:
    """Write a run whose weights are drawn."""
    inside = [c for c in store.channels if c.level is None or c.level >= WM2_LEVELS[0]]
    # What is diagnosed is not fed in.
    state = tuple(c for c in store.channels if c.name != "sea_ice_cover")
    statistics = Statistics(store.channels, store.statistics.mean, store.statistics.std)
    torch.manual_seed(0)
    task = ForecastTask(small, Layout(state, tuple(inside), store.grid), statistics)
    with torch.no_grad():
        for parameter in task.parameters():
            parameter.normal_(std=0.1)
    saved(task, folder / "checkpoints" / "last")
    return task


@pytest.mark.parametrize("name", CASES)
def test_a_real_analysis_is_forecast_for_a_fortnight(shared: Path, tmp_path: Path, name: str) -> None:
    file, variables, year = CASES[name]
    path, out = tmp_path / "store.zarr", tmp_path / "forecast.zarr"
    etesian("prepare", shared / "data" / file, path, "--variables", *variables)
    store = Store(path)
    levels = sorted({c.level for c in store.channels if c.level is not None})
    assert len(levels) == {"ERA5": 37, "GFS": 26}[name]
    assert set(WM2_LEVELS) - set(levels) == ({775, 825, 875} if name == "GFS" else set())

    task = untrained_run(store, tmp_path / "run")
    etesian("forecast", tmp_path / "run", path, out, "--init", year, year, "--leads", *LEADS)
    forecast = xr.open_zarr(out)
    assert forecast.sizes["prediction_timedelta"] == 3
    assert forecast["geopotential"].shape == (1, 3, len([x for x in levels if x >= 50]), *store.grid.shape)
    assert all(np.isfinite(forecast[variable]).all() for variable in forecast.data_vars)
    for variable in ("geopotential", "temperature"):
        channels = [c for c in store.channels if c.name == variable and (c.level or 0) >= 50]
        index = [store.channels.index(c) for c in channels]
        difference = forecast[variable][0].values - store.statistics.mean[index][:, None, None]
        assert (np.abs(difference) < 10 * store.statistics.std[index][:, None, None]).all()
        assert np.std(forecast[variable][0].values, axis=0).min() > 0
    if name == "GFS":
        assert 0 <= forecast["sea_ice_cover"].min() < forecast["sea_ice_cover"].max() <= 1

    # The network sees the profile at its levels: the given one, or in between linear in the logarithm of pressure.
    network = task.network
    assert isinstance(network, WeatherMesh)
    encoder = network.encoders["analysis"]
    state = task.normalized(WindowReader(store, Layout(network.layout.inputs, (), store.grid)).start(store.time)).inputs
    seen = encoder.to_levels(state.values[:, 0, encoder.profile_index])[0].view(-1, 25, *store.grid.shape)
    given = {c.level: state.select([c]).values[0, 0, 0] for c in state.frame.channels if c.name == "temperature"}
    row = list(dict.fromkeys(c.name for c in state.frame.channels if c.level is not None)).index("temperature")
    torch.testing.assert_close(seen[row, WM2_LEVELS.index(500)], given[500])
    share = np.log(775 / 750) / np.log(800 / 750) if name == "GFS" else 0
    between = given[750] + share * (given[800] - given[750]) if name == "GFS" else given[775]
    torch.testing.assert_close(seen[row, WM2_LEVELS.index(775)], between, rtol=1e-4, atol=1e-4)

    with pytest.raises(RecipeError, match=r" at (1|10) hPa lies beyond the levels to interpolate from, 50 to 1000 hPa"):
        small(Layout(store.channels, (Channel("temperature", levels[0]),), store.grid))
