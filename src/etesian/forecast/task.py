"""Forecasting: direct, lead-conditioned or iterated."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from etesian.core import Batch, Fields, Frame, Layout
from etesian.core.constants import SECONDS_PER_HOUR
from etesian.core.device import positions, sent
from etesian.core.errors import RecipeError
from etesian.core.statistics import Statistics
from etesian.forecast.conservation import Conservation
from etesian.forecast.data import ForecastData
from etesian.forecast.known import known_ahead, known_on_the_way, still_valid, with_known
from etesian.forecast.regression import PatternRidge, Ridge
from etesian.networks.network import lead_hours, shares
from etesian.samples.windows import known_hours
from etesian.training.checkpoint import load_task
from etesian.training.ensemble_task import EnsembleTask
from etesian.training.field_task import LossTerm, Values, WeightedError
from etesian.training.finetune import Start, begin, kept_statistics
from etesian.training.members import Noise
from etesian.training.task import NetworkFactory, OptimizerFactory

FIRST_DECAY_DAYS = 3.0
"""Time of decay that damped persistence begins with in training."""


class ForecastTask(EnsembleTask):
    """Predicts the state at leads after an initial time.

    Without `step_hours` the network answers any lead at once: one lead makes a direct model, several a
    lead-conditioned one. With it, the network takes steps of that length and is fed its own output; training on
    leads of several steps then trains through the rollout.

    Args:
        network: builds the network for a layout.
        layout: what goes in and what comes out.
        statistics: of every channel of the layout.
        loss: mean squared (`mse`) or absolute (`l1`) error in normalised units.
        latitude_weights: weigh rows by cell `area`, by `cosine` of latitude, or all the same (`uniform`).
        channel_weights: weight of a channel in the loss, by name; a bare variable means all its levels; default 1.
        lead_weights: weight of a lead in the loss, by hours; without it all leads weigh the same. One over the error
            variance of a simple forecast keeps the short leads, whose errors are small, from being drowned.
        bounds: smallest and largest value of targets in physical units, by name as in `channel_weights`, null for
            none; what the network would give beyond is bent back smoothly, in training as in forecasts. Default: for
            targets that are not fed in, what their nature forbids (precipitation, radiation and humidity below 0,
            cloud and ice outside 0 to 1); {} for none.
        anomalies: normalise about the seasonal cycle of each grid point instead of about one mean per channel.
        predict: the network gives the `state` at the target time, its `change` since the initial time, or its
            `departure` from damped persistence, whose time of decay is learned for each channel. The last one makes
            sense with anomalies, and is the easiest to learn from few data. Of targets that are not among the inputs
            it always gives the state.
        ridge: take the departure from a ridge regression that is fitted to the training windows when training begins;
            see `Ridge`. The network starts by adding nothing to it, so that training begins with its error.
        step_hours: length of a step of an iterated forecast; None asks for every lead directly.
        members: train an ensemble of so many forecasts of each sample, at least 2, which differ by the noise that the
            network is given; by their almost fair CRPS (`ensemble_crps`) instead of `loss`, with the same weights. Two
            are enough, and a forecast may have any number. None trains one forecast.
        band_weight: weight of the CRPS of members' means over four bands of latitude, beside that of points, which
            hardly sees a bias of some hundredths of the spread; 0.2 keeps roll-outs from drifting.
        conserve: channels or variables whose area mean stays what it was at the initial time, such as surface_pressure,
            which is the mass of the air: what the network would add or take is taken back everywhere alike, in training
            as in forecasts.
        limit: how many standard deviations a state that is fed back may lie from the mean; what lies beyond is cut, so
            that what is unlike anything in training cannot grow without end. None cuts nothing.
        roll_longitude: turn each training batch by a random longitude; right where nothing but the static fields
            tells longitudes apart (no solar time, no fixed region).
        content: a further term of the loss, such as the learned distance of AtmoDist; see `Content`.
        start: trained weights to begin with, and which parameters to train; see `Start`.
        optimizer: builds the optimiser; default AdamW as ClimaX was trained with.
        warmup_steps: optimiser steps over which the learning rate rises; afterwards it falls along a cosine.

    Raises:
        RecipeError: if the options cannot work with the layout.
    """

    job = "forecast"

    def __init__(
        self,
        network: NetworkFactory,
        layout: Layout,
        statistics: Statistics,
        loss: Literal["mse", "l1"] = "mse",
        latitude_weights: Literal["area", "cosine", "uniform"] = "area",
        channel_weights: dict[str, float] | None = None,
        lead_weights: dict[int, float] | None = None,
        bounds: dict[str, tuple[float | None, float | None]] | None = None,
        anomalies: bool = False,
        predict: Literal["state", "change", "departure"] = "state",
        ridge: Ridge | None = None,
        step_hours: int | None = None,
        members: int | None = None,
        band_weight: float = 0.0,
        conserve: Sequence[str] | None = None,
        limit: float | None = None,
        roll_longitude: bool = False,
        content: LossTerm | None = None,
        start: Start | None = None,
        optimizer: OptimizerFactory | None = None,
        warmup_steps: int = 100,
    ) -> None:
        if start is not None and start.statistics == "trained":
            statistics = kept_statistics(start, statistics if anomalies else statistics.without_seasons())
        super().__init__(
            network,
            layout,
            statistics,
            error=WeightedError(loss, latitude_weights, channel_weights or {}),
            bounds=bounds,
            content=content,
            anomalies=anomalies,
            optimizer=optimizer,
            warmup_steps=warmup_steps,
        )
        self.lead_weights = lead_weights or {}
        self.predicts, self.step_hours, self.roll_longitude = predict, step_hours, roll_longitude
        self.conservation = Conservation(list(conserve or ()))
        self.conservation.check(layout)
        self.limit = limit
        if limit is not None and (limit <= 0 or step_hours is None):
            raise RecipeError(f"limit: {limit:g} is for what steps feed back; give step_hours and a limit above 0")
        if band_weight and (members is None or band_weight < 0):
            raise RecipeError(
                f"band_weight: {band_weight:g} is for members, and 0 or more; set members, or leave it out"
            )
        self.band_weight = band_weight
        if members is not None:
            self._accept_members(members)
            if step_hours is not None and self.network.steps_in_time:
                # A step inside of a step would have no noise of its own.
                raise RecipeError(f"{type(self.network).__name__} makes steps of its own; leave out step_hours")
        if step_hours is not None and not set(layout.inputs) <= {*layout.targets, *layout.forcings}:
            missing = next(c for c in layout.inputs if c not in (*layout.targets, *layout.forcings))
            raise RecipeError(
                f"an iterated forecast feeds back its output, but '{missing}' is not among the targets or forcings"
            )
        if step_hours is not None and any(b - a != step_hours for a, b in pairwise(layout.history)):
            raise RecipeError(f"steps of {step_hours} h cannot refill a history at {list(layout.history)} h")
        if predict != "state" and not set(layout.targets) & set(layout.inputs):
            raise RecipeError(f"a {predict} needs the initial state, but none of the targets is among the inputs")
        if roll_longitude and not layout.grid.is_periodic:
            raise RecipeError("roll_longitude needs a grid that goes round the globe")
        if layout.output_grid != layout.grid and (predict != "state" or anomalies or step_hours or roll_longitude):
            raise RecipeError(
                "between two grids a forecast can only be of the state, without anomalies, steps or turned longitudes; "
                "for fields of the same time take DownscaleTask"
            )
        self.ridge = None if ridge is None else self._ridge(ridge)
        if predict == "departure" and ridge is None:
            self.decay_rate = nn.Parameter(torch.zeros(len(layout.targets)))
        if start is not None:
            self.transfer, self.new_rate = begin(self.network, start), start.new_rate
            if start.statistics == "trained" and predict == "departure" and ridge is None:
                self._keep_decay(start)

    def _ridge(self, options: Ridge) -> PatternRidge:
        """Return the regression that departures are from, and let the network begin by adding nothing to it."""
        if self.predicts != "departure" or not self.normalizer.anomalies:
            raise RecipeError("departures of anomalies are from a ridge; set predict: departure and anomalies: true")
        if self.roll_longitude:
            raise RecipeError("a ridge tells longitudes apart; set roll_longitude: false, or leave ridge out")
        self.network.begin_with_nothing()
        return PatternRidge(self.layout, options)

    def setup(self, stage: str) -> None:
        """Let the data give forcings at every step of an iterated forecast; see `Task.setup`."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if isinstance(data, ForecastData):
            data.step_hours = self.step_hours

    def on_fit_start(self) -> None:
        """Fit the regression that departures are from, if there is one, to the windows to train on."""
        super().on_fit_start()
        if self.ridge is not None:
            data = self.fitted_to(ForecastData, "a ridge is fitted to the windows to train on")
            self.ridge.fit(data, self.normalized)

    def _keep_decay(self, start: Start) -> None:
        """Take over the decay of damped persistence, which belongs to the trained network as its units do."""
        trained = load_task(start.checkpoint).state_dict().get("decay_rate")
        if trained is None or trained.shape != self.decay_rate.shape:
            raise RecipeError(f"{start.checkpoint} did not predict the departure of the same targets; change `predict`")
        self.decay_rate = nn.Parameter(trained.clone(), requires_grad=False)

    def check_leads(self, leads: Sequence[int]) -> None:
        """Refuse leads that the network would have to guess; what steps through time may go on beyond its training.

        Args:
            leads: hours.

        Raises:
            RecipeError: if a lead is no whole number of steps, or, without steps, outside those of training.
        """
        if self.step_hours is not None:
            if odd := [lead for lead in leads if lead % self.step_hours]:
                raise RecipeError(
                    f"{odd[0]} h is no whole number of the steps of {self.step_hours} h that the run takes"
                )
            return
        trained = sorted(int(lead) for lead in self.provenance.get("leads", ()))
        beyond = [lead for lead in leads if trained and not trained[0] <= lead <= trained[-1]]
        if beyond and not self.network.steps_in_time:
            known = f"{trained[0]} h" if len(trained) == 1 else f"leads of {trained[0]} to {trained[-1]} h"
            raise RecipeError(
                f"the run was trained for {known}, not for {beyond[0]} h; ask for those, or train another run"
            )

    def hours_known(self, leads: Sequence[int]) -> list[int]:
        """Return the hours after the initial time at which forcings must be known on the way to some leads."""
        return list(leads) if self.step_hours is None else known_hours(max(leads), self.step_hours)

    def options(self) -> dict[str, Any]:
        """Return the constructor's arguments that a checkpoint keeps, as plain data."""
        return super().options() | {
            "lead_weights": dict(self.lead_weights),
            "bounds": self.given_bounds,
            "anomalies": self.normalizer.anomalies,
            "predict": self.predicts,
            "ridge": None if self.ridge is None else self.ridge.options,
            "step_hours": self.step_hours,
            "members": self.members,
            "band_weight": self.band_weight,
            "conserve": self.conservation.names,
            "limit": self.limit,
            "roll_longitude": self.roll_longitude,
        }

    def forward(self, batch: Batch, target: Frame, noise: Noise | None = None) -> Values:
        """Return normalised predictions on the target frame from a normalised batch.

        Args:
            batch: what they start from.
            target: what is asked for.
            noise: of each sample, where members were trained; by default that of the first member.
        """
        noise = noise or self._first_member(batch)
        if self.step_hours is None:
            return self._ask(batch.inputs, target, batch, noise)
        return self._iterate(batch, target, self.step_hours, noise)

    def _ask(self, inputs: Fields, target: Frame, batch: Batch, noise: Noise | None, step: int = 0) -> Values:
        drawn = self._normals(noise, target, inputs.values, step)
        values = self.network(inputs, target, forcings=known_ahead(batch, target), statics=batch.statics, **drawn)
        return self._completed(values, inputs, target)

    def _completed(self, values: Values, inputs: Fields, target: Frame) -> Values:
        """Add to what the network gives what it leaves out of the state, and keep the state within its bounds."""
        if self.ridge is not None:
            values = values + self.ridge(inputs, target)
        elif self.predicts != "state":
            values = values + self._initial(inputs, target)
        if self.conservation.names:
            values = self.conservation(values, inputs, target, self.normalizer)
        return self.bounds.bend(values, target)

    def _initial(self, inputs: Fields, target: Frame) -> Values:
        """Return what is known of the target from the initial state, zero for channels that are not fed in."""
        known = [c for c in target.channels if c in self.layout.inputs]
        initial = inputs.at(-1).select(known).filled()
        if len(known) < len(target.channels):
            places = positions([target.channels.index(c) for c in known], initial.device)
            nothing = initial.new_zeros(len(initial), 1, len(target.channels), *initial.shape[3:])
            initial = nothing.index_copy(2, places, initial)
        if self.predicts == "departure":
            index = positions([self.layout.targets.index(c) for c in target.channels], initial.device)
            rate = self.decay_rate[index].exp()[:, None, None] / (FIRST_DECAY_DAYS * 24)
            initial = initial * torch.exp(-rate * sent(lead_hours(inputs, target), initial)[:, :, None, None, None])
        return initial

    def _iterate(self, batch: Batch, target: Frame, step_hours: int, noise: Noise | None) -> Values:
        """Return the states at the times asked for, which may differ from sample to sample."""
        answers = torch.empty(*target.time.shape, len(target.channels), *target.grid.shape, device=self.device)
        for time, values in self._states(batch, target, step_hours, noise):
            here = (target.time == time)[:, :, None, None, None]
            if bool(here.any()):
                answers = torch.where(sent(here, values), values, answers)
        return answers

    def _states(
        self, batch: Batch, target: Frame, step_hours: int, noise: Noise | None
    ) -> Iterator[tuple[Tensor, Values]]:
        """Feed the network its own output until the last target time, giving each time with its state."""
        step = step_hours * SECONDS_PER_HOUR
        initial = batch.inputs.frame.time[:, -1:]
        leads = target.time - initial
        if bool((leads % step != 0).any()) or bool((leads <= 0).any()):
            hours = sorted({lead / SECONDS_PER_HOUR for lead in leads.flatten().tolist()})
            raise RecipeError(f"leads of {hours} h are not whole steps of {step_hours} h")
        inputs = batch.inputs
        everything = self.layout.targets
        wanted = positions([everything.index(c) for c in target.channels], self.device)
        for number in range(1, int(leads.max()) // step + 1):
            now = replace(target, channels=everything, time=initial + number * step)
            known = None if batch.forcings is None else known_on_the_way(batch.forcings, now.time, target.time)
            state = Fields(self._ask(inputs, now, replace(batch, forcings=known), noise, number), now)
            yield now.time, state.values.index_select(2, wanted)
            inputs = self._advance(inputs, state, known)

    def _advance(self, inputs: Fields, state: Fields, known: Fields | None = None) -> Fields:
        """Append a predicted state to the inputs, keeping the times of the history and the holes of the last state."""
        if self.limit is not None:
            state = replace(state, values=state.values.clamp(-self.limit, self.limit))
        fed_back = (state if known is None else with_known(state, known)).select(inputs.frame.channels)
        time = torch.cat([inputs.frame.time, state.frame.time], dim=1)
        values = torch.cat([inputs.filled(), fed_back.values], dim=1)
        history = time.new_tensor(self.layout.history) * SECONDS_PER_HOUR
        keep = [int((time[0] == moment).nonzero()[0, 0]) for moment in time[0, -1] + history]
        frame, kept = replace(inputs.frame, time=time[:, keep]), positions(keep, values.device)
        latest = still_valid(inputs, fed_back, self.layout.targets)
        if latest is None:
            return Fields(values.index_select(1, kept), frame)
        before = torch.ones_like(inputs.values, dtype=torch.bool) if inputs.valid is None else inputs.valid
        return Fields(values.index_select(1, kept), frame, torch.cat([before, latest], dim=1).index_select(1, kept))

    def _prepared(self, batch: Batch) -> Batch:
        """Return the batch in normalised units, turned if the recipe asks for it."""
        batch = super()._prepared(batch)
        if self.training and self.roll_longitude:
            if not batch.inputs.frame.grid.is_periodic:
                raise RecipeError(f"roll_longitude needs grids that go round the globe, not {batch.inputs.frame.grid}")
            batch = _rolled(batch, int(torch.randint(batch.inputs.frame.grid.shape[1], ())))
        return batch

    def _sample_weight(self, batch: Batch) -> Tensor:
        """Return the weight of the targets of a batch in the loss, by lead as well where the recipe has weights."""
        weight = super()._sample_weight(batch)
        if not self.lead_weights:
            return weight
        assert batch.targets is not None
        return sent(self._lead_weight(lead_hours(batch.inputs, batch.targets.frame)), weight) * weight

    def _lead_weight(self, hours: Float[Tensor, "batch time"]) -> Float[Tensor, "batch time 1 1 1"]:
        known = self.lead_weights
        if without := sorted({lead for row in hours.tolist() for lead in row} - known.keys()):
            raise RecipeError(f"lead_weights has none for {without[0]:g} h; it names {sorted(known)} h")
        return hours.new_tensor([[known[int(lead)] for lead in row] for row in hours.tolist()])[:, :, None, None, None]

    def forecast(
        self,
        batch: Batch,
        leads: Sequence[int],
        others: Sequence[Batch] = (),
        weights: Sequence[float] = (),
        noise: Noise | None = None,
    ) -> Iterator[Fields]:
        """Return fields in physical units, lead by lead where the forecast steps through time; see `Task.forecast`.

        Args:
            batch: as in `Task.forecast`.
            leads: as in `Task.forecast`.
            others: as in `Task.forecast`.
            weights: as in `Task.forecast`.
            noise: of each sample, where members were trained; by default that of the first member.
        """
        parts = self._stream(
            self.normalized(batch),
            self.target_frame(batch, leads),
            [self.normalized(other).inputs for other in others],
            weights or [1.0] * (1 + len(others)),
            noise or self._first_member(batch),
        )
        while True:
            # Not around the loop, where gradients would be off for whoever takes the parts as well.
            with torch.no_grad():
                part = next(parts, None)
                if part is None:
                    return
                frame, values = part
                fields = self._physical(values, frame)
            yield fields

    def _stream(
        self,
        batch: Batch,
        target: Frame,
        others: Sequence[Fields],
        weights: Sequence[float],
        noise: Noise | None,
    ) -> Iterator[tuple[Frame, Values]]:
        """Return normalised predictions from a normalised batch, one part of the target times after the other."""
        if self.step_hours is not None and others:
            raise RecipeError("an iterated forecast feeds its states back as of one source; it cannot blend several")
        if self.step_hours is not None:
            for time, values in self._states(batch, target, self.step_hours, noise):
                if bool((target.time == time).any()):
                    yield replace(target, time=time), values
            return
        # Only what is left out of the state is added to what the network gives.
        mixed = others and self.predicts != "state"
        initial = _blended([batch.inputs, *others], shares(weights)) if mixed else batch.inputs
        parts = self.network.stream(
            batch.inputs, target, forcings=known_ahead(batch, target), statics=batch.statics, others=others,
            weights=weights, **self._normals(noise, target, batch.inputs.values),
        )  # fmt: skip
        for places, values in parts:
            part = replace(target, time=target.time[:, places])
            yield part, self._completed(values, initial, part)


def _blended(analyses: list[Fields], parts: list[float]) -> Fields:
    """Return the weighted mean of analyses, of the channels that all with any weight have."""
    used = [(part, fields) for part, fields in zip(parts, analyses, strict=True) if part]
    if len(used) == 1:
        return used[0][1]
    frame = used[0][1].frame
    if other := next((fields.frame.grid for _, fields in used if fields.frame.grid != frame.grid), None):
        raise RecipeError(
            f"a change or departure from analyses on {frame.grid} and on {other} has no one initial state; blend them "
            "on one grid, or train with predict: state"
        )
    shared = [c for c in frame.channels if all(c in fields.frame.channels for _, fields in used)]
    values = torch.stack([part * fields.select(shared).filled() for part, fields in used]).sum(0)
    return Fields(values, replace(frame, channels=tuple(shared), source=None))


def _rolled(batch: Batch, shift: int) -> Batch:
    def roll(fields: Fields | None) -> Fields | None:
        if fields is None:
            return None
        valid = None if fields.valid is None else fields.valid.roll(shift, -1)
        return Fields(fields.values.roll(shift, -1), fields.frame, valid)

    return Batch(*(roll(part) for part in batch.parts()))  # type: ignore[arg-type]
