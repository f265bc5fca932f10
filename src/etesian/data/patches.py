"""The data of runs on patches: pairs of states some steps apart, and fine patches with their block means."""

from dataclasses import replace

from etesian.core import Layout
from etesian.core.errors import GridError, RecipeError
from etesian.data.cutting import Cutter, LagDataset, SuperResolutionDataset, coarse_grid
from etesian.data.loading import WindowData
from etesian.data.reader import TrainingStore
from etesian.nn.normalizer import Statistics


class PatchData(WindowData):
    """What data modules of patches share: one store, its channels, and where patches lie."""

    def __init__(
        self,
        store: TrainingStore,
        layout: Layout,
        cutter: Cutter,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None,
        *,
        patches: int,
        times: int | None,
        batch_size: int,
        workers: int,
        seed: int,
    ) -> None:
        super().__init__([store], train, validate, test, batch_size=batch_size, workers=workers, seed=seed)
        for name, value in (("patches", patches), ("times", times), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise RecipeError(f"{name} = {value} must be at least 1")
        self.layout, self.cutter, self.patches, self.times = layout, cutter, patches, times

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the store; of patches, which lie anywhere, nothing is known by point."""
        return replace(self.stores[0].statistics.without_seasons(), observed=None)


class LagData(PatchData):
    """Pairs of patches at one place, 1 to `lags` steps apart, to learn a distance between states from.

    A patch is cut from the fields when it is asked for; the two times tell the lag, which is the label.

    Args:
        store: training store with a common step.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to judge on.
        channels: that patches hold, such as `vorticity_850`; a bare name means all its levels; default all.
        lags: the largest lag, in steps of the store; every lag from 1 on is drawn equally often.
        patch_size: rows and columns of a patch.
        band: the largest latitude of a patch's centre, degrees north or south.
        patches: places at each pair of times, which cost one read.
        times: pairs of times in an epoch of training; default as many as there are times.
        fixed_epochs: the first so many epochs all see the samples of the first one.
        batch_size: pairs of patches in a batch, per process.
        workers: processes that read ahead.
        seed: of lags, places and the order of samples.

    Raises:
        RecipeError: if the periods overlap, the store has no common step, or no patch fits.
        ChannelError: if the store lacks a channel.
    """

    def __init__(
        self,
        store: str,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None = None,
        channels: list[str] | None = None,
        lags: int = 23,
        patch_size: tuple[int, int] = (160, 160),
        band: float = 60.0,
        patches: int = 4,
        times: int | None = None,
        fixed_epochs: int = 0,
        batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        opened = TrainingStore(store)
        if opened.step_hours < 1:
            raise RecipeError(
                f"lags count steps, but the times of {store} have no common step; prepare it with --every"
            )
        if lags < 2:
            raise RecipeError(f"lags = {lags} must be at least 2, for there is nothing to tell apart otherwise")
        cutter = Cutter(opened.grid, patch_size, band)
        given = opened.resolve(channels)
        super().__init__(
            opened,
            Layout(given, (), cutter.reference),
            cutter,
            train,
            validate,
            test,
            patches=patches,
            times=times,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
        )
        self.lags, self.fixed_epochs = lags, fixed_epochs

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint: store with its fingerprint, periods, lags, step in hours."""
        return super().provenance | {"lags": self.lags, "step_hours": self.stores[0].step_hours}

    def dataset(self, part: str) -> LagDataset:
        """Return the pairs of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if it is shorter than the largest lag.
        """
        store, training = self.stores[0], part == "train"
        return LagDataset(
            store,
            self.layout,
            self.cutter,
            [lag * store.step_hours for lag in range(1, self.lags + 1)],
            self.period(part),
            patches=self.patches,
            times=self.times if training else None,
            fixed_epochs=self.fixed_epochs if training else 0,
        )


class SuperResolutionData(PatchData):
    """Patches as targets, and as inputs their means over blocks of `factor` × `factor` points, in physical units.

    Args:
        store: training store of the fine fields.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to judge on.
        channels: that are sharpened; a bare name means all its levels; default all.
        factor: how many rows and columns of the fine grid make one of the coarse grid.
        patch_size: rows and columns of a fine patch.
        band: the largest latitude of a patch's centre, degrees north or south.
        patches: places at each time, which cost one read.
        times: in an epoch of training; default as many as there are.
        batch_size: patches in a batch, per process.
        workers: processes that read ahead.
        seed: of places and the order of samples.

    Raises:
        RecipeError: if the periods overlap, no patch fits, or the factor does not divide it.
        ChannelError: if the store lacks a channel.
    """

    def __init__(
        self,
        store: str,
        train: tuple[str, str],
        validate: tuple[str, str],
        test: tuple[str, str] | None = None,
        channels: list[str] | None = None,
        factor: int = 4,
        patch_size: tuple[int, int] = (96, 96),
        band: float = 60.0,
        patches: int = 4,
        times: int | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        opened = TrainingStore(store)
        cutter = Cutter(opened.grid, patch_size, band)
        given = opened.resolve(channels)
        try:
            coarse = coarse_grid(cutter.reference, factor)
        except GridError:
            raise RecipeError(
                f"a factor of {factor} does not divide patches of {patch_size[0]}×{patch_size[1]}; choose another size"
            ) from None
        super().__init__(
            opened,
            Layout(given, given, coarse, target_grid=cutter.reference),
            cutter,
            train,
            validate,
            test,
            patches=patches,
            times=times,
            batch_size=batch_size,
            workers=workers,
            seed=seed,
        )
        self.factor = factor

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint: store with its fingerprint, periods, factor."""
        return super().provenance | {"factor": self.factor}

    def dataset(self, part: str) -> SuperResolutionDataset:
        """Return the patches of `train`, `validate` or `test`.

        Raises:
            RecipeError: if the recipe names no such period.
            DataError: if no time lies in it.
        """
        times = self.times if part == "train" else None
        return SuperResolutionDataset(
            self.stores[0], self.layout, self.cutter, (0,), self.period(part), patches=self.patches, times=times
        )
