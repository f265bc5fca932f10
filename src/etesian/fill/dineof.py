"""DINEOF: gaps filled by a truncated series of empirical orthogonal functions, iterated."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from scipy import ndimage

from etesian.core.errors import DataError
from etesian.fill.interpolate import Filled, Gappy

Table = Float[np.ndarray, "point time"]

Mask = Bool[np.ndarray, "point time"]

PATIENCE = 3
"""The search for a rank ends when the error has risen so many times in a row."""

_SAME = 1e-6
"""Errors this close, in standard deviations of the observations, are one: the fewest EOFs among such are taken."""

_TRIES = 20_000


@dataclass(frozen=True)
class DINEOF:
    """Data interpolating empirical orthogonal functions (Beckers & Rixen 2003; Alvera-Azcárate et al. 2005).

    Gaps begin at the mean of all observations and are replaced by the reconstruction from the leading EOFs of the
    filled field until that changes no more. The number of EOFs is the one with the smallest error at observations
    withheld from it; the field is then filled again from all observations. Points are not weighted by area.
    doi 10.1175/1520-0426(2003)020<1839:ECADFF>2.0.CO;2, 10.1016/j.ocemod.2004.08.001; the filter, under which EOFs and
    their amplitudes are those of the filtered covariance: doi 10.5194/os-5-475-2009.

    Args:
        rank: number of EOFs; chosen by cross-validation if None.
        max_rank: largest number that is tried.
        holes: withheld are the `clouds` of other days laid over each day, or `random` points.
        withheld: the observations to withhold, or their share; by default min(0.01 N + 40, 0.03 N) points, where N
            counts the points at sea of all days, observed or not, as the original does.
        tolerance: iterations end when the gaps change by less, root mean square in standard deviations of the
            observations.
        max_iterations: at most so many for each number of EOFs.
        filter_days: periods shorter than about this are damped in the time covariance; 0 for no filter. The original's
            `alpha` and `numit` are a filter of 2π √(alpha · numit) days.
        seed: of what is withheld.
    """

    rank: int | None = None
    max_rank: int = 50
    holes: Literal["clouds", "random"] = "clouds"
    withheld: float | Bool[np.ndarray, "time lat lon"] | None = None
    tolerance: float = 1e-3
    max_iterations: int = 300
    filter_days: float = 0.0
    seed: int = 0

    def fill(self, data: Gappy) -> "DINEOFResult":
        """Fill the gaps of all days together.

        Days without any observation, and points without any, take part as gaps.

        Raises:
            DataError: if there are fewer than two days.
        """
        if data.days.size < 2:
            raise DataError("DINEOF needs at least two times, and there is one")
        observed = data.observed[:, data.sea].T
        table = np.ascontiguousarray(data.values[:, data.sea].T)
        mean = float(table[observed].mean())
        table = np.where(observed, table - mean, 0.0)
        scale = float(np.sqrt(np.square(table[observed]).mean())) or 1.0
        smooth = _time_filter(data.days, self.filter_days)
        rank, errors = self.rank, np.zeros(0)
        if rank is None:
            rank, errors = self._choose(table, observed, data, scale, smooth)
        filled = table.copy()
        for k in range(1, rank + 1):
            filled, reconstruction, iterations = self._iterate(filled, observed, k, scale, smooth)
        values = np.full(data.values.shape, np.nan)
        values[:, data.sea] = filled.T + mean
        smoothed = np.full(data.values.shape, np.nan)
        smoothed[:, data.sea] = reconstruction.T + mean
        return DINEOFResult(values, None, smoothed, rank, errors, iterations)

    def _choose(
        self,
        table: Table,
        observed: Mask,
        data: Gappy,
        scale: float,
        smooth: NDArray[np.float64] | None,
    ) -> tuple[int, NDArray[np.float64]]:
        """Return the number of EOFs with the smallest error at withheld observations, and the errors of all tried."""
        if isinstance(self.withheld, np.ndarray):
            hidden = (self.withheld & data.observed)[:, data.sea].T
        else:
            hidden = withhold(data, self.withheld, self.holes, self.seed)[:, data.sea].T
        if not hidden.any():
            raise DataError("none of the points to withhold was observed; give DINEOF others, a share or a rank")
        known = observed & ~hidden
        if not known.any():
            raise DataError("so few points were observed that none can be withheld; give DINEOF a rank")
        filled = np.where(known, table, 0.0)
        truth = table[hidden]
        errors: list[float] = []
        for k in range(1, min(self.max_rank, min(table.shape) - 1) + 1):
            filled, _, _ = self._iterate(filled, known, k, scale, smooth)
            errors.append(float(np.sqrt(np.square(filled[hidden] - truth).mean())))
            if len(errors) > PATIENCE and all(np.diff(errors[-PATIENCE - 1 :]) > 0):
                break
        alike = np.array(errors) <= min(errors) + _SAME * scale
        return int(np.argmax(alike)) + 1, np.array(errors)

    def _iterate(
        self, filled: Table, observed: Mask, rank: int, scale: float, smooth: NDArray[np.float64] | None
    ) -> tuple[Table, Table, int]:
        gaps = ~observed
        iterations, change = 0, np.inf
        while change >= self.tolerance * scale and iterations < self.max_iterations:
            iterations += 1
            reconstruction = _truncate(filled, rank, smooth)
            change = np.sqrt(np.square(reconstruction[gaps] - filled[gaps]).mean()) if gaps.any() else 0.0
            filled = np.where(observed, filled, reconstruction)
        return filled, reconstruction, iterations


@dataclass(frozen=True)
class DINEOFResult(Filled):
    """What DINEOF filled, and how.

    Attributes:
        smoothed: the reconstruction everywhere, also where there are observations.
        rank: number of EOFs.
        errors: root-mean-square error at withheld observations with 1, 2, … EOFs; empty if the rank was given.
        iterations: of the last fill.
    """

    smoothed: Float[np.ndarray, "time lat lon"] | None = None
    rank: int = 0
    errors: Float[np.ndarray, " tried"] | None = None
    iterations: int = 0


def withhold(
    data: Gappy, share: float | None = None, holes: Literal["clouds", "random"] = "clouds", seed: int = 0
) -> Bool[np.ndarray, "time lat lon"]:
    """Choose observations to withhold: under the gaps of another day, or at random.

    Connected clouds are laid over days one by one, larger ones more often; those that would take more than a quarter of
    what is to be withheld are left out if there are smaller ones, so that many are taken. The same arguments give the
    same choice.

    Args:
        data: what was observed.
        share: of all observations at sea; by default min(0.01 N + 40, 0.03 N) of them, N points at sea of all days.
        holes: their shape. Where there are no gaps to lay over, they are random.
        seed: of the choice.
    """
    observed = data.observed
    total = int(observed.sum())
    cells = int(data.sea.sum()) * len(observed)
    wanted = round(total * share) if share is not None else int(min(0.01 * cells + 40, 0.03 * cells))
    wanted = min(max(wanted, 1), total - 1)
    random = np.random.default_rng(seed)
    hidden = np.zeros_like(observed)
    left = wanted
    clouds = _clouds(data.sea & ~observed, wanted) if holes == "clouds" else []
    if clouds:
        share_of = np.array([len(points) for _, points in clouds]) / sum(len(points) for _, points in clouds)
        for number in random.choice(len(clouds), _TRIES, p=share_of):
            lender, points = clouds[number]
            day = random.integers(len(observed))
            under = points[observed[day].ravel()[points] & ~hidden[day].ravel()[points]][:left]
            # A day over itself has nothing under its own clouds.
            if day == lender or under.size == observed[day].sum() - hidden[day].sum():
                continue
            hidden[day].ravel()[under] = True
            left -= len(under)
            if left == 0:
                break
    left = wanted - int(hidden.sum())
    if left > 0:
        rest = np.flatnonzero(observed & ~hidden)
        hidden.ravel()[random.choice(rest, left, replace=False)] = True
    return hidden


def _clouds(gaps: Bool[np.ndarray, "time lat lon"], wanted: int) -> list[tuple[int, Int[np.ndarray, " point"]]]:
    """Return the connected gaps of each time: those up to a quarter of what is wanted, or all if none is so small."""
    found = []
    for day, gap in enumerate(gaps):
        label, count = ndimage.label(gap)
        order = np.argsort(label, axis=None, kind="stable")
        ends = np.cumsum(np.bincount(label.ravel(), minlength=count + 1))
        parts = [order[ends[i] : ends[i + 1]] for i in range(count)]
        found += [(day, points) for points in parts]
    return [cloud for cloud in found if 4 * len(cloud[1]) <= wanted] or found


def _truncate(table: Table, rank: int, smooth: NDArray[np.float64] | None) -> Table:
    """Return the field made of the leading EOFs; they come from the smaller covariance matrix."""
    if table.shape[0] < table.shape[1] and smooth is None:
        return _truncate(table.T, rank, None).T
    covariance = table.T @ table
    if smooth is not None:
        covariance = smooth @ covariance @ smooth.T
    variance, vectors = np.linalg.eigh(covariance)
    leading = vectors[:, -rank:]
    amplitudes = table @ leading
    if smooth is not None:
        length = np.linalg.norm(amplitudes, axis=0)
        amplitudes *= np.sqrt(np.maximum(variance[-rank:], 0)) / np.where(length > 0, length, 1.0)
    return np.asarray(amplitudes @ leading.T)


def _time_filter(days: NDArray[np.float64], period: float) -> NDArray[np.float64] | None:
    """Return the matrix of a diffusion in time that damps periods shorter than about the one given.

    Explicit diffusion steps between successive times, as often as makes 2π √(α p) the period (eq. 6 of
    Alvera-Azcárate et al. 2009, α the strength and p the number of steps).
    """
    if period <= 0:
        return None
    spacing = np.diff(days)
    strength = (period / (2 * np.pi)) ** 2
    # Explicit steps are stable, and damp every wave, up to half of this.
    steps = int(np.ceil(strength / (0.25 * float(spacing.min()) ** 2)))
    strength /= steps
    flux = strength / spacing
    width = np.gradient(days) if days.size > 2 else np.full(days.size, spacing[0])
    step = np.eye(days.size)
    for i, value in enumerate(flux):
        step[i, [i, i + 1]] += np.array([-value, value]) / width[i]
        step[i + 1, [i, i + 1]] += np.array([value, -value]) / width[i + 1]
    return np.asarray(np.linalg.matrix_power(step, steps))
