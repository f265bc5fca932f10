"""How WeatherMesh reaches leads: by the longest steps that fit, those in common made once."""

from collections.abc import Callable, Iterator, Sequence

from jaxtyping import Float
from torch import Tensor

from etesian.core.device import positions
from etesian.core.errors import DataError
from etesian.nn.noise import Places

Latent = Float[Tensor, "batch depth row column dim"]

Step = Callable[[Latent, int, Places | None], Latent]
"""From a latent, hours, and the embedded noise of the step to the latent so much later."""


def plan(lead: float, steps: Sequence[int]) -> tuple[int, ...]:
    """Return the steps to a lead in hours, the longest first.

    Args:
        lead: hours.
        steps: hours of the steps that there are, descending.

    Raises:
        DataError: if they do not reach it.
    """
    chosen: list[int] = []
    left = lead
    for hours in steps:
        count = max(int(left // hours), 0)
        chosen += [hours] * count
        left -= count * hours
    if left:
        raise DataError(f"a lead of {lead:g} h is no sum of steps of {list(steps)} h, the longest first")
    return tuple(chosen)


def walk(
    latent: Latent,
    leads: Sequence[Sequence[float]],
    steps: Sequence[int],
    step: Step,
    draw: Callable[[int], Places | None],
) -> Iterator[tuple[list[int], Latent, Places | None]]:
    """Give the numbers of leads that are reached, sample by sample, with their latents, making every common step once.

    Args:
        latent: of every sample.
        leads: of each sample, in hours.
        steps: hours of the steps that there are.
        step: advances a latent.
        draw: from the number of a step, 0 before the first, to the embedded noise of every sample.

    Yields:
        Leads, their latents, and the noise of the last step to these.

    Raises:
        DataError: if a lead is no sum of steps.
    """
    plans = [plan(lead, steps) for row in leads for lead in row]
    samples = [sample for sample, row in enumerate(leads) for _ in row]
    # What is to be stepped: a latent, the samples in it, by how many hours, and the plans with how much is done.
    waiting: list[tuple[Latent, list[int], int, list[int], int]] = [
        (latent, list(range(len(latent))), 0, list(range(len(plans))), 0)
    ]
    everyone = len(latent)
    while waiting:
        latent, present, hours, pending, done = waiting.pop()
        needed = sorted({samples[number] for number in pending})
        if needed != present:
            latent = _rows(latent, [present.index(sample) for sample in needed])
        arrived = [number for number in pending if len(plans[number]) == done]
        noise = draw(done) if hours or arrived else None
        if noise is not None and len(needed) < everyone:
            noise = _rows(noise, needed)
        if hours:
            latent = step(latent, hours, noise)
        if arrived:
            rows = [needed.index(samples[number]) for number in arrived]
            if rows == list(range(len(latent))):
                yield arrived, latent, noise
            else:
                yield arrived, _rows(latent, rows), None if noise is None else _rows(noise, rows)
        for following in steps:
            onward = [n for n in pending if len(plans[n]) > done and plans[n][done] == following]
            if onward:
                waiting.append((latent, needed, following, onward, done + 1))


def _rows(values: Tensor, rows: list[int]) -> Tensor:
    return values.index_select(0, positions(rows, values.device))
