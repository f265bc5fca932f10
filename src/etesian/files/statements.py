"""What the words of a file say that a field is besides its quantity: a statistic, or a quantity of something else."""

import re
from typing import NamedTuple

from etesian.core.channels import CATALOGUE

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
    "climatology": r"\bclimatolog(y|ies|ical)\b",
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
    r"wave|surge|tide|tidal)\b"
)

_OF_THE_AIR = re.compile(
    r"(maximum_|minimum_)?(\d+m_)?(temperature|[uv]_component_of_wind|geopotential\w*|vertical_velocity|vorticity|"
    r"divergence|specific_humidity|relative_humidity|dewpoint_temperature|streamfunction|velocity_potential)|orography"
)

_GRIB_STEPS = {"max": "maximum", "min": "minimum", "sd": "standard deviation", "diff": "difference", "accum": "sum"}

_AMOUNTS = ("m", "J m-2")


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
    return re.findall(r":\s*([a-z_]+)(?!\w*:)", plain)


def _is_dewpoint(name: str, word: str) -> bool:
    return "dewpoint" in name and word.startswith("dew")
