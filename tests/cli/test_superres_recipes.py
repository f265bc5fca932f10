"""The recipes of super-resolution run from raw fields to a report of their structure, small."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from running import etesian

from etesian.cli.main import main
from etesian.core.grid import Grid

RECIPES = Path(__file__).parents[2] / "recipes"
SMALL = (
    "--data.patch_size=[16, 16]", "--data.batch_size=8", "--data.patches=8",
    '--data.train=["2000-01-01", "2000-01-20"]', '--data.validate=["2000-01-21", "2000-01-24"]',
    '--data.test=["2000-01-25", "2000-01-30"]', "--model.network.width=8",
    "--model.network.blocks=1", "--trainer.enable_progress_bar=false",
    "--trainer.num_sanity_val_steps=0",
)  # fmt: skip


def planet() -> xr.Dataset:
    """Eddies with sharp edges, so that there is something between the points of a coarse grid."""
    grid, time = Grid.gaussian(32), pd.date_range("2000-01-01", periods=30)
    noise = np.random.default_rng(0).standard_normal((30, 2, *grid.shape))
    smooth = sum(np.roll(noise, (i, j), (-2, -1)) for i in range(-3, 4) for j in range(-3, 4)) / 7
    fields = (3e-5 * (smooth + 0.5 * np.sign(smooth))).astype("f4")
    dims = ("time", "level", "latitude", "longitude")
    data: dict[str, Any] = {
        name: (dims, fields[:, [place]], {"units": "s-1"}) for place, name in enumerate(("vorticity", "divergence"))
    }
    return xr.Dataset(data, {"time": time, "level": [850], "latitude": grid.latitude, "longitude": grid.longitude})


@pytest.mark.usefixtures("no_rendering")
def test_both_stages_run_to_a_report_of_their_structure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    planet().to_netcdf("planet.nc")
    for name, words in (("fine.zarr", ()), ("coarse.zarr", ("--coarsen", 4))):
        etesian("prepare", "planet.nc", name, "--train-end", "2000-01-20", *words)
    etesian(
        "fit", "-c", RECIPES / "superres_planet.yaml", "--run", "mse", "--data.store=fine.zarr", *SMALL,
        "--model.optimizer.lr=0.003", "--trainer.max_epochs=5",
    )  # fmt: skip
    etesian(
        "fit", "-c", RECIPES / "superres_planet_gan.yaml", "--run", "gan", "--data.store=fine.zarr", *SMALL,
        "--model.init_args.start=mse", "--model.init_args.content=null", "--trainer.max_epochs=1",
    )  # fmt: skip
    assert sorted(path.name for path in Path("gan/checkpoints").iterdir()) == ["last"]
    period = ("--times", "2000-01-25", "2000-01-30", "--grid", "fine.zarr")
    for run in ("mse", "gan", "baseline:bicubic", "baseline:interpolation"):
        etesian("downscale", run, "coarse.zarr", f"{run.removeprefix('baseline:')}.zarr", *period)
    etesian(
        "evaluate", "mse.zarr", "fine.zarr",
        "--beside", "gan.zarr", "bicubic.zarr", "interpolation.zarr",
        "--structure", "--headline", "vorticity_850",
        "--references", "bicubic", "--regions=-60,60,0,360", "--out", "scores",
    )  # fmt: skip
    with xr.open_dataset("scores/scores.nc") as scores:
        error = scores.rmse.isel(region=0, lead_time=0).sel(channel="vorticity_850")
        assert error.sel(forecast="mse").item() < error.sel(forecast="interpolation").item()
        power = scores.spectrum.isel(map_lead_time=0, wavenumber=slice(20, None)).sum("wavenumber")
        fine = power.sel(spectrum_of="vorticity_850")
        assert fine.sel(series="bicubic") < 0.5 * fine.sel(series="truth")
    with pytest.raises(SystemExit):
        main(["downscale", "mse", "coarse.zarr", "other.zarr", *period[:-2]])
    assert "not evenly spaced" in capsys.readouterr().err
