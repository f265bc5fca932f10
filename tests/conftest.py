"""Shared set-up of the tests: shapes in annotations are checked while they run."""

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ.setdefault("MPLBACKEND", "Agg")
install_import_hook("etesian", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden outputs; tests that only widen coverage use it where it is there."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data is not there")
    return SHARED
