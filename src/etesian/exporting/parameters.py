"""GRIB 2's codes of the catalogue's variables: WMO's tables 4.2, 4.5 and 4.10."""

from typing import NamedTuple

GROUND, TOP, SEA_LEVEL, ISOBARIC, ABOVE_GROUND = 1, 8, 101, 100, 103
"""Fixed surfaces: code table 4.5."""

MEAN, SUM, MAXIMUM, MINIMUM = 0, 1, 2, 3
"""What is done over time: code table 4.10."""


class Parameter(NamedTuple):
    """How GRIB 2 tells a variable.

    Attributes:
        discipline: code table 0.0.
        category: code table 4.1.
        number: code table 4.2.
        surface: type of the first fixed surface.
        height: its value in m, where it has one; levels in hPa come from the fields.
        process: what is done over time, for what is never an instant.
        factor: from the catalogue's units to GRIB's.
        column: whether it is of the whole air column, from the surface to the top.
    """

    discipline: int
    category: int
    number: int
    surface: int = ISOBARIC
    height: int | None = None
    process: int | None = None
    factor: float = 1.0
    column: bool = False


PARAMETERS: dict[str, Parameter] = {
    "geopotential": Parameter(0, 3, 4),
    "temperature": Parameter(0, 0, 0),
    "u_component_of_wind": Parameter(0, 2, 2),
    "v_component_of_wind": Parameter(0, 2, 3),
    "vertical_velocity": Parameter(0, 2, 8),
    "specific_humidity": Parameter(0, 1, 0),
    "relative_humidity": Parameter(0, 1, 1),
    "vorticity": Parameter(0, 2, 12),
    "divergence": Parameter(0, 2, 13),
    "streamfunction": Parameter(0, 2, 4),
    "velocity_potential": Parameter(0, 2, 5),
    "ozone_mass_mixing_ratio": Parameter(0, 14, 1),
    "specific_cloud_ice_water_content": Parameter(0, 1, 84),
    "specific_cloud_liquid_water_content": Parameter(0, 1, 83),
    "2m_temperature": Parameter(0, 0, 0, ABOVE_GROUND, 2),
    "2m_dewpoint_temperature": Parameter(0, 0, 6, ABOVE_GROUND, 2),
    "maximum_2m_temperature": Parameter(0, 0, 0, ABOVE_GROUND, 2, MAXIMUM),
    "minimum_2m_temperature": Parameter(0, 0, 0, ABOVE_GROUND, 2, MINIMUM),
    "10m_u_component_of_wind": Parameter(0, 2, 2, ABOVE_GROUND, 10),
    "10m_v_component_of_wind": Parameter(0, 2, 3, ABOVE_GROUND, 10),
    "100m_u_component_of_wind": Parameter(0, 2, 2, ABOVE_GROUND, 100),
    "100m_v_component_of_wind": Parameter(0, 2, 3, ABOVE_GROUND, 100),
    "skin_temperature": Parameter(0, 0, 17, GROUND),
    "mean_sea_level_pressure": Parameter(0, 3, 0, SEA_LEVEL),
    "surface_pressure": Parameter(0, 3, 0, GROUND),
    "sea_surface_temperature": Parameter(10, 3, 0, GROUND),
    "sea_ice_cover": Parameter(10, 2, 0, GROUND),
    "total_cloud_cover": Parameter(0, 6, 1, GROUND, factor=100.0, column=True),
    "total_precipitation": Parameter(0, 1, 52, GROUND, process=SUM, factor=1000.0),
    "total_precipitation_6hr": Parameter(0, 1, 52, GROUND, process=SUM, factor=1000.0),
    "total_precipitation_12hr": Parameter(0, 1, 52, GROUND, process=SUM, factor=1000.0),
    "total_precipitation_24hr": Parameter(0, 1, 52, GROUND, process=SUM, factor=1000.0),
    "precipitation_flux": Parameter(0, 1, 52, GROUND),
    "surface_solar_radiation_downwards": Parameter(0, 4, 7, GROUND),
    "total_column_water": Parameter(0, 1, 51, GROUND, column=True),
    "total_column_water_vapour": Parameter(0, 1, 64, GROUND, column=True),
    "toa_incident_solar_radiation": Parameter(0, 4, 7, TOP, process=SUM),
    "orography": Parameter(0, 3, 5, GROUND),
    "geopotential_at_surface": Parameter(0, 3, 4, GROUND),
    "land_sea_mask": Parameter(2, 0, 0, GROUND),
}
"""By WeatherBench 2 name; precipitation in kg m⁻² and cloud cover in %, all else in the catalogue's units."""
