"""Errors a user can cause: one sentence that names the file, the variable, the value and the remedy."""

import difflib
from collections.abc import Iterable


class EtesianError(Exception):
    """Something the user can mend; the command line prints it as one sentence, without a traceback."""


class DataError(EtesianError):
    """A file, store or array cannot be used as it is."""


class ChannelError(EtesianError):
    """A variable or level is unknown or missing."""


class GridError(EtesianError):
    """Coordinates cannot be used or do not fit those of the run."""


class CheckpointError(EtesianError):
    """A checkpoint does not hold what is asked of it."""


class RecipeError(EtesianError):
    """A recipe or an option asks for something impossible."""


def suggest(name: str, known: Iterable[str]) -> str:
    """Return the end of an error sentence that names what was probably meant.

    >>> suggest("temprature", ["temperature", "geopotential"])
    "; did you mean 'temperature'?"
    >>> suggest("xyz", ["temperature", "geopotential"])
    '; known are geopotential, temperature'
    """
    options = sorted(set(known))
    close = difflib.get_close_matches(name, options, n=1)
    if close:
        return f"; did you mean '{close[0]}'?"
    shown = ", ".join(options[:12]) + (f" and {len(options) - 12} more" if len(options) > 12 else "")
    return f"; known are {shown}" if options else "; there are none"


def first_line(error: BaseException) -> str:
    """Return what another library said, shortened to the first line of it."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
