"""The data of a gap-filling run: gappy fields of months, and what they should have been."""

import numpy as np

from etesian.core import Layout, Region
from etesian.core.dataset import channels_of
from etesian.core.errors import RecipeError
from etesian.core.statistics import HARMONICS, Statistics
from etesian.files.open import field, open_store
from etesian.fill.months import MonthAxis, Tiling, sea_mask, static_fields, with_land
from etesian.fill.samples import Hiding, MonthDataset, Months, Target
from etesian.samples.loading import Loading, StoreData
from etesian.simulation.clouds import CloudLibrary
from etesian.store.reader import Store


class GapFillData(StoreData):
    """Months of gappy fields, and their means or daily fields to learn from, from training stores.

    With a truth (a simulation, an analysis) that is what is learned. Without, observed points are hidden under the
    clouds of other days and are learned: for daily targets they alone count, the mean of a month is that over all days
    observed. A month whose mean is asked for belongs to a period if all of it does; of a month of days, those in the
    period. Land, told by a static `land_sea_mask` (of the
    observations, or of the truth) or else by being never observed, never counts as observed; tiles without sea are
    left out.

    Args:
        observed: training store of the gappy fields: daily or at any fixed step of a day or less; times may be missing.
        train: first and last month to train on, such as 2001-01 2004-12; a year means all of it.
        validate: first and last month to choose on.
        test: first and last month to judge on.
        truth: training store of the complete fields on the same grid; None to learn from what is hidden.
        inputs: channels that are given; default all of the observed store.
        targets: channels that are asked for; default the inputs.
        statics: static fields that are given as well; default all, and the land.
        target: the means of the months, or the fields at each time.
        months: that follow one another in a sample.
        margin: days before and after them that are given as well, so that a month's first and last days have neighbours
            on both sides; those in another period are not.
        tile: rows and columns of a sample; default the whole grid.
        overlap: rows and columns that neighbouring tiles share at least.
        region: named box, or south,north,west,east in degrees; default the whole grid.
        sea: static field of the observed store that is 1 at sea and 0 on land, where it has no `land_sea_mask`.
        hide: mean share of a sample's times over which clouds of other times are laid; default none with a truth,
            half of them without. In validation and test always the same ones, and none with a truth.
        clouds: a data set of any grid whose gaps are laid over instead, such as one with real clouds.
        min_days: days of a month of which something must be known at a point for its mean to be learned.
        batch_size: samples in a batch, per process.
        workers: processes that read ahead; 0 reads in the training process.
        seed: of the order of samples and of what is hidden.

    Raises:
        RecipeError: if the periods overlap, an option makes no sense, or the two stores do not fit together.
        GridError: if tiles do not fit on the grid.
    """

    def __init__(
        self,
        observed: str,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None = None,
        truth: str | None = None,
        inputs: list[str] | None = None,
        targets: list[str] | None = None,
        statics: list[str] | None = None,
        target: Target = "monthly",
        months: int = 1,
        margin: int = 0,
        tile: tuple[int, int] | None = None,
        overlap: int = 0,
        region: str | None = None,
        sea: str | None = None,
        hide: float | None = None,
        clouds: str | None = None,
        min_days: int = 5,
        batch_size: int = 4,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        gappy = Store(observed)
        complete = None if truth is None else Store(truth)
        super().__init__([gappy], train, validate, test, Loading(batch_size, workers, seed))
        if complete is not None:
            _check_pair(gappy, complete)
            self.stores.append(complete)
        self.hide = (0.5 if complete is None else 0.0) if hide is None else hide
        if not 0 <= self.hide <= 1 or (self.hide == 0 and complete is None):
            raise RecipeError(
                f"hide = {self.hide:g} must be a share of the times, greater than 0 where there is no truth to learn"
            )
        self.months = Months(target, months, margin, min_days)
        given = gappy.resolve(inputs)
        wanted = given if targets is None else (complete or gappy).resolve(targets)
        box = None if region is None else Region.parse(region)
        self.layout = with_land(
            Layout(
                inputs=given,
                targets=wanted,
                grid=gappy.grid if box is None else gappy.grid.crop(box),
                statics=gappy.resolve_statics(statics),
            )
        )
        self.tiling = Tiling(self.layout.grid, tile, overlap)
        self.sea = sea_mask(self.layout.grid, gappy, *([] if complete is None else [complete]), field=sea)
        self.library = None if clouds is None else _library(clouds)
        self.sea_field = sea

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the layout, with the seasonal cycle of the observations."""
        gappy, others = self.stores[0], self.stores[-1]
        own = tuple(dict.fromkeys(c for c in (*self.layout.inputs, *self.layout.targets) if c in gappy.channels))
        more = tuple(c for c in self.layout.targets if c not in own)
        parts = [gappy.statistics.select(own), others.statistics.select(more)]
        fixed = static_fields(gappy, self.layout, self.sea).astype(np.float64)
        mean, std = fixed.mean(axis=(1, 2)), fixed.std(axis=(1, 2))
        # A field that is the same everywhere, as where there is no land, tells nothing and does no harm.
        std[std == 0] = 1.0
        rows, columns = gappy.locate(self.layout.grid)
        still = np.zeros((HARMONICS, len(fixed), *self.layout.grid.shape), dtype=np.float32)
        still[0] = mean[:, None, None]
        cycles = [part.harmonics[:, :, rows][:, :, :, columns] for part in parts if part.harmonics is not None]
        spreads = [part.anomaly_std for part in parts if part.anomaly_std is not None]
        return Statistics(
            (*own, *more, *self.layout.statics),
            np.concatenate([*(part.mean for part in parts), mean]),
            np.concatenate([*(part.std for part in parts), std]),
            np.concatenate([*cycles, still], axis=1),
            np.concatenate([*spreads, std]),
        )

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint, and how fields are to be cut into samples."""
        return super().provenance | {
            "gap_filling": {
                "target": self.months.target,
                "months": self.months.months,
                "margin": self.months.margin,
                "tile": list(self.tiling.size),
                "overlap": self.tiling.overlap,
                "sea": self.sea_field,
            }
        }

    def dataset(self, part: str) -> MonthDataset:
        """Return the months of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if no whole month with data lies in it.
        """
        training = part == "train"
        gappy, complete = self.stores[0], self.stores[1] if len(self.stores) > 1 else None
        period, months = self.period(part), self.months
        starts = MonthAxis(gappy).windows(
            period, months.months, 1 if training else months.months, whole=months.target == "monthly"
        )
        hiding = Hiding(
            self.hide if training or complete is None else 0.0,
            np.flatnonzero(self.period("train").covers(gappy.time, gappy.calendar)),
            self.library,
            fixed=not training,
        )
        return MonthDataset(
            gappy, complete, self.layout, self.tiling, self.sea, starts, period, months=months, hiding=hiding
        )


def _library(path: str) -> CloudLibrary:
    dataset = open_store(path)
    return CloudLibrary.of(field(dataset, channels_of(dataset)[0]).load())


def _check_pair(observed: Store, truth: Store) -> None:
    if observed.grid != truth.grid:
        raise RecipeError(f"{observed.path} lies on {observed.grid}, {truth.path} on {truth.grid}; regrid one of them")
    if observed.calendar != truth.calendar:
        raise RecipeError(
            f"{observed.path} counts days in the {observed.calendar} calendar, {truth.path} in {truth.calendar}; give "
            "two of one calendar"
        )
