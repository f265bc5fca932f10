"""Forecasts of synthetic weather and their evaluation, made once."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import xarray as xr

from etesian.scores.score import score

_SPEC = importlib.util.spec_from_file_location("synthetic_weather", Path(__file__).with_name("weather.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
WEATHER = importlib.util.module_from_spec(_SPEC)
sys.modules["synthetic_weather"] = WEATHER
_SPEC.loader.exec_module(WEATHER)


@pytest.fixture(scope="session")
def weather() -> ModuleType:
    return WEATHER


@pytest.fixture(scope="session")
def forecasts() -> dict[str, xr.Dataset]:
    return {kind: WEATHER.forecasts(kind, slice(0, 57)) for kind in ("model", "persistence", "climatology")}


@pytest.fixture(scope="session")
def evaluated(forecasts: dict[str, xr.Dataset], tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, Path]:
    """Scores of a model with a hole in it, and the folder of its report."""
    holed = forecasts["model"].copy(deep=True)
    holed.temperature[4, 1, 0, 3, :] = float("nan")
    out = tmp_path_factory.mktemp("evaluation") / "scores"
    scores = score(
        forecasts | {"model": holed},
        WEATHER.truth(),
        climatology=WEATHER.climatology(),
        references=("persistence", "climatology"),
        headline=["geopotential_500", "temperature_500"],
        out=out,
        progress=False,
    )
    return scores, out
