"""Importing the library where the world differs from here."""

import subprocess
import sys

# Modules that Windows has not; NumPy 2.5's NDArray, which needs Python 3.12, as an alias that is no class.
ELSEWHERE = """
import pkgutil, sys
from typing import Any
import numpy as np, numpy.typing
from typing_extensions import TypeAliasType, TypeVar

for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
Scalar = TypeVar("Scalar", bound=np.generic)
numpy.typing.NDArray = TypeAliasType("NDArray", np.ndarray[tuple[Any, ...], np.dtype[Scalar]], type_params=(Scalar,))

import etesian
names = [module.name for module in pkgutil.walk_packages(etesian.__path__, "etesian.") if "__main__" not in module.name]
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
