"""Forecasts on disk: WeatherBench 2's layout, complete or not there, resumable."""

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from typing import Any

import dask.array
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from etesian.core import Channel, Fields, Grid
from etesian.core.channels import AVERAGING_HOURS
from etesian.core.clock import decode_time
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.dataset import CONVENTIONS, attributes, coordinates, forecast_times, levels_of
from etesian.core.errors import DataError
from etesian.core.resumable import ResumableStore

CHUNK_BYTES = 8 * 2**20
"""Of the leads of one variable that are written together, if there is more than one."""


class ForecastWriter(ResumableStore):
    """Writes forecasts one initial time after another; the pieces are the positions of the initial times.

    Args:
        path: of the Zarr store to make.
        channels: to write.
        grid: of the forecasts.
        initial: initial times, seconds since 1970-01-01 in `calendar`.
        leads: hours after the initial time; a single 0 stands for fields at the times themselves, on another grid.
        calendar: of the times.
        source: what the forecasts are made from, as plain data; an unfinished attempt from other sources is discarded.
        units: of the channels; those of the catalogue where nothing is said.
        averaging_hours: forecasts are means over so many hours up to the lead; None for states at the lead.
        overwrite: replace an existing store when the new one is complete.

    Raises:
        DataError: if the store exists and may not be replaced.
    """

    def __init__(
        self,
        path: str,
        channels: tuple[Channel, ...],
        grid: Grid,
        initial: NDArray[np.int64],
        leads: tuple[int, ...],
        calendar: str,
        source: dict[str, Any],
        *,
        units: Mapping[Channel, str] | None = None,
        averaging_hours: int | None = None,
        overwrite: bool = False,
    ) -> None:
        self.channels, self.initial, self.leads = channels, initial, list(leads)
        plan = {
            "channels": [str(c) for c in channels],
            "grid": grid.to_dict(),
            "initial": initial.tolist(),
            "leads": list(leads),
            "calendar": calendar,
            "source": source,
            "averaging_hours": averaging_hours,
        }

        def describe() -> xr.Dataset:
            template = _template(channels, grid, decode_time(initial, calendar), leads, units or {})
            template.attrs["source"] = json.dumps(source)
            if averaging_hours is not None:
                for name in template.data_vars:
                    template[name].attrs[AVERAGING_HOURS] = averaging_hours
            return template

        super().__init__(path, "forecasts", plan, describe, overwrite=overwrite)
        self.has_numbers = False
        self.arrays = {name: self.group[name] for name in {c.name for c in channels}}
        self.levels = {c.name: levels_of(channels, c.name) for c in channels}
        every = sorted({c.level for c in channels if c.level is not None})
        self.places = {
            name: [every.index(level) for level in own if level is not None] for name, own in self.levels.items()
        }

    def write(self, positions: list[int], parts: Iterable[Fields]) -> None:
        """Write the forecasts from some initial times; NaN where they are not valid.

        Holds no more than the leads that make a chunk, if they come in order.

        Args:
            positions: of the initial times.
            parts: forecasts at some of the leads each, which hold every lead once.
        """
        waiting: dict[str, dict[int, NDArray[np.float32]]] = {name: {} for name in self.levels}
        for fields in parts:
            after = fields.frame.time.cpu().numpy() - self.initial[positions][:, None]
            leads = (after[0] // SECONDS_PER_HOUR).tolist()
            values = fields.filled(float("nan")).cpu().numpy()
            self.has_numbers = self.has_numbers or bool(np.isfinite(values).any())
            for name, levels in self.levels.items():
                index = [fields.frame.channels.index(Channel(name, level)) for level in levels]
                own = values[:, :, index[0]] if levels == [None] else values[:, :, index]
                waiting[name] |= {self.leads.index(lead): own[:, i] for i, lead in enumerate(leads)}
                self._write_chunks(name, positions, waiting[name])
        assert not any(waiting.values()), "a forecast must hold every lead"
        self.mark(positions)

    def finish(self) -> None:
        """Give the complete store its name.

        Raises:
            DataError: if it does not hold a single number; nothing of it is kept then.
        """
        if not (self.has_numbers or self._earlier_numbers()):
            shutil.rmtree(self.partial)
            raise DataError(
                f"the forecasts for {self.path} hold not a single number, so nothing was written: the states at all "
                f"{len(self.initial)} initial times are missing, or the weights of the run are of no use"
            )
        super().finish()

    def _earlier_numbers(self) -> bool:
        """Whether an earlier attempt has written any number."""
        return any(
            bool(np.isfinite(array[position]).any()) for array in self.arrays.values() for position in self.done()
        )

    def _write_chunks(self, name: str, positions: list[int], waiting: dict[int, NDArray[np.float32]]) -> None:
        """Write and forget what makes whole chunks of leads."""
        array, places = self.arrays[name], self.places[name]
        if self.leads == [0]:
            for row, position in enumerate(positions):
                block = np.full(array.shape[1:], np.nan, dtype=np.float32)
                block[places or slice(None)] = waiting[0][row]
                array[position] = block
            del waiting[0]
            return
        together = array.chunks[1]
        for start in range(0, len(self.leads), together):
            leads = range(start, min(start + together, len(self.leads)))
            if not all(lead in waiting for lead in leads):
                continue
            for row, position in enumerate(positions):
                block = np.full((len(leads), *array.shape[2:]), np.nan, dtype=np.float32)
                block[:, places or slice(None)] = np.stack([waiting[lead][row] for lead in leads])
                array[position, start : leads.stop] = block
            for lead in leads:
                del waiting[lead]


def _template(
    channels: tuple[Channel, ...],
    grid: Grid,
    initial: NDArray[Any],
    leads: tuple[int, ...],
    units: Mapping[Channel, str],
) -> xr.Dataset:
    """Describe the store without any values."""
    times = forecast_times(initial, np.array(leads, dtype=np.int64) * SECONDS_PER_HOUR)
    if leads == (0,):
        times = {"time": ("time", initial, {"standard_name": "time"})}
    known = {**times, **coordinates(grid, channels)}
    variables = {}
    for name in dict.fromkeys(c.name for c in channels):
        on_levels = levels_of(channels, name) != [None]
        dims = (*times, *(("level",) if on_levels else ()), "latitude", "longitude")
        shape = tuple(len(known[dim][1]) for dim in dims)
        together = max(1, min(len(leads), CHUNK_BYTES // (4 * math.prod(shape[len(times) :]))))
        chunks = (1, together)[: len(times)] + shape[len(times) :]
        values = dask.array.full(shape, np.nan, dtype=np.float32, chunks=chunks)
        variables[name] = (dims, values, attributes(name, channels, units))
    return xr.Dataset(variables, known, CONVENTIONS)
