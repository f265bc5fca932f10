"""Milliseconds per field of spherical-harmonic transforms, and what they leave of a field that the grid resolves.

Eight fields at a time, one thread, best of five in processor time. Where pyshtools is installed, its transforms on the
Gauss-Legendre grid of the same truncation are timed too, one field at a time as it takes them.

    OMP_NUM_THREADS=1 python benchmarks/spectral.py
"""

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from etesian.core import Grid
from etesian.core.sphere import SphericalHarmonics

FIELDS, REPEAT = 8, 5
GRIDS = {
    "32×64": Grid.equiangular(5.625),
    "73×144 with poles": Grid.equiangular(2.5, poles=True),
    "128×256 Gaussian": Grid.gaussian(128),
    "320×640 Gaussian": Grid.gaussian(320),
}


def milliseconds(work: Callable[[], Any], fields: int) -> float:
    taken = []
    for _ in range(REPEAT):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken) * 1e3 / fields


def ours(grid: Grid) -> list[float]:
    start = time.process_time()
    harmonics = SphericalHarmonics(grid)
    made = time.process_time() - start
    rng = np.random.default_rng(0)
    size = (FIELDS, harmonics.truncation + 1, harmonics.truncation + 1)
    coefficients = np.tril(rng.standard_normal(size) + 1j * rng.standard_normal(size))
    coefficients[..., 0] = coefficients[..., 0].real
    coefficients[..., 0, 0] = 0
    values = harmonics.synthesise(coefficients)
    u, v = harmonics.synthesise_winds(coefficients, coefficients)
    error = abs(harmonics.analyse_winds(u, v)[0] - coefficients).max() / abs(coefficients).max()
    works: list[Callable[[], Any]] = [
        lambda: harmonics.analyse(values),
        lambda: harmonics.synthesise(coefficients),
        lambda: harmonics.analyse_winds(u, v),
        lambda: harmonics.synthesise_winds(coefficients, coefficients),
    ]
    return [made, *(milliseconds(work, FIELDS) for work in works), error]


def theirs(rows: int) -> list[float]:
    from pyshtools.expand import SHGLQ, MakeGridGLQ, SHExpandGLQ

    zeros, weights = SHGLQ(rows - 1)
    values = np.random.default_rng(0).standard_normal((rows, 2 * rows - 1))
    coefficients = SHExpandGLQ(values, weights, zeros)
    works = (lambda: SHExpandGLQ(values, weights, zeros), lambda: MakeGridGLQ(coefficients, zeros))
    return [milliseconds(work, 1) for work in works]


def main() -> None:
    heads = ("tables, s", "analysis", "synthesis", "winds in", "winds out", "round trip")
    print(f"{'grid':20}" + "".join(f"{head:>12}" for head in heads))
    for name, grid in GRIDS.items():
        made, *times, error = ours(grid)
        print(f"{name:20}{made:12.2f}" + "".join(f"{one:12.2f}" for one in times) + f"{error:12.0e}")
        if importlib.util.find_spec("pyshtools") is not None:
            print(f"{'  pyshtools, GLQ':32}" + "".join(f"{one:12.2f}" for one in theirs(grid.shape[0])))


if __name__ == "__main__":
    main()
