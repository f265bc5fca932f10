"""Patches and their block means, for super-resolution."""

from collections.abc import Sequence

from etesian.core import Batch, Layout
from etesian.core.errors import GridError, RecipeError
from etesian.samples.loading import Loading
from etesian.samples.patches import Cutter, PatchData, PatchDataset, PatchPick, block_mean, coarse_grid
from etesian.store.reader import Store


class SuperResolutionDataset(PatchDataset):
    """Targets are patches, inputs their block means."""

    def __getitem__(self, picks: Sequence[PatchPick]) -> Batch:
        fine = self.read(picks, [(0,)] * len(picks), self.layout.output_grid)
        return Batch(block_mean(fine, self.cutter.size[0] // self.layout.grid.shape[0]), fine)


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
        opened = Store(store)
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
            loading=Loading(batch_size, workers, seed),
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
