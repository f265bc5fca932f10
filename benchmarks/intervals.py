"""How often an interval of 95 % says that two equal forecasts differ, and how often it sees a difference that is there.

Made-up series of differences between two forecasts: independent, with a memory of days, and with a part of their
variance that remembers for weeks; complete, with a third of the initial times missing at random, and of one season of
each year. `lag-1` is Student's t with the effective sample size n (1 − r) / (1 + r), r the corrected autocorrelation of
neighbours, which most reports of forecasts use. Run: `python benchmarks/intervals.py` (half a minute).
"""

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.signal import lfilter

from etesian.scores.registry import half_width

Array = NDArray[np.float64]
TRIALS = 4000
KINDS = {
    "independent": (0.0, 1.0, 0.0),
    "AR(1), 0.5": (0.0, 1.0, 0.5),
    "AR(1), 0.8": (0.0, 1.0, 0.8),
    "15 % over 2 weeks": (0.15, 14.0, 0.0),
    "30 % over 2 weeks": (0.30, 14.0, 0.0),
    "15 % over 3 weeks, rest 0.5": (0.15, 21.0, 0.5),
    "30 % over 3 weeks, rest 0.5": (0.30, 21.0, 0.5),
    "15 % over 30 days": (0.15, 30.0, 0.0),
    "30 % over 30 days": (0.30, 30.0, 0.0),
}
"""Share of the variance that is slow, its e-folding time in days, and the correlation of neighbours of the rest."""


def autoregressive(rng: np.random.Generator, correlation: float, days: int) -> Array:
    """Return series of unit variance, (day, trial)."""
    noise = rng.normal(size=(days + 400, TRIALS))
    series: Array = lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], noise, axis=0)
    return series[400:]


def differences(rng: np.random.Generator, kind: str, days: int) -> Array:
    """Return daily differences of two forecasts that are equal in the long run, (day, trial)."""
    slow, memory, rest = KINDS[kind]
    quick = autoregressive(rng, rest, days)
    if not slow:
        return quick
    return np.sqrt(slow) * autoregressive(rng, np.exp(-1 / memory), days) + np.sqrt(1 - slow) * quick


def lag_one(series: Array) -> Array:
    """Return half the width of the interval from the autocorrelation of neighbours."""
    n, centred = len(series), series - series.mean(0)
    r = (centred[1:] * centred[:-1]).sum(0) / (n - 1) / (centred**2).mean(0)
    r = ((n * r + 1) / (n - 4)).clip(0, 0.99)
    effective = n * (1 - r) / (1 + r)
    student = stats.t.ppf(0.975, np.maximum(effective - 1, 1e-9))
    return np.asarray(student * np.sqrt((centred**2).sum(0) / (n - 1) / effective))


def cosines(series: Array) -> Array:
    """Return half the width that Etesian reports."""
    return half_width(series, np.ones(series.shape, dtype=bool))


def main() -> None:
    """Print how many of 100 equal pairs are told apart (either way), and how many of those that differ."""
    rng = np.random.default_rng(0)
    lengths = (60, 134, 361, 700)
    print(f"{'equal pairs told apart, of 100':34}" + "".join(f"{n:>8} lag-1   ours" for n in lengths))
    for kind in KINDS:
        row = []
        for days in lengths:
            series = differences(rng, kind, days)
            mean = np.abs(series.mean(0))
            row.append([100 * (mean > width(series)).mean() for width in (lag_one, cosines)])
        print(f"{kind:34}" + "".join(f"{a:14.1f}{b:7.1f}" for a, b in row))
    for name, taken in {
        "a third missing": lambda days: np.sort(rng.permutation(days)[: 2 * days // 3]),
        "90 days of each year": lambda days: np.flatnonzero(np.arange(days) % 365 < 90),
    }.items():
        for kind in ("independent", "30 % over 2 weeks", "30 % over 3 weeks, rest 0.5"):
            series = differences(rng, kind, 4 * 365)[taken(4 * 365 if "year" in name else 540)]
            rates = [100 * (np.abs(series.mean(0)) > width(series)).mean() for width in (lag_one, cosines)]
            print(f"{f'{kind}, {name}':48} n = {len(series):4}{rates[0]:8.1f}{rates[1]:7.1f}")
    print("independent differences whose true mean is so many standard errors from 0, of 100 found (361 days)")
    for size in (2, 3, 4, 5, 6):
        series = differences(rng, "independent", 361) + size / np.sqrt(361)
        rates = [100 * (series.mean(0) > width(series)).mean() for width in (lag_one, cosines)]
        print(f"{size:34}{rates[0]:14.1f}{rates[1]:7.1f}")


if __name__ == "__main__":
    main()
