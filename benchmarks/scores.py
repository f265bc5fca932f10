"""What the CRPS of an ensemble costs, here and in other libraries: `python benchmarks/scores.py`.

Processor time for each point, the least of three runs, on one thread and the same arrays in memory. xskillscore
takes part where it is installed, and so does numba, which compiles scoringrules (`pip install xskillscore numba`).
"""

import argparse
import importlib.util
import time
from collections.abc import Callable

import numpy as np
import scoringrules
import torch
import xarray as xr

from etesian.scores.definitions import LEVELS
from etesian.scores.ensembles import member_facts


def cost(work: Callable[[], object], points: int, repeats: int) -> float:
    """Return the least processor time in µs for each point; the first run, which may compile, does not count."""
    work()
    spent = []
    for _ in range(repeats):
        begin = time.process_time()
        work()
        spent.append(time.process_time() - begin)
    return min(spent) / points * 1e6


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=50)
    parser.add_argument("--degrees", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = (round(180 / options.degrees) + 1, round(360 / options.degrees))
    random = np.random.default_rng(0)
    members = 280 + 5 * random.standard_normal((options.members, *shape), dtype=np.float32)
    truth = 280 + 5 * random.standard_normal(shape, dtype=np.float32)
    tensors = torch.from_numpy(members), torch.from_numpy(truth).double()
    labelled = xr.DataArray(members, dims=("member", "lat", "lon")), xr.DataArray(truth, dims=("lat", "lon"))

    def other(estimator: str, backend: str) -> Callable[[], object]:
        return lambda: scoringrules.crps_ensemble(truth, members, m_axis=0, estimator=estimator, backend=backend)

    def ours() -> np.ndarray:
        return member_facts(*tensors).crps().numpy()

    assert np.allclose(ours(), other("pwm", "numpy")(), rtol=1e-4, atol=1e-4)
    works: dict[str, Callable[[], object]] = {
        "etesian: fair and plain CRPS, spread": ours,
        "etesian: these and coverage of four intervals": lambda: member_facts(*tensors, LEVELS),
        "scoringrules, qd (default)": other("qd", "numpy"),
        "scoringrules, pwm (fair)": other("pwm", "numpy"),
    }
    if options.degrees >= 1:
        works["scoringrules, fair (all pairs at once)"] = other("fair", "numpy")
    if importlib.util.find_spec("numba"):
        works["scoringrules, qd, compiled by numba"] = other("qd", "numba")
        works["scoringrules, pwm, compiled by numba"] = other("pwm", "numba")
        works["both of these, and numpy's variance"] = lambda: (
            other("qd", "numba")(), other("pwm", "numba")(), members.var(0, ddof=1),
        )  # fmt: skip
    if importlib.util.find_spec("xskillscore"):
        import xskillscore

        compiled = " (compiled by numba)" if importlib.util.find_spec("numba") else ""
        works[f"xskillscore{compiled}"] = lambda: xskillscore.crps_ensemble(labelled[1], labelled[0], dim=[])
    print(f"{options.members} members, {shape[0]}×{shape[1]} points\n\n| CRPS | µs a point | ratio |\n|---|---:|---:|")
    first = None
    for name, work in works.items():
        spent = cost(work, truth.size, options.repeats)
        first = first or spent
        print(f"| {name} | {spent:.3f} | {spent / first:.1f}× |", flush=True)


if __name__ == "__main__":
    main()
