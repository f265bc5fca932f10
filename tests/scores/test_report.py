"""The folder that `evaluate` writes, the verdicts and the pictures."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from matplotlib.figure import Figure
from numpy.testing import assert_allclose
from rich.console import Console

from etesian.core.errors import ChannelError, DataError
from etesian.core.outputs import mark
from etesian.scores.drawing import plot
from etesian.scores.plots import legend
from etesian.scores.report import write_report
from etesian.scores.tables import summary, verdict, verdicts

Evaluated = tuple[xr.Dataset, Path]


def test_the_report_is_one_page_that_needs_nothing_else(evaluated: Evaluated) -> None:
    page = (evaluated[1] / "report.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)\s*=\s*['\"](?!data:image/png;base64,)", page)
    assert "http" not in page
    assert "model beats persistence" in page
    assert page.count("<figure>") == len(list(evaluated[1].glob("*.png"))) == 10
    assert "32</td>" in page


def test_the_files_hold_the_scores_that_were_returned(evaluated: Evaluated) -> None:
    scores, folder = evaluated
    with xr.open_dataset(folder / "scores.nc") as stored:
        assert_allclose(stored.rmse, scores.rmse)
        assert_allclose(stored.skill_low, scores.skill_low)
    table = pd.read_csv(folder / "scores.csv")
    row = table.query(
        "forecast == 'model' and channel == 'temperature_500' and region == 'tropics' and lead_hours == 48 "
        "and score == 'rmse'"
    )
    assert len(row) == 1
    chosen = scores.sel(forecast="model", channel="temperature_500", region="tropics", lead_time=48)
    assert row.value.item() == pytest.approx(float(chosen.rmse))
    assert row.low.item() == pytest.approx(float(chosen.rmse_low))
    assert row.units.item() == "K"


def test_a_folder_that_holds_something_else_is_left_alone(evaluated: Evaluated, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="exists and holds no evaluation that etesian wrote"):
        write_report(evaluated[0], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.usefixtures("no_pictures")
def test_a_new_evaluation_replaces_the_old_one_in_whole(evaluated: Evaluated, tmp_path: Path) -> None:
    out = tmp_path / "scores"
    write_report(evaluated[0], out)
    (out / "left_over.png").write_bytes(b"")
    mark(out, "evaluation")
    write_report(evaluated[0], out)
    assert not (out / "left_over.png").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["scores"]


def with_skill(scores: xr.Dataset, skill: list[float], low: list[float], high: list[float]) -> xr.Dataset:
    changed = scores.copy()
    for name, values in (("skill", skill), ("skill_low", low), ("skill_high", high)):
        changed[name] = xr.zeros_like(scores[name]) + xr.DataArray(values, dims="lead_time")
    return changed


@pytest.mark.parametrize(
    ("skill", "low", "high", "ending"),
    [
        ([0.3, 0.2, 0.1, 0.1], [0.2, 0.1, -0.1, -0.2], [0.4] * 4,
         "beats persistence at every lead to 5 days (with 95 % confidence at leads to 2 days)."),
        ([0.3, 0.2, -0.1, -0.1], [0.2, -0.1, -0.3, -0.3], [0.4, 0.3, 0.1, 0.1],
         "beats persistence to 2 days, not at 3 days (with 95 % confidence at leads to 1 day)."),
        ([0.3, -0.2, 0.2, 0.1], [0.2, -0.3, 0.1, -0.3], [0.4, 0.1, 0.3, 0.3],
         "beats persistence to 1 day, not at 2 days, and again at 3 days, 5 days "
         "(with 95 % confidence at 1 day, 3 days)."),
        ([-0.3, -0.2, 0.1, -0.1], [-0.4, -0.4, 0.05, -0.3], [-0.2, 0.1, 0.2, 0.1],
         "beats persistence only at 3 days (with 95 % confidence at 3 days)."),
        ([-0.3, -0.2, 0.1, -0.1], [-0.4, -0.4, -0.05, -0.3], [-0.2, 0.1, 0.2, 0.1],
         "beats persistence only at 3 days (with 95 % confidence at no lead)."),
        ([-0.3] * 4, [-0.4] * 4, [-0.2, -0.1, 0.1, 0.1],
         "does not beat persistence at any lead (worse with 95 % confidence at leads to 2 days)."),
        ([np.nan] * 4, [np.nan] * 4, [np.nan] * 4, "cannot be compared with persistence: nothing was scored."),
    ],
)  # fmt: skip
def test_verdicts_say_no_more_than_the_skill_and_always_how_certain(
    evaluated: Evaluated, skill: list[float], low: list[float], high: list[float], ending: str
) -> None:
    sentence = verdict(with_skill(evaluated[0], skill, low, high), "model", "persistence", "geopotential_500")
    assert sentence == f"Geopotential at 500 hPa: model {ending}"


@pytest.mark.parametrize(
    ("skill", "low", "high", "ending"),
    [
        (0.2, 0.1, 0.3, "beats bilinear (with 95 % confidence)."),
        (0.2, -0.1, 0.5, "beats bilinear (without 95 % confidence)."),
        (-0.2, -0.3, -0.1, "does not beat bilinear (worse with 95 % confidence)."),
        (-0.2, -0.5, 0.1, "does not beat bilinear (no different with 95 % confidence)."),
    ],
)
def test_verdicts_on_downscaled_fields_say_how_certain_they_are(
    evaluated: Evaluated, skill: float, low: float, high: float, ending: str
) -> None:
    scores = with_skill(evaluated[0], [skill] * 4, [low] * 4, [high] * 4).isel(lead_time=[0])
    scores = scores.assign_coords(lead_time=[0], reference=["bilinear", "climatology"])
    sentence = verdict(scores, "model", "bilinear", "geopotential_500")
    assert sentence == f"Geopotential at 500 hPa: model {ending}"


def test_the_terminal_table_shows_every_forecast_and_the_verdicts(evaluated: Evaluated) -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary(evaluated[0]))
    text = console.export_text()
    assert "geopotential_500 (m² s⁻²)" in text
    assert len(verdicts(evaluated[0])) == 4
    assert f"{float(evaluated[0].rmse.sel(forecast='model', channel='geopotential_500')[0, 0]):.0f}" in text


def test_pictures_are_drawn_of_scores_forecasts_and_data(
    evaluated: Evaluated, forecasts: dict[str, xr.Dataset], weather: object, tmp_path: Path
) -> None:
    forecasts["model"].isel(time=slice(0, 3)).to_zarr(tmp_path / "forecast.zarr")
    weather.truth().to_netcdf(tmp_path / "truth.nc")  # type: ignore[attr-defined]
    forecast, truth = str(tmp_path / "forecast.zarr"), str(tmp_path / "truth.nc")
    plot(str(evaluated[1] / "scores.nc"), str(tmp_path / "curves.png"), score="acc")
    plot(forecast, str(tmp_path / "maps.png"), channel="temperature_850", time="2020-12-02", lead=[24, 72], truth=truth)
    plot(forecast, str(tmp_path / "forecast.pdf"))
    plot(truth, str(tmp_path / "truth.png"), channel="u_component_of_wind_850", time="2020-12-05T00")
    for name in ("curves.png", "maps.png", "forecast.pdf", "truth.png"):
        assert (tmp_path / name).stat().st_size > 10_000
    with pytest.raises(ChannelError, match="did you mean 'temperature_850'"):
        plot(truth, str(tmp_path / "no.png"), channel="temprature_850")
    with pytest.raises(DataError, match="no time 1999; it runs from 2020-12-01"):
        plot(truth, str(tmp_path / "no.png"), time="1999")
    with pytest.raises(DataError, match=r"no lead of 36 h; its leads are 24, 48, 72, 120 h"):
        plot(forecast, str(tmp_path / "no.png"), lead=[36])
    assert not (tmp_path / "no.png").exists()


def test_a_legend_is_as_wide_as_its_figure_at_most() -> None:
    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    panel = figure.subplots()
    names = ["forecast", "persistence", "climatology", "ridge_3_days", "a name of no less than forty characters!!"]
    for name in names:
        panel.plot([1, 2], [1, 2], label=name)
    legend(figure, panel)
    figure.draw_without_rendering()
    (drawn,) = figure.legends
    assert [text.get_text() for text in drawn.get_texts()] == names
    extent = drawn.get_window_extent()
    assert 0 <= extent.x0 < extent.x1 <= figure.bbox.width
    assert panel.get_window_extent().y1 <= extent.y0
