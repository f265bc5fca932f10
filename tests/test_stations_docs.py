"""The lines of docs/stations.md run, one after the other, and print what the page says."""

import doctest
import re
import shlex
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

import etesian as et

PAGE = Path(__file__).parents[1] / "docs" / "stations.md"


def planet() -> xr.Dataset:
    """Two months of waves on a grid of 15°, under which there are hills."""
    grid, days = et.Grid.equiangular(15.0), np.arange(59)
    wave = (
        np.sin(np.radians(grid.longitude) - 0.4 * days[:, None])[:, None] * np.cos(np.radians(grid.latitude))[:, None]
    )
    axes = ("time", "latitude", "longitude")
    return xr.Dataset(
        {
            "2m_temperature": (axes, (280 + 10 * wave).astype("f4"), {"units": "K"}),
            "10m_u_component_of_wind": (axes, (5 * wave).astype("f4"), {"units": "m s-1"}),
            "10m_v_component_of_wind": (axes, (3 - 5 * wave).astype("f4"), {"units": "m s-1"}),
            "orography": (axes[1:], np.full(grid.shape, 400.0, "f4"), {"units": "m"}),
        },
        {"time": pd.date_range("2001-01-01", periods=59), "latitude": grid.latitude, "longitude": grid.longitude},
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("no_rendering")
def test_every_line_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    et.prepare(planet(), "planet.zarr", train=("2001-01-01", "2001-02-10"))
    tables = iter(("reports.csv", "metar.csv"))
    names: dict[str, object] = {}
    attempted = 0
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        if language == "csv":
            Path(next(tables)).write_text(block, encoding="utf-8")
        elif language == "bash":
            for line in block.splitlines():
                etesian(*shlex.split(line)[1:])
        elif ">>>" not in block:
            exec(block, names)
        else:
            examples = doctest.DocTestParser().get_doctest(block, names, PAGE.name, str(PAGE), 0)
            results = doctest.DocTestRunner().run(examples, clear_globs=False)
            names |= examples.globs
            attempted += results.attempted
            assert results.failed == 0
    assert attempted >= 7
    assert "<h2>At stations</h2>" in Path("evaluation/report.html").read_text(encoding="utf-8")
