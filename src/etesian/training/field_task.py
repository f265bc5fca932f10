"""Scores of forecasts over a whole validation or test period."""

from abc import abstractmethod

from torch import Tensor

from etesian.core import Batch, Channel, Fields
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.scores.sums import Sums, accumulate
from etesian.scores.weights import Weighting
from etesian.training.task import Task


class ScoredTask(Task):
    """Logs root-mean-square errors in physical units by channel and lead, over all stores that have the channel."""

    scored_leads: list[int]
    sums: dict[tuple[Channel, ...], Sums]

    @abstractmethod
    def _score(self, batch: Batch) -> dict[str, Tensor]:
        """Add the errors in physical units to the sums and return the losses to log."""

    def add_scores(self, predicted: Fields, batch: Batch, weighting: Weighting) -> None:
        """Add the errors of a prediction of a batch, both in physical units, to the sums."""
        assert batch.targets is not None
        leads = batch.targets.frame.time[0] - batch.inputs.frame.time[0, -1]
        self.scored_leads = (leads // SECONDS_PER_HOUR).tolist()
        sums = accumulate(predicted, batch.targets, regions=("domain",), weighting=weighting).total()
        known = self.sums.get(sums.channels)
        self.sums[sums.channels] = sums if known is None else known + sums

    def on_validation_epoch_start(self) -> None:
        """Begin to sum the scores anew."""
        self.sums.clear()

    def validation_step(self, batch: Batch, _: int) -> None:
        """Log the loss and add the errors in physical units to the sums."""
        self._log_losses("val", batch)

    def on_validation_epoch_end(self) -> None:
        """Log the root-mean-square errors over the whole period."""
        self._log_scores("val")

    def on_test_epoch_start(self) -> None:
        """Begin to sum the scores anew."""
        self.sums.clear()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Log the loss and add the errors in physical units to the sums."""
        self._log_losses("test", batch)

    def on_test_epoch_end(self) -> None:
        """Log the root-mean-square errors over the whole period."""
        self._log_scores("test")

    def _log_losses(self, part: str, batch: Batch) -> None:
        for name, loss in self._score(batch).items():
            self.log(f"{part}_{name}", loss, prog_bar=name == "loss", batch_size=len(batch), sync_dist=True)

    def _log_scores(self, part: str) -> None:
        """Log errors by channel and lead, over all stores that have the channel."""
        totals: dict[Channel, Tensor] = {}
        for sums in self.sums.values():
            values = self.trainer.strategy.reduce(sums.values, reduce_op="sum")
            for number, channel in enumerate(sums.channels):
                one = values[:, number : number + 1]
                totals[channel] = totals[channel] + one if channel in totals else one
        for channel, values in totals.items():
            rmse = Sums(values, (channel,), ("domain",)).rmse().flatten()
            for lead, error in zip(self.scored_leads, rmse, strict=True):
                self.log(f"{part}_rmse/{channel}/{lead}h", error.float(), rank_zero_only=True)
