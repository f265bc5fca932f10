"""Shared set-up of the tests: shapes in annotations are checked while they run."""

import functools
import inspect
import io
import os
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import xarray as xr

os.environ.setdefault("MPLBACKEND", "Agg")

checked = inspect.unwrap(jaxtyping.jaxtyped)  # tests that import from here load this file a second time


@functools.wraps(checked)
def checked_where_a_shape_is_named(*, typechecker: Callable[..., object]) -> Callable[..., object]:
    """Do as jaxtyping's decorator where a shape is named: other types are mypy's, and each check costs time."""

    def decorate(function: object) -> object:
        where = function.__init__ if isinstance(function, type) else inspect.unwrap(getattr(function, "fget", function))
        named = "jaxtyping." in repr(getattr(where, "__annotations__", {}))
        return checked(function, typechecker=typechecker) if named else function

    return decorate


jaxtyping.jaxtyped = checked_where_a_shape_is_named
jaxtyping.install_import_hook("etesian", "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))")


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pictures be composed and not rendered, which is most of what a report costs: where it is not the point."""
    from matplotlib.figure import Figure

    def savefig(figure: Figure, target: io.BytesIO | Path, **options: object) -> None:
        target.write_bytes(b"PNG") if isinstance(target, Path) else target.write(b"PNG")

    monkeypatch.setattr(Figure, "savefig", savefig)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reports of forecasts have no pictures, where others look at what is composed of the same scores."""
    monkeypatch.setattr("etesian.scores.report.save_pictures", lambda figures, folder: defaultdict(bytes))


SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of checkpoints that version 0.1 wrote and, as `answer.npz`, what they predicted then."""
    folder = tmp_path_factory.mktemp("stored")
    with tarfile.open(Path(__file__).parent / "stored" / "runs.tar.xz") as runs:
        runs.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and golden outputs; tests that only widen coverage use it where it is there."""
    if not SHARED.is_dir():
        pytest.skip("the folder of real data is not there")
    return SHARED


LATITUDE, LONGITUDE = np.linspace(-75, 75, 6), np.arange(8) * 45.0


def weather(time: object, *, gaps: float = 0.0, seed: int = 0) -> xr.Dataset:
    """Random canonical fields at some times: temperature on two levels, pressure, a static field."""
    random = np.random.default_rng(seed)
    steps = len(time)  # type: ignore[arg-type]
    temperature = random.standard_normal((steps, 2, 6, 8)).astype(np.float32) * 5 + 270
    temperature[random.random(temperature.shape) < gaps] = np.nan
    pressure = random.standard_normal((steps, 6, 8)).astype(np.float32) * 900 + 1e5
    return xr.Dataset(
        {
            "temperature": (("time", "level", "latitude", "longitude"), temperature, {"units": "K"}),
            "surface_pressure": (("time", "latitude", "longitude"), pressure, {"units": "Pa"}),
            "orography": (("latitude", "longitude"), random.random((6, 8)).astype(np.float32), {"units": "m"}),
        },
        {"time": time, "level": [500, 850], "latitude": LATITUDE, "longitude": LONGITUDE},
    )


MakeStore = Callable[..., str]


@pytest.fixture(scope="session")
def make_store(tmp_path_factory: pytest.TempPathFactory) -> MakeStore:
    """Make a training store of `weather`; the same arguments give the same one."""
    from etesian.store.prepare import prepare_dataset

    made: dict[str, str] = {}

    def make(time: object = None, *, gaps: float = 0.0, seed: int = 0) -> str:
        time = pd.date_range("2001-01-01", periods=60, freq="6h") if time is None else time
        key = f"{time}{gaps}{seed}"
        if key not in made:
            path = tmp_path_factory.mktemp("stores") / f"store{len(made)}.zarr"
            prepare_dataset(weather(time, gaps=gaps, seed=seed), path)
            made[key] = str(path)
        return made[key]

    return make


@pytest.fixture(scope="session")
def store(make_store: MakeStore) -> str:
    """Fifteen days, 6-hourly, complete."""
    return make_store()


@pytest.fixture(scope="session")
def gappy_store(make_store: MakeStore) -> str:
    """The same with a tenth of the temperatures missing."""
    return make_store(gaps=0.1)


@pytest.fixture(scope="session")
def sharded_store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store of files of 7 times each, the last one partial, and a time at which all is missing."""
    from etesian.store import format as layout
    from etesian.store.prepare import prepare_dataset

    path = tmp_path_factory.mktemp("stores") / "sharded.zarr"
    source = weather(pd.date_range("2001-01-01", periods=60, freq="6h"))
    source["temperature"][10] = np.nan
    source["surface_pressure"][10] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "SHARD_BYTES", 7 * 4 * 3 * 48)
        prepare_dataset(source, path)
    return str(path)
