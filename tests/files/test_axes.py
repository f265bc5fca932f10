"""Axes of files: latitude, longitude, levels and members, whatever they are called and however they run."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError, GridError
from etesian.files.axes import with_axes
from etesian.files.canonical import canonicalise


def field(
    latitude: Any = (-30.0, 0.0, 30.0), longitude: Any = (0.0, 90.0, 180.0, 270.0), **attributes: str
) -> xr.Dataset:
    """A field that tells its rows and columns, on axes with other names than the canonical ones."""
    latitude, longitude = np.asarray(latitude), np.asarray(longitude)
    values = 100 * np.arange(latitude.size)[:, None] + np.arange(longitude.size)
    return xr.Dataset(
        {"q": (("y", "x"), values.astype("f4"), attributes)},
        {"y": ("y", latitude, {"units": "degrees_N"}), "x": ("x", longitude, {"units": "degrees_E"})},
    )


def nominal(shift: float, named: bool = True) -> xr.Dataset:
    """A field whose two-dimensional coordinates differ from its axes by `shift` degrees in the last row."""
    dataset = field()
    latitude, longitude = np.meshgrid(dataset.y, dataset.x, indexing="ij")
    latitude[-1] += shift
    attributes = {} if named else {"standard_name": "latitude"}
    true = {
        "geolat": (("y", "x"), latitude, {"units": "degrees_north"} | attributes),
        "geolon": (("y", "x"), longitude - 360, {"units": "degrees_east"}),
    }
    return dataset.assign_coords(true) if named else dataset.assign(true)


@pytest.mark.parametrize("named", [True, False])
def test_nominal_axes_of_a_curvilinear_grid_are_refused(named: bool) -> None:
    with pytest.raises(GridError, match=r"a\.nc is on a curvilinear grid, .* is 'geolat', 'y' is nominal"):
        with_axes(nominal(5.0, named), "a.nc", [])
    assert with_axes(nominal(0.0, named), "a.nc", []).latitude.values.tolist() == [-30, 0, 30]


@pytest.mark.parametrize(
    ("mapping", "refused"),
    [("rotated_latitude_longitude", True), ("lambert_conformal_conic", True), ("latitude_longitude", False)],
)
@pytest.mark.parametrize("words", ["crs", "crs: y x"])
def test_axes_in_another_mapping_are_refused(mapping: str, refused: bool, words: str) -> None:
    dataset = field(grid_mapping=words).assign(crs=((), 0, {"grid_mapping_name": mapping}))
    if refused:
        with pytest.raises(GridError, match=rf"'q' in a\.nc is on a grid in the mapping {mapping}: .*`cdo remapcon"):
            with_axes(dataset, "a.nc", [])
    else:
        assert "q" in with_axes(dataset, "a.nc", [])
    assert "q" in with_axes(dataset.drop_vars("crs"), "a.nc", [])


def test_a_latitude_beyond_the_pole_by_rounding_is_the_pole() -> None:
    notes: list[str] = []
    turned = with_axes(field(np.array([90.0001, 0, -90.0001])), "a.nc", notes)
    assert turned.latitude.values.tolist() == [-90, 0, 90]
    np.testing.assert_array_equal(turned.q[:, 0], [200, 100, 0])
    assert "latitude 90.0001 lies beyond the pole by rounding: set to 90" in notes
    with pytest.raises(GridError, match="latitude reaches 91°, beyond the pole"):
        with_axes(field([0.0, 91.0]), "a.nc", [])


@pytest.mark.parametrize(
    ("latitude", "longitude", "message"),
    [
        ([10.0, 20, 20], [0.0, 90], r"holds the latitude 20 twice: drop one with xarray's drop_duplicates\('y'\)"),
        ([10.0, 20], [5.0, 7, 7, 9], r"holds the longitude 7 twice: drop one with xarray's drop_duplicates\('x'\)"),
    ],
)
def test_a_coordinate_that_occurs_twice_is_named(latitude: list[float], longitude: list[float], message: str) -> None:
    with pytest.raises(GridError, match=message):
        with_axes(field(latitude, longitude), "a.nc", [])


def test_one_row_uneven_rows_radians_and_single_precision_are_grids() -> None:
    assert with_axes(field([12.5]), "a.nc", []).latitude.values.tolist() == [12.5]
    assert with_axes(field([-60.0, -59, 3, 88]), "a.nc", []).latitude.values.tolist() == [-60, -59, 3, 88]
    single = with_axes(field(longitude=np.arange(0, 360, 0.1, dtype="f4")), "a.nc", [])
    assert single.sizes["longitude"] == 3600
    dataset = field(np.radians([-30.0, 0, 30]), np.radians([0.0, 90, 180, 270])).rename(y="lat", x="lon")
    for name in ("lat", "lon"):
        dataset[name].attrs["units"] = "radian"
    np.testing.assert_allclose(with_axes(dataset, "a.nc", []).longitude, [0, 90, 180, 270])


def test_degrees_west_and_south_run_the_other_way() -> None:
    dataset = field([10.0, 20, 30]).rename(y="lat", x="lon")
    dataset["lat"].attrs["units"], dataset["lon"].attrs["units"] = "degrees_south", "degrees_west"
    turned = with_axes(dataset, "a.nc", [])
    assert turned.latitude.values.tolist() == [-30, -20, -10]
    assert turned.q.values.tolist() == [[200, 203, 202, 201], [100, 103, 102, 101], [0, 3, 2, 1]]


def test_a_member_that_occurs_twice_is_named() -> None:
    twice = field().expand_dims(number=[1, 1])
    with pytest.raises(DataError, match=r"a\.nc holds the member 1 twice in 'number': .*drop_duplicates\('number'\)"):
        with_axes(twice, "a.nc", [])
    assert with_axes(twice.drop_duplicates("number"), "a.nc", []).member.values.tolist() == [1]


@pytest.mark.parametrize(
    ("dimension", "attributes", "size", "kind"),
    [
        ("cell", {}, 10, "an unstructured grid of 10 cells along 'cell'"),
        ("ncol", {}, 48, "an unstructured grid of 48 cells along 'ncol'"),
    ],
)
def test_cells_without_coordinates_are_told(dimension: str, attributes: dict[str, Any], size: int, kind: str) -> None:
    dataset = xr.Dataset({"q": ((dimension,), np.zeros(size)), "crs": ((), 0, attributes)})
    with pytest.raises(GridError, match=rf"a\.nc is on {kind}, without latitudes and longitudes: interpolate"):
        with_axes(dataset, "a.nc", [])


def on(dimension: str, values: Any, name: str = "t", field_units: str = "K", **attrs: str) -> xr.Dataset:
    """One field on some levels of a small grid."""
    shape = (1, len(values), 2, 3)
    return xr.Dataset(
        {name: (("time", dimension, "lat", "lon"), np.full(shape, 280, np.float32), {"units": field_units})},
        {
            "time": np.array(["2001-01-01"], "datetime64[ns]"),
            dimension: (dimension, values, attrs),
            "lat": ("lat", [0.0, 10.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 120.0, 240.0], {"units": "degrees_east"}),
        },
    )


def opened(dataset: xr.Dataset) -> xr.Dataset:
    return canonicalise(dataset, "a.nc")[0]


WEATHERBENCH = [50, 100, 150, 200, 250, 300, 400, 500, 600, 700, 850, 925, 1000]
ERA5 = [1, 2, 3, 5, 7, 10, 20, 30, 50, 70, 100, 125, 150, 175, 200, 225, 250, 300, 350, 400, 450, 500, 550, 600, 650,
        700, 750, 775, 800, 825, 850, 875, 900, 925, 950, 975, 1000]  # fmt: skip


@pytest.mark.parametrize("levels", [WEATHERBENCH, ERA5, [500], [1000, 10]])
@pytest.mark.parametrize("factor", [1, 100])
def test_levels_without_units_that_archives_keep_are_pressures(levels: list[int], factor: int) -> None:
    if factor == 100 and max(levels) * factor <= 1100:
        pytest.skip("1000 without units is hPa")
    values = [level * factor for level in levels]
    assert opened(on("level", values)).level.values.tolist() == sorted(levels)


@pytest.mark.parametrize("name", ["plev", "pressure_level", "isobaricInhPa"])
def test_a_coordinate_that_is_called_a_pressure_needs_no_units(name: str) -> None:
    assert opened(on(name, [10.0, 30.0])).level.values.tolist() == [10, 30]


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (on("level", [137, 136, 135]), r"model levels .'level' counts 137…135.: .* say that they are pressures"),
        (on("level", [1, 2]), r"model levels .'level' counts 1…2."),
        (on("plev", [1, 2, 3]), r"model levels .'plev' counts 1…3."),
        (on("lev", [1, 2, 3], units="1"), r"model levels .'lev' counts 1…3."),
        (
            on("level", [1, 10, 30, 60]),
            r"levels without units .'level' is 1, 10, 30, 60.: .*`ncatted -a units,level,o,c",
        ),
        (on("level", [110, 120, 130]), r"levels without units .'level' is 110, 120, 130.:"),
        (on("level", [60]), r"levels without units .'level' is 60.:"),
        (
            on("level", [137], long_name="model_level_number"),
            r"model levels .'level' is 137.: .*ml2pl,85000,50000 IN OUT`$",
        ),
        (on("level", [500, 850], long_name="hybrid level"), r"model levels .'level' is 500, 850."),
        (on("hybrid", [0.9, 1.0]), r"model levels .'hybrid' is 0.9, 1."),
        (on("height", [90, 89, 88], standard_name="height", long_name="generalized_height"), r"model levels .'height'"),
        (on("lev", [3.6, 992.0], formula_terms="a: hyam b: hybm ps: PS"), r"model levels .'lev' is 3.6, 992.: .*OUT`$"),
        (
            on("lev", [3.6, 992], units="hPa", standard_name="atmosphere_hybrid_sigma_pressure_coordinate"),
            "model levels",
        ),
        (on("level", [850, 850], units="hPa"), r"level 850 twice in 'level': keep one, .* drop_duplicates.'level'."),
        (on("level", [850, np.nan], units="hPa"), r"missing values in its levels 'level': keep those that are known"),
        (on("depth", [5.0, 5.0], units="m"), r"level 5 twice in 'depth'"),
        (on("level", [1, 2]).drop_vars("level"), r"dimension 'level' without values: give it its levels"),
        (on("level", [1]).drop_vars("level"), r"dimension 'level' without values: give it its levels"),
        (on("level", ["850", "500"], units="hPa"), r"no numbers .'850'.: .* assign_coords.level=ds.'level'..astype"),
        (
            on("level", [1e5, 85000], units="hPa"),
            r"pressures of 100000, 85000 hPa: .*`ncatted -a units,level,o,c,Pa IN",
        ),
        (on("level", [-850, 10], units="hPa"), r"pressures of -850, 10 hPa"),
        (on("plev", [1000, 850], units="Pa"), r"pressures of 10, 8.5 hPa: .*`ncatted -a units,plev,o,c,hPa IN OUT`"),
    ],
)
def test_levels_that_are_no_pressures_are_refused_in_one_sentence(dataset: xr.Dataset, message: str) -> None:
    with pytest.raises(GridError, match=message) as error:
        opened(dataset)
    assert "\n" not in str(error.value)


def test_the_remedies_for_missing_and_repeated_levels_work() -> None:
    repeated = on("level", [850, 850, 500], units="hPa").drop_duplicates("level")
    missing = on("level", [850, np.nan, 500], units="hPa")
    missing = missing.sel(level=missing["level"].notnull())
    for mended in (repeated, missing):
        assert opened(mended).level.values.tolist() == [500, 850]
    bare = on("level", [1, 2]).drop_vars("level")
    assert opened(bare.assign_coords(level=("level", [850, 500], {"units": "hPa"}))).level.values.tolist() == [500, 850]


def test_a_single_level_without_meaning_is_dropped_from_a_field_at_the_surface() -> None:
    assert opened(on("lev", [1.0], "tas"))["2m_temperature"].dims == ("time", "latitude", "longitude")


@pytest.mark.parametrize(
    ("values", "attrs", "names"),
    [
        ([10.0, 100.0], {"units": "m"}, ["10m_u_component_of_wind", "100m_u_component_of_wind"]),
        ([0.01, 0.1], {"units": "km"}, ["10m_u_component_of_wind", "100m_u_component_of_wind"]),
        ([10.0, 100.0], {"units": "km"}, ["u_heightAboveGround10000", "u_heightAboveGround100000"]),
        ([1000.0, 10.0], {"units": "cm"}, ["10m_u_component_of_wind", "u_heightAboveGround0.1"]),
        ([10.0, 100.0], {"units": "m", "long_name": "height above mean sea level"}, ["u_altitude10", "u_altitude100"]),
        ([10.0, 100.0], {"units": "m", "standard_name": "altitude"}, ["u_altitude10", "u_altitude100"]),
    ],
)
def test_heights_above_ground_are_counted_in_metres(
    values: list[float], attrs: dict[str, str], names: list[str]
) -> None:
    dataset = on("height", values, "u", "m s-1")
    dataset.height.attrs = attrs
    assert list(opened(dataset).data_vars) == names


def test_a_height_without_a_dimension_has_units_too() -> None:
    dataset = on("height", [2.0], "x", "K")
    dataset.height.attrs["units"] = "cm"
    dataset.x.attrs["standard_name"] = "air_temperature"
    assert list(opened(dataset.isel(height=0)).data_vars) == ["x_heightAboveGround0.02"]


def test_depths_are_counted_in_metres() -> None:
    assert list(opened(on("depth", [5.0, 100.0], "so", "1")).data_vars) == ["so_depth5", "so_depth100"]
    assert list(opened(on("lev", [10.0, 20.0], "so", units="dbar")).data_vars) == ["so_lev10", "so_lev20"]
    dataset = on("depth", [5.0, 100.0], "st", "K")
    dataset.depth.attrs["units"] = "cm"
    assert list(opened(dataset).data_vars) == ["st_depth0.05", "st_depth1"]
