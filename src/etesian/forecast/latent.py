"""Training WeatherMesh: encode once, step in latent space, decode where there is a truth."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.device import positions, sent
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.known import known_ahead, with_known
from etesian.forecast.task import ForecastTask
from etesian.networks.network import lead_hours
from etesian.networks.weathermesh import WeatherMesh
from etesian.networks.weathermesh_encoder import forcings_of
from etesian.networks.weathermesh_steps import Step
from etesian.nn.noise import Places
from etesian.scores.ensembles import ensemble_crps
from etesian.training.field_task import Values
from etesian.training.members import ALMOST_FAIR, Noise, fresh, repeated
from etesian.training.task import NetworkFactory, over_processes

TINY = 1e-6

Latent = Float[Tensor, "sample depth row column dim"]


class LatentForecastTask(ForecastTask):
    """Trains a network that steps through time in its latent.

    Each sample is encoded once. Its leads, which may differ from those of the other samples, are reached by steps in
    latent space, those in common made once, and decoded. The leads are the data's: `leads_per_sample` drawn at random
    below a `horizon` that grows.

    The regulariser asks that a latent which was stepped to a lead equal what the encoder makes of the true state at
    that lead, in the mean square; the encoder learns nothing from it. Then what a step is given late in a long forecast
    is what it has learned from, however short the leads of training were.

    The error alone makes forecasts fade with their lead towards the mean, since what cannot be predicted is best left
    out. `spread` asks that they vary as much as the truth does: it adds the squared difference between the root mean
    squares of forecasts and truth in normalised units, over the batch and the globe, by channel and number of the lead,
    in training and in the loss that the best checkpoint is chosen by.

    Members (`members`) vary as much as they should by their CRPS. Each of them steps on from its own latent, and the
    regulariser is the almost fair CRPS of their latents: the encoder, which noise has a say in too, makes a sample of
    what they should be of a true state.

    Args:
        network: builds the network for a layout: WeatherMesh.
        layout: what goes in and what comes out.
        statistics: of every channel of the layout.
        level_weights: weight of a level in the loss by hPa, which multiplies that of the channel; default 1.
        consistency: weight of the regulariser; 0 leaves it out.
        spread: weight of the difference in spread; 0 leaves it out.
        recompute: keep only what enters each step for the backward pass, and compute the rest again.
        offload: keep that in the memory of the CPU.
        options: of `ForecastTask`.

    Raises:
        RecipeError: if the network does not step in a latent, or the options do not fit it.
    """

    network: WeatherMesh

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        level_weights: dict[int, float] | None = None,
        consistency: float = 0.0,
        spread: float = 0.0,
        recompute: bool = False,
        offload: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(network, layout, statistics, **options)
        if not isinstance(self.network, WeatherMesh):
            raise RecipeError(
                f"{type(self.network).__name__} has no latent to step in; train it with etesian.ForecastTask"
            )
        if self.step_hours is not None:
            raise RecipeError("WeatherMesh steps in its latent, by its processors; leave out step_hours")
        for name, value in (("consistency", consistency), ("spread", spread)):
            if value < 0:
                raise RecipeError(f"{name} = {value:g} must be 0 or more")
        if spread and self.members is not None:
            raise RecipeError("members are as far apart as their CRPS asks for; leave out spread, or members")
        if consistency and not (set(layout.inputs) <= {*layout.targets, *layout.forcings} and layout.history == (0,)):
            raise RecipeError(
                "consistency encodes the targets as it does inputs: every input must be among the targets or forcings, "
                "and the history be [0]"
            )
        if offload and not recompute:
            raise RecipeError("offload moves what recompute keeps; set recompute: true as well")
        self.level_weights, self.consistency, self.spread = level_weights or {}, consistency, spread
        self.recompute, self.offload = recompute, offload
        levels = {c.level for c in layout.targets if c.level is not None}
        if unknown := sorted(self.level_weights.keys() - levels):
            raise RecipeError(f"level_weights names {unknown[0]} hPa; the targets are on {sorted(levels)} hPa")

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return super().options() | {
            "level_weights": dict(self.level_weights),
            "consistency": self.consistency,
            "spread": self.spread,
            "recompute": self.recompute,
            "offload": self.offload,
        }

    def loss_weight(self, frame: Frame) -> Float[Tensor, "channel lat 1"]:
        """Return the weight of each channel, its level and latitude of a frame in the loss."""
        weight = super().loss_weight(frame)
        levels = [1.0 if c.level is None else self.level_weights.get(c.level, 1.0) for c in frame.channels]
        return weight * sent(torch.tensor(levels), weight)[:, None, None]

    def loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the error, the regulariser and the difference in spread, and each of them."""
        batch = self._prepared(batch)
        assert batch.targets is not None
        several = batch if self.members is None else repeated(batch, self.members)
        assert several.targets is not None
        values, latent = self.unrolled(several, None if self.members is None else fresh(len(several)))
        predicted = self._completed(values.float(), several.inputs, several.targets.frame)
        if self.members is None:
            parts = {"forecast_loss": super()._error(predicted, batch)}
        else:
            members = torch.unflatten(predicted, 0, (self.members, -1))
            parts = {"forecast_loss": self._members_error(members, batch)}
        total = parts["forecast_loss"] + self._idle()
        if self.consistency:
            parts["consistency"] = self._inconsistency(latent.float(), self._encoded_truth(batch))
            total = total + self.consistency * parts["consistency"]
        if self.spread:
            parts["spread"] = self._spread_difference(predicted, batch.targets)
            total = total + self.spread * parts["spread"]
        return total, parts

    def _inconsistency(
        self, latent: Float[Tensor, "sample *axes"], truth: Float[Tensor, "true_sample *axes"]
    ) -> Tensor:
        """Return how far latents are from those of the truth; of members, all of the first before the second."""
        if self.members is None:
            return F.mse_loss(latent, truth)
        return ensemble_crps(torch.unflatten(latent, 0, (self.members, -1)), truth, ALMOST_FAIR).mean()

    def unrolled(self, batch: Batch, noise: Noise | None = None) -> tuple[Values, Latent]:
        """Return what the network says of the targets' frame, and the latents it says so from, sample by sample."""
        assert batch.targets is not None
        network, frame = self.network, batch.targets.frame
        ahead = forcings_of(frame, known_ahead(batch, frame), self.layout)
        step = recomputed(network.step, offload=self.offload) if self.recompute else network.step
        known = positions([self.layout.targets.index(c) for c in frame.channels], self.device)
        done: list[int] = []
        answers, latents = [], []
        normals = self._normals(noise, frame, batch.inputs.values).get("noise")
        begin = network.encode(batch.inputs, batch.statics, network.embedded(normals, 0))
        for arrived, latent, drawn in network.walk(begin, lead_hours(batch.inputs, frame).tolist(), step, normals):
            done += arrived
            latents.append(latent)
            answers.append(network.decode(latent, frame.grid, drawn, ahead(arrived)).index_select(1, known))
        order = positions(np.argsort(done), self.device)
        values = torch.cat(answers).index_select(0, order)
        return values.view(*frame.time.shape, *values.shape[1:]), torch.cat(latents).index_select(0, order)

    def _error(self, predicted: Values, batch: Batch) -> Tensor:
        """Return the weighted error of a normalised prediction with the difference in spread."""
        error = super()._error(predicted, batch)
        if not self.spread:
            return error
        assert batch.targets is not None
        return error + self.spread * self._spread_difference(predicted, batch.targets)

    def _spread_difference(self, predicted: Values, targets: Fields) -> Tensor:
        """Return the mean over channels and leads of the squared difference between both root mean squares."""
        weight = self.loss_weight(targets.frame).expand_as(targets.values)
        if targets.valid is not None:
            weight = weight * targets.valid
        count = over_processes(weight.sum(dim=(0, 3, 4)))

        def amplitude(values: Values) -> Float[Tensor, "time channel"]:
            mean = over_processes((values.square() * weight).sum(dim=(0, 3, 4)) / count.clamp(min=TINY))
            # An untrained network answers zero, where a root would have no gradient.
            return (mean + TINY).sqrt()

        difference = amplitude(predicted) - amplitude(targets.values)
        return (difference.square() * count).sum() / count.sum()

    @torch.no_grad()
    def _encoded_truth(self, batch: Batch) -> Latent:
        """Return the encoder's latents of the targets, sample by sample."""
        assert batch.targets is not None
        states, frame = batch.targets.one_by_one(), batch.targets.frame
        if (known := known_ahead(batch, frame)) is not None:
            states = with_known(Fields(states.filled(), states.frame), known.one_by_one())
        statics = None if batch.statics is None else batch.statics.each(frame.time.shape[1])
        noise = None if self.members is None else fresh(len(states.values))
        normals = self._normals(noise, frame, states.values).get("noise")
        return self.network.encode(states, statics, self.network.embedded(normals, 0)).float()

    def _idle(self) -> Tensor:
        """Return zero, by which all parameters take part: processes that share a step may draw different leads."""
        return torch.stack([p.flatten()[:0].sum() for p in self.network.parameters()]).sum()


def recomputed(step: Step, *, offload: bool) -> Step:
    """Return a step of which only what enters it is kept; the backward pass computes the rest again.

    Memory then grows with the number of steps by one latent each, and holds the intermediate results of one step.

    Args:
        step: advances a latent by some hours.
        offload: keep what enters in the memory of the CPU, pinned, and fetch it back when it is needed. Latents that
            are on the CPU stay where they are.
    """

    def thrifty(latent: Latent, hours: int, noise: Places | None = None) -> Latent:
        if not torch.is_grad_enabled():
            return step(latent, hours, noise)
        moves = offload and latent.device.type != "cpu"
        with save_on_cpu(pin_memory=True, device_type=latent.device.type) if moves else nullcontext():
            answer: Tensor = checkpoint(step, latent, hours, noise, use_reentrant=False)
        return answer

    return thrifty
