"""Units as people write them, and the numbers that turn one into another."""

import re
import unicodedata
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

LENGTH: Dimension = (1, 0, 0, 0, 0)

PRESSURE_DIMENSION: Dimension = (-1, 1, -2, 0, 0)

_MASS_PER_AREA: Dimension = (-2, 1, 0, 0, 0)

FLUX: frozenset[Dimension] = frozenset({(-2, 1, -1, 0, 0), (1, 0, -1, 0, 0)})
"""Dimensions of a rate of precipitation: mass per area and time, or depth per time."""

_KG: Dimension = (0, 1, 0, 0, 0)

_S: Dimension = (0, 0, 1, 0, 0)

_K: Dimension = (0, 0, 0, 1, 0)

_AMOUNT: Dimension = (0, 0, 0, 0, 1)

_ATOMS: dict[str, Unit] = {
    spelling: unit
    for spellings, unit in (
        ("1 fraction proportion dimensionless none ratio ~ -", Unit(_ONE, 1)),
        ("% percent percentage pct", Unit(_ONE, 0.01)),
        ("ppm ppmv", Unit(_AMOUNT, 1e-6)),
        ("ppb ppbv", Unit(_AMOUNT, 1e-9)),
        ("m meter meters metre metres gpm", Unit(LENGTH, 1)),
        ("dam gpdm", Unit(LENGTH, 10)),
        ("km kilometer kilometers kilometre kilometres", Unit(LENGTH, 1e3)),
        ("cm centimeter centimeters centimetre centimetres", Unit(LENGTH, 1e-2)),
        ("mm millimeter millimeters millimetre millimetres", Unit(LENGTH, 1e-3)),
        ("ft feet foot", Unit(LENGTH, 0.3048)),
        ("in inch inches", Unit(LENGTH, 0.0254)),
        ("kg", Unit(_KG, 1)),
        ("g", Unit(_KG, 1e-3)),
        ("mg", Unit(_KG, 1e-6)),
        ("s sec second seconds", Unit(_S, 1)),
        ("min minute minutes", Unit(_S, 60)),
        ("h hr hour hours", Unit(_S, 3600)),
        ("d day days", Unit(_S, 86400)),
        ("k kelvin kelvins degk", Unit(_K, 1)),
        ("degc c celsius celcius centigrade oc", Unit(_K, 1, ZERO_CELSIUS)),
        ("degf f fahrenheit", Unit(_K, 5 / 9, ZERO_CELSIUS - 160 / 9)),
        ("pa pascal pascals", Unit(PRESSURE_DIMENSION, 1)),
        ("hpa mb mbs mbar mbars millibar millibars hectopascal hectopascals", Unit(PRESSURE_DIMENSION, 100)),
        ("kpa", Unit(PRESSURE_DIMENSION, 1000)),
        ("bar bars", Unit(PRESSURE_DIMENSION, 1e5)),
        ("atm atmosphere", Unit(PRESSURE_DIMENSION, 101325)),
        ("dbar decibar", Unit(PRESSURE_DIMENSION, 1e4)),
        ("inhg", Unit(PRESSURE_DIMENSION, 3386.389)),
        ("mmhg", Unit(PRESSURE_DIMENSION, 133.3224)),
        ("n newton", Unit((1, 1, -2, 0, 0), 1)),
        ("j joule joules", Unit((2, 1, -2, 0, 0), 1)),
        ("w watt watts", Unit((2, 1, -3, 0, 0), 1)),
        ("kt knot knots", Unit((1, 0, -1, 0, 0), 1852 / 3600)),
        ("mph", Unit((1, 0, -1, 0, 0), 0.44704)),
    )
    for spelling in spellings.split()
}


def parse_units(text: str) -> Unit | None:
    """Read units in the spellings of CF, ECMWF, NCEP and hand-made files; None if they mean nothing here.

    >>> parse_units("m**2 s**-2") == parse_units("m^2/s^2") == parse_units("m2 s-2")
    True
    >>> parse_units("º C") == parse_units("°C") == parse_units("celcius") == parse_units("degree_C")
    True
    >>> parse_units("degrees Celsius").offset, parse_units("hPa").scale, parse_units("furlong")
    (273.15, 100, None)
    """
    plain = unicodedata.normalize("NFKC", text.strip().replace("º", "°").replace("\ufffd", "°")).lower()
    plain = re.sub(r"[−–]", "-", plain.replace("**", "^")).replace("·", " ").replace("⋅", " ").replace("°", "deg")
    plain = re.sub(r"\bper\b", "/", plain)
    plain = re.sub(r"\bdeg(?:ree)?s?[ _.]*(c|k|f)(?:el[sc]ius|entigrade|elvin|ahrenheit)?\b", r"deg\1", plain)
    plain = re.sub(r"geopotential[ _]met(er|re)s?", "gpm", re.sub(r" of water( equivalent)?$", "", plain))
    plain = re.sub(r"[{}\[\]]", "", plain).strip()
    if plain in ("(0 - 1)", "0 - 1", "0-1", "(0-1)", "fraction (0-1)", "kg/kg", "kg kg-1"):
        return Unit(_ONE, 1)
    if plain in _ATOMS:
        return _ATOMS[plain]
    if match := re.fullmatch(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)(?:\^([+-]?\d+))?[ *]\s*(\D.*)", plain):
        unit = parse_units(match[3])
        return unit and unit._replace(scale=float(match[1]) ** int(match[2] or 1) * unit.scale)
    return _product(plain)


def _product(plain: str) -> Unit | None:
    """Read powers of units one after the other, each with a sign of division before it or none."""
    dimension, scale, position, has_offset = list(_ONE), 1.0, 0, False
    for match in re.finditer(r"\s*(/|\*|\.)?\s*([a-z%]+|1)\s*\^?\s*([+-]?\d+)?", plain):
        unit = _ATOMS.get(match[2])
        if unit is None or match.start() != position:
            return None
        power = int(match[3] or 1) * (-1 if match[1] == "/" else 1)
        dimension = [total + power * part for total, part in zip(dimension, unit.dimension, strict=True)]
        scale *= unit.scale**power
        has_offset |= unit.offset != 0
        position = match.end()
    if not plain or position != len(plain) or (has_offset and dimension == list(_K)):
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
    if variable.name.startswith("geopotential") and source.dimension == LENGTH:
        return factor * STANDARD_GRAVITY, 0.0
    if variable.name.startswith("total_precipitation") and source.dimension == _MASS_PER_AREA:
        return factor / WATER_DENSITY, 0.0
    if variable.name == "precipitation_flux" and source.dimension == (1, 0, -1, 0, 0):
        return factor * WATER_DENSITY, 0.0
    return None
