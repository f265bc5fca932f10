"""Where the jet stream is."""

import numpy as np
from jaxtyping import Float

from etesian.core.errors import DataError
from etesian.core.grid import Grid

SOUTH, NORTH = 15.0, 75.0


def jet_latitude(
    wind: Float[np.ndarray, "time lat lon"], grid: Grid, *, south: float = SOUTH, north: float = NORTH
) -> Float[np.ndarray, " time"]:
    """Return the latitude of the maximum of the zonal-mean zonal wind in a band of latitude, in degrees north.

    The low-level jet of Woollings et al. (2010, QJRMS 136, 856), who look for the maximum from 15 to 75° N in the North
    Atlantic, averaged over 925 to 700 hPa and ten days; here in the zonal mean of whatever level is given, at every
    time. A parabola through the maximum and its neighbours places it between grid points.

    Args:
        wind: eastward wind, m/s.
        grid: of the wind.
        south: lowest latitude of the band, degrees north.
        north: highest latitude of the band, degrees north.

    Raises:
        DataError: if fewer than three rows lie in the band.
    """
    inside = np.flatnonzero((grid.latitude >= south) & (grid.latitude <= north))
    if inside.size < 3:
        raise DataError(
            f"the grid has {inside.size} rows from {south:g} to {north:g}°N; the jet's latitude needs three"
        )
    latitude = grid.latitude[inside]
    zonal = wind.astype(np.float64)[:, inside].mean(axis=2)
    # At the edge of the band the parabola takes the three outermost rows, and the maximum stays within the band.
    middle = zonal.argmax(axis=1).clip(1, inside.size - 2)
    found = np.empty(len(zonal))
    for time in range(len(zonal)):
        around = slice(middle[time] - 1, middle[time] + 2)
        curve, slope, _ = np.polyfit(latitude[around] - latitude[middle[time]], zonal[time, around], 2)
        top = latitude[middle[time]] - slope / (2 * curve) if curve < 0 else latitude[zonal[time].argmax()]
        found[time] = np.clip(top, latitude[0], latitude[-1])
    return found
