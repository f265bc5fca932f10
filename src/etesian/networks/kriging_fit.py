"""The covariance of kriging, fitted by likelihood to observations hidden under the clouds of other times."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from etesian.core.grid import Grid
from etesian.networks.kriging import GAIN, LocalKriging, Observations, Problem

_STEPS, _AT_ONCE, _RATE = 50, 250, 0.08

_HIDDEN_TIMES = 0.5

_DRAWS = 8


class Sample(NamedTuple):
    """Normalised fields to fit to, as `LocalKriging` takes them."""

    values: Float[Tensor, "batch time channel lat lon"]
    valid: Bool[Tensor, "batch time channel lat lon"]
    days: Float[Tensor, "batch time"]
    grid: Grid


class _Case(NamedTuple):
    problem: Problem
    truth: Float[Tensor, " block"]


def fit_covariance(kriging: LocalKriging, samples: Iterable[Sample], *, points: int = 1500, seed: int = 0) -> float:
    """Fit the covariance of each channel, twice, for what is near depends on it; return the mean negative likelihood.

    Half of the times, drawn anew for each sample, are covered by the clouds of another one. Where that hides nothing of
    a channel in any sample, its covariance stays as it was.

    Args:
        kriging: what to fit.
        samples: to hide observations of.
        points: hidden observations to fit to, of each channel.
        seed: of what is hidden, and of the order.
    """
    known = list(samples)
    found = [_fit_channel(kriging, known, channel, points, seed) for channel in range(len(kriging.logarithms))]
    kriging.fitted.fill_(True)
    return float(np.mean(found))


def _fit_channel(kriging: LocalKriging, samples: list[Sample], channel: int, points: int, seed: int) -> float:
    random = torch.Generator().manual_seed(seed)
    last = 0.0
    for _ in range(2):
        cases = list(_cases(kriging, samples, channel, points, np.random.default_rng(seed)))
        if not cases:
            return 0.0
        problem = Problem(*(torch.cat(parts) for parts in zip(*_of_one_size([c.problem for c in cases]), strict=True)))
        truth = torch.cat([case.truth for case in cases])
        with torch.enable_grad():
            parameters = [parameter.requires_grad_() for parameter in kriging.parameters()]
            optimizer = torch.optim.Adam(parameters, lr=_RATE / GAIN)
            for step in range(_STEPS):
                optimizer.param_groups[0]["lr"] = _RATE / GAIN * (1 - step / _STEPS)
                some = torch.randperm(len(truth), generator=random)[:_AT_ONCE].to(truth.device)
                mean, variance, scale = kriging.estimate(Problem(*(part[some] for part in problem)), channel)
                seen = variance[:, 0] + scale * kriging.noise()[channel] ** 2
                loss = 0.5 * (seen.log() + (mean[:, 0] - truth[some]).square() / seen).mean()
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        last = float(loss.detach())
        for parameter in parameters:
            parameter.requires_grad_(False)
    return last


def _cases(
    kriging: LocalKriging, samples: list[Sample], channel: int, points: int, random: np.random.Generator
) -> Iterable[_Case]:
    """Yield hidden observations, and what they are to be estimated from."""
    total = sum(len(sample.values) for sample in samples)
    # Few fields are covered in several ways.
    draws = -(-_DRAWS // total)
    for sample in samples * draws:
        for number in range(len(sample.values)):
            valid = sample.valid[number, :, channel]
            hidden = _hide(valid, random)
            places = np.flatnonzero(hidden.cpu().numpy())
            rest = valid & ~hidden
            if not len(places) or not rest.any():
                continue
            chosen = np.sort(random.permutation(places)[: -(-points // (total * draws))])
            values = sample.values[number, :, channel]
            observations = Observations(values, rest, sample.days[number], sample.grid)
            problem = observations.problem(chosen[:, None], kriging.neighbors, kriging.paces()[channel])
            yield _Case(problem, values.flatten()[torch.from_numpy(chosen).to(values.device)].double())


def _hide(valid: Bool[Tensor, "time lat lon"], random: np.random.Generator) -> Bool[Tensor, "time lat lon"]:
    """Return the observations under the clouds of another time, for half of the times."""
    seen = valid.flatten(1).any(1).cpu().numpy().nonzero()[0]
    hidden = torch.zeros_like(valid)
    for time in seen[random.random(len(seen)) < _HIDDEN_TIMES]:
        hidden[time] = valid[time] & ~valid[random.choice(seen)]
    return hidden


def _of_one_size(problems: list[Problem]) -> list[Problem]:
    """Pad problems with observations that are not there."""
    most = max(problem.values.shape[1] for problem in problems)
    padded = []
    for observed, values, present, points in problems:
        more = most - values.shape[1]
        padded.append(
            Problem(
                torch.nn.functional.pad(observed, (0, 0, 0, more)),
                torch.nn.functional.pad(values, (0, more)),
                torch.nn.functional.pad(present, (0, more)),
                points,
            )
        )
    return padded
