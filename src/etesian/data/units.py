"""Units as people write them, and the numbers that turn one into another."""

import re
from typing import NamedTuple

from etesian.core.channels import Variable
from etesian.core.constants import STANDARD_GRAVITY, ZERO_CELSIUS

WATER_DENSITY = 1000.0
"""Density of liquid water, kg m⁻³, by which precipitation in kg m⁻² becomes a depth."""

Dimension = tuple[int, int, int, int, int]


class Unit(NamedTuple):
    """A unit in SI: `value_si = value * scale + offset`; exponents of m, kg, s, K and mole fraction."""

    dimension: Dimension
    scale: float
    offset: float = 0.0


_ONE: Dimension = (0, 0, 0, 0, 0)
_M: Dimension = (1, 0, 0, 0, 0)
_KG: Dimension = (0, 1, 0, 0, 0)
_S: Dimension = (0, 0, 1, 0, 0)
_K: Dimension = (0, 0, 0, 1, 0)
_PA: Dimension = (-1, 1, -2, 0, 0)
_AMOUNT: Dimension = (0, 0, 0, 0, 1)

_ATOMS: dict[str, Unit] = {
    spelling: unit
    for spellings, unit in (
        ("1 fraction proportion dimensionless none ratio ~ -", Unit(_ONE, 1)),
        ("% percent percentage pct", Unit(_ONE, 0.01)),
        ("ppm ppmv", Unit(_AMOUNT, 1e-6)),
        ("ppb ppbv", Unit(_AMOUNT, 1e-9)),
        ("m meter meters metre metres gpm", Unit(_M, 1)),
        ("dam gpdm", Unit(_M, 10)),
        ("km", Unit(_M, 1e3)),
        ("cm", Unit(_M, 1e-2)),
        ("mm millimeter millimeters millimetre", Unit(_M, 1e-3)),
        ("ft feet foot", Unit(_M, 0.3048)),
        ("kg", Unit(_KG, 1)),
        ("g", Unit(_KG, 1e-3)),
        ("mg", Unit(_KG, 1e-6)),
        ("s sec second seconds", Unit(_S, 1)),
        ("min minute minutes", Unit(_S, 60)),
        ("h hr hour hours", Unit(_S, 3600)),
        ("d day days", Unit(_S, 86400)),
        ("k kelvin kelvins degk", Unit(_K, 1)),
        ("degc c celsius", Unit(_K, 1, ZERO_CELSIUS)),
        ("degf f fahrenheit", Unit(_K, 5 / 9, ZERO_CELSIUS - 160 / 9)),
        ("pa pascal pascals", Unit(_PA, 1)),
        ("hpa mb mbar millibar millibars hectopascal hectopascals", Unit(_PA, 100)),
        ("kpa", Unit(_PA, 1000)),
        ("dbar decibar", Unit(_PA, 1e4)),
        ("n newton", Unit((1, 1, -2, 0, 0), 1)),
        ("j joule joules", Unit((2, 1, -2, 0, 0), 1)),
        ("w watt watts", Unit((2, 1, -3, 0, 0), 1)),
        ("kt knot knots", Unit((1, 0, -1, 0, 0), 1852 / 3600)),
    )
    for spelling in spellings.split()
}


def parse_units(text: str) -> Unit | None:
    """Read units in the spellings of CF, ECMWF, NCEP and hand-made files; None if they mean nothing here.

    >>> parse_units("m**2 s**-2") == parse_units("m^2/s^2") == parse_units("m2 s-2")
    True
    >>> parse_units("degrees Celsius").offset, parse_units("hPa").scale, parse_units("furlong")
    (273.15, 100, None)
    """
    plain = text.strip().lower().replace("**", "^").replace("·", " ").replace("°", "deg")
    plain = re.sub(r"\bdeg(?:ree)?s?[ _]*(c|k|f)(?:elsius|elvin|ahrenheit)?\b", r"deg\1", plain)
    plain = re.sub(r"geopotential met(er|re)s?", "gpm", re.sub(r" of water( equivalent)?$", "", plain))
    if plain in ("(0 - 1)", "0 - 1", "0-1", "(0-1)", "kg/kg", "kg kg-1"):
        return Unit(_ONE, 1)
    if plain in _ATOMS:
        return _ATOMS[plain]
    dimension, scale, position = list(_ONE), 1.0, 0
    for match in re.finditer(r"\s*(/|\*|\.)?\s*([a-z%]+|1)\s*\^?\s*([+-]?\d+)?", plain):
        unit = _ATOMS.get(match[2])
        if unit is None or match.start() != position:
            return None
        power = int(match[3] or 1) * (-1 if match[1] == "/" else 1)
        dimension = [total + power * part for total, part in zip(dimension, unit.dimension, strict=True)]
        scale *= unit.scale**power
        position = match.end()
    if not plain or position != len(plain):
        return None
    return Unit((dimension[0], dimension[1], dimension[2], dimension[3], dimension[4]), scale)


def conversion(units: str, variable: Variable) -> tuple[float, float] | None:
    """Return the factor and offset that turn values into the catalogue's units, or None if they cannot.

    A height becomes geopotential by the standard gravity; precipitation changes between mass and depth by
    the density of water. Differences of temperature are scaled without the offset.

    >>> from etesian.core.channels import CATALOGUE
    >>> conversion("degC", CATALOGUE["sea_surface_temperature"])
    (1.0, 273.15)
    >>> conversion("gpm", CATALOGUE["geopotential"])
    (9.80665, 0.0)
    """
    if units.strip() == variable.units:
        return 1.0, 0.0
    source, target = parse_units(units), parse_units(variable.units)
    if source is None or target is None:
        return None
    factor = source.scale / target.scale
    if source.dimension == target.dimension:
        is_difference = variable.name.endswith("_anomaly")
        return factor, 0.0 if is_difference else (source.offset - target.offset) / target.scale
    if variable.name.startswith("geopotential") and source.dimension == _M:
        return factor * STANDARD_GRAVITY, 0.0
    if variable.name.startswith("total_precipitation") and source.dimension == (-2, 1, 0, 0, 0):
        return factor / WATER_DENSITY, 0.0
    if variable.name == "precipitation_flux" and source.dimension == (1, 0, -1, 0, 0):
        return factor * WATER_DENSITY, 0.0
    return None
