"""Which variable of the catalogue a variable of a file is, judged by name, units and where it lies."""

from typing import NamedTuple

from etesian.core.channels import ACCUMULATED, CATALOGUE, Variable, canonical_name
from etesian.data.units import conversion, parse_units

ON_LEVELS = frozenset(
    {
        "geopotential",
        "temperature",
        "u_component_of_wind",
        "v_component_of_wind",
        "vertical_velocity",
        "specific_humidity",
        "relative_humidity",
        "vorticity",
        "divergence",
        "streamfunction",
        "velocity_potential",
        "ozone_mass_mixing_ratio",
        "specific_cloud_ice_water_content",
        "specific_cloud_liquid_water_content",
    }
)
"""Variables that the catalogue means on pressure levels."""

OVER_TIME = frozenset(
    {
        "total_precipitation",
        *(f"total_precipitation_{hours}hr" for hours in ACCUMULATED),
        "precipitation_flux",
        "surface_solar_radiation_downwards",
        "toa_incident_solar_radiation",
        "maximum_2m_temperature",
        "minimum_2m_temperature",
    }
)
"""Variables that the catalogue means as sums, means or extremes over time, and not at an instant."""

PRESSURE, HEIGHT, SURFACE, UNKNOWN = "pressure", "heightAboveGround", "surface", ""
_WHOLE_COLUMN = ("meanSea", "atmosphere", "atmosphereSingleLayer", "entireAtmosphere", "nominalTop")
_GEOPOTENTIAL_HEIGHT = ("geopotential_height", "gh", "zg", "hgt")
_STANDARD = {variable.standard_name: variable.name for variable in CATALOGUE.values() if variable.standard_name}
_AMBIGUOUS = frozenset("dqrwz")


class Place(NamedTuple):
    """Where a field lies in the vertical: a kind in eccodes' words, and its value where it has one (m for heights)."""

    kind: str = UNKNOWN
    value: float | None = None


def identify(
    name: str, place: Place, *, standard_name: str = "", units: str = "", cell_methods: str = "", static: bool = False
) -> Variable | None:
    """Return the catalogue's variable, or None where the file's own name must stand.

    The standard name comes before the short name, but a short name such as `tas` is more specific than
    the standard name of the quantity on levels. Units that cannot be converted rule a candidate out, and
    a bare letter that means several things needs units.

    >>> identify("tas", Place(), standard_name="air_temperature", units="K").name
    '2m_temperature'
    >>> identify("z", Place("pressure", 500), units="gpm").name, identify("d", Place(), units="days")
    ('geopotential', None)
    """
    candidates = [_STANDARD.get(standard_name), canonical_name(standard_name), canonical_name(name)]
    if {standard_name, name.lower()} & set(_GEOPOTENTIAL_HEIGHT):
        candidates.append("geopotential")
    known = [candidate for candidate in candidates if candidate]
    if place.kind == PRESSURE:
        known = [candidate for candidate in known if candidate in ON_LEVELS]
    else:
        elsewhere = [candidate for candidate in known if candidate not in ON_LEVELS]
        if place.kind not in (UNKNOWN, SURFACE, HEIGHT, *_WHOLE_COLUMN):
            return None
        promoted = [_near_surface(candidate, place, units, cell_methods, static) for candidate in known]
        known = elsewhere + [candidate for candidate in promoted if candidate]
    if not units and not standard_name and name in _AMBIGUOUS:
        return None
    fitting = (CATALOGUE[candidate] for candidate in known)
    return next((variable for variable in fitting if not units or conversion(units, variable)), None)


def own_name(name: str, place: Place) -> str:
    """Return the name of a field that the catalogue does not know, made distinct by where it lies.

    >>> own_name("t", Place("tropopause")), own_name("soilw", Place("depthBelowLandLayer", 0.1))
    ('t_tropopause', 'soilw_depthBelowLandLayer0.1')
    """
    if place.kind in (UNKNOWN, SURFACE, PRESSURE, "meanSea"):
        return name
    return f"{name}_{place.kind}" + ("" if place.value is None else f"{place.value:g}")


def _near_surface(name: str, place: Place, units: str, cell_methods: str, static: bool) -> str | None:
    """Turn a quantity meant on levels into the near-surface variable that its place makes of it."""
    height = place.value if place.kind == HEIGHT and place.value is not None else None
    if name == "temperature" and height is not None and 1 <= height <= 2.5:
        extremes = {"maximum": "maximum_2m_temperature", "minimum": "minimum_2m_temperature"}
        return next((extremes[word] for word in extremes if f"time: {word}" in cell_methods), "2m_temperature")
    if name in ("u_component_of_wind", "v_component_of_wind") and height in (10, 100):
        return f"{height:g}m_{name}"
    if name == "temperature" and place.kind == SURFACE:
        return "skin_temperature"
    if name == "geopotential" and (place.kind == SURFACE or (static and place.kind == UNKNOWN)):
        unit = parse_units(units)
        is_height = unit is not None and unit.dimension == (1, 0, 0, 0, 0)
        return "orography" if is_height else "geopotential_at_surface"
    return name if place.kind == UNKNOWN and name in ON_LEVELS else None
