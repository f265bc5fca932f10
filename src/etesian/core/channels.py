"""Channels and the catalogue of variables: WeatherBench 2 name ↔ CF standard name ↔ units ↔ short names."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from etesian.core.errors import ChannelError, suggest


class Channel(NamedTuple):
    """One field of the atmosphere or ocean: a variable, at a pressure level in hPa where it has one.

    >>> str(Channel("temperature", 850)), str(Channel("2m_temperature"))
    ('temperature_850', '2m_temperature')
    """

    name: str
    level: int | None = None

    def __str__(self) -> str:
        return self.name if self.level is None else f"{self.name}_{self.level}"

    @classmethod
    def parse(cls, text: str) -> "Channel":
        """Read `temperature_850` or `2m_temperature`.

        A trailing number is a level only where the catalogue knows the variable before it, or does not
        know the whole text.

        >>> Channel.parse("geopotential_500")
        Channel(name='geopotential', level=500)
        """
        match = re.fullmatch(r"(.+)_(\d+)", text)
        if match is None or text in CATALOGUE:
            return cls(text)
        return cls(match[1], int(match[2]))


@dataclass(frozen=True)
class Variable:
    """What the catalogue knows of one variable.

    Attributes:
        name: WeatherBench 2 name.
        standard_name: CF standard name; empty where CF has none.
        units: canonical units, as written into files.
        aliases: short and long names under which centres and model archives store it.
        also: standard names, besides its own, that a file may give a variable that bears one of these names.
        minimum: smallest value that is physically credible, in `units`.
        maximum: largest value that is physically credible, in `units`.
        static: does not change in time.
        limits: that no value can pass, None where there is none.
        accumulation_hours: hours up to the time of the field over which it is summed; None for an instant, and where
            sources differ.
    """

    name: str
    standard_name: str
    units: str
    aliases: tuple[str, ...]
    minimum: float
    maximum: float
    static: bool = False
    limits: tuple[float | None, float | None] = (None, None)
    also: tuple[str, ...] = ()
    accumulation_hours: int | None = None


ACCUMULATED = (6, 12, 24)
"""Hours over which WeatherBench 2 sums precipitation."""

SHARES: dict[str, tuple[float | None, float | None]] = dict.fromkeys(("total_cloud_cover", "sea_ice_cover"), (0.0, 1.0))

NEVER_NEGATIVE = {
    "specific_humidity", "relative_humidity", "ozone_mass_mixing_ratio", "specific_cloud_ice_water_content",
    "specific_cloud_liquid_water_content", "total_precipitation", "precipitation_flux",
    "surface_solar_radiation_downwards", "toa_incident_solar_radiation", "total_column_water",
    "total_column_water_vapour",
}  # fmt: skip

ALSO_CALLED = {
    "geopotential": "geopotential_height",
    "u_component_of_wind": "x_wind grid_eastward_wind",
    "v_component_of_wind": "y_wind grid_northward_wind",
    "vertical_velocity": "vertical_air_velocity_expressed_as_tendency_of_pressure",
    "vorticity": "atmosphere_upward_relative_vorticity relative_vorticity",
    "2m_temperature": "air_temperature",
    "2m_dewpoint_temperature": "dew_point_temperature",
    "maximum_2m_temperature": "air_temperature",
    "minimum_2m_temperature": "air_temperature",
    **dict.fromkeys(("10m_u_component_of_wind", "100m_u_component_of_wind"), "eastward_wind x_wind grid_eastward_wind"),
    **dict.fromkeys(
        ("10m_v_component_of_wind", "100m_v_component_of_wind"), "northward_wind y_wind grid_northward_wind"
    ),
    "skin_temperature": "surface_skin_temperature land_surface_skin_temperature",
    "mean_sea_level_pressure": "air_pressure_at_sea_level air_pressure_reduced_to_mean_sea_level air_pressure",
    "surface_pressure": "air_pressure",
    "sea_surface_temperature": (
        "sea_surface_foundation_temperature sea_surface_skin_temperature sea_surface_subskin_temperature "
        "sea_water_temperature sea_water_potential_temperature sea_water_conservative_temperature surface_temperature"
    ),
    "sea_surface_temperature_anomaly": "surface_temperature_anomaly sea_surface_temperature",
    "total_cloud_cover": "cloud_area_fraction_in_atmosphere",
    "total_precipitation": (
        "precipitation_amount thickness_of_precipitation_amount lwe_precipitation_rate precipitation_flux"
    ),
    "precipitation_flux": "lwe_precipitation_rate precipitation_rate",
    "surface_solar_radiation_downwards": "surface_downwelling_shortwave_flux surface_downward_shortwave_flux",
    "total_column_water": "atmosphere_mass_content_of_water lwe_thickness_of_atmosphere_mass_content_of_water",
    "total_column_water_vapour": (
        "atmosphere_water_vapor_content lwe_thickness_of_atmosphere_mass_content_of_water_vapor"
    ),
    "toa_incident_solar_radiation": "toa_incoming_shortwave_fluence",
    "orography": (
        "altitude height geopotential_height ground_level_altitude height_above_mean_sea_level height_above_geoid "
        "height_above_reference_ellipsoid surface_elevation"
    ),
    "geopotential_at_surface": "geopotential surface_geopotential",
    "land_sea_mask": "land_area_fraction",
}
"""Standard names that do not gainsay a variable's name; any other that is not its own does."""


def _variables() -> Iterable[Variable]:
    on_levels = [
        ("geopotential", "geopotential", "m2 s-2", "z phi", -1e4, 6e5),
        ("temperature", "air_temperature", "K", "t ta", 130, 350),
        ("u_component_of_wind", "eastward_wind", "m s-1", "u ua uwnd", -200, 200),
        ("v_component_of_wind", "northward_wind", "m s-1", "v va vwnd", -200, 200),
        ("vertical_velocity", "lagrangian_tendency_of_air_pressure", "Pa s-1", "w wap omega", -100, 100),
        ("specific_humidity", "specific_humidity", "kg kg-1", "q hus", -1e-3, 0.06),
        ("relative_humidity", "relative_humidity", "%", "r hur rh", -30, 200),
        ("vorticity", "atmosphere_relative_vorticity", "s-1", "vo vort", -0.02, 0.02),
        ("divergence", "divergence_of_wind", "s-1", "d div", -0.02, 0.02),
        ("streamfunction", "atmosphere_horizontal_streamfunction", "m2 s-1", "strf", -1e9, 1e9),
        ("velocity_potential", "atmosphere_horizontal_velocity_potential", "m2 s-1", "vp", -2e8, 2e8),
        ("ozone_mass_mixing_ratio", "mass_fraction_of_ozone_in_air", "kg kg-1", "o3 o3mr", -1e-6, 1e-4),
        ("specific_cloud_ice_water_content", "mass_fraction_of_cloud_ice_in_air", "kg kg-1", "ciwc", -1e-6, 0.02),
        (
            "specific_cloud_liquid_water_content",
            "mass_fraction_of_cloud_liquid_water_in_air",
            "kg kg-1",
            "clwc clwmr",
            -1e-6,
            0.02,
        ),
    ]
    surface = [
        ("2m_temperature", "", "K", "t2m 2t tas air_temperature_2m", 170, 340),
        ("2m_dewpoint_temperature", "dew_point_temperature", "K", "d2m 2d", 150, 320),
        ("maximum_2m_temperature", "", "K", "tasmax mx2t tmax mx2t3 mx2t6 mx2t24", 170, 345),
        ("minimum_2m_temperature", "", "K", "tasmin mn2t tmin mn2t3 mn2t6 mn2t24", 165, 340),
        ("10m_u_component_of_wind", "", "m s-1", "u10 10u uas", -100, 100),
        ("10m_v_component_of_wind", "", "m s-1", "v10 10v vas", -100, 100),
        ("100m_u_component_of_wind", "", "m s-1", "u100 100u", -120, 120),
        ("100m_v_component_of_wind", "", "m s-1", "v100 100v", -120, 120),
        ("skin_temperature", "surface_temperature", "K", "skt ts", 150, 360),
        ("mean_sea_level_pressure", "air_pressure_at_mean_sea_level", "Pa", "msl psl slp prmsl mslet", 8.5e4, 1.1e5),
        ("surface_pressure", "surface_air_pressure", "Pa", "sp ps", 3e4, 1.12e5),
        (
            "sea_surface_temperature",
            "sea_surface_temperature",
            "K",
            "sst tos analysed_sst sea_surface_foundation_temperature",
            268,
            312,
        ),
        ("sea_surface_temperature_anomaly", "", "K", "sst_anomaly", -20, 20),
        ("sea_ice_cover", "sea_ice_area_fraction", "1", "siconc ci sea_ice_fraction", -0.01, 1.01),
        ("total_cloud_cover", "cloud_area_fraction", "1", "tcc clt", -0.01, 1.01),
        ("total_precipitation", "lwe_thickness_of_precipitation_amount", "m", "tp", -1e-5, 2.0),
        *(
            (f"total_precipitation_{hours}hr", "lwe_thickness_of_precipitation_amount", "m", "", -1e-5, 2.0)
            for hours in ACCUMULATED
        ),
        ("precipitation_flux", "precipitation_flux", "kg m-2 s-1", "pr tprate", -1e-8, 0.05),
        (
            "surface_solar_radiation_downwards",
            "surface_downwelling_shortwave_flux_in_air",
            "W m-2",
            "rsds sdswrf",
            -1,
            1500,
        ),
        ("total_column_water", "", "kg m-2", "tcw", -0.1, 120),
        ("total_column_water_vapour", "atmosphere_mass_content_of_water_vapor", "kg m-2", "tcwv pwat prw", -0.1, 120),
        ("toa_incident_solar_radiation", "toa_incoming_shortwave_flux", "J m-2", "tisr", -1, 1e7),
        ("carbon_dioxide_total_column", "", "ppm", "tcco2 total_column_co2", 300, 700),
    ]
    static = [
        ("orography", "surface_altitude", "m", "orog oro altitude elevation topo", -1000, 9000),
        ("geopotential_at_surface", "", "m2 s-2", "", -1e4, 9e4),
        ("land_sea_mask", "land_binary_mask", "1", "lsm sftlf", -0.01, 1.01),
        ("latitude_field", "", "degrees_north", "lattitude lat2d", -90, 90),
    ]
    for rows, is_static in ((on_levels, False), (surface, False), (static, True)):
        for name, standard_name, units, aliases, minimum, maximum in rows:
            summed = re.fullmatch(r"total_precipitation_(\d+)hr", name)
            yield Variable(
                name,
                standard_name,
                units,
                tuple(aliases.split()),
                minimum,
                maximum,
                is_static,
                SHARES.get(name, (0.0, None) if name in NEVER_NEGATIVE or summed else (None, None)),
                tuple(ALSO_CALLED.get("total_precipitation" if summed else name, "").split()),
                int(summed[1]) if summed else None,
            )


AVERAGING_HOURS = "averaging_hours"
"""Attribute of forecast variables that are means over so many hours up to the lead, the lead included."""

ACCUMULATION_HOURS = "accumulation_hours"
"""Attribute of forecast variables that are sums over so many hours up to the lead."""

CATALOGUE: dict[str, Variable] = {variable.name: variable for variable in _variables()}
"""Every known variable by its WeatherBench 2 name."""

_BY_ALIAS: dict[str, str] = {
    alias.lower(): variable.name for variable in CATALOGUE.values() for alias in (*variable.aliases, variable.name)
}


def canonical_name(name: str) -> str | None:
    """Return the WeatherBench 2 name for a name or short name used in a file, or None if it is unknown.

    >>> canonical_name("tas"), canonical_name("Z"), canonical_name("foo")
    ('2m_temperature', 'geopotential', None)
    """
    return _BY_ALIAS.get(name.lower())


def parse_channels(names: Sequence[str], known: Iterable[Channel]) -> tuple[Channel, ...]:
    """Resolve names against the channels that exist; a variable's bare name stands for all its levels.

    Args:
        names: such as `temperature_850`, `2m_temperature`, or `temperature` for every level there is. A short name
            (`t2m`) that no channel bears stands for what it means.
        known: the channels to choose from, whose order is kept within a bare name.

    Raises:
        ChannelError: if a name matches nothing, with the closest one that exists.

    >>> known = [Channel("temperature", 500), Channel("temperature", 850), Channel("2m_temperature")]
    >>> [str(c) for c in parse_channels(["2m_temperature", "temperature"], known)]
    ['2m_temperature', 'temperature_500', 'temperature_850']
    """
    available = list(known)
    chosen: list[Channel] = []
    for name in names:
        exact = [c for c in available if str(c) == name]
        matching = exact or [c for c in available if c.name == name]
        matching = matching or [c for c in available if c.name == canonical_name(name)]
        if not matching:
            options = {str(c) for c in available} | {c.name for c in available}
            raise ChannelError(f"there is no channel '{name}'{suggest(name, options)}")
        chosen += [c for c in matching if c not in chosen]
    return tuple(chosen)
