"""Gaps filled and judged from the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from etesian.cli.main import main
from etesian.store.prepare import prepare_dataset

SST = "sea_surface_temperature"


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A store with gaps and one without, January and February, with a corner of land."""
    random = np.random.default_rng(0)
    time = pd.date_range("2001-01-01", "2001-02-28")
    y, x = np.meshgrid(np.linspace(0, 3, 18), np.linspace(0, 4, 20), indexing="ij")
    values = 290 + np.sin(x + np.arange(59)[:, None, None] / 9) + np.cos(y)
    land = np.zeros((18, 20), np.float32)
    land[:1] = 1
    gaps = random.random((59, 6, 5)).repeat(3, 1).repeat(4, 2) < 0.6
    folder = tmp_path_factory.mktemp("stores")
    for name, fields in (("truth", values), ("observed", np.where(gaps, np.nan, values))):
        dataset = xr.Dataset(
            {
                SST: (("time", "latitude", "longitude"), np.where(land, np.nan, fields), {"units": "K"}),
                "land_sea_mask": (("latitude", "longitude"), land, {"units": "1"}),
            },
            {"time": time, "latitude": np.linspace(30, 36.8, 18), "longitude": np.linspace(10, 17.6, 20)},
        )
        prepare_dataset(dataset, folder / f"{name}.zarr")
    return str(folder / "truth.zarr"), str(folder / "observed.zarr")


def run(*words: object) -> None:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 0


def failure(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    assert end.value.code == 1
    return capsys.readouterr().err


@pytest.fixture
def unseen(no_rendering: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures and films of reports are not rendered: tests/fill looks at them."""
    monkeypatch.setattr("etesian.fill.report.film", lambda pairs, number, channel, path: path.write_bytes(b"GIF"))


@pytest.fixture(scope="module")
def filled(stores: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("filled") / "linear.zarr"
    run("fill", "baseline:linear", stores[1], out, "--months", "2001-01", "2001-02", "--target", "daily")
    return out


@pytest.mark.usefixtures("unseen")
def test_a_baseline_fills_days_and_is_judged_beside_others_in_one_report(
    stores: tuple[str, str], filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, observed = stores
    with xr.open_zarr(filled) as written:
        assert dict(written.sizes) == {"time": 59, "latitude": 18, "longitude": 20}
        assert set(written.data_vars) == {SST, f"{SST}_observations", f"{SST}_flag"}
    run("evaluate", f"ours={filled}", truth, "--observed", observed, "--out", tmp_path / "scores",
        "--baselines", "observed_mean", "dineof")  # fmt: skip
    said = capsys.readouterr().out
    assert "observed_mean" in said
    assert "report:" in said
    with xr.open_dataset(tmp_path / "scores" / "scores.nc") as scores:
        assert scores.forecast.values.tolist() == ["ours", "observed_mean", "dineof"]
        rmse = scores.rmse.sel(region="gaps", channel=SST).values
        assert rmse[2] < rmse[1]
        assert scores.attrs["target"] == "single times"
    page = (tmp_path / "scores" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(list((tmp_path / "scores").glob("*.png"))) + 1 > 6


@pytest.mark.usefixtures("unseen")
def test_months_are_filled_and_judged_as_months(stores: tuple[str, str], tmp_path: Path) -> None:
    truth, observed = stores
    run("fill", "baseline:observed_mean", observed, tmp_path / "months.zarr", "--months", "2001-01", "2001-02")
    run("evaluate", tmp_path / "months.zarr", truth, "--observed", observed, "--out", tmp_path / "scores",
        "--baselines", "linear")  # fmt: skip
    with xr.open_dataset(tmp_path / "scores" / "scores.nc") as scores:
        assert scores.attrs["target"] == "monthly means"
        assert scores.forecast.values.tolist() == ["months", "linear"]
        rmse = scores.rmse.sel(region="all", channel=SST).values
        assert rmse[1] < rmse[0]


def test_forecasts_and_filled_gaps_are_not_taken_for_each_other(
    stores: tuple[str, str], filled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth, observed = stores
    said = failure(capsys, "evaluate", filled, truth, "--out", tmp_path / "scores")
    assert "filled gaps are evaluated with --observed" in said
    forecast = tmp_path / "forecast.zarr"
    run("forecast", "baseline:persistence", truth, forecast, "--init", "2001-01-01", "2001-01-02", "--leads", "24")
    said = failure(capsys, "evaluate", forecast, truth, "--observed", observed, "--out", tmp_path / "scores")
    assert "evaluate it without --observed" in said
    said = failure(capsys, "evaluate", filled, truth, "--observed", observed, "--leads", "24")
    assert "leads is for forecasts" in said
    said = failure(capsys, "fill", "baseline:persistence", truth, tmp_path / "x.zarr", "--months", "2001-01", "2001-01")
    assert "the baseline persistence forecasts: call .forecast(store, init, leads); it has no .fill" in said
    said = failure(capsys, "fill", "baseline:linear", truth, filled, "--months", "2001-01", "2001-01")
    assert "linear.zarr exists, made with store = " in said
