"""How certain a mean score is, when successive forecasts err alike.

Scores of consecutive initial times are correlated, some of them over weeks, so that n of them tell less than n
independent ones. What counts for the mean is how strongly a series varies at the lowest frequencies. As in Müller
(2007, Journal of Econometrics 141, 1331–1352) and Lazarus, Lewis, Stock and Watson (2018, Journal of Business &
Economic Statistics 36, 541–559), that is measured by the first few cosines of the series, each of which is one
independent number whatever the shorter memory, so that the mean follows Student's t with as many degrees of freedom as
there are cosines. Few of them hold where the memory is long, and more make the intervals steadier; the longest
interval counts, that of independent values included. Initial times are taken as evenly spaced in their order, which
Datta and Du (2012, Board of Governors of the Federal Reserve System, International Finance Discussion Papers 1060) show
to be valid where some are missing.

Ratios and roots of means are handled by their influence function (the delta method), so that two forecasts of the same
initial times are compared in pairs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

LEVEL = 0.95
"""Probability that an interval covers the true mean."""

COSINES = (4, 8)
"""How many cosines are used; the larger one rules where the memory is short, the smaller one where it is long."""

FEWEST = 3
"""Number of initial times below which no interval is given."""


def half_width(influence: Array, present: NDArray[np.bool_]) -> Array:
    """Return half the width of the 95 % interval of a mean.

    Args:
        influence: what each initial time, in order, adds to n times the deviation of the estimate; first axis time.
        present: which of them took part.

    Returns:
        As the influence without its first axis; NaN where fewer than 3 initial times took part.
    """
    count = len(influence)
    series, shown = influence.reshape(count, -1), np.broadcast_to(present, influence.shape).reshape(count, -1)
    width = np.full(series.shape[1], np.nan)
    # Nearly all series lack the same initial times, if any.
    patterns, pattern = np.unique(shown, axis=1, return_inverse=True)
    for number, taken in enumerate(patterns.T):
        if np.count_nonzero(taken) >= FEWEST:
            own = np.flatnonzero(pattern.ravel() == number)
            width[own] = _half_width(series[np.ix_(taken, own)])
    return width.reshape(influence.shape[1:])


def _half_width(series: Array) -> Array:
    count = len(series)
    centred = series - series.mean(0)
    width = _quantile(count - 1) * np.sqrt((centred**2).sum(0) / (count - 1))
    for degrees in {min(number, count - 1) for number in COSINES}:
        phase = np.pi / count * np.outer(np.arange(1, degrees + 1), np.arange(count) + 0.5)
        size = np.sqrt(2 / count) * np.cos(phase) @ centred
        width = np.maximum(width, _quantile(degrees) * np.sqrt((size**2).mean(0)))
    return np.asarray(width / np.sqrt(count))


def _quantile(degrees: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, degrees))
