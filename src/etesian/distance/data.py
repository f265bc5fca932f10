"""Pairs of patches whose lag in time is to be told."""

from collections.abc import Sequence

from etesian.core import Batch, Layout
from etesian.core.errors import RecipeError
from etesian.samples.loading import Loading
from etesian.samples.patches import Cutter, PatchData, PatchDataset, PatchPick
from etesian.store.reader import Store


class LagDataset(PatchDataset):
    """Inputs are a patch at two times; how far they lie apart is to be told."""

    def __getitem__(self, picks: Sequence[PatchPick]) -> Batch:
        return Batch(self.read(picks, [(0, pick.lead) for pick in picks], self.layout.grid))


class LagData(PatchData):
    """Pairs of patches at one place, 1 to `lags` steps apart, to learn a distance between states from.

    A patch is cut from the fields when it is asked for; the two times tell the lag, which is the label.

    Args:
        store: training store with a common step.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to test on.
        channels: that patches hold, such as `vorticity_850`; a bare name means all its levels; default all.
        lags: the largest lag, in steps of the store; every lag from 1 on is drawn equally often.
        patch_size: rows and columns of a patch.
        band: the largest latitude of a patch's centre, degrees north or south.
        patches: pairs of patches cut at each pair of times, which cost one read.
        times: pairs of times in an epoch of training; default as many as there are times.
        fixed_epochs: the first so many epochs all see the samples of the first one.
        batch_size: pairs of patches in a batch, per process.
        workers: processes that read ahead.
        seed: of lags, positions and the order of samples.

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
        opened = Store(store)
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
            loading=Loading(batch_size, workers, seed),
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
