"""Statistics are those of the observed values, whatever the chunking."""

from itertools import pairwise

import numpy as np
import pytest

from etesian.core import Channel
from etesian.core.errors import DataError
from etesian.core.statistics import Moments, log1p_transform

CHANNELS = (Channel("temperature", 850), Channel("geopotential", 500))


def gappy(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    block = random.standard_normal((40, 2, 3, 5)).astype(np.float32)
    block[:, 1] = 1e5 + block[:, 1]
    block[random.random(block.shape) < 0.3] = np.nan
    return block


def test_moments_of_gappy_fields_are_those_of_the_observed_values() -> None:
    block = gappy()
    moments = Moments.of(block)
    for i in range(2):
        values = block[:, i][~np.isnan(block[:, i])].astype(np.float64)
        assert moments.count[i] == values.size
        assert moments.mean[i] == pytest.approx(values.mean(), rel=1e-13)
        assert moments.std[i] == pytest.approx(values.std(), rel=1e-10)
        assert (moments.minimum[i], moments.maximum[i]) == (values.min(), values.max())


@pytest.mark.parametrize("cuts", [[0, 40], [0, 1, 40], [0, 7, 8, 30, 40]])
def test_moments_merged_over_any_chunks_are_the_same(cuts: list[int]) -> None:
    block = gappy()
    whole, merged = Moments.of(block), Moments.none(2)
    for first, last in pairwise(cuts):
        merged = merged + Moments.of(block[first:last])
    np.testing.assert_array_equal(merged.count, whole.count)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(merged.std, whole.std, rtol=1e-9)


def test_a_spread_of_one_pascal_on_a_mean_of_ten_million_keeps_its_digits() -> None:
    block = np.full((4, 1, 1, 2), 1e7, dtype=np.float32)
    block[::2] += 1
    merged = Moments.of(block[:2]) + Moments.of(block[2:])
    assert merged.std[0] == 0.5


@pytest.mark.parametrize(
    ("value", "message"),
    [(np.nan, "without an observed value"), (7.0, "constant"), (np.inf, "infinite somewhere")],
)
def test_a_channel_that_cannot_be_normalised_is_refused_by_name(value: float, message: str) -> None:
    block = gappy()
    block[:, 1] = value
    with pytest.raises(DataError, match=f"in the training period 2001 .*: geopotential_500 {message}; leave them out"):
        Moments.of(block).check(CHANNELS, "2001")


def test_log1p_transform_is_odd_and_flattens_the_tails() -> None:
    values = np.array([-100.0, -1.0, 0.0, 1.0, 100.0])
    np.testing.assert_allclose(log1p_transform(values), [-np.log(21), -np.log(1.2), 0, np.log(1.2), np.log(21)])
