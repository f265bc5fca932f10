"""Make src/etesian/scores/coastlines.npz from Natural Earth's 1:110 m land, which is in the public domain.

Usage: `npm pack world-atlas@2.0.2`, unpack it, and `python .ci/make_coastlines.py package/land-110m.json`. The world
atlas (Michael Bostock) is Natural Earth 4.1.0 as TopoJSON.
"""

import json
import sys
from pathlib import Path

import numpy as np

OUT = Path(__file__).parents[1] / "src/etesian/scores/coastlines.npz"


def main(source: str) -> None:
    """Write every line in hundredths of a degree: where it begins, then steps from point to point."""
    topology = json.loads(Path(source).read_text(encoding="utf-8"))
    transform = topology["transform"]
    lines = []
    for arc in topology["arcs"]:
        degrees = np.cumsum(arc, axis=0) * transform["scale"] + transform["translate"]
        # Across the 180th meridian longitudes run on.
        degrees[:, 0] = np.unwrap(degrees[:, 0], period=360)
        line = np.round(100 * degrees).astype(np.int32)
        line = line[np.append(True, (np.diff(line, axis=0) != 0).any(axis=1))]
        # Where a ring is cut along that meridian is no coast.
        if np.ptp(line[:, 0]):
            lines.append(line)
    steps = np.concatenate([np.diff(line, axis=0, prepend=np.zeros((1, 2), np.int32)) for line in lines])
    assert abs(steps).max() < 2**15
    np.savez_compressed(OUT, steps=steps.astype(np.int16).T, points=np.array([len(line) for line in lines], np.int16))
    print(f"{len(lines)} lines, {len(steps)} points, {OUT.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
