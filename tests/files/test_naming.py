"""What a variable is, decided from all that a file says of it."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.core.channels import CATALOGUE
from etesian.core.errors import DataError
from etesian.files.canonical import canonicalise
from etesian.files.doctor import examine
from etesian.files.naming import HEIGHT, PRESSURE, SURFACE, Place, Said, identify, level_in_name, statement
from etesian.files.open import open_store


def fields(**variables: dict[str, str]) -> xr.Dataset:
    """Two days of fields on a small grid, one for each set of attributes."""
    values = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), values.copy(), attrs) for name, attrs in variables.items()},
        {
            "time": np.array(["2001-01-01", "2001-01-02"], "datetime64[ns]"),
            "lat": ("lat", [-10.0, 0.0, 10.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 90.0, 180.0, 270.0], {"units": "degrees_east"}),
        },
    )


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (Said("u", standard_name="sea_water_x_velocity", units="m s-1"), "sea_water_x_velocity"),
        (Said("z", standard_name="sea_surface_height", units="m"), "sea_surface_height"),
        (Said("t", standard_name="sea_ice_temperature", units="K"), "sea_ice_temperature"),
        (Said("r", standard_name="runoff_flux", units="%"), "runoff_flux"),
        (Said("tp", standard_name="tendency_of_air_temperature", units="m"), "tendency_of_air_temperature"),
        (Said("tas", standard_name="air_temperature standard_error", units="K"), "air_temperature_standard_error"),
        (Said("lsm", standard_name="sea_binary_mask", units="1"), "sea_binary_mask"),
        (Said("tas", standard_name="air_temperature", units="K"), "2m_temperature"),
        (Said("tas", standard_name="temperature", units="K"), "2m_temperature"),
        (Said("u10", standard_name="x_wind", units="m s-1"), "10m_u_component_of_wind"),
        (Said("psl", standard_name="air_pressure_at_sea_level", units="Pa"), "mean_sea_level_pressure"),
        (Said("sst", standard_name="sea_surface_skin_temperature", units="K"), "sea_surface_temperature"),
        (Said("tos", standard_name="sea_water_temperature", units="degC"), "sea_surface_temperature"),
        (Said("thetao", standard_name="sea_water_potential_temperature", units="degC"), "thetao"),
        (Said("elevation", standard_name="height_above_mean_sea_level", units="m", static=True), "orography"),
        (Said("sftlf", standard_name="land_area_fraction", units="%"), "land_sea_mask"),
    ],
)
def test_a_standard_name_that_is_something_else_rules_the_short_name_out(said: Said, name: str) -> None:
    assert identify(said).name == name


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (Said("t", long_name="Soil temperature level 1", units="K"), "t_soil"),
        (Said("temperature", long_name="Sea water temperature", units="degC"), "temperature_sea"),
        (Said("t2m", long_name="2 metre temperature anomaly", units="degC"), "t2m_anomaly"),
        (Said("ta", long_name="Air temperature", units="K"), "temperature"),
        (Said("u10", long_name="10 metre U wind component", units="m s-1"), "10m_u_component_of_wind"),
        (Said("u10", long_name="wind 10 m above mean sea level", units="m s-1"), "10m_u_component_of_wind"),
        (Said("d2m", long_name="2 metre dewpoint temperature", units="K"), "2m_dewpoint_temperature"),
        (Said("t2m", long_name="2 metre dew point temperature", units="K"), "t2m_dew_point"),
        (Said("tas", long_name="Bias-Adjusted Near-Surface Air Temperature", units="K"), "2m_temperature"),
        (Said("sftlf", long_name="Percentage of the Grid Cell Occupied by Land (Including Lakes)", units="%"),
         "land_sea_mask"),
        (Said("sst", long_name="sea surface temperature anomaly", units="degC"), "sea_surface_temperature_anomaly"),
        (Said("sst_anomaly", long_name="SST anomaly from the Pathfinder climatology", units="K"),
         "sea_surface_temperature_anomaly"),
        (Said("tas", long_name="Daily maximum temperature", units="K"), "maximum_2m_temperature"),
        (Said("pr", long_name="climatology of precipitation", units="kg m-2 s-1"), "pr_climatology"),
        (Said("sst", long_name="Long Term Mean of sst", units="degC"), "sst_climatology"),
        (Said("z", long_name="depth", units="m"), "z_depth"),
        (Said("wap", long_name="Lagrangian tendency of air pressure", units="Pa s-1"), "vertical_velocity"),
        (Said("tas", standard_name="air_temperature", long_name="Uncertainty of temperature", units="K"), "tas_error"),
    ],
)  # fmt: skip
def test_the_long_name_counts(said: Said, name: str) -> None:
    assert identify(said).name == name


@pytest.mark.parametrize(
    ("name", "methods", "expected"),
    [
        ("tas", "time: mean", "2m_temperature"),
        ("tas", "area: mean time: point", "2m_temperature"),
        ("tas", "area: time: mean (interval: 10 minutes)", "2m_temperature"),
        ("tas", "time: maximum", "maximum_2m_temperature"),
        ("tasmax", "area: mean time: maximum within days time: mean over days", "maximum_2m_temperature"),
        ("tasmax", "time: maximum within years time: mean over years", "tasmax_climatology"),
        ("tasmax", "time: minimum", "tasmax_minimum"),
        ("tas", "time: standard_deviation", "tas_standard_deviation"),
        ("tas", "time: variance", "tas_variance"),
        ("tas", "realization: standard_deviation", "tas_standard_deviation"),
        ("tas", "time: median", "tas_percentile"),
        ("uas", "time: maximum (interval: 1 hour)", "uas_maximum"),
        ("uas", "max", "uas_maximum"),
        ("psl", "time: minimum", "psl_minimum"),
        ("tos", "area: mean where sea time: mean", "sea_surface_temperature"),
        ("tos", "time: range", "tos_range"),
        ("psl", "time: sum", "psl_sum"),
        ("tp", "time: sum", "total_precipitation"),
        ("tp", "accum", "total_precipitation"),
        ("tp", "time: maximum", "tp_maximum"),
        ("sfcWindmax", "time: maximum", "sfcWindmax"),
    ],
)
def test_statistics_in_time_are_no_instants(name: str, methods: str, expected: str) -> None:
    units = {"uas": "m s-1", "psl": "Pa", "tp": "m", "sfcWindmax": "m s-1"}.get(name, "K")
    assert identify(Said(name, units=units, cell_methods=methods)).name == expected


def test_a_statistic_of_a_quantity_named_by_its_place_is_one_too() -> None:
    at_two_metres = Said("x", Place(HEIGHT, 2), "air_temperature", units="degC", cell_methods="time: minimum")
    assert identify(at_two_metres).name == "minimum_2m_temperature"


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [
        ("u", Place(HEIGHT, 10.0), "10m_u_component_of_wind"),
        ("u", Place(HEIGHT, 10000.0), "u_heightAboveGround10000"),
        ("u10", Place(HEIGHT, 100.0), "u10_heightAboveGround100"),
        ("u10", Place("altitude", 10.0), "u10_altitude10"),
        ("sst", Place("zlev"), "sea_surface_temperature"),
        ("sst", Place("depth", 0.5), "sea_surface_temperature"),
        ("sst", Place("depth", 200.0), "sst_depth200"),
        ("t", Place("depth", 0.1), "t_depth0.1"),
        ("t", Place(SURFACE), "skin_temperature"),
        ("t", Place(PRESSURE), "temperature"),
    ],
)
def test_the_place_decides_among_variables_of_one_quantity(name: str, place: Place, expected: str) -> None:
    units = "m s-1" if name[0] == "u" else "K"
    assert identify(Said(name, place, units=units)).name == expected


def test_precipitation_in_units_of_a_rate_is_a_rate_and_in_units_of_an_amount_is_none() -> None:
    assert identify(Said("tp", units="mm/day")).name == "precipitation_flux"
    assert identify(Said("total_precipitation", units="kg m-2 s-1")).name == "precipitation_flux"
    assert identify(Said("pr", units="mm")).variable is None


def test_no_two_variables_share_a_standard_name_but_precipitation_summed_over_several_periods() -> None:
    shared = Counter(variable.standard_name for variable in CATALOGUE.values() if variable.standard_name)
    assert [name for name, count in shared.items() if count > 1] == ["lwe_thickness_of_precipitation_amount"]
    assert identify(Said("x", standard_name="lwe_thickness_of_precipitation_amount", units="m")).name == (
        "total_precipitation"
    )
    six = Said("total_precipitation_6hr", standard_name="lwe_thickness_of_precipitation_amount", units="m")
    assert identify(six).name == "total_precipitation_6hr"


def test_no_alias_stands_for_two_variables() -> None:
    names = Counter(alias.lower() for v in CATALOGUE.values() for alias in {*v.aliases, v.name})
    assert names.most_common(1)[0][1] == 1


def test_every_variable_is_found_by_its_own_name_standard_name_and_units() -> None:
    for variable in CATALOGUE.values():
        for standard_name in (variable.standard_name, *variable.also):
            place = Place(PRESSURE) if variable.name in ("geopotential",) else Place()
            said = Said(variable.name, place, standard_name, variable.name.replace("_", " "), variable.units)
            assert identify(said).name == variable.name


def test_differences_of_temperature_take_no_offset_and_the_doctor_says_what_was_decided(tmp_path: Path) -> None:
    file = fields(
        tas={"units": "degC", "standard_name": "air_temperature", "cell_methods": "time: range"},
        t2m={"units": "degC", "units_metadata": "temperature: difference"},
    )
    file.to_netcdf(tmp_path / "a.nc")
    opened = open_store(tmp_path / "a.nc")
    np.testing.assert_array_equal(opened.tas_range, file.tas)
    np.testing.assert_array_equal(opened.t2m_difference, file.t2m)
    assert opened.tas_range.attrs["units"] == "degC"
    told = [finding.text for finding in examine(tmp_path / "a.nc").findings]
    assert "'tas' says that it is 'range', so it is no '2m_temperature': named 'tas_range', its units kept" in told


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("ta850", ("ta", 850)),
        ("hus700", ("hus", 700)),
        ("z_500", ("z", 500)),
        ("t50hPa", ("t", 50)),
        ("temperature_10", ("temperature", 10)),
        ("u10", None),
        ("u100", None),
        ("t2", None),
        ("ua100m", None),
        ("t2020", None),
        ("band850", None),
    ],
)
def test_levels_are_read_from_names(name: str, expected: tuple[str, int] | None) -> None:
    assert level_in_name(name) == expected


def test_variables_named_by_their_level_become_levels_of_one(tmp_path: Path) -> None:
    file = fields(ta850={"units": "degC"}, ta500={"units": "degC"}, zg500={"units": "m"}, tas={"units": "K"})
    file.to_netcdf(tmp_path / "a.nc")
    opened = open_store(tmp_path / "a.nc")
    assert set(opened.data_vars) == {"temperature", "geopotential", "2m_temperature"}
    assert opened.temperature.attrs["levels"] == [500, 850]
    assert opened.geopotential.attrs["levels"] == [500]
    np.testing.assert_allclose(opened.temperature.sel(level=850), file.ta850 + 273.15, rtol=1e-6)
    assert not any("left out" in finding.text for finding in examine(tmp_path / "a.nc").findings)


def test_a_channel_that_occurs_twice_is_refused() -> None:
    levels = fields(t={"units": "K"}).t.expand_dims(level=[500, 850], axis=1)
    levels.level.attrs["units"] = "hPa"
    file = fields(temperature_850={"units": "K"}).assign(t=levels)
    with pytest.raises(
        DataError, match=r"'temperature' twice, as 'temperature_850' and 't'; .*delname,temperature_850"
    ):
        canonicalise(file, "a.nc")
    with pytest.raises(DataError, match="the channel 'foo_850' occurs twice, as a variable and as a level of another"):
        canonicalise(file.rename(t="foo", temperature_850="foo_850"), "a.nc")


def test_a_name_that_contradicts_the_level_of_a_field_is_refused() -> None:
    file = fields(ta850={"units": "K"}).assign_coords(plev=((), 50000.0, {"units": "Pa"}))
    with pytest.raises(DataError, match=r"'ta850' in a\.nc lies at 500 hPa by its coordinate: rename it"):
        canonicalise(file, "a.nc")


def test_a_height_names_only_the_variables_that_point_at_it(tmp_path: Path) -> None:
    file = fields(a={"units": "K", "standard_name": "air_temperature"}, t={"units": "K"})
    file["height"] = ((), 2.0, {"units": "m", "standard_name": "height"})
    file.a.encoding["coordinates"] = "height"
    file.to_netcdf(tmp_path / "a.nc")
    assert set(open_store(tmp_path / "a.nc").data_vars) == {"2m_temperature", "temperature"}


def test_a_height_that_nobody_points_at_belongs_to_the_only_field() -> None:
    alone = fields(a={"units": "K", "standard_name": "air_temperature"}).assign_coords(height=2.0)
    assert list(canonicalise(alone, "a.nc")[0].data_vars) == ["2m_temperature"]
    two = alone.assign(b=alone.a.assign_attrs(standard_name="relative_humidity", units="%"))
    assert list(canonicalise(two, "a.nc")[0].data_vars) == ["temperature", "relative_humidity"]


def test_words_in_parentheses_do_not_count() -> None:
    assert statement("time: mean (comment: maximum of samples)", "Temperature (over soil)") == ("", "")


def test_two_variables_of_one_unknown_meaning_keep_their_names(tmp_path: Path) -> None:
    current = {"units": "m s-1", "standard_name": "eastward_sea_water_velocity"}
    file = fields(u=current, ua=current)
    file.ua.values += 7
    file.to_netcdf(tmp_path / "a.nc")
    opened = open_store(tmp_path / "a.nc")
    assert set(opened.data_vars) == {"u", "ua"}
    np.testing.assert_array_equal(opened.ua, file.ua)
    said = "'u' and 'ua' say that they are 'eastward_sea_water_velocity': each keeps its name"
    assert said in [finding.text for finding in examine(tmp_path / "a.nc").findings]
    fields(u=current).to_netcdf(tmp_path / "b.nc")
    assert list(open_store(tmp_path / "b.nc").data_vars) == ["eastward_sea_water_velocity"]
