"""The gap-filling recipe learns to fill a simulated sea through the command line, small."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from running import etesian

RECIPE = Path(__file__).parents[2] / "recipes" / "gapfill_sst.yaml"
SST = "sea_surface_temperature"
pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")


@pytest.fixture(scope="module")
def sea(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two years of a small sea, prepared, with its truth."""
    folder = tmp_path_factory.mktemp("sea")
    etesian("simulate", "ocean", folder / "sst.zarr", "--years", 2, "--points", 16)
    for name, source in (("observed", "sst"), ("complete", "sst_truth")):
        etesian("prepare", folder / f"{source}.zarr", folder / f"{name}.zarr", "--train-end", "2001-12-31")
    return folder


def errors(filled: Path, sea: Path, *, monthly: bool) -> np.ndarray:
    """Return filled minus truth at all points of the sea, and see to it that all of them were filled."""
    truth = xr.open_zarr(sea / "complete.zarr").fields.sel(channel=SST, time=slice("2002-06", "2002-07"))
    truth = truth.resample(time="MS").mean() if monthly else truth
    found = xr.open_zarr(filled)
    known = np.isfinite(truth.values)
    assert (found[f"{SST}_flag"].values == np.where(known, 0, 2)).all()
    return np.asarray((found[SST].values - truth.values)[known])


@pytest.mark.parametrize("target", ["monthly", "daily"])
def test_the_recipe_learns_and_beats_linear_interpolation_on_months_held_out(
    sea: Path, target: str, tmp_path: Path
) -> None:
    run, filled, linear = (tmp_path / name for name in ("run", "filled.zarr", "linear.zarr"))
    etesian(
        "fit", "-c", RECIPE, "--run", run, f"--data.observed={sea / 'observed.zarr'}",
        f"--data.truth={sea / 'complete.zarr'}", '--data.train=["2001-01", "2001-12"]',
        '--data.validate=["2002-01", "2002-04"]', '--data.test=["2002-06", "2002-07"]',
        f"--data.target={target}", f"--model.network.daily={target == 'daily'}",
        "--model.network.dim=16", "--model.network.hidden=16",
        "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false", "--trainer.num_sanity_val_steps=0",
    )  # fmt: skip
    period = ("--months", "2002-06", "2002-07")
    etesian("fill", run, sea / "observed.zarr", filled, *period)
    etesian("fill", "baseline:linear", sea / "observed.zarr", linear, *period, "--target", target)
    ours, theirs = (errors(path, sea, monthly=target == "monthly") for path in (filled, linear))
    assert np.sqrt(np.mean(ours**2)) < 0.95 * np.sqrt(np.mean(theirs**2))
    spread = xr.open_zarr(filled)[f"{SST}_standard_deviation"].values
    assert 0.55 < np.mean(abs(ours) < spread[np.isfinite(spread)]) < 0.8
