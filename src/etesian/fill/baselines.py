"""Baselines that fill the gaps of a training store: what every network has to beat."""

from collections.abc import Sequence
from typing import Any, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.clock import decode_time, end_of, month_start, parse_time, seasonal_terms
from etesian.core.constants import SECONDS_PER_DAY
from etesian.core.dataset import coordinates, planet_of
from etesian.core.errors import DataError, RecipeError, suggest
from etesian.core.outputs import claim, complete_or_absent
from etesian.core.resumable import is_finished, plan_text, write_store
from etesian.fill.dineof import DINEOF
from etesian.fill.interpolate import Filled, Gappy, climatology_anomaly, linear, observed_mean
from etesian.fill.months import sea_mask
from etesian.fill.optimal_interpolation import optimal_interpolation
from etesian.fill.pairs import COUNT, DEVIATION, FILLED, FLAG, ON_LAND, UNOBSERVED, Resolution, filled_attributes
from etesian.samples.windows import Period
from etesian.store.reader import Store

GAP_BASELINES = ("observed_mean", "climatology_anomaly", "linear", "optimal_interpolation", "dineof")
"""`observed_mean` is the mean of the days of the month observed at a point, `climatology_anomaly` two harmonics of the
year and the mean anomaly of those days, `linear` interpolation in time and then in space, `optimal_interpolation` that
with a covariance fitted to the observations, and `dineof` a truncated series of empirical orthogonal functions."""

_LARGEST = 500_000_000


def fill_baseline(
    name: str,
    store: Store,
    channels: Sequence[Channel],
    first: str,
    last: str,
    target: Resolution = "monthly",
    *,
    progress: bool = False,
) -> xr.Dataset:
    """Fill the gaps of a period with a baseline; means are over each month, all others see the whole period at once.

    Args:
        name: one of `GAP_BASELINES`.
        store: with the gaps.
        channels: to fill, each from itself.
        first: date of the period's first time.
        last: date of its last time; a year or a month means all of it.
        target: means over the calendar months, or fields at the times of the store.
        progress: show a progress bar where it takes long.

    Returns:
        Dataset over (time, latitude, longitude), times the first days of the months or those of the store: each
        channel; where the baseline knows it, `…_standard_deviation` of its error; `…_observations`, the number of times
        observed in the month; `…_flag`: 0 filled, 1 nothing observed in the whole month (and no value), 2 land. Values
        are never invented for a month without any observation.

    Raises:
        RecipeError: if there is no such baseline or target.
        DataError: if the store has no times or no observations in the period, or they are too many to be held.
    """
    if name not in GAP_BASELINES:
        raise RecipeError(f"there is no baseline '{name}'{suggest(name, GAP_BASELINES)}")
    if target not in get_args(Resolution):
        raise RecipeError(f"there is no target '{target}'{suggest(target, get_args(Resolution))}")
    begin, end = parse_time(first, store.calendar), end_of(last, store.calendar)
    index = np.flatnonzero((store.time >= begin) & (store.time <= end))
    if index.size == 0:
        raise DataError(f"{store.path} has no times from {first} to {last}; they run from {_extent(store)}")
    if index.size * store.grid.latitude.size * store.grid.longitude.size > _LARGEST:
        raise DataError(
            f"{index.size} times of {store.path} are more than can be filled at once; fill fewer of them with --init"
        )
    months, member = np.unique(month_start(store.time[index], store.calendar), return_inverse=True)
    fields: dict[str, xr.DataArray] = {}
    for channel in channels:
        parts = _fill(name, store, channel, index, member, target, progress)
        for suffix, values in parts.items():
            fields[f"{channel}{suffix}"] = _variable(store, channel, suffix, values, target)
    time = months if target == "monthly" else store.time[index]
    return xr.Dataset(
        fields,
        {"time": ("time", decode_time(time, store.calendar), {"standard_name": "time"}), **coordinates(store.grid, ())},
        {"Conventions": "CF-1.11", "source": f"{name} of {store.path}"} | planet_of(store.dataset),
    )


def fill_baseline_to(
    name: str,
    store: Store,
    out: str,
    period: Period,
    *,
    target: Resolution = "monthly",
    channels: Sequence[Channel] = (),
    overwrite: bool = False,
) -> None:
    """Fill the gaps of a period with a baseline, into a Zarr store that is complete or not there; see `fill_baseline`.

    Raises:
        DataError: if the store exists and may not be replaced.
    """
    wanted = channels or store.channels
    plan = {"baseline": name, "store": store.fingerprint, "period": list(period), "target": target}
    plan["channels"] = [str(channel) for channel in wanted]
    if is_finished(claim(out, "filled fields", [store.path], overwrite=overwrite), plan, overwrite=overwrite):
        return
    filled = fill_baseline(name, store, wanted, period.start, period.end, target, progress=True)
    filled = filled.assign_attrs(plan=plan_text(plan))
    with complete_or_absent(out, "filled fields") as folder:
        write_store(filled, folder)


def _fill(
    name: str,
    store: Store,
    channel: Channel,
    index: NDArray[np.int64],
    member: NDArray[np.int64],
    target: Resolution,
    progress: bool,
) -> dict[str, NDArray[Any]]:
    number = store.channels.index(channel)
    values = store.read(index, np.array([number]))[:, 0].astype(np.float64)
    sea = sea_mask(store.grid, store)
    data = Gappy(values, sea, store.time[index] / SECONDS_PER_DAY, store.grid)
    of_mean = None
    if name == "optimal_interpolation":
        filled, of_mean, _ = optimal_interpolation(data, groups=member.tolist(), progress=progress)
    elif name == "climatology_anomaly":
        harmonics = store.statistics.harmonics
        assert harmonics is not None
        terms = seasonal_terms(store.time[index], store.calendar)
        filled = climatology_anomaly(data, np.tensordot(terms, harmonics[:, number].astype(np.float64), 1), member)
    elif name == "dineof":
        # The weak filter of the authors' example (alpha 0.01, numit 3, of days), in steps of the data.
        filled = DINEOF(filter_days=1.09 * float(np.ptp(data.days)) / max(data.days.size - 1, 1)).fill(data)
    else:
        filled = observed_mean(data, member) if name == "observed_mean" else linear(data)
    observed = data.observed
    count = np.stack([observed[member == i].sum(0) for i in range(member.max() + 1)]).astype(np.int32)
    if target == "monthly":
        filled = Filled(np.stack([filled.values[member == i].mean(0) for i in range(len(count))]), of_mean)
    else:
        count = count[member]
    seen = np.where(count.any((1, 2), keepdims=True), FILLED, UNOBSERVED)
    flag = np.where(sea, seen, ON_LAND).astype(np.int8)
    parts: dict[str, NDArray[Any]] = {"": _where(flag, filled.values)}
    if filled.deviation is not None:
        parts[DEVIATION] = _where(flag, filled.deviation)
    return parts | {COUNT: count, FLAG: flag}


def _where(flag: NDArray[np.int8], values: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.where(flag == FILLED, values, np.nan).astype(np.float32)


def _variable(store: Store, channel: Channel, suffix: str, values: NDArray[Any], target: Resolution) -> xr.DataArray:
    attributes = filled_attributes(store.units.get(channel, ""), channel, suffix, target)
    return xr.DataArray(values, dims=("time", "latitude", "longitude"), attrs=attributes)


def _extent(store: Store) -> str:
    first, last = store.times([0, -1])
    return f"{str(first)[:16]} to {str(last)[:16]}"
