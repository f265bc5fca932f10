"""Spherical harmonics obey their laws on every global grid, and agree with an independent package."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.special import sph_harm_y

from etesian.core import Grid
from etesian.core.constants import EARTH_RADIUS
from etesian.core.errors import ChannelError, DataError, GridError
from etesian.core.sphere import SphericalHarmonics, power
from etesian.store.derive import (
    derive,
    high_pass,
    kinetic_energy_spectrum,
    names_to_derive,
    power_spectrum,
    streamfunction,
    synthesise,
    truncate,
    velocity_potential,
    vorticity_divergence,
    winds,
)

ROTATION = 7.292e-5
GRIDS = {
    "points off the poles": Grid.equiangular(5.625),
    "points on the poles": Grid.equiangular(5, poles=True),
    "Gaussian": Grid.gaussian(32),
    "north pole alone, as Driscoll and Healy's": Grid(-90 + np.arange(1, 33) * 180 / 32, np.arange(64) * 5.625),
    "south pole alone": Grid(-90 + np.arange(32) * 180 / 32, np.arange(64) * 5.625),
    "odd longitudes that begin in the east": Grid(np.linspace(-90, 90, 37), 3 + np.arange(73) * 360 / 73),
    "finer in latitude": Grid(np.linspace(-89, 89, 90), np.arange(40) * 9.0),
}
every_grid = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def field(values: np.ndarray, grid: Grid, **coordinates: object) -> xr.DataArray:
    dims = (*coordinates, "latitude", "longitude")
    return xr.DataArray(values, {**coordinates, "latitude": grid.latitude, "longitude": grid.longitude}, dims)


def noise(truncation: int, batch: tuple[int, ...] = (), seed: int = 0) -> np.ndarray:
    """Random coefficients without a mean."""
    random = np.random.default_rng(seed)
    size = (*batch, truncation + 1, truncation + 1)
    coefficients = np.tril(random.standard_normal(size) + 1j * random.standard_normal(size))
    coefficients[..., 0] = coefficients[..., 0].real
    coefficients[..., 0, 0] = 0
    return coefficients


def rossby_haurwitz(grid: Grid) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Winds, vorticity and streamfunction of the wave of wavenumber 4 (Williamson et al. 1992, case 6)."""
    lat, lon = np.radians(grid.latitude)[:, None], np.radians(grid.longitude)
    w, r, a = 7.848e-6, 4, EARTH_RADIUS
    cos, sin = np.cos(lat), np.sin(lat)
    u = a * w * cos + a * w * cos ** (r - 1) * (r * sin**2 - cos**2) * np.cos(r * lon)
    v = -a * w * r * cos ** (r - 1) * sin * np.sin(r * lon)
    vorticity = 2 * w * sin - w * sin * cos**r * (r**2 + 3 * r + 2) * np.cos(r * lon)
    psi = -(a**2) * w * sin + a**2 * w * cos**r * sin * np.cos(r * lon)
    return u, v, vorticity, psi


@every_grid
def test_the_rossby_haurwitz_wave_has_its_vorticity_and_no_divergence(grid: Grid) -> None:
    u, v, expected, psi = rossby_haurwitz(grid)
    vorticity, divergence = vorticity_divergence(field(u, grid), field(v, grid))
    np.testing.assert_allclose(vorticity, expected, atol=1e-10 * abs(expected).max())
    assert abs(divergence).max() < 1e-10 * abs(expected).max()
    np.testing.assert_allclose(streamfunction(vorticity), psi, atol=1e-10 * abs(psi).max())
    back_u, back_v = winds(vorticity, divergence)
    np.testing.assert_allclose(back_u, u, atol=1e-9)
    np.testing.assert_allclose(back_v, v, atol=1e-9)


@every_grid
def test_flow_across_a_pole_and_solid_rotation_are_exact(grid: Grid) -> None:
    """Rotation about an axis in the equator blows straight across both poles, where u and v change with longitude."""
    lat, lon = np.radians(grid.latitude)[:, None], np.radians(grid.longitude)
    speed = ROTATION * EARTH_RADIUS
    u, v = -speed * np.sin(lat) * np.cos(lon), speed * np.sin(lon) + 0 * lat
    vorticity, divergence = vorticity_divergence(field(u, grid), field(v, grid))
    np.testing.assert_allclose(vorticity, 2 * ROTATION * np.cos(lat) * np.cos(lon), atol=1e-14)
    assert abs(divergence).max() < 1e-14


@every_grid
def test_what_the_grid_resolves_comes_back(grid: Grid) -> None:
    harmonics = SphericalHarmonics(grid)
    n = harmonics.truncation
    assert n == min(grid.shape[0] - max(1, int((abs(grid.latitude) == 90).sum())), (grid.shape[1] - 1) // 2)
    coefficients = noise(n, (2, 3))
    np.testing.assert_allclose(harmonics.analyse(harmonics.synthesise(coefficients)), coefficients, atol=1e-10)
    u, v = harmonics.synthesise_winds(coefficients[0], coefficients[1])
    vorticity, divergence = harmonics.analyse_winds(u, v)
    np.testing.assert_allclose(vorticity, coefficients[0], atol=1e-10)
    np.testing.assert_allclose(divergence, coefficients[1], atol=1e-10)


@every_grid
def test_coefficients_mean_the_sum_of_the_harmonics_that_scipy_gives(grid: Grid) -> None:
    coefficients = noise(15)
    n, m = (index[..., None, None] for index in np.indices((16, 16)))
    colatitude, longitude = np.radians(90 - grid.latitude)[:, None], np.radians(grid.longitude)
    harmonics = np.sqrt(4 * np.pi) * (-1.0) ** m * sph_harm_y(n, m, colatitude, longitude)
    terms = np.where(m > 0, 2, 1) * (coefficients[..., None, None] * np.where(m <= n, harmonics, 0)).real
    np.testing.assert_allclose(synthesise(coefficients, grid), terms.sum(axis=(0, 1)), atol=1e-10)


@every_grid
def test_spectra_add_up_to_area_means(grid: Grid) -> None:
    harmonics = SphericalHarmonics(grid)
    coefficients = noise(12, (2,)) * 1e-5
    single = np.zeros((13, 13), dtype=complex)
    single[5, 3] = 1
    spectrum = power_spectrum(field(harmonics.synthesise(single), grid))
    assert spectrum.dims == ("wavenumber",)
    np.testing.assert_allclose(spectrum, np.where(spectrum.wavenumber == 5, 2, 0), atol=1e-12)
    u, v = harmonics.synthesise_winds(coefficients[0], coefficients[1])
    energy = kinetic_energy_spectrum(field(u, grid), field(v, grid))
    fine = SphericalHarmonics(Grid.gaussian(64))
    weights = np.polynomial.legendre.leggauss(64)[1][:, None] / 2
    squares = sum(part**2 for part in fine.synthesise_winds(coefficients[0], coefficients[1]))
    assert float(energy.sum()) == pytest.approx((weights * squares).sum(axis=0).mean() / 2, rel=1e-10)
    expected = EARTH_RADIUS**2 / (2 * 5 * 6) * power(coefficients).sum(axis=0)[5]
    assert float(energy[5]) == pytest.approx(expected, rel=1e-10)


def test_truncation_and_high_pass_share_out_a_field() -> None:
    grid = GRIDS["points on the poles"]
    coefficients = noise(20)
    whole = field(synthesise(coefficients, grid), grid).astype(np.float32).rename("vorticity").assign_attrs(units="s-1")
    low, high = truncate(whole, 7), high_pass(whole, 7)
    assert low.dtype == np.float32
    assert (low.name, low.attrs) == (high.name, high.attrs) == ("vorticity", {"units": "s-1"})
    np.testing.assert_allclose(low, synthesise(np.where(np.arange(21)[:, None] <= 7, coefficients, 0), grid), atol=1e-4)
    np.testing.assert_allclose(low + high, whole, atol=1e-5)
    assert float(power_spectrum(high)[:8].max()) < 1e-8
    with pytest.raises(GridError, match="resolves total wavenumbers up to 35, not 36"):
        truncate(whole, 36)


def test_lazy_arrays_stay_lazy_and_in_their_order_of_dimensions() -> None:
    grid = Grid.gaussian(16)
    values = field(np.stack([rossby_haurwitz(grid)[i] for i in (0, 1, 2)]), grid, time=[0, 1, 2]).astype(np.float32)
    lazy = values.chunk(time=1, latitude=4).transpose("longitude", "time", "latitude")
    vorticity, _ = vorticity_divergence(lazy, lazy * 2)
    assert vorticity.chunks is not None
    assert vorticity.dims == lazy.dims
    assert vorticity.dtype == np.float32
    np.testing.assert_allclose(
        vorticity.transpose(*values.dims), vorticity_divergence(values, values * 2)[0], rtol=1e-5, atol=1e-12
    )


def test_grids_and_fields_that_cannot_be_transformed_are_named() -> None:
    region = Grid(np.linspace(30, 60, 7), np.arange(8) * 5.0)
    with pytest.raises(GridError, match=r"need a globe with even longitudes, which 7×8 .* is not; bring it to one"):
        SphericalHarmonics(region)
    uneven = Grid(np.linspace(-85, 85, 8), [0, 40, 90, 130, 180, 220, 270, 310])
    with pytest.raises(GridError, match="even longitudes"):
        SphericalHarmonics(uneven)
    with pytest.raises(GridError, match=r"Gaussian or evenly spaced from pole to pole, which .* are not"):
        SphericalHarmonics(Grid(np.linspace(-60, 60, 9), np.arange(16) * 22.5))
    values = np.zeros(GRIDS["Gaussian"].shape)
    values[3, 4] = np.nan
    with pytest.raises(DataError, match="need whole fields, but values are missing"):
        truncate(field(values, GRIDS["Gaussian"]), 5)


def canonical(grid: Grid, levels: tuple[int, ...] = (500, 850)) -> xr.Dataset:
    u, v, _, _ = rossby_haurwitz(grid)
    scale = np.arange(1, len(levels) + 1)[None, :, None, None] * np.arange(1, 4)[:, None, None, None]
    dims = ("time", "level", "latitude", "longitude")
    time = np.array(["2001-01-01", "2001-01-02", "2001-01-03"], "datetime64[ns]")
    return xr.Dataset(
        {
            "u_component_of_wind": (dims, (scale * u).astype(np.float32), {"units": "m s-1", "levels": list(levels)}),
            "v_component_of_wind": (dims, (scale * v).astype(np.float32), {"units": "m s-1", "levels": list(levels)}),
        },
        {"time": time, "level": list(levels), "latitude": grid.latitude, "longitude": grid.longitude},
    )


def test_derived_variables_have_the_catalogues_units_and_only_levels_that_all_winds_have() -> None:
    grid = Grid.gaussian(16)
    dataset = canonical(grid).chunk(time=1).reindex(level=[500, 850, 1000])
    dataset["v_component_of_wind"] = dataset["v_component_of_wind"].where(dataset.level > 500)
    dataset["v_component_of_wind"].attrs["levels"] = [850]
    derived = derive(dataset, ["vorticity", "streamfunction", "velocity_potential"])
    _, _, vorticity, psi = rossby_haurwitz(grid)
    assert derived["vorticity"].chunks is not None
    assert derived["vorticity"].dims == dataset["u_component_of_wind"].dims
    assert derived["vorticity"].attrs["levels"] == [850]
    assert {name: derived[name].attrs["units"] for name in ("vorticity", "streamfunction", "velocity_potential")} == {
        "vorticity": "s-1", "streamfunction": "m2 s-1", "velocity_potential": "m2 s-1",
    }  # fmt: skip
    np.testing.assert_allclose(derived["vorticity"].sel(level=850)[1], 4 * vorticity, atol=1e-9)
    np.testing.assert_allclose(derived["streamfunction"].sel(level=850)[1], 4 * psi, atol=1e-4 * abs(psi).max())
    assert derived["vorticity"].sel(level=[500, 1000]).isnull().all()


def test_winds_are_derived_back_from_vorticity_and_divergence() -> None:
    dataset = canonical(Grid.gaussian(16))
    curl = derive(dataset, ["vorticity", "divergence"]).drop_vars(list(dataset.data_vars))
    back = derive(curl, ["u_component_of_wind", "v_component_of_wind"])
    for name in dataset:
        np.testing.assert_allclose(back[name], dataset[name], atol=1e-3)


def test_what_cannot_be_derived_is_said() -> None:
    dataset = canonical(Grid.gaussian(16))
    assert names_to_derive(["vo, d", "divergence"]) == ["vorticity", "divergence"]
    with pytest.raises(ChannelError, match=r"'voriticity' cannot be derived; did you mean 'vorticity'\?"):
        derive(dataset, ["voriticity"])
    with pytest.raises(DataError, match="'vorticity' is in the data already; leave it out of derive"):
        derive(derive(dataset, ["vorticity"]), ["vorticity"])
    with pytest.raises(ChannelError, match="'divergence' is derived from u_component_of_wind and v_component_of_wind"):
        derive(dataset[["u_component_of_wind"]], ["divergence"])


def test_a_real_wind_has_the_vorticity_divergence_and_potentials_of_windspharm(shared: Path) -> None:
    folder = shared / "data" / "windspharm_reference" / "regular"
    grid = Grid.equiangular(2.5, poles=True)

    def reference(name: str) -> xr.DataArray:
        return field(np.load(folder / f"{name}.ref.npy").squeeze()[::-1].astype(np.float64), grid)

    vorticity, divergence = vorticity_divergence(reference("uwnd"), reference("vwnd"))
    found = {
        "vrt": vorticity, "div": divergence, "psi": streamfunction(vorticity), "chi": velocity_potential(divergence),
        "vrt_trunc": truncate(vorticity, 21),
        "upsi": winds(vorticity, divergence * 0)[0], "vchi": winds(vorticity * 0, divergence)[1],
    }  # fmt: skip
    for name, values in found.items():
        difference = values - reference(name)
        assert float(np.sqrt((difference**2).mean() / (reference(name) ** 2).mean())) < 1e-5, name
