"""What was found out about a data set: what readers noticed, findings, and how they look in a terminal."""

import html
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import xarray as xr
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from etesian.core.channels import Channel

_TITLES = ("variable", "levels", "stored as", "units", "along", "missing", "min", "mean", "max")

_WORDS = 5
"""Of the columns so many hold words, the others numbers."""

_LOOK, _MENDED = "etesian_look", "etesian_mended"


class Severity(Enum):
    """Who mends it."""

    FIXED = "fixed automatically"
    LOOK = "look at this"
    BROKEN = "you must fix this"


_HTML_COLOURS = {Severity.FIXED: "#2e7d32", Severity.LOOK: "#b26a00", Severity.BROKEN: "#c62828"}

_COLOURS = {Severity.FIXED: "green", Severity.LOOK: "yellow", Severity.BROKEN: "red"}


@dataclass(frozen=True)
class Finding:
    """One thing that is odd, in a sentence.

    Attributes:
        severity: who mends it.
        text: the sentence; where it is about files, it names the first.
        files: in which it was found, if it is about single files.
    """

    severity: Severity
    text: str
    files: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """What findings of the same kind share: the sentence without names of files and without numbers."""
        text = self.text
        for file in self.files:
            text = text.replace(file, "FILE")
        return re.sub(r"\d[\d.:T-]*", "#", text)

    def __str__(self) -> str:
        return self.text if len(self.files) < 2 else f"{self.text} (the first of {len(self.files)} files)"


def by_kind(findings: Iterable[Finding]) -> list[Finding]:
    """Make one finding of all of a kind, the worst first."""
    groups: dict[tuple[Severity, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.kind), []).append(finding)
    found = [
        replace(group[0], files=tuple(dict.fromkeys(file for each in group for file in each.files)))
        if group[0].files
        else each
        for group in groups.values()
        for each in (group[:1] if group[0].files else dict.fromkeys(group))
    ]
    order = list(Severity)
    return sorted(found, key=lambda finding: -order.index(finding.severity))


@dataclass(frozen=True)
class Summary:
    """The values of one channel, in `units`.

    Attributes:
        channel: the channel.
        dims: of the variable.
        source_name: the variable's name in the file.
        source_units: its units there, empty if there are none.
        units: of the values here.
        missing: share of missing values.
        mean: of the others; NaN if there is none.
        low: the least value, how often it occurs, and the least of the others.
        high: the same of the greatest.
    """

    channel: Channel
    dims: tuple[str, ...]
    source_name: str
    source_units: str
    units: str
    missing: float
    mean: float
    low: tuple[float, ...]
    high: tuple[float, ...]

    @property
    def minimum(self) -> float:
        """The least value."""
        return self.low[0]

    @property
    def maximum(self) -> float:
        """The greatest value."""
        return self.high[0]


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
        for number, title in enumerate(_TITLES):
            table.add_column(title, justify="left" if number < _WORDS else "right")
        for row in self._rows():
            table.add_row(*row)
        parts: list[RenderableType] = [Text(self.source, style="bold")]
        parts += [Text(line) for line in (self.grid, self.times) if line]
        if self.channels:
            parts += [Text(), table]
        for severity in Severity:
            texts = [str(finding) for finding in self.findings if finding.severity is severity]
            if texts:
                parts += [Text(), Text(severity.value, style=f"bold {_COLOURS[severity]}")]
                parts += [Text(f"  {text}") for text in texts]
        if not self.findings:
            parts += [Text(), Text("nothing to mend", style="green")]
        return Group(*parts)

    def _repr_html_(self) -> str:
        lines = [f"<b>{html.escape(self.source)}</b>"]
        lines += [html.escape(line) for line in (self.grid, self.times) if line]
        parts = [f"<p>{'<br>'.join(lines)}</p>"]
        if self.channels:
            parts.append(_html_table([_TITLES, *self._rows()]))
        for severity in reversed(Severity):
            texts = [html.escape(str(finding)) for finding in self.findings if finding.severity is severity]
            if texts:
                parts.append(f"<p><b style='color:{_HTML_COLOURS[severity]}'>{severity.value}</b></p>")
                parts.append(f"<ul>{''.join(f'<li>{text}</li>' for text in texts)}</ul>")
        return "".join(parts if self.findings else [*parts, "<p>nothing to mend</p>"])

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the lines of the table of variables."""
        by_variable: dict[str, list[Summary]] = {}
        for summary in self.channels:
            by_variable.setdefault(summary.channel.name, []).append(summary)
        return [(name, *_row(rows)) for name, rows in by_variable.items()]


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows, the first of which is the head."""
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if number == 0 else "td"
        cells = (
            f"<{tag} style='text-align:{'left' if i < _WORDS else 'right'}'>{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


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
        " ".join(name for name in first.dims if name in ("time", "member", "level")) or "static",
        f"{np.mean([row.missing for row in rows]):.1%}",
        *(
            f"{value:.4g}" if known else ""
            for value in (
                min((r.minimum for r in known), default=np.nan),
                mean,
                max((r.maximum for r in known), default=np.nan),
            )
        ),
    )


def look(raw: xr.Dataset, *sentences: str | Callable[[], Iterable[str]]) -> None:
    """Remember what deserves a look, such as a group that is left out, or how to find it out where that takes time.

    Sentences name no file, so that the same one from many files can be counted.
    """
    raw.encoding[_LOOK] = [*raw.encoding.get(_LOOK, []), *sentences]


def to_look_at(raw: xr.Dataset) -> list[str]:
    """Return what deserves a look in a dataset as a reader gave it."""
    kept = raw.encoding.get(_LOOK, [])
    return [text for sentence in kept for text in ([sentence] if isinstance(sentence, str) else sentence())]


def mended(raw: xr.Dataset, *sentences: str) -> None:
    """Remember what was understood or put right without asking."""
    raw.encoding[_MENDED] = [*all_mended(raw), *sentences]


def all_mended(raw: xr.Dataset) -> list[str]:
    """Return what was put right in a dataset as a reader gave it."""
    return list(raw.encoding.get(_MENDED, []))
