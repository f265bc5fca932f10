"""The downscaling recipe runs from raw fields to scores through the command line, small."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

from etesian.cli.main import main
from etesian.core.grid import Grid

RECIPE = Path(__file__).parents[2] / "recipes" / "downscale_planet.yaml"
NAMES = ("geopotential", "temperature", "u_component_of_wind", "v_component_of_wind")
UNITS = ("m2 s-2", "K", "m s-1", "m s-1")
UNET = "{class_path: etesian.networks.unet.UNet, init_args: {leads: [0], width: 8, noise: 0.0, dropout: 0.0}}"
CLIMAX = (
    "{class_path: etesian.networks.climax.ClimaX, "
    "init_args: {patch: 2, dim: 32, depth: 1, heads: 2, dropout: 0.0, drop_path: 0.0}}"
)


def planet() -> xr.Dataset:
    """Waves that travel over a mountain, whose shape no coarse field tells."""
    grid, time = Grid.equiangular(11.25), pd.date_range("2000-01-01", periods=60)
    phase = np.radians(2 * grid.longitude - 25 * np.arange(60)[:, None])[:, None, :]
    height = np.random.default_rng(0).random(grid.shape)
    wave = 280 + 5 * np.cos(np.radians(grid.latitude))[:, None] * np.sin(phase) - 3 * height
    fields: dict[str, Any] = {
        name: (("time", "level", "latitude", "longitude"), np.stack([wave, wave + 9], 1).astype("f4"), {"units": unit})
        for name, unit in zip(NAMES, UNITS, strict=True)
    }
    fields["2m_temperature"] = (("time", "latitude", "longitude"), wave.astype("f4"), {"units": "K"})
    fields["orography"] = (("latitude", "longitude"), (1000 * height).astype("f4"), {"units": "m"})
    coordinates = {"time": time, "level": [500, 850], "latitude": grid.latitude, "longitude": grid.longitude}
    return xr.Dataset(fields, coordinates)


@pytest.mark.parametrize(("network", "residual", "share"), [(UNET, "false", 0.8), (CLIMAX, "true", 1.0)])
@pytest.mark.usefixtures("no_rendering")
def test_the_downscaling_recipe_beats_bilinear_interpolation_on_held_out_days(
    network: str, residual: str, share: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planet().to_netcdf(tmp_path / "planet.nc")
    coarse, fine, run = (tmp_path / name for name in ("coarse.zarr", "fine.zarr", "run"))
    etesian("prepare", tmp_path / "planet.nc", fine, "--train-end", "2000-02-10")
    etesian("prepare", tmp_path / "planet.nc", coarse, "--train-end", "2000-02-10", "--grid", "22.5")
    etesian(
        "fit", "-c", RECIPE, "--run", run, f"--data.coarse={coarse}", f"--data.fine={fine}",
        '--data.train=["2000-01-01", "2000-02-10"]', '--data.validate=["2000-02-11", "2000-02-15"]',
        '--data.test=["2000-02-16", "2000-02-29"]', "--data.batch_size=8",
        f"--model.network.network={network}",
        f"--model.network.residual={residual}", "--model.init_args.warmup_steps=3",
        "--model.optimizer.lr=0.005", "--trainer.max_epochs=6",
        "--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0",
    )  # fmt: skip
    period = ("--times", "2000-02-16", "2000-02-29")
    etesian("downscale", run, coarse, tmp_path / "trained.zarr", *period)
    etesian("downscale", "baseline:interpolation", coarse, tmp_path / "bilinear.zarr", *period, "--grid", fine)
    etesian(
        "evaluate", tmp_path / "trained.zarr", fine, "--out", tmp_path / "scores",
        "--beside", f"bilinear={tmp_path / 'bilinear.zarr'}", "--references", "bilinear",
        "--headline", "2m_temperature",
    )  # fmt: skip
    scores = (
        xr.open_dataset(tmp_path / "scores" / "scores.nc").isel(region=0, lead_time=0).sel(channel="2m_temperature")
    )
    assert scores.rmse.sel(forecast="trained").item() < share * scores.rmse.sel(forecast="bilinear").item()
    assert scores.pearson.sel(forecast="trained") > scores.pearson.sel(forecast="bilinear")
    assert "Pearson" in capsys.readouterr().out

    truth = xr.open_zarr(fine).fields.sel(channel="2m_temperature", time=slice("2000-02-16", "2000-02-29")).values
    found = xr.open_zarr(tmp_path / "bilinear.zarr")["2m_temperature"].values
    rows = Grid.equiangular(11.25).area_weights[:, None]
    by_hand = np.sqrt((rows * (found.astype("f8") - truth) ** 2).mean())
    assert scores.rmse.sel(forecast="bilinear").item() == pytest.approx(by_hand, rel=1e-6)

    with pytest.raises(SystemExit):
        main(["forecast", str(run), str(coarse), str(tmp_path / "x.zarr"), "--init", "2000", "2000", "--leads", "24"])
    assert "makes fine fields of coarse ones: call .downscale(coarse); it has no .forecast" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", str(tmp_path / "trained.zarr"), str(fine), "--baselines", "persistence"])
    assert "at lead 0 persistence is the truth itself" in capsys.readouterr().err
