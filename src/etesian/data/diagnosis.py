"""What was found out about a data set, and how it looks in a terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etesian.core.channels import Channel


class Severity(Enum):
    """Who mends it."""

    FIXED = "fixed automatically"
    LOOK = "look at this"
    BROKEN = "you must fix this"


_COLOURS = {Severity.FIXED: "green", Severity.LOOK: "yellow", Severity.BROKEN: "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that is odd, in a sentence."""

    severity: Severity
    text: str


@dataclass(frozen=True)
class Summary:
    """The values of one channel: share of missing ones, extremes and mean, in `units`."""

    channel: Channel
    dims: tuple[str, ...]
    source_name: str
    source_units: str
    units: str
    missing: float
    minimum: float
    mean: float
    maximum: float


@dataclass(frozen=True)
class Diagnosis:
    """What `examine` found.

    Attributes:
        source: what was examined.
        grid: the grid in words, empty if there is none.
        times: the time axis in words.
        channels: one summary for each channel.
        findings: the worst first.
    """

    source: str
    grid: str
    times: str
    channels: tuple[Summary, ...]
    findings: tuple[Finding, ...]

    @property
    def exit_status(self) -> int:
        """1 where the user must fix something, else 0."""
        return int(any(finding.severity is Severity.BROKEN for finding in self.findings))

    def __rich__(self) -> RenderableType:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for title in ("variable", "levels", "stored as", "units", "along"):
            table.add_column(title)
        for title in ("missing", "min", "mean", "max"):
            table.add_column(title, justify="right")
        by_variable: dict[str, list[Summary]] = {}
        for summary in self.channels:
            by_variable.setdefault(summary.channel.name, []).append(summary)
        for name, rows in by_variable.items():
            table.add_row(name, *_row(rows))
        parts: list[RenderableType] = [Text(self.source, style="bold")]
        parts += [Text(line) for line in (self.grid, self.times) if line]
        if self.channels:
            parts += [Text(), table]
        for severity in Severity:
            texts = [finding.text for finding in self.findings if finding.severity is severity]
            if texts:
                parts += [Text(), Text(severity.value, style=f"bold {_COLOURS[severity]}")]
                parts += [Text(f"  {text}") for text in texts]
        if not self.findings:
            parts += [Text(), Text("nothing to mend", style="green")]
        return Group(*parts)


def _row(rows: Sequence[Summary]) -> tuple[str, ...]:
    """Put the channels of one variable into one line of the table."""
    first = rows[0]
    levels = [row.channel.level for row in rows if row.channel.level is not None]
    known = [row for row in rows if np.isfinite(row.mean)]
    span = f"{levels[0]}…{levels[-1]} ({len(levels)})" if len(levels) > 1 else ", ".join(map(str, levels))
    units = first.source_units or "none"
    mean = sum(row.mean * (1 - row.missing) for row in known) / max(sum(1 - row.missing for row in known), 1e-300)
    return (
        span,
        "" if first.source_name == first.channel.name else first.source_name,
        units if units == first.units else f"{units} → {first.units or '?'}",
        " ".join(first.dims[:-2]) or "static",
        f"{np.mean([row.missing for row in rows]):.1%}",
        *(
            f"{value:.4g}" if known else ""
            for value in (min(r.minimum for r in known), mean, max(r.maximum for r in known))
        ),
    )
