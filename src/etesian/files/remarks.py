"""What a reader finds out about a file and hands on beside the dataset, for the doctor to say.

Sentences name no file, so that the same one from many files can be counted.
"""

from collections.abc import Callable, Iterable

import xarray as xr

_LOOK, _MENDED = "etesian_look", "etesian_mended"


def look(raw: xr.Dataset, *sentences: str | Callable[[], Iterable[str]]) -> None:
    """Remember what deserves a look, such as a group that is left out, or how to find it out where that takes time."""
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
