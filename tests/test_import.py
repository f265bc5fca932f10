"""What importing the library needs, and what it loads."""

import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from etesian import core

# Modules that Windows has not; NumPy 2.5's NDArray, which needs Python 3.12, as an alias that is no class.
ELSEWHERE = """
import pkgutil, sys
from importlib.util import find_spec
from typing import Any
import numpy as np, numpy.typing
from typing_extensions import TypeAliasType, TypeVar

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
Scalar = TypeVar("Scalar", bound=np.generic)
numpy.typing.NDArray = TypeAliasType("NDArray", np.ndarray[tuple[Any, ...], np.dtype[Scalar]], type_params=(Scalar,))

import etesian
names = [module.name for module in pkgutil.walk_packages(etesian.__path__, "etesian.") if "__main__" not in module.name]
if not find_spec("panel"):
    names = [name for name in names if not name.startswith("etesian.viewer.")]
failed = []
for name in names:
    try:
        __import__(name)
    except (ImportError, TypeError) as error:
        failed.append(f"{name}: {error}")
print(len(names))
sys.exit("\\n".join(failed) or 0)
"""


def test_every_module_is_imported_without_posix_and_with_the_arrays_of_numpy_2_5():
    done = subprocess.run([sys.executable, "-c", ELSEWHERE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--help"], 0),
        (["--version"], 0),
        (["completion", "bash"], 0),
        (["recipes"], 0),
        (["prepare", "--help"], 0),
        (["prepar"], 2),
        (["forecast", "--gird"], 2),
        (["fit", "planet_climax", "--modle.dim", "3"], 2),
        (["fit", "planet_climx"], 1),
    ],
)
def test_the_help_and_a_wrong_command_load_no_library_for_numbers(words, status):
    script = """
import sys
from etesian.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(*{"torch", "lightning", "numpy", "pandas", "xarray", "dask", "jsonargparse"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    assert done.stdout.splitlines()[-1] == ""


def test_to_examine_a_file_loads_no_trainer(tmp_path):
    values = xr.DataArray(np.full((1, 2, 4), 280.0), dims=("time", "latitude", "longitude"), attrs={"units": "K"})
    known = {
        "time": np.array(["2000-01-01"], "datetime64[ns]"),
        "latitude": [-45.0, 45.0],
        "longitude": np.arange(4) * 90.0,
    }
    values.assign_coords(known).to_dataset(name="2m_temperature").to_netcdf(tmp_path / "t2m.nc")
    script = "import sys, etesian as et; et.doctor(sys.argv[1]); print(*{'torch', 'lightning'} & set(sys.modules))"
    words = [sys.executable, "-c", script, str(tmp_path / "t2m.nc")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


def test_the_core_gives_its_names_and_no_others():
    assert {name: getattr(core, name).__name__ for name in core.__all__} == {name: name for name in core.__all__}
    with pytest.raises(AttributeError, match=r"module 'etesian\.core' has no attribute 'Grids'"):
        core.Grids  # noqa: B018
