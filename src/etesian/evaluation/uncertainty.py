"""How certain a mean score is, when successive forecasts err alike.

Scores of consecutive initial times are correlated, so that n of them tell less than n independent ones. As in
Wilks (2011, Statistical Methods in the Atmospheric Sciences, 3rd ed., section 5.2.4) and Geer (2016, Tellus A 68,
30229), the interval is Student's t with an effective sample size, n (1 − r) / (1 + r), where r is the lag-1
autocorrelation; its bias in short series is removed to first order (Marriott and Pope 1954, Biometrika 41,
390–402). Ratios and roots of means are handled by their influence function (the delta method), so that two
forecasts of the same initial times are compared in pairs.
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
LEVEL = 0.95
"""Probability that an interval covers the true mean."""
FEWEST = 3.0
"""Effective sample size below which no interval is given."""


def half_width(influence: Array, present: NDArray[np.bool_]) -> Array:
    """Return half the width of the 95 % interval of a mean.

    Args:
        influence: what each initial time, in order, adds to n times the deviation of the estimate; first axis time.
        present: which of them took part.

    Returns:
        As the influence without its first axis; NaN where the effective sample size is below 3.
    """
    values = np.where(present, influence, 0.0)
    count = present.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.where(present, values - values.sum(0) / count, 0.0)
        variance = (values**2).sum(0) / (count - 1)
        neighbours = (present[1:] & present[:-1]).sum(0)
        correlation = (values[1:] * values[:-1]).sum(0) / neighbours / ((values**2).sum(0) / count)
        correlation = (count * correlation + 1) / (count - 4)
        correlation = np.where(np.isfinite(correlation) & (count > 4), correlation.clip(0, 0.99), 0.0)
        effective = count * (1 - correlation) / (1 + correlation)
        student = stats.t.ppf((1 + LEVEL) / 2, np.maximum(effective - 1, 1e-9))
        width = student * np.sqrt(variance / effective)
    return np.where(effective >= FEWEST, width, np.nan)


def ratio_influence(numerator: Array, denominator: Array) -> tuple[Array, Array]:
    """Return Σ numerator / Σ denominator and each initial time's influence on it; first axis time.

    Initial times with a zero denominator have no influence.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        present = denominator > 0
        numerator = np.where(present, numerator, 0.0)
        estimate = numerator.sum(0) / denominator.sum(0)
        influence = (numerator - estimate * denominator) / (denominator.sum(0) / present.sum(0))
    return estimate, influence
