"""Fields on reduced and HEALPix grids, in GRIB, NetCDF and Zarr and from anemoi: opened, prepared, told, refused."""

from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray as xr
import zarr

import etesian as et
from etesian.core import Grid
from etesian.core.cells import Healpix, recognised
from etesian.core.errors import DataError, GridError
from etesian.core.grid import Region
from etesian.files.canonical import canonicalise
from etesian.files.cells import grid_of
from etesian.files.decoding import _Values

TARGET = Grid.equiangular(15)


def points(counts: Any) -> tuple[Any, Any]:
    """Latitudes and longitudes of a reduced Gaussian grid, in the order of GRIB."""
    latitude = np.repeat(Grid.gaussian(counts.size).latitude[::-1], counts)
    return latitude, np.concatenate([np.arange(count) * 360 / count for count in counts])


N32 = points(eccodes.codes_get_array(eccodes.codes_grib_new_from_samples("reduced_gg_pl_32_grib2"), "pl"))

O8 = points(20 + 4 * np.minimum(np.arange(16), np.arange(16)[::-1]))

NOISE = np.random.default_rng(0).normal(250, 5, O8[0].size)

SHARES = recognised(*O8).shares(TARGET)


def grib(path: Path, values: Any, edition: int = 2, **keys: Any) -> Path:
    """Add a message on N32, the grid of eccodes' samples, or on another that the keys tell."""
    sample = "GRIB2" if "gridType" in keys else f"reduced_gg_pl_32_grib{edition}"
    handle = eccodes.codes_grib_new_from_samples(sample)
    for key, value in {"dataDate": 20010101, "bitsPerValue": 24, **keys}.items():
        eccodes.codes_set(handle, key, value)
    eccodes.codes_set_values(handle, values)
    with path.open("ab") as file:
        eccodes.codes_write(handle, file)
    eccodes.codes_release(handle)
    return path


def listed(latitude: Any, longitude: Any, values: Any, name: str = "t2m", units: str = "K") -> xr.Dataset:
    """A field whose points are listed along one dimension, at as many times as the values have."""
    values = np.atleast_2d(values).astype(np.float32)
    days = np.arange(len(values)) * np.timedelta64(1, "D") + np.datetime64("2001-01-01", "ns")
    coords = {"time": days, "latitude": ("values", latitude), "longitude": ("values", longitude)}
    return xr.Dataset({name: (("time", "values"), values, {"units": units})}, coords)


def healpix(values: Any, **attributes: Any) -> xr.Dataset:
    """A field on HEALPix that tells no points."""
    field = xr.Dataset({"t2m": ("cell", values, {"units": "K", "grid_mapping": "crs"})})
    return field.assign(crs=((), 0, {"grid_mapping_name": "healpix", **attributes}))


@pytest.mark.parametrize("edition", [1, 2])
def test_reduced_gaussian_grib_opens_on_a_named_grid(tmp_path: Path, edition: int) -> None:
    values = 280 + 20 * np.sin(np.radians(2 * N32[0])) * np.cos(np.radians(N32[1]))
    for level in (850, 500):
        path = grib(tmp_path / "a.grib", values + level / 100, edition, level=level)
    opened = et.open(path, grid=15)
    assert opened.temperature.dims == ("time", "level", "latitude", "longitude")
    field = opened.temperature.isel(time=0).sel(level=500)
    expected = 285 + 20 * np.sin(np.radians(2 * field.latitude)) * np.cos(np.radians(field.longitude))
    np.testing.assert_allclose(field, expected, atol=2)
    assert float(field.astype(float).weighted(xr.zeros_like(field.latitude) + TARGET.area_weights).mean()) == (
        pytest.approx(285, abs=1e-3)
    )
    with pytest.raises(GridError, match=r"a\.grib is on a reduced Gaussian grid of 64 rows, 6114 cells: name a grid"):
        et.prepare(path, tmp_path / "store.zarr")
    told = et.doctor(path)
    assert (told.exit_status, told.grid) == (0, "a reduced Gaussian grid of 64 rows, 6114 cells")
    assert any("`etesian prepare --grid 1 …` brings them" in finding.text for finding in told.findings)


def test_reduced_grib_that_contradicts_itself_or_is_scanned_otherwise_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"message 1 .* is on a grid of the kind 'reduced_gg' scanned otherwise"):
        et.open(grib(tmp_path / "a.grib2", N32[0], jScansPositively=1), grid=15)
    with pytest.raises(GridError, match="has a grid that contradicts itself"):
        et.open(grib(tmp_path / "b.grib2", N32[0][:-8]), grid=15)


@pytest.mark.parametrize("order", ["ring", "nested"])
def test_healpix_in_grib(tmp_path: Path, order: str) -> None:
    keys = {"gridType": "healpix", "Nside": 4, "orderingConvention": order, "numberOfDataPoints": 192}
    path = grib(tmp_path / "a.grib2", NOISE[:192], **keys, longitudeOfFirstGridPointInDegrees=45, shortName="2t")
    opened = et.open(path, grid=15)["2m_temperature"]
    expected = getattr(Healpix, order)(4).shares(TARGET) @ NOISE[:192]
    np.testing.assert_allclose(opened.values.ravel(), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("suffix", "order", "attributes"),
    [
        ("nc", "ring", {"healpix_nside": 4, "healpix_order": "ring"}),
        ("nc", "nested", {"healpix_nside": 4, "healpix_order": "nest"}),
        ("zarr", "nested", {"refinement_level": 2, "indexing_scheme": "nested"}),
    ],
)
def test_healpix_that_tells_no_points(tmp_path: Path, suffix: str, order: str, attributes: dict[str, Any]) -> None:
    values, numbers = NOISE[:192], np.random.default_rng(1).permutation(192)
    plain, mixed = (healpix(each, **attributes) for each in (values, values[numbers]))
    for name, file in (("plain", plain), ("mixed", mixed.assign_coords(cell=numbers))):
        path = tmp_path / f"{name}.{suffix}"
        file.to_netcdf(path) if suffix == "nc" else file.to_zarr(path, zarr_format=2)
        opened = et.open(path, grid=15)["2m_temperature"]
        np.testing.assert_allclose(opened.values.ravel(), getattr(Healpix, order)(4).shares(TARGET) @ values)


@pytest.mark.parametrize(
    ("size", "attributes", "message"),
    [
        (192, {"healpix_nside": 4}, "192 cells of HEALPix along 'cell' in an order that it does not say: say whether"),
        (192, {"healpix_order": "zuniq"}, "in the order 'zuniq': say whether it is ring or nested"),
        (192, {"healpix_nside": 8, "healpix_order": "ring"}, "HEALPix of nside 8, but holds 192 cells .* of nside 4"),
        (150, {"healpix_order": "ring"}, "150 cells of HEALPix along 'cell', which is not the whole sphere"),
        (108, {"healpix_order": "nested"}, "in the order 'nested': say whether"),
    ],
)
def test_healpix_that_does_not_say_what_it_is_is_refused(size: int, attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(GridError, match=rf"a\.nc .*{message}"):
        canonicalise(healpix(np.zeros(size), **attributes), "a.nc")


def test_healpix_whose_points_lie_otherwise_than_it_says_is_refused() -> None:
    rows = Healpix.ring(4).rows
    steps = [f + np.arange(n) * 360 / n for f, n in zip(rows.first, rows.counts, strict=True)]
    file = listed(np.repeat(rows.latitude, rows.counts)[::-1], np.concatenate(steps), np.zeros(192))
    assert grid_of(canonicalise(file, "a.nc")[0]) == Healpix.ring(4)
    file["crs"] = healpix([], healpix_nside=4, healpix_order="nested").crs
    with pytest.raises(GridError, match=r"a\.nc says that it is the HEALPix grid of nside 4, 192 cells in nested"):
        canonicalise(file, "a.nc")


def test_flattened_rows_and_columns_become_rows_and_columns() -> None:
    latitude, longitude = np.meshgrid([60.0, 30, 0], [-20.0, 0, 20, 40], indexing="ij")
    values = latitude + longitude / 1000
    for order in ("C", "F"):
        opened, notes = canonicalise(listed(*(axis.ravel(order) for axis in (latitude, longitude, values))), "a.nc")
        np.testing.assert_allclose(opened.latitude, [0, 30, 60])
        np.testing.assert_allclose(opened.longitude, [340, 360, 380, 400])
        np.testing.assert_allclose(opened["2m_temperature"][0], values[::-1], rtol=1e-6)
        assert "'values' lists the points of 3 rows and 4 columns: put into rows and columns" in notes


def test_corners_of_cells_are_left_out_and_fields_that_are_called_so_are_not() -> None:
    for axes in (O8, [axis.ravel() for axis in np.meshgrid([60.0, 30, 0], [-20.0, 0, 20], indexing="ij")]):
        file = listed(*axes, axes[0])
        file["latitude"].attrs["bounds"] = "edges"
        corners = ("values", "corner"), np.zeros((axes[0].size, 4))
        opened, _ = canonicalise(file.assign(edges=corners, lon_vertices=corners, cloud_bounds=file["t2m"]), "a.nc")
        assert set(opened) == {"2m_temperature", "cloud_bounds"}


def test_clouds_of_points_and_cut_grids_are_refused_with_a_remedy() -> None:
    random = np.random.default_rng(0)
    for axes in ((random.uniform(-90, 90, 50), random.uniform(0, 360, 50)), (O8[0][:-5], O8[1][:-5])):
        with pytest.raises(GridError, match=r"a\.nc is on an unstructured grid of \d+ points along 'values': regrid"):
            canonicalise(listed(*axes, axes[0]), "a.nc")


def test_listed_cells_become_a_training_store_without_those_that_are_missing(tmp_path: Path) -> None:
    values = np.where((O8[1] < 180) | (np.arange(3) == 1)[:, None], NOISE, np.nan)
    mixed = np.random.default_rng(1).permutation(NOISE.size)
    for day, name in ((0, "a.nc"), (3, "b.nc")):
        file = listed(O8[0][mixed], np.mod(O8[1][mixed] + 180, 360) - 180, values[:, mixed])
        file.assign_coords(time=file.time + np.timedelta64(day, "D")).to_netcdf(tmp_path / name)
    files = [tmp_path / "a.nc", tmp_path / "b.nc"]
    store = et.prepare(files, tmp_path / "store.zarr", grid=15, region="tropics")
    rows, _ = TARGET.region(Region(-20, 20, 0, 360))
    fields = xr.open_zarr(tmp_path / "store.zarr", consolidated=False).fields[:, 0]
    assert store.grid == Grid(TARGET.latitude[rows], TARGET.longitude)
    np.testing.assert_allclose(fields[4], (SHARES @ NOISE).reshape(TARGET.shape)[rows], rtol=1e-6)
    covered = (SHARES @ (O8[1] < 180)).reshape(TARGET.shape)[rows]
    np.testing.assert_array_equal(np.isfinite(fields[0]), covered >= 0.5)
    known = (SHARES @ np.where(O8[1] < 180, NOISE, 0)).reshape(TARGET.shape)[rows]
    np.testing.assert_allclose(
        fields[0].where(covered >= 0.5, 0), np.where(covered >= 0.5, known, 0) / covered.clip(0.5)
    )


def test_what_would_spread_over_boxes_or_needs_points_is_refused(tmp_path: Path) -> None:
    filled = listed(*O8, [np.where(O8[0] > 80, -9999.0, NOISE)] * 2)
    wind = filled.t2m.assign_attrs(units="m s-1")
    filled.assign(u_500=wind, v_500=wind).to_netcdf(tmp_path / "a.nc")
    for message, options in (
        ("holds the value -9999 exactly 40 times, a fill value", {"variables": ["t2m"]}),
        ("'vorticity' is derived by spherical harmonics, which fields on the octahedral", {"derive": ["vorticity"]}),
        ("regridded by areas only: choose conservative instead of bilinear", {"method": "bilinear"}),
    ):
        with pytest.raises((DataError, GridError), match=message):
            et.prepare(tmp_path / "a.nc", tmp_path / "s.zarr", grid=15, **options)


def write_anemoi(path: Path, *, members: int = 1, zarr_format: Any = 2, metadata: bool = True) -> Any:
    """Write a dataset on O8 in the layout of anemoi-datasets, of whose four dates the third is missing."""
    names = ["10u", "cos_latitude", "insolation", "swvl1", "t_50", "t_850", "z", "z_500"]
    values = np.random.default_rng(0).normal(250, 1, (4, len(names), members, O8[0].size)).astype(np.float32)
    values[:, 6] = values[0, 6, 0]
    values[2] = 7
    group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
    dates = np.datetime64("2020-01-01", "s") + np.arange(4) * np.timedelta64(6, "h")
    arrays = {"data": values, "dates": dates, "latitudes": O8[0], "longitudes": O8[1], "mean": np.zeros(len(names))}
    dims = {"data": ["time", "variable", "ensemble", "cell"], "dates": ["time"], "mean": ["variable"]}
    for name, array in arrays.items():
        stored = group.create_array(name, data=array, chunks=(1, *array.shape[1:]))
        stored.attrs["_ARRAY_DIMENSIONS"] = dims.get(name, ["cell"])
    told = {name: {"mars": {"param": name.split("_")[0], "levtype": "pl" if "_" in name else "sfc"}} for name in names}
    told |= {name: {"computed_forcing": True} for name in names[1:3]} | {"swvl1": {"units": "m**3 m**-3"}}
    group.attrs.update({"variables": names, "missing_dates": ["2020-01-01T12:00:00"]})
    group.attrs.update({"variables_metadata": told} if metadata else {})
    return values


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_anemoi_datasets_become_a_training_store(
    tmp_path: Path, zarr_format: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = write_anemoi(tmp_path / "a.zarr", zarr_format=zarr_format)
    opened = et.open(tmp_path / "a.zarr", grid=15)
    read, asked = _Values._read, []
    monkeypatch.setattr(_Values, "_read", lambda self, key: asked.append(self.name) or read(self, key))
    opened = opened.load()
    assert asked == ["data"]
    assert opened.time.dt.hour.values.tolist() == [0, 6, 18]
    assert {name: array.attrs["units"] for name, array in opened.items()} == {
        "10m_u_component_of_wind": "m s-1",
        "swvl1": "m**3 m**-3",
        "temperature": "K",
        "geopotential_at_surface": "m2 s-2",
        "geopotential": "m2 s-2",
    }
    assert opened.temperature.attrs["levels"] == [50, 850]
    field = opened.temperature.sel(level=850)
    np.testing.assert_allclose(field.values.reshape(3, -1), (SHARES @ values[[0, 1, 3], 5, 0].T).T, rtol=1e-5)
    told = {finding.text for finding in et.doctor(tmp_path / "a.zarr").findings}
    computed = "'cos_latitude', 'insolation' follow from place and time and are left out: forcings are computed"
    assert {computed, "1 missing dates are left out"} <= told
    store = et.prepare(tmp_path / "a.zarr", tmp_path / "s.zarr", grid=15)
    assert [str(channel) for channel in store.static_channels] == ["geopotential_at_surface"]
    place = [str(channel) for channel in store.channels].index("temperature_850")
    kept = xr.open_zarr(tmp_path / "s.zarr", consolidated=False).fields
    np.testing.assert_array_equal(kept[:, place], field)


def test_members_of_anemoi_datasets_and_levels_that_only_names_tell(tmp_path: Path) -> None:
    values = write_anemoi(tmp_path / "a.zarr", members=2, metadata=False)
    opened = et.open(tmp_path / "a.zarr", grid=15)
    assert opened.geopotential.dims == ("time", "member", "level", "latitude", "longitude")
    field = opened.geopotential.sel(level=500).isel(time=2, member=1)
    np.testing.assert_allclose(field.values.ravel(), SHARES @ values[3, 7, 1], rtol=1e-5)
    with pytest.raises(DataError, match="the data hold 2 members"):
        et.prepare(tmp_path / "a.zarr", tmp_path / "s.zarr", grid=15)
