"""The data of a forecast run: stores, windows, splits, loaders."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from etesian.core import Channel, Grid, Layout, Region
from etesian.core.channels import parse_channels
from etesian.core.errors import DataError, RecipeError
from etesian.core.radiation import radiation_moments
from etesian.core.statistics import HARMONICS, Statistics
from etesian.samples.forcings import COMPUTED
from etesian.samples.loading import Loading, StoreData, check_history
from etesian.samples.windows import Horizon, RandomLeads, WindowDataset
from etesian.store.reader import Store, observed_targets


class ForecastData(StoreData):
    """Inputs at an initial time, targets at leads after it, from training stores.

    Args:
        stores: training stores made by `etesian prepare`. They may differ in channels, levels, calendar and, for
            networks that take any grid, in resolution: each gives what it has, and a batch comes from one of them.
        inputs: channels that are given, such as `temperature_850`; a bare name means all its levels; default all.
        targets: channels that are asked for; default the inputs that are no forcings.
        forcings: what is known at the target times: `toa_incident_solar_radiation`, which is computed from the clock
            and the grid (`core.radiation`), and channels of the stores that are not predicted, such as
            `sea_surface_temperature`. An iterated forecast is given them at every step.
        boundary: rows and columns around the region where all targets are known at the target times, as from the
            forecast of a larger region; they are given to the network as forcings, and not predicted.
        statics: static fields that are given as well; default all.
        history: hours of the input states relative to the initial time, ascending, the last one 0.
        leads: hours after the initial time.
        draw: in training, verify each sample at all leads, or at some drawn at random anew every epoch.
        leads_per_sample: how many leads are drawn at random for each sample.
        horizon: how the largest lead that is drawn grows in training, as `first`, `batches` and `growth`; default all
            leads from the beginning.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to test on.
        region: named box, or south,north,west,east in degrees; default the whole grid.
        every: hours between initial times; default every time there is.
        weights: share of the samples that each store gives in an epoch; default as many as it has. A store of weight 0
            gives no samples, but its channels and their distribution are known.
        sources: name of the analyses that each store holds, for networks with an encoder per source.
        average_hours: targets are means over so many hours up to the lead, the lead included: means over weeks 3 and 4
            are leads of 672 h averaged over 336 h; default the state at the lead.
        validate_leads: leads to choose on; default all.
        batch_size: samples in a batch, per process.
        workers: processes that read ahead; 0 reads in the training process, which is fastest for small grids.
        seed: of the order of samples and of random leads.

    Attributes:
        step_hours: between the times at which forcings are given on the way to a lead; a task that iterates sets it.

    Raises:
        RecipeError: if the periods overlap, history or leads are out of order, weights do not fit the stores, a forcing
            is a target, or there is no region for a boundary to be around.
        GridError: if the stores end within the boundary.
    """

    def __init__(
        self,
        stores: list[str],
        train: tuple[str, str],
        validate: tuple[str, str],
        leads: list[int],
        inputs: list[str] | None = None,
        targets: list[str] | None = None,
        forcings: list[str] = [],  # noqa: B006 — jsonargparse shows this default in --help
        boundary: int = 0,
        statics: list[str] | None = None,
        history: list[int] = [0],  # noqa: B006 — jsonargparse shows this default in --help
        draw: Literal["all", "random"] = "random",
        test: tuple[str, str] | None = None,
        region: str | None = None,
        every: int | None = None,
        weights: list[float] | None = None,
        sources: list[str] | None = None,
        average_hours: int | None = None,
        validate_leads: list[int] | None = None,
        leads_per_sample: int = 1,
        horizon: Horizon | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        if not leads or list(leads) != sorted(set(leads)) or leads[0] <= 0:
            raise RecipeError(f"leads {leads} must be ascending hours greater than 0")
        if not stores:
            raise RecipeError("stores is empty: name the training stores to read, such as --data.stores '[store.zarr]'")
        opened = [Store(path) for path in stores]
        if weights is not None and (len(weights) != len(stores) or min(weights) < 0 or not any(weights)):
            raise RecipeError(f"weights {weights} must be {len(stores)} numbers, one for each store, 0 or greater")
        if sources is not None and len(sources) != len(stores):
            raise RecipeError(f"sources {sources} must be {len(stores)} names, one for each store")
        if unknown := sorted(set(validate_leads or ()) - set(leads)):
            raise RecipeError(f"validate_leads names {unknown[0]} h, which is not among the leads {leads}")
        if average_hours is not None and not 0 < average_hours <= leads[0]:
            raise RecipeError(
                f"average_hours = {average_hours} must be greater than 0 and within the first lead, {leads[0]} h"
            )
        if leads_per_sample < 1 or (draw == "all" and (leads_per_sample > 1 or horizon is not None)):
            raise RecipeError(
                f"leads_per_sample = {leads_per_sample} and a horizon are for leads drawn at random, at least one; set "
                "draw: random"
            )
        if horizon is not None and not (horizon.first >= leads[0] and horizon.batches > 0):
            raise RecipeError(
                f"a horizon begins with the first lead, {leads[0]} h, or a longer one and grows over at least one "
                f"batch, not from {horizon.first} h over {horizon.batches}"
            )
        super().__init__(opened, train, validate, test, Loading(batch_size, workers, seed))
        channels = _union(store.channels for store in opened)
        chosen = channels if inputs is None else parse_channels(inputs, channels)
        known = parse_channels(forcings, (*COMPUTED, *(c for c in channels if c not in COMPUTED)))
        asked = tuple(c for c in chosen if c not in known) if targets is None else parse_channels(targets, channels)
        if leaked := [c for c in known if c in asked]:
            raise RecipeError(
                f"'{leaked[0]}' is among the forcings and the targets, which gives away what is asked for"
            )
        if average_hours is not None and (known or boundary):
            raise RecipeError(
                "forcings are of the target time, not means up to it; leave out average_hours or forcings"
            )
        fixed = _union(store.static_channels for store in opened)
        box = None if region is None else Region.parse(region)
        grids = [store.grid if box is None else store.grid.crop(box) for store in opened]
        if boundary:
            if boundary < 0 or box is None or any(grid != grids[0] for grid in grids):
                raise RecipeError(f"boundary: {boundary} must be points around a region on one grid; name the region")
            grids = [store.grid.widened(grid, boundary) for store, grid in zip(opened, grids, strict=True)]
        self.layout = Layout(
            inputs=chosen,
            targets=asked,
            forcings=(*known, *asked) if boundary else known,
            boundary=boundary,
            statics=fixed if statics is None else parse_channels(statics, fixed),
            history=check_history(history),
            grid=grids[0],
            other_grids=tuple(dict.fromkeys(grid for grid in grids if grid != grids[0])),
        )
        self.layouts = [self._part(store, grid) for store, grid in zip(opened, grids, strict=True)]
        if sources is not None:
            self.layouts = [replace(part, source=name) for part, name in zip(self.layouts, sources, strict=True)]
        self.leads, self.every = tuple(leads), every
        self.step_hours: int | None = None
        self.draw = RandomLeads(leads_per_sample, horizon) if draw == "random" else None
        self.weights, self.average_hours = weights, average_hours
        self.validate_leads = self.leads if validate_leads is None else tuple(validate_leads)

    def _part(self, store: Store, grid: Grid) -> Layout:
        """Return what a store is read with: what it has of the layout."""
        whole = self.layout
        inputs, targets = (tuple(c for c in names if c in store.channels) for names in (whole.inputs, whole.targets))
        if not inputs or not targets:
            raise RecipeError(f"{store.path} has none of the {'targets' if inputs else 'inputs'}; leave it out")
        statics = tuple(c for c in whole.statics if c in store.static_channels)
        forcings = tuple(c for c in whole.forcings if c in COMPUTED or c in store.channels)
        return replace(
            whole, inputs=inputs, targets=targets, statics=statics, forcings=forcings, grid=grid, other_grids=()
        )

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the layout, over all values of all stores that have it.

        The seasonal cycle on each grid is that of the stores on it.
        """
        layout = self.layout
        channels = tuple(dict.fromkeys((*layout.inputs, *layout.targets, *layout.forcings)))
        parts = [self._computed() if c in COMPUTED and c in layout.forcings else self._pooled(c) for c in channels]
        parts += [self._pooled_static(channel) for channel in layout.statics]
        by_grid = zip(*(part.cycles for part in parts), strict=True)
        own, *others = (np.concatenate(cycles, axis=1) for cycles in by_grid)
        mean, std, spread = (np.array([part[number] for part in parts]) for number in range(3))
        everywhere = channels + layout.statics
        observed = None if others else observed_targets(self.stores, layout, everywhere)
        return Statistics(everywhere, mean, std, own, spread, observed=observed, other_harmonics=tuple(others) or None)

    def _pooled(self, channel: Channel) -> "_Pooled":
        holders = [store for store in self.stores if channel in store.channels]
        index = [store.channels.index(channel) for store in holders]
        each = [store.statistics for store in holders]
        count = np.array([float(s.dataset["count"][i]) for s, i in zip(holders, index, strict=True)])
        share = count / count.sum()
        means, stds, spreads = (
            np.array([np.asarray(getattr(s, name))[i] for s, i in zip(each, index, strict=True)])
            for name in ("mean", "std", "anomaly_std")
        )
        mean = share @ means
        std = np.sqrt(share @ (stds**2 + (means - mean) ** 2))
        cycles = []
        for grid in (self.layout.grid, *self.layout.other_grids):
            here = [number for number, store in enumerate(holders) if self._grid_of(store) == grid]
            if not here:
                cycles.append(_constant(mean, grid))
                continue
            rows, columns = holders[here[0]].locate(grid)
            there = np.stack([np.asarray(each[number].harmonics)[:, [index[number]]] for number in here])
            cycle = np.tensordot(count[here] / count[here].sum(), there, axes=1)
            cycles.append(cycle[:, :, rows][:, :, :, columns].astype(np.float32))
        return _Pooled(mean, std, share @ spreads, cycles)

    def _computed(self) -> "_Pooled":
        """Return the distribution of the solar radiation; about one mean, so that its day and year are seen."""
        mean, std = radiation_moments(self.layout.grid, self.stores[0].calendar)
        return _Pooled(mean, std, std, [_constant(mean, g) for g in (self.layout.grid, *self.layout.other_grids)])

    def _grid_of(self, store: Store) -> Grid:
        """Return the grid, or the part of it, that a store is read on."""
        return self.layouts[self.stores.index(store)].grid

    def _pooled_static(self, channel: Channel) -> "_Pooled":
        holders = [store for store in self.stores if channel in store.static_channels]
        each = [(s.static_statistics, s.static_channels.index(channel)) for s in holders]
        mean = np.mean([s.mean[i] for s, i in each])
        std = np.sqrt(np.mean([s.std[i] ** 2 + (s.mean[i] - mean) ** 2 for s, i in each]))
        # A static field is its own climatology's mean: it is centred on one number, not on itself.
        grids = (self.layout.grid, *self.layout.other_grids)
        return _Pooled(mean, std, std, [_constant(mean, grid) for grid in grids])

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint: stores with their fingerprints, periods, leads."""
        return super().provenance | {"leads": list(self.leads), "average_hours": self.average_hours}

    def dataset(self, part: str) -> WindowDataset:
        """Return the windows of `train`, `validate` or `test`; the latter two are verified at every lead.

        A store that has no such window is left out where it is not trained on.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if no window fits, or none of one of the stores to train on.
        """
        training = part == "train"
        weights = self.weights or [1.0] * len(self.stores)
        used = [number for number, weight in enumerate(weights) if weight]
        dataset = WindowDataset(
            [self.stores[number] for number in used],
            self.layout,
            self.leads if part != "validate" else self.validate_leads,
            self.period(part),
            draw=self.draw if training else None,
            every=self.every,
            layouts=[self.layouts[number] for number in used],
            shares=[weights[number] for number in used] if training and self.weights else None,
            average_hours=self.average_hours,
            step_hours=self.step_hours,
        )
        if training and (idle := [group.name for group in dataset.groups if not group.samples]):
            raise DataError(f"{idle[0]} has no window to train on; leave it out, or change the period or the leads")
        return dataset


class _Pooled(NamedTuple):
    """Distribution of one channel over all stores, with its seasonal cycle on each of the layout's grids."""

    mean: float
    std: float
    spread: float
    cycles: list[Float[np.ndarray, "5 1 lat lon"]]


def _constant(mean: float, grid: Grid) -> Float[np.ndarray, "5 1 lat lon"]:
    """Return the seasonal cycle of what has none."""
    cycle = np.zeros((HARMONICS, 1, *grid.shape), dtype=np.float32)
    cycle[0] = mean
    return cycle


def _union(each: Iterable[Iterable[Channel]]) -> tuple[Channel, ...]:
    return tuple(dict.fromkeys(channel for channels in each for channel in channels))
