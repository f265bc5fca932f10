"""What a variable of a file is, decided by all that the file says of it; the one place where that is decided."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from etesian.core.channels import ACCUMULATED, CATALOGUE, Variable, canonical_name
from etesian.files.units import FLUX, LENGTH, conversion, parse_units

_STATISTICS = {
    "standard deviation": r"standard[ _]dev(iation)?|\bstd\b|\bstd\.?[ _-]?dev\w*|\bstdev\b",
    "variance": r"variance\b",
    "error": r"\berrors?\b(?![ _-]+(correct|adjust))|\buncertaint(y|ies)\b",
    "spread": r"\bspread\b",
    "range": r"\b(mid_)?range\b",
    "tendency": r"\btendency\b|\btrends?\b",
    "difference": r"\bdifferences?\b|\bchanges? (in|of)\b|\bincrements?\b|\bbias(?![ _-]+(correct|adjust))\b",
    "anomaly": r"\b\w*anomal(y|ies|ous)\b|\bdepartures? (of|from)\b",
    "percentile": r"\bpercentiles?\b|\bquantiles?\b|\bmedian\b|\bupper_decile\b|\bdeciles?\b",
    "probability": r"\bprobability\b",
    "count": r"\bnumber of\b|\bcounts? of\b",
    "flag": r"\b(quality|status)[ _-]flags?\b",
    "climatology": r"\bclimatolog(y|ies|ical)\b|\bover years\b|\blong[ -]term mean\b",
    "square": r"\broot_mean_square\b|\bsum_of_squares\b|\brms\b",
    "absolute value": r"_absolute_value\b",
    "maximum": r"\bmax(imum)?\b",
    "minimum": r"\bmin(imum)?\b",
    "mode": r"^mode$",
}
"""What counts as a statistic, the words for it, the most telling first."""

_OF_SOMETHING_ELSE = re.compile(
    r"\b(soil|ground temperature|sea(?![ -]*level)|ocean|oceanic|seawater|water (?:temperature|velocity|surface|level)|"
    r"snow|ice (?:temperature|velocity|drift|surface)|lake|canopy|brightness|potential (?:temperature|vorticity)|"
    r"virtual|dew ?point|wet[ -]?bulb|gust|geostrophic|stress|storm motion|apparent|absolute vorticity|"
    r"wave|surge|tide|tidal|depth|bathymetry)\b"
)

_OF_THE_AIR = re.compile(
    r"(maximum_|minimum_)?(\d+m_)?(temperature|[uv]_component_of_wind|geopotential\w*|vertical_velocity|vorticity|"
    r"divergence|specific_humidity|relative_humidity|dewpoint_temperature|streamfunction|velocity_potential)|orography"
)

_GRIB_STEPS = {"max": "maximum", "min": "minimum", "sd": "standard deviation", "diff": "difference", "accum": "sum"}

_AMOUNTS = ("m", "J m-2")

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

_STANDARD = {v.standard_name: v.name for v in reversed(CATALOGUE.values()) if v.standard_name}

_AMBIGUOUS = frozenset("dqrwz")

_ABOVE_GROUND = {"2m": (1, 10), "10m": (1, 30), "100m": (80, 120)}
"""Heights (m) at which a file may put a variable that is named after one; CMIP's bounds for the first two."""

_DEPTH_OF_SEA_SURFACE = 20.0
"""The uppermost layers of ocean models and SST analyses (m) count as the surface of the sea."""


class Statement(NamedTuple):
    """What was said.

    Attributes:
        statistic: such as "maximum" or "anomaly"; empty for means, instants and where nothing is said.
        something_else: the word of the long name that is no word for the air, such as "soil"; empty if there is none.
    """

    statistic: str
    something_else: str

    def words(self, name: str | None, *, has_standard_name: bool) -> str:
        """Return what tells a field from the variable of the catalogue that bears its name; empty if nothing does."""
        if name is None or self.of(name, has_standard_name=has_standard_name) is not None:
            return ""
        return self.statistic or self.something_else

    def of(self, name: str, *, has_standard_name: bool) -> str | None:
        """Return the catalogue's variable that is this statistic of a variable, or None if there is none."""
        is_air = _OF_THE_AIR.fullmatch(name) is not None
        if is_air and not has_standard_name and self.something_else and not _is_dewpoint(name, self.something_else):
            return None
        for extreme in ("maximum", "minimum"):
            if name.startswith(f"{extreme}_"):
                return name if self.statistic in ("", extreme) else None
        known = f"{name} {CATALOGUE[name].standard_name}".replace("_", " ")
        if self.statistic == "sum":
            return name if CATALOGUE[name].units in _AMOUNTS else None
        if not self.statistic or re.search(_STATISTICS[self.statistic], known):
            return name
        return next((n for n in (f"{self.statistic}_{name}", f"{name}_{self.statistic}") if n in CATALOGUE), None)


def statement(cell_methods: str, long_name: str) -> Statement:
    """Read what kind of field it is from CF's cell methods, or GRIB's type of step, and from the long name.

    >>> statement("area: mean time: maximum within days time: mean over days", "").statistic
    'maximum'
    >>> statement("time: mean", "Soil temperature anomaly (relative to 1961-1990)")
    Statement(statistic='anomaly', something_else='soil')
    """
    methods = _methods(cell_methods)
    words = re.sub(r"\([^)]*\)?", " ", long_name.lower())
    told = [*methods, words]
    statistic = next((kind for kind, pattern in _STATISTICS.items() if any(re.search(pattern, w) for w in told)), "")
    other = _OF_SOMETHING_ELSE.search(words)
    return Statement(statistic or ("sum" if "sum" in methods else ""), other[0] if other else "")


def _methods(cell_methods: str) -> list[str]:
    plain = re.sub(r"\([^)]*\)?", " ", cell_methods.lower()).strip()
    if ":" not in plain:
        return [_GRIB_STEPS.get(plain, plain)]
    return re.findall(r":\s*([a-z_]+(?: over years)?)(?!\w*:)", plain)


def _is_dewpoint(name: str, word: str) -> bool:
    return "dewpoint" in name and word.startswith("dew")


class Place(NamedTuple):
    """Where a field lies in the vertical: a kind in eccodes' words, and its value where it has one (m for lengths)."""

    kind: str = UNKNOWN
    value: float | None = None


_NOWHERE = Place()


@dataclass(frozen=True)
class Said:
    """All that a file says of one variable.

    Attributes:
        name: in the file.
        place: where it lies.
        standard_name: CF's, with its modifier if there is one.
        long_name: in words.
        units: as they are written.
        cell_methods: CF's, or what GRIB calls the type of step.
        static: whether it has no time.
    """

    name: str
    place: Place = _NOWHERE
    standard_name: str = ""
    long_name: str = ""
    units: str = ""
    cell_methods: str = ""
    static: bool = False


class Identity(NamedTuple):
    """What a variable was found to be: the catalogue's entry or None, the name that it gets, and why if that is odd."""

    variable: Variable | None
    name: str
    note: str = ""


def identify(said: Said) -> Identity:
    """Decide what a variable is.

    The short name comes first, because `tas` is more specific than the standard name air_temperature; a standard
    name that is something else rules it out. What a field is a statistic of (a maximum, an anomaly, a standard
    deviation) counts, wherever the file says so; without a standard name, so does a long name that speaks of the
    soil, the sea or another temperature than that of the air. Units that cannot be converted rule a candidate out,
    and a bare letter that means several things needs units.

    >>> identify(Said("tas", standard_name="air_temperature", units="K")).name
    '2m_temperature'
    >>> identify(Said("z", Place("pressure", 500), units="gpm")).name, identify(Said("d", units="days")).name
    ('geopotential', 'd')
    >>> identify(Said("z", standard_name="sea_surface_height_above_geoid", units="m")).name
    'sea_surface_height_above_geoid'
    """
    told = statement(said.cell_methods, said.long_name)
    rumoured = canonical_name(said.name)
    candidates = [rumoured] if rumoured and _agrees(said.standard_name, rumoured) else []
    candidates += [name for name in (_STANDARD.get(said.standard_name), canonical_name(said.standard_name)) if name]
    if {said.standard_name, said.name.lower()} & set(_GEOPOTENTIAL_HEIGHT) and _agrees(
        said.standard_name, "geopotential"
    ):
        candidates.append("geopotential")
    known = _at_place(list(dict.fromkeys(candidates)), said)
    if not said.units and not said.standard_name and said.name in _AMBIGUOUS:
        known = []
    for candidate in known:
        name = told.of(candidate, has_standard_name=bool(said.standard_name))
        if name is not None and (not said.units or conversion(said.units, CATALOGUE[name])):
            note = (
                f"'{said.name}' is a {told.statistic}: taken as '{name}'" if name not in (candidate, rumoured) else ""
            )
            return Identity(CATALOGUE[name], name, note)
    return _unknown(said, rumoured, told.words(rumoured, has_standard_name=bool(said.standard_name)))


def level_in_name(name: str) -> tuple[str, int] | None:
    """Split a name that ends in a pressure (hPa), as CORDEX, climate4R and ClimaX write it.

    A short name takes a bare number from 100 on, or any with `hPa` behind it: `t2` is no level.

    >>> level_in_name("ta850"), level_in_name("temperature_50"), level_in_name("u100"), level_in_name("t2")
    (('ta', 850), ('temperature', 50), None, None)
    """
    match = re.fullmatch(r"([a-z_]*[a-z0-9]*[a-z])_?(\d{1,4})(_?hpa|_?mb)?", name.lower())
    if match is None or canonical_name(name):
        return None
    if match[1] not in _GEOPOTENTIAL_HEIGHT and canonical_name(match[1]) not in ON_LEVELS:
        return None
    level = int(match[2])
    lowest = 1 if match[3] or match[1] in CATALOGUE else 100
    return (match[1], level) if lowest <= level <= 1100 else None


def own_name(name: str, place: Place) -> str:
    """Return the name of a field that the catalogue does not know, made distinct by where it lies.

    >>> own_name("t", Place("tropopause")), own_name("soilw", Place("depthBelowLandLayer", 0.1))
    ('t_tropopause', 'soilw_depthBelowLandLayer0.1')
    """
    if place.kind in (UNKNOWN, SURFACE, PRESSURE, "meanSea"):
        return name
    return f"{name}_{place.kind}" + ("" if place.value is None else f"{place.value:g}")


def _agrees(standard_name: str, name: str) -> bool:
    """Whether a standard name, if there is one, is one that a variable of the catalogue may bear."""
    allowed = {CATALOGUE[name].standard_name, *CATALOGUE[name].also} - {""}
    same = canonical_name(standard_name)
    return (
        not standard_name
        or standard_name in allowed
        or (same is not None and (same == name or CATALOGUE[same].standard_name in allowed))
    )


def _at_place(candidates: list[str], said: Said) -> list[str]:
    """Keep the candidates that can lie where the field does, as what they are there."""
    place = said.place
    if place.kind == PRESSURE:
        return [name for name in candidates if name in ON_LEVELS]
    if place.kind not in (UNKNOWN, SURFACE, HEIGHT, *_WHOLE_COLUMN):
        is_shallow = place.value is None or 0 <= place.value <= _DEPTH_OF_SEA_SURFACE
        return [name for name in candidates if name.startswith("sea_") and is_shallow]
    elsewhere = [_by_units(name, said) for name in candidates if name not in ON_LEVELS and _at_height(name, place)]
    promoted = [_near_surface(name, said) for name in candidates]
    return elsewhere + [name for name in promoted if name]


def _by_units(name: str, said: Said) -> str:
    """A sum of precipitation whose units are those of a rate is a rate."""
    unit = parse_units(said.units)
    is_rate = unit is not None and unit.dimension in FLUX
    return "precipitation_flux" if name.startswith("total_precipitation") and is_rate else name


def _at_height(name: str, place: Place) -> bool:
    """Whether a field at some height above the ground may bear a name that tells a height."""
    told = next((height for height in _ABOVE_GROUND if f"_{height}_" in f"_{name}"), None)
    if told is None or place.kind != HEIGHT or place.value is None:
        return True
    low, high = _ABOVE_GROUND[told]
    return low <= place.value <= high


def _near_surface(name: str, said: Said) -> str | None:
    """Turn a quantity meant on levels into the near-surface variable that its place makes of it."""
    place = said.place
    height = place.value if place.kind == HEIGHT else None
    if name == "temperature" and height is not None and 1 <= height <= 2.5:
        return "2m_temperature"
    if name in ("u_component_of_wind", "v_component_of_wind") and height is not None:
        return next((f"{near}m_{name}" for near in (10, 100) if np.isclose(height, near)), None)
    if name == "temperature" and place.kind == SURFACE:
        return "skin_temperature"
    if name == "geopotential" and (place.kind == SURFACE or (said.static and place.kind == UNKNOWN)):
        unit = parse_units(said.units)
        return "orography" if unit is not None and unit.dimension == LENGTH else "geopotential_at_surface"
    return name if place.kind == UNKNOWN and name in ON_LEVELS else None


def _unknown(said: Said, rumoured: str | None, told: str) -> Identity:
    """Name a variable that is none of the catalogue's, so that nobody takes it for one."""
    own = own_name(said.name, said.place)
    disagrees = rumoured is not None and not _agrees(said.standard_name, rumoured)
    if rumoured is None or canonical_name(own) is None or not (told or disagrees):
        is_named = own in CATALOGUE and said.units and not conversion(said.units, CATALOGUE[own])
        note = (
            f"'{own}' is in {said.units}, which cannot become {CATALOGUE[own].units}: left as it is" if is_named else ""
        )
        return Identity(None, own, note)
    standard = re.sub(r"\W+", "_", said.standard_name)
    if disagrees and canonical_name(standard) is None and standard not in _STANDARD:
        own = standard
    else:
        own = f"{said.name}_{told.replace(' ', '_')}" if told else f"{said.name}_as_stored"
    why = f"has the standard name {said.standard_name}" if disagrees else f"says that it is '{told}'"
    return Identity(None, own, f"'{said.name}' {why}, so it is no '{rumoured}': named '{own}', its units kept")
