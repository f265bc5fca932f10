"""The data of a forecast run: stores, windows, splits, loaders."""

from typing import Literal

import numpy as np

from etesian.core import Layout, Region
from etesian.core.errors import RecipeError
from etesian.data.dataset import WindowDataset
from etesian.data.loading import WindowData, check_history
from etesian.data.reader import TrainingStore
from etesian.nn.normalizer import HARMONICS, Statistics


class ForecastData(WindowData):
    """Inputs at an initial time, targets at leads after it, from training stores.

    Args:
        stores: training stores made by `etesian prepare`; several must share channels and grid.
        inputs: channels that are given, such as `temperature_850`; a bare name means all its levels; default all.
        targets: channels that are asked for; default the inputs.
        statics: static fields that are given as well; default all.
        history: hours of the input states relative to the initial time, ascending, the last one 0.
        leads: hours after the initial time.
        draw: in training, verify each sample at all leads, or at one drawn at random anew every epoch.
        train: first and last date to train on; a year or month as an end means all of it.
        validate: first and last date to choose on.
        test: first and last date to judge on.
        region: named box, or south,north,west,east in degrees; default the whole grid.
        every: hours between initial times; default every time there is.
        batch_size: samples in a batch, per process.
        workers: processes that read ahead; 0 reads in the training process, which is fastest for small grids.
        seed: of the order of samples and of random leads.

    Raises:
        RecipeError: if the periods overlap, the stores differ, or history or leads are out of order.
    """

    def __init__(
        self,
        stores: list[str],
        train: tuple[str, str],
        validate: tuple[str, str],
        leads: list[int],
        inputs: list[str] | None = None,
        targets: list[str] | None = None,
        statics: list[str] | None = None,
        history: list[int] = [0],  # noqa: B006 — jsonargparse shows this default in --help
        draw: Literal["all", "random"] = "random",
        test: tuple[str, str] | None = None,
        region: str | None = None,
        every: int | None = None,
        batch_size: int = 32,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        if not leads or list(leads) != sorted(set(leads)) or leads[0] <= 0:
            raise RecipeError(f"leads {leads} must be ascending hours greater than 0")
        opened = [TrainingStore(path) for path in stores]
        first = opened[0]
        for other in opened[1:]:
            if other.channels != first.channels or other.grid != first.grid or other.calendar != first.calendar:
                raise RecipeError(f"{other.path} differs from {first.path} in channels, grid or calendar")
        super().__init__(opened, train, validate, test, batch_size=batch_size, workers=workers, seed=seed)
        chosen = first.resolve(inputs)
        self.layout = Layout(
            inputs=chosen,
            targets=chosen if targets is None else first.resolve(targets),
            statics=first.resolve_statics(statics),
            history=check_history(history),
            grid=first.grid if region is None else first.grid.crop(Region.parse(region)),
        )
        self.leads, self.draw, self.every = tuple(leads), draw, every

    @property
    def statistics(self) -> Statistics:
        """Distribution of every channel of the layout, pooled over the stores, on the layout's grid."""
        layout, first = self.layout, self.stores[0]
        channels = tuple(dict.fromkeys((*layout.inputs, *layout.targets)))
        rows, columns = first.locate(layout.grid)
        each = [store.statistics for store in self.stores]
        index = each[0].index(channels)
        mean = np.mean([s.mean[index] for s in each], axis=0)
        variance = np.mean([s.std[index] ** 2 + (s.mean[index] - mean) ** 2 for s in each], axis=0)
        harmonics = np.mean([np.asarray(s.harmonics)[:, index] for s in each], axis=0)[:, :, rows][:, :, :, columns]
        anomaly = np.mean([np.asarray(s.anomaly_std)[index] for s in each], axis=0)
        static = first.static_statistics
        chosen = static.index(layout.statics)
        # A static field is its own climatology's mean: it is centred on one number, not on itself.
        constant = np.zeros((HARMONICS, len(chosen), *layout.grid.shape), dtype=np.float32)
        constant[0] = static.mean[chosen][:, None, None]
        return Statistics(
            channels + layout.statics,
            np.concatenate([mean, static.mean[chosen]]),
            np.concatenate([np.sqrt(variance), static.std[chosen]]),
            np.concatenate([harmonics, constant], axis=1).astype(np.float32),
            np.concatenate([anomaly, static.std[chosen]]),
        )

    @property
    def provenance(self) -> dict[str, object]:
        """What the run has seen, for its checkpoint: stores with their fingerprints, periods, leads."""
        return super().provenance | {"leads": list(self.leads)}

    def dataset(self, part: str) -> WindowDataset:
        """Return the windows of `train`, `validate` or `test`; the latter two are verified at every lead.

        Raises:
            RecipeError: if the recipe names no such period.
        """
        draw = self.draw if part == "train" else "all"
        return WindowDataset(self.stores, self.layout, self.leads, self.period(part), draw=draw, every=self.every)
