"""Units as people write them."""

import numpy as np
import pytest

from etesian.core.channels import CATALOGUE
from etesian.files.units import conversion, parse_units


@pytest.mark.parametrize(
    ("spellings", "like", "factor", "offset"),
    [
        (
            "º C|°C|\ufffdC|℃|deg C|degC|degree_C|degrees_Celsius|Celcius|celsius|oC|C|Deg. C|degree Celsius",
            "K",
            1,
            273.15,
        ),
        ("Kelvin|degK|K|kelvins|degrees K", "K", 1, 0),
        ("mb|mbar|hPa|millibars|hectopascal", "Pa", 100, 0),
        ("g/kg|g kg-1|g kg**-1|g per kg", "kg kg-1", 1e-3, 0),
        ("m2/s2|m**2 s**-2|m^2 s^-2|m² s⁻²|m2.s-2|m^{2} s^{-2}", "m2 s-2", 1, 0),
        ("mm/day|mm d-1|mm day**-1|mm per day", "m s-1", 1e-3 / 86400, 0),
        ("mm/h|mm hr-1|mm hour^-1", "m s-1", 1e-3 / 3600, 0),
        ("kg m-2 s-1|kg/m2/s|kg m**-2 s**-1|kg/m²/s", "kg m-2 s-1", 1, 0),
        ("W m-2|W/m2|W m**-2|J m-2 s-1", "W m-2", 1, 0),
        ("1e-5 s-1|10^-5 s-1|1.0E-5 /s", "s-1", 1e-5, 0),
        ("gpm|m|geopotential_meters|metres", "m", 1, 0),
        ("in|inches", "m", 0.0254, 0),
        ("inHg", "Pa", 3386.389, 0),
        ("mmHg", "Pa", 133.3224, 0),
        ("mph", "m s-1", 0.44704, 0),
        ("0.1 degC", "K", 0.1, 273.15),
    ],
)
def test_spellings_mean_one_unit(spellings: str, like: str, factor: float, offset: float) -> None:
    known = parse_units(like)
    assert known is not None
    for spelling in spellings.split("|"):
        unit = parse_units(spelling)
        assert unit is not None, spelling
        assert unit.dimension == known.dimension, spelling
        np.testing.assert_allclose((unit.scale / known.scale, unit.offset), (factor, offset), rtol=1e-12)


@pytest.mark.parametrize("text", ["", "furlong", "m s-", "days since 2000-01-01", "(Code table 4.222)", "degC 1"])
def test_what_means_nothing_is_no_unit(text: str) -> None:
    assert parse_units(text) is None


@pytest.mark.parametrize(
    ("units", "name"),
    [
        ("kg m-2 s-1", "total_precipitation"),
        ("mm day-1", "total_precipitation"),
        ("kg m-2", "precipitation_flux"),
        ("mm", "precipitation_flux"),
        ("J m-2", "surface_solar_radiation_downwards"),
        ("W m-2", "toa_incident_solar_radiation"),
        ("K2", "2m_temperature"),
        ("K", "geopotential"),
    ],
)
def test_amounts_and_fluxes_are_never_converted_into_each_other(units: str, name: str) -> None:
    assert conversion(units, CATALOGUE[name]) is None
