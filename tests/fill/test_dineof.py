"""DINEOF against the answer that its authors' program gives on their own example."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from numpy.testing import assert_allclose

from etesian.core import Grid
from etesian.core.errors import DataError
from etesian.fill.dineof import DINEOF
from etesian.fill.interpolate import Gappy

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture(scope="module")
def alboran(shared: Path) -> Gappy:
    raw = xr.open_dataset(shared / "data" / "alboran_sst_gappy_daily" / "alboranSST_small.nc")
    sea = raw["mask"].values > 0.5
    days = (raw["time"].values - raw["time"].values[0]) / np.timedelta64(1, "D")
    values = np.where(sea, raw["SST"].values.astype(np.float64), np.nan)
    return Gappy(values, sea, days, Grid(raw["lat"].values.astype(float), raw["lon"].values.astype(float)))


@pytest.fixture(scope="module")
def example(alboran: Gappy) -> DINEOF:
    """As the example sets it: alpha 0.01, numit 3, five EOFs, the 2258 points that its random numbers withhold."""
    points = np.load(GOLDEN / "dineof_withheld.npz")
    hidden = np.zeros((alboran.sea.size, len(alboran.days)), bool)
    hidden[points["point"], points["day"]] = True
    withheld = hidden.T.reshape(alboran.values.shape)
    assert (withheld & alboran.observed).sum() == 2258
    return DINEOF(withheld=withheld, filter_days=2 * np.pi * np.sqrt(0.01 * 3), max_rank=5)


def test_the_original_example_gives_the_original_answer(alboran: Gappy, example: DINEOF) -> None:
    result = example.fill(alboran)
    assert result.errors is not None
    assert_allclose(result.errors, [0.5062, 0.4446, 0.4445, 0.4734, 0.4729], rtol=5e-3)
    assert result.rank == 3
    # eof.nc of the example; it is filled without the withheld points once more, and that makes up the difference.
    assert result.smoothed is not None
    table = (result.smoothed - np.nanmean(alboran.values))[:, alboran.sea]
    assert_allclose(np.linalg.svd(table, compute_uv=False)[:3], [219.65, 154.67, 84.81], rtol=1e-2)


def test_other_random_points_give_about_the_same(alboran: Gappy, example: DINEOF) -> None:
    result = DINEOF(holes="random", filter_days=example.filter_days, max_rank=2, seed=1).fill(alboran)
    assert result.errors is not None
    assert_allclose(result.errors, [0.506, 0.445], rtol=0.08)


def test_points_to_withhold_that_were_not_observed_are_refused(alboran: Gappy) -> None:
    with pytest.raises(DataError, match="none of the points to withhold was observed"):
        DINEOF(withheld=~alboran.observed).fill(alboran)
