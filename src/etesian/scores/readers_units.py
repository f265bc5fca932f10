"""Units as readers say them: hPa, °C, dam, mm/day, instead of those that files are in."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from etesian.core.channels import CATALOGUE, SHARES, Channel
from etesian.core.constants import SECONDS_PER_DAY, STANDARD_GRAVITY, ZERO_CELSIUS
from etesian.files.units import FLUX, LENGTH, parse_units


class Spoken(NamedTuple):
    """How values are told: `value * factor + offset` in `units`; differences without the offset."""

    units: str
    factor: float = 1.0
    offset: float = 0.0

    def __call__(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return values in these units."""
        return np.asarray(values * self.factor + self.offset) if self.offset or self.factor != 1 else values


def spoken(channel: str, units: str) -> Spoken:
    """Return what a channel in some units is told in; in its own units where nothing else is usual.

    >>> spoken("geopotential_500", "m2 s-2").units, round(spoken("geopotential_500", "m2 s-2").factor * 54e3)
    ('dam', 551)
    >>> spoken("2m_temperature", "K"), spoken("mean_sea_level_pressure", "Pa")
    (Spoken(units='°C', factor=1.0, offset=-273.15), Spoken(units='hPa', factor=0.01, offset=0.0))
    >>> spoken("total_precipitation_24hr", "m"), spoken("precipitation_flux", "kg m-2 s-1")
    (Spoken(units='mm/day', factor=1000.0, offset=0.0), Spoken(units='mm/day', factor=86400.0, offset=0.0))
    """
    unit, name = parse_units(units), Channel.parse(channel).name
    if unit is None:
        return Spoken(units)
    one, is_mass = float(unit.scale), unit.dimension[1] != 0
    if name in CATALOGUE and unit.dimension == (0, 0, 0, 1, 0):
        # Of what the catalogue does not know, such as a deviation, nobody can tell whether it is a difference.
        return Spoken("°C", one, 0.0 if "anomaly" in name else unit.offset - ZERO_CELSIUS)
    if name == "geopotential" and unit.dimension == (2, 0, -2, 0, 0):
        return Spoken("dam", one / (10 * STANDARD_GRAVITY))
    if unit.dimension == (-1, 1, -2, 0, 0):
        return Spoken("hPa", one / 100)
    if "precipitation" in name and unit.dimension in FLUX:
        # A mass of 1 kg m⁻² of water is 1 mm deep.
        return Spoken("mm/day", one * SECONDS_PER_DAY * (1 if is_mass else 1000))
    if "precipitation" in name and unit.dimension == LENGTH:
        return Spoken("mm/day" if name.endswith("_24hr") else "mm", one * 1000)
    if name == "specific_humidity":
        return Spoken("g/kg", one * 1000)
    if name in SHARES:
        return Spoken("%", one * 100)
    if name in ("vorticity", "divergence"):
        return Spoken("10⁻⁵ s⁻¹", one * 1e5)
    return Spoken("m/s", one) if "wind" in name and unit.dimension == (1, 0, -1, 0, 0) else Spoken(units)
