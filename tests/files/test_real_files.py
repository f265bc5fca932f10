"""Real files, each with its quirks: opened with the right numbers, or refused in a sentence."""

import re
from pathlib import Path

import numpy as np
import pytest

from etesian.core.channels import Channel
from etesian.core.constants import STANDARD_GRAVITY, ZERO_CELSIUS
from etesian.core.dataset import channels_of
from etesian.core.errors import EtesianError
from etesian.files.diagnosis import Diagnosis, Severity
from etesian.files.doctor import examine
from etesian.files.open import field, open_store

G, C = STANDARD_GRAVITY, ZERO_CELSIUS
OPENED: list[tuple[str, str, tuple[float, float, float], tuple[int, ...]]] = [
    ("alboran_sst_gappy_daily/*.nc", "sea_surface_temperature", (14.69 + C, 18.8 + C, 21.1 + C), (10, 201, 301)),
    ("cmip6_cesm2waccm_daily_regional/orog_test.nc", "orography", (0, 0.8603, 100.4), (20, 20)),
    (
        "cmip6_cesm2waccm_daily_regional/rsds_test.nc",
        "surface_solar_radiation_downwards",
        (27.11, 210.7, 393.2),
        (365, 4, 4),
    ),
    ("cmip6_cesm2waccm_daily_regional/ua_test.nc", "u_component_of_wind", (-20.69, 11.04, 97.46), (20, 8, 20, 20)),
    ("cmip6_cesm2waccm_daily_regional/uas_test.nc", "10m_u_component_of_wind", (-16.64, -4.756, 13.39), (20, 20, 20)),
    ("cmip6_cesm2waccm_daily_regional/va_test.nc", "v_component_of_wind", (-20.63, 0.08828, 24.25), (20, 8, 20, 20)),
    ("cmip6_cesm2waccm_daily_regional/zg_test.nc", "geopotential", (65.99 * G, 11180 * G, 30830 * G), (20, 8, 20, 20)),
    ("cmip6_cesm2waccm_daily_regional/[uvz]*.nc", "geopotential", (65.99 * G, 11180 * G, 30830 * G), (20, 8, 20, 20)),
    ("cmip6_grid_zoo/tas_Amon_FGOALS*.nc", "2m_temperature", (220.9, 276.9, 309.6), (1, 80, 180)),
    ("cmip6_grid_zoo/tas_day_MIROC6*.nc", "2m_temperature", (230.2, 279.6, 317), (1, 128, 256)),
    ("cmip6_grid_zoo/tasmin_day_HadGEM3*.nc", "minimum_2m_temperature", (194.7, 266.2, 306.3), (360, 4, 5)),
    ("co2_6hourly_global/*.nc", "tcco2", (374.3, 385.8, 402.2), (31, 161, 320)),
    ("era40_tcw_daily/tcw.nc", "total_column_water", (0.08908, 21.83, 88.56), (31, 73, 144)),
    ("era5_eda_z_t_3deg/*.grib", "geopotential", (9238, 33870, 58150), (4, 10, 2, 61, 120)),
    ("era5_eda_z_t_3deg/*.grib", "temperature", (224.1, 262.9, 305.8), (4, 10, 2, 61, 120)),
    ("era5_tl31_fullstate/*.nc", "temperature", (183.1, 246.8, 306.4), (1, 37, 32, 64)),
    ("era5_tl31_fullstate/*.nc", "geopotential", (-2290, 124900, 497800), (1, 37, 32, 64)),
    ("ersstv5_monthly/*.nc", "sea_surface_temperature", (-1.8 + C, 14.05 + C, 34.1 + C), (128, 89, 180)),
    ("ncep_slp_natl_daily/*.nc", "mean_sea_level_pressure", (93960, 101400, 106600), (2922, 17, 33)),
    ("oisst_daily_westaus_41yr/*.nc", "oisst_short", (17.09, 21.67, 29.93), (14975, 2, 2)),
    ("ostia_global_daily/20170606*.nc", "sea_surface_temperature", (271.1, 286.9, 305.6), (1, 720, 1440)),
    ("ostia_global_daily/20170606*.nc", "sea_surface_temperature_anomaly", (-11.07, 0.4192, 12.23), (1, 720, 1440)),
    ("static_fields/basin_mask.nc", "basin_Z0", (1, 5.101, 56), (180, 360)),
    ("static_fields/etopo60.cdf", "ROSE", (-7473, -1896, 5731), (180, 360)),
    ("static_fields/landsea.nc", "LSMASK", (0, 0.3735, 4), (180, 360)),
    ("storm_jan1996_6hourly/?storm.cdf", "temperature", (234.1, 275.3, 307.8), (64, 33, 36)),
    ("storm_jan1996_6hourly/Pstorm.cdf", "p", (96040, 101600, 104400), (64, 33, 36)),
    ("storm_jan1996_6hourly/U500storm.cdf", "u_component_of_wind", (-24.75, 16.7, 63.75), (64, 33, 36)),
    ("storm_jan1996_6hourly/V500storm.cdf", "v_component_of_wind", (-45.64, -0.7822, 60.23), (64, 33, 36)),
    ("ukmo_na_360day/A1B_north_america.nc", "2m_temperature", (257.3, 286.5, 306.1), (240, 37, 49)),
    ("ukmo_na_360day/E1_north_america.nc", "2m_temperature", (257.3, 286, 303.8), (240, 37, 49)),
]

REFUSED = [
    ("cmip6_grid_zoo/tas_Amon_ICON*.nc", "unstructured grid of 20480 points along 'i'"),
    ("cmip6_grid_zoo/tos_Omon_FGOALS*.nc", r"curvilinear grid \(j, i\)"),
    ("cmip6_grid_zoo/tos_Omon_IITM*.nc", r"curvilinear grid \(y, x\)"),
    ("cmip6_grid_zoo", "unstructured grid|curvilinear grid"),
    ("eraint_uvz_clim/*.nc", "'z' in .* has a dimension 'month' of length 2 that is neither"),
    ("phire_wind_sr_pairs/wind_LR-MR.npz", "is NumPy.s .npz, without coordinates"),
    ("phire_wind_sr_pairs", "holds no files ending in .nc"),
    ("static_fields/land_mask.mat", "is neither NetCDF, GRIB, HDF5 nor Zarr"),
    ("windspharm_reference/regular/vrt.ref.npy", "is neither NetCDF, GRIB, HDF5 nor Zarr"),
    ("storm_jan1996_6hourly", "both hold 'u_component_of_wind' for 1996-01-05"),
    ("ukmo_na_360day", "both hold '2m_temperature' for 1860-06-01"),
]


@pytest.mark.parametrize(("pattern", "name", "numbers", "shape"), OPENED)
def test_real_files_open_with_the_numbers_known_of_them(
    shared: Path, pattern: str, name: str, numbers: tuple[float, float, float], shape: tuple[int, ...]
) -> None:
    array = open_store(str(shared / "data" / pattern))[name]
    values = array.values.astype(np.float64)
    assert array.shape == shape
    spread = numbers[2] - numbers[0]
    found = np.nanmin(values), np.nanmean(values), np.nanmax(values)
    np.testing.assert_allclose(found, numbers, rtol=6e-4, atol=1e-3 * spread)
    assert (np.diff(array.latitude) > 0).all()
    assert (np.diff(array.longitude) > 0).all()
    assert 0 <= float(array.longitude[0]) < 360


@pytest.mark.parametrize(("pattern", "message"), REFUSED)
def test_real_files_that_cannot_be_used_are_refused_and_diagnosed(shared: Path, pattern: str, message: str) -> None:
    source = str(shared / "data" / pattern)
    with pytest.raises(EtesianError, match=message) as error:
        open_store(source)
    assert "\n" not in str(error.value)
    diagnosis = examine(source)
    assert diagnosis.exit_status == 1
    assert any(re.search(message, f.text) for f in diagnosis.findings if f.severity is Severity.BROKEN)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("alboran_sst_gappy_daily/*.nc", "1 of 11 times missing (daily), the first after 2017-05-21"),
        ("co2_6hourly_global/*.nc", "'tcco2' would be 'carbon_dioxide_total_column', but its units 'kg m**-2' are no"),
        ("cmip6_cesm2waccm_daily_regional/uas_test.nc", "'10m_u_component_of_wind' has no units"),
        ("era5_tl31_fullstate/*.nc", "'specific_cloud_ice_water_content' at 1, 2, 3, 5, 7, 10, 20, 30, 50 hPa is 0"),
        ("storm_jan1996_6hourly/?storm.cdf", "'temperature' has no units; the values are taken to be in K"),
        ("static_fields/etopo60.cdf", "longitude 20.5…379.5 becomes 0.5…359.5"),
    ],
)
def test_the_quirks_of_real_files_are_diagnosed(shared: Path, pattern: str, message: str) -> None:
    diagnosis: Diagnosis = examine(str(shared / "data" / pattern))
    assert diagnosis.exit_status == 0
    assert any(message in finding.text for finding in diagnosis.findings)


@pytest.fixture(scope="module")
def forecast(shared: Path) -> Path:
    """A GFS forecast of 120 h: 343 messages in 38 hypercubes, some of which differ in the lower end of a layer only."""
    return shared / "data/gfs_grib2/gfs.t12z.pgrbf120.2p5deg.grib2"


def test_a_gfs_file_of_many_hypercubes_opens_as_one_dataset(forecast: Path) -> None:
    before = sorted(path.name for path in forecast.parent.iterdir())
    dataset = open_store(forecast)
    assert str(dataset.time.values[0])[:13] == "2011-01-15T12"
    assert len(channels_of(dataset)) == 343
    for name in ("u_component_of_wind", "v_component_of_wind"):
        assert dataset[name].shape == (1, 26, 73, 144)
        assert 20 < float(field(dataset, Channel(name, 250)).std()) < 40 or name.startswith("v")
    assert dataset.ozone_mass_mixing_ratio.attrs["levels"] == [10, 20, 30, 50, 70, 100]
    assert dataset.absv.attrs["units"] == "s**-1"
    assert {"skin_temperature", "2m_temperature", "t_tropopause", "r_to0.72_sigmaLayer0.44"} <= set(dataset.data_vars)
    assert dataset.orography.dims == ("latitude", "longitude")
    height = field(dataset, Channel("geopotential", 500)) / STANDARD_GRAVITY
    assert 4700 < float(height.min()) < float(height.max()) < 6000
    assert sorted(path.name for path in forecast.parent.iterdir()) == before


def test_a_gfs_file_needs_nothing_from_the_user(forecast: Path) -> None:
    assert examine(forecast).exit_status == 0
