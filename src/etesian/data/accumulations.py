"""Sums, means and extremes over time → one series for each length of the period that they cover."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

from etesian.core.constants import SECONDS_PER_DAY, SECONDS_PER_HOUR


class Period(NamedTuple):
    """What a field of a forecast covers, in seconds since 1970-01-01: an instant where it starts as it ends."""

    initial: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Seconds from its start to its end."""
        return self.end - self.start


class Step(NamedTuple):
    """A sum over one step of a forecast: that over `whole`, less that over `before`."""

    period: Period
    whole: Period
    before: Period | None


def over_steps(periods: Iterable[Period]) -> list[Step]:
    """Turn sums of which several start together into sums from the end of one to the end of the next.

    A step that is given as such is taken as it is given; sums over no time at all are left out.

    >>> hour = 3600
    >>> [step.period[1:] for step in over_steps([Period(0, 0, 6 * hour), Period(0, 0, 9 * hour)])]
    [(0, 21600), (21600, 32400)]
    """
    together: dict[tuple[int, int], list[Period]] = {}
    for period in sorted({period for period in periods if period.length}):
        together.setdefault((period.initial, period.start), []).append(period)
    steps = {group[0]: Step(group[0], group[0], None) for group in together.values()}
    for group in together.values():
        for before, whole in itertools.pairwise(group):
            rest = whole._replace(start=before.end)
            steps.setdefault(rest, Step(rest, whole, before))
    return sorted(steps.values(), key=lambda step: step.period)


def span(seconds: int) -> str:
    """Say how long a period is; months and years are one length each, however many days they have.

    >>> span(6 * 3600), span(5400), span(28 * 86400) == span(31 * 86400)
    ('6h', '90min', True)
    """
    days = seconds / SECONDS_PER_DAY
    for word, shortest, longest in (("month", 28, 31), ("year", 360, 366)):
        if shortest <= days <= longest:
            return word
    return f"{seconds // SECONDS_PER_HOUR}h" if seconds % SECONDS_PER_HOUR == 0 else f"{seconds / 60:g}min"
