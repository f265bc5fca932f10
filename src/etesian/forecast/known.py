"""What is known of the states on the way of a roll-out, and takes the place of what was predicted of them."""

from dataclasses import replace

import torch
from jaxtyping import Int64
from torch import Tensor

from etesian.core import Batch, Fields, Frame
from etesian.core.device import positions, sent


def known_ahead(batch: Batch, target: Frame) -> Fields | None:
    """Return the forcings of a target's times, None of a batch that has none.

    Raises:
        DataError: if one of the times is not known.
    """
    return None if batch.forcings is None else batch.forcings.at_times(target.time)


def known_on_the_way(
    forcings: Fields, time: Int64[Tensor, "batch 1"], targets: Int64[Tensor, "batch target"]
) -> Fields:
    """Return the forcings of a step.

    Of samples that have reached their last target, whose later states nobody asks for, those of that target.

    Raises:
        DataError: if the forcings of a step are missing.
    """
    known = forcings.at_times(torch.minimum(time, targets.max(dim=1, keepdim=True).values))
    return replace(known, frame=replace(known.frame, time=time))


def with_known(state: Fields, known: Fields) -> Fields:
    """Return a state with what is known of it: targets on the boundary, and channels that are not predicted."""
    both, alone = ([c for c in known.frame.channels if (c in state.frame.channels) == own] for own in (True, False))
    values, valid, channels = state.values, None, state.frame.channels
    if both:
        there, places = known.select(both), positions(state.frame.index(both), values.device)
        assert there.valid is not None
        inside = values.index_select(2, places)
        values = values.index_copy(2, places, torch.where(there.valid, there.values.to(values.dtype), inside))
    if alone:
        there = known.select(alone)
        values = torch.cat([values, there.values.to(values.dtype)], dim=2)
        channels = (*channels, *alone)
        if there.valid is not None:
            valid = torch.cat([torch.ones_like(state.values, dtype=torch.bool), there.valid], dim=2)
    return Fields(values, replace(state.frame, channels=channels), valid)


def still_valid(before: Fields, state: Fields, predicted: tuple[object, ...]) -> Tensor | None:
    """Return where a state that is fed back holds values, None for everywhere.

    What the network has never seen, such as land in a field of the sea, stays a hole at every step; what is known and
    not predicted has its own holes.

    Args:
        before: the inputs so far.
        state: of the same channels, with the holes of what is known.
        predicted: channels that are predicted.
    """
    if before.valid is None and state.valid is None:
        return None
    latest = torch.ones_like(state.values, dtype=torch.bool) if before.valid is None else before.valid[:, -1:]
    seen = torch.ones_like(latest) if state.valid is None else state.valid
    ours = torch.tensor([channel in predicted for channel in state.frame.channels])
    return torch.where(sent(ours, latest)[:, None, None], latest, seen)
