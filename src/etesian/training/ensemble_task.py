"""Learning members of an ensemble: several predictions of each sample, by their CRPS."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from etesian.core import Batch, Fields, Frame
from etesian.core.device import sent
from etesian.core.errors import RecipeError
from etesian.networks.network import Normals
from etesian.scores.ensembles import ensemble_crps
from etesian.training.field_task import FieldTask, Values
from etesian.training.members import (
    ALMOST_FAIR,
    DEFAULT_MEMBERS,
    VALIDATION_MEMBERS,
    Noise,
    fresh,
    noise_of,
    repeated,
)
from etesian.training.task import Task, masked_mean

Ensemble = Float[Tensor, "member batch time channel lat lon"]

BANDS = 4
"""Of latitude, of as many rows each, over which a bias is sought: few enough that their means hardly scatter."""


class EnsembleTask(FieldTask):
    """Predicts fields once, or where `members` is set, as members that differ by the noise that the network is given.

    Attributes:
        members: of each sample in training; None where it is predicted once.
        band_weight: of the CRPS of means over bands of latitude in training, beside that of points.
    """

    members: int | None = None
    band_weight: float = 0.0

    def _accept_members(self, members: int) -> None:
        """Let the network make predictions that differ, and log what is said of ensembles."""
        if members < 2:
            raise RecipeError(
                f"members: {members} cannot differ; train with members: 2, or leave it out for a single one"
            )
        if self.error.loss != "mse":
            raise RecipeError(
                f"members are trained by their CRPS, not by loss: {self.error.loss}; leave out one of them"
            )
        if self.content is not None:
            raise RecipeError("members are trained by their CRPS alone; leave out content, or members")
        self.network.accept_noise()
        self.members, self.logged_scores = members, ("rmse", "crps", "spread_skill")

    def forward(self, batch: Batch, target: Frame, noise: Noise | None = None) -> Values:
        """Return normalised predictions on the target frame from a normalised batch.

        Args:
            batch: what they start from.
            target: what is asked for.
            noise: of each sample, where members were trained; by default that of the first member.
        """
        drawn = self._normals(noise or self._first_member(batch), target, batch.inputs.values)
        values = self.network(batch.inputs, target, forcings=batch.forcings, statics=batch.statics, **drawn)
        return self.bounds.bend(values, target)

    @torch.no_grad()
    def predict(self, batch: Batch, target: Frame, noise: Noise | None = None) -> Fields:
        """Return fields in physical units on the frame that is asked for; of noise see `forward`."""
        return self._physical(self(self.normalized(batch), target, noise), target)

    def _normals(self, noise: Noise | None, target: Frame, like: Tensor, step: int = 0) -> dict[str, Normals]:
        """Return what a network that accepts noise is given of it, where its inputs are.

        Args:
            noise: of each sample.
            target: what is asked for.
            like: inputs of the network.
            step: number of a step that the task makes; a network may count on.
        """
        if noise is None:
            return {}
        shape = self.network.noise_shape(target.grid)
        return {"noise": lambda number: sent(noise(step + number, shape), like)}

    def _first_member(self, batch: Batch) -> Noise | None:
        return None if self.members is None else noise_of(batch, 1)

    def _prediction_error(self, batch: Batch) -> Tensor:
        """Return the weighted error of the prediction from a normalised batch: of members their almost fair CRPS."""
        if self.members is None:
            return super()._prediction_error(batch)
        values = self._ensemble(batch, self.members, fresh(self.members * len(batch)))
        return self._members_error(values, batch)

    def _members_error(self, values: Ensemble, batch: Batch) -> Tensor:
        """Return what training minimises of normalised members: their almost fair CRPS, of points and of bands."""
        error = self._crps(values, batch, ALMOST_FAIR)
        if self.band_weight:
            error = error + self.band_weight * self._crps_of_bands(values, batch)
        return error

    def _ensemble(self, batch: Batch, members: int, noise: Noise | None = None) -> Ensemble:
        """Return normalised predictions of several members from a normalised batch with targets."""
        assert batch.targets is not None
        several = repeated(replace(batch, targets=None), members)
        frame = batch.targets.frame
        target = replace(frame, time=frame.time.repeat(members, 1))
        values: Tensor = self(several, target, noise or noise_of(several, members)).float()
        return values.view(members, len(batch), *values.shape[1:])

    def _crps(self, values: Ensemble, batch: Batch, fairness: float) -> Tensor:
        """Return the weighted CRPS of normalised members over valid points."""
        targets = batch.targets
        assert targets is not None
        score = ensemble_crps(values, targets.values, fairness)
        return masked_mean(score, self._sample_weight(batch), targets.valid)

    def _crps_of_bands(self, values: Ensemble, batch: Batch) -> Tensor:
        """Return the weighted CRPS of normalised members' means over the valid points of bands of latitude."""
        targets = batch.targets
        assert targets is not None
        weight = self._sample_weight(batch).expand_as(targets.values)
        if targets.valid is not None:
            weight = weight * targets.valid
        size = _in_bands(weight)
        least = size.clamp(min=torch.finfo(size.dtype).tiny)
        members, truth = (_in_bands(each * weight) / least for each in (values, targets.filled()))
        score = ensemble_crps(members, truth, ALMOST_FAIR)
        return masked_mean(score, size, None)

    def _score(self, batch: Batch) -> dict[str, Tensor]:
        """Add the errors in physical units to the sums and return the losses to log: of members their fair CRPS."""
        if self.members is None:
            return super()._score(batch)
        assert batch.targets is not None
        normalized, frame = self.normalized(batch), batch.targets.frame
        values = self._ensemble(normalized, VALIDATION_MEMBERS)
        each = [self._physical(member, frame) for member in values]
        members = torch.stack([fields.values for fields in each])
        self._add_scores(replace(each[0], values=members.mean(0)), batch, members)
        return {"loss": self._crps(values, normalized, fairness=1.0)}


def _in_bands(values: Float[Tensor, "*axes lat lon"]) -> Float[Tensor, "*axes band 1"]:
    """Return sums over each of the bands of latitude."""
    rows = values.sum(-1, keepdim=True)
    return torch.cat([band.sum(-2, keepdim=True) for band in rows.tensor_split(BANDS, -2)], -2)


def members_of(tasks: Sequence[Task], asked: int | None, path: str) -> int | None:
    """Return how many members each prediction has, None of runs that give one.

    Args:
        tasks: trained ones.
        asked: how many are asked for; by default `DEFAULT_MEMBERS` of runs that were trained for some.
        path: of what is to be made.

    Raises:
        RecipeError: if only some of the runs were trained for members, or none was and members are asked for.
    """
    trained = {isinstance(task, EnsembleTask) and task.members is not None for task in tasks}
    if len(trained) > 1:
        raise RecipeError(f"of the runs for {path} some have members and some do not; predict with each alone")
    if trained == {True}:
        return DEFAULT_MEMBERS if asked is None else asked
    if asked is not None:
        raise RecipeError(
            f"{asked} members are asked for, but the run was trained without; train it with "
            "--model.init_args.members 2, or leave out members"
        )
    return None
