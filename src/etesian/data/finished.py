"""Whether a store that is to be made is there already, made to the same plan."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zarr

from etesian.core.errors import DataError


def plan_text(plan: Mapping[str, Any]) -> str:
    """Return a plan as the text that a finished store carries in its root attribute `plan`."""
    return json.dumps(dict(plan), sort_keys=True)


def is_finished(path: Path, plan: Mapping[str, Any], *, overwrite: bool) -> bool:
    """Return whether the finished store of a plan is at a path, so that nothing is left to do.

    Raises:
        DataError: if something else is there: a store of another plan that is not to be overwritten, or
            no store at all.
    """
    if not path.exists():
        return False
    try:
        attributes = zarr.open_group(path, mode="r").attrs.asdict()
    except (OSError, ValueError):
        raise DataError(f"{path} exists and is no Zarr store; choose another path") from None
    if overwrite:
        return False
    if attributes.get("plan") != plan_text(plan):
        raise DataError(f"{path} exists{_difference(attributes.get('plan'), plan)}; use --overwrite to replace it")
    return True


def _difference(text: object, plan: Mapping[str, Any]) -> str:
    """Return words for the first setting in which the store at hand differs from a plan."""
    if not isinstance(text, str):
        return " and was made otherwise"
    theirs = json.loads(text)
    for name, value in plan.items():
        if theirs.get(name) != value:
            return f", made with {name} = {theirs.get(name)} instead of {value}"
    return " and was made otherwise"
