"""A learned distance is a score beside the others, over the cases that all forecasts have."""

from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr

from etesian.core import Channel, Grid, Layout
from etesian.core.errors import ChannelError
from etesian.core.statistics import Statistics
from etesian.core.workers import Workers
from etesian.distance.distance import AtmoDistance, LearnedDistance, atmodistance
from etesian.networks.atmodist import AtmoDist
from etesian.nn.normalizer import Normalizer
from etesian.scores.score import score
from etesian.scores.tables import summary

CHANNELS = (Channel("temperature", 500), Channel("temperature", 850))
LEARNED = [partial(LearnedDistance, run="run")]


@pytest.fixture
def metric(monkeypatch: pytest.MonkeyPatch) -> AtmoDistance:
    """What every run gives."""
    torch.manual_seed(0)
    network = AtmoDist(Layout(CHANNELS, (), Grid.equiangular(11.25)), lags=2)
    statistics = Statistics(CHANNELS, np.full(2, 280.0), np.full(2, 6.0))
    made = AtmoDistance(network, Normalizer(statistics), scale=2.0, layer="1.1")
    monkeypatch.setattr(AtmoDistance, "load", classmethod(lambda cls, run, layer=None: made))
    return made


@pytest.mark.usefixtures("no_rendering")
def test_the_distance_is_the_mean_over_complete_cases_and_stands_in_every_output(
    metric: AtmoDistance, forecasts: dict[str, xr.Dataset], weather: ModuleType, tmp_path: Path
) -> None:
    chosen = {name: forecasts[name].isel(time=slice(0, 8)).copy(deep=True) for name in ("model", "persistence")}
    chosen["persistence"]["temperature"][2, 1, 1, 4, 5] = np.nan
    truth = weather.truth()
    scores = score(
        chosen, truth, further=LEARNED, out=tmp_path / "report", headline=["temperature_500"], progress=False
    )
    lead = scores.lead_time.values[1]
    cases = []
    for time in scores.initial_time.values:
        forecast = chosen["model"].sel(time=time, prediction_timedelta=np.timedelta64(int(lead), "h"))
        cases.append(atmodistance(metric, forecast, truth.sel(time=time + np.timedelta64(int(lead), "h"))).item())
    found = scores.atmodistance_by_initial_time.sel(forecast="model", lead_time=lead).values
    assert (
        np.isnan(found).tolist()
        == np.isnan(scores.atmodistance_by_initial_time.sel(forecast="persistence", lead_time=lead).values).tolist()
    )
    assert np.isnan(found).sum() >= 1
    complete = np.isfinite(found)
    np.testing.assert_allclose(found[complete], np.array(cases)[complete], rtol=1e-4)
    mean = scores.atmodistance.sel(forecast="model", lead_time=lead)
    assert mean.item() == pytest.approx(found[complete].mean())
    page = (tmp_path / "report" / "report.html").read_text()
    assert "Learned distance (AtmoDist)" in page
    assert (tmp_path / "report" / "atmodistance_curves.png").exists()
    assert "atmodistance" in xr.open_dataset(tmp_path / "report" / "scores.nc")
    assert "AtmoDist distance" in [str(cell) for cell in summary(scores).columns[0].cells]


def test_workers_that_work_in_another_folder_find_the_run(
    metric: AtmoDistance, forecasts: dict[str, xr.Dataset], weather: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(AtmoDistance, "load", lambda run: asked.append(run) or metric)
    monkeypatch.setattr(Workers, "each", lambda self, again, work, blocks: [work(again(), one) for one in blocks])
    forecast, learned = forecasts["model"].isel(time=slice(3)), partial(LearnedDistance, run=Path("run"))
    elsewhere = Workers("nobody://is.asked")
    scores = score({"model": forecast}, weather.truth(), further=[learned], workers=elsewhere, progress=False)
    assert asked == [Path("run"), Path("run").absolute()]
    assert scores.atmodistance.attrs["run"] == "run"


def test_a_distance_of_channels_that_are_not_scored_is_refused(
    metric: AtmoDistance, forecasts: dict[str, xr.Dataset], weather: ModuleType
) -> None:
    with pytest.raises(ChannelError, match="needs 'temperature_850', which is not scored"):
        score(
            {"model": forecasts["model"]},
            weather.truth(),
            channels=["temperature_500"],
            further=LEARNED,
            progress=False,
        )
