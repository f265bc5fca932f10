"""The list of the files of a shared run, by which each is checked before anything is read from it."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import etesian
from etesian.core.errors import DataError

MANIFEST = "manifest.json"

FORMAT = 1

Content = Mapping[str, Path | bytes]
"""Files that are to be shared, or what is to stand in them, by path below the run."""

Listed = dict[str, tuple[str, int]]
"""SHA-256 and bytes of each file, by path below the run."""

FILE = re.compile(
    r"README\.md|recipe\.yaml|scores\.csv|log/version_[0-9]{1,6}/metrics\.csv"
    r"|checkpoints/(?:best|last)/(?:weights\.safetensors|description\.json)"
)
"""All that a shared run may hold: nothing outside of its folder, and nothing that runs when it is loaded."""


def listed(content: Content) -> Listed:
    """List files that are to be shared."""
    return {name: _entry(each) for name, each in sorted(content.items())}


def write(files: Listed) -> bytes:
    """Return the text of a manifest."""
    told = {name: {"sha256": sha256, "size": size} for name, (sha256, size) in files.items()}
    return json.dumps({"format": FORMAT, "etesian": etesian.__version__, "files": told}, indent=1).encode()


def read(text: bytes, where: str) -> Listed:
    """Read a manifest that somebody else may have written.

    Raises:
        DataError: if it is damaged, of a later format, or names anything but files of a run.
    """
    try:
        told: Any = json.loads(text)
        if told["format"] != FORMAT:
            raise DataError(f"{where} was pushed by etesian {told['etesian']}: pip install --upgrade etesian")
        files = {name: (str(each["sha256"]), int(each["size"])) for name, each in told["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        raise DataError(f"{where}/{MANIFEST} is damaged: push the run there again with --overwrite") from None
    if strange := [name for name in files if not FILE.fullmatch(name)]:
        raise DataError(f"{where}/{MANIFEST} names '{strange[0]}', which is no file of a run: do not trust it")
    return files


def unlike(files: Listed, folder: Path) -> list[str]:
    """Return the files that are not in a folder as they are listed."""
    return [name for name, entry in files.items() if not (folder / name).is_file() or _entry(folder / name) != entry]


def _entry(content: Path | bytes) -> tuple[str, int]:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
