"""Projections against their laws, coasts where there are some, and the verb that draws."""

import warnings

import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

import etesian as et
from etesian.core.dataset import planet_of
from etesian.core.grid import Grid
from etesian.scores.maps import draw_map, earths_coasts, shown_cells, value_range
from etesian.scores.projections import KINDS, Projection, coastlines, columns_of, is_land
from etesian.scores.readers_units import spoken

GLOBE = Grid.equiangular(5.625)


def axes_of(grid):
    return xr.Dataset(coords={"latitude": grid.latitude, "longitude": grid.longitude})


def test_equal_earth_is_equal_in_area_and_keeps_its_published_shape():
    project = Projection("equal_earth")
    size = 1e-3
    for latitude in (-80.0, -35.0, 0.0, 10.0, 60.0, 85.0):
        x, y, _ = project(np.array([20, 20 + size, 20]), np.array([latitude, latitude, latitude + size]))
        area = abs((x[1] - x[0]) * (y[2] - y[0]) - (x[2] - x[0]) * (y[1] - y[0]))
        np.testing.assert_allclose(area, np.radians(size) ** 2 * np.cos(np.radians(latitude)), rtol=1e-4)
    x, y, _ = project(np.array([180.0, 0.0]), np.array([0.0, 90.0]))
    np.testing.assert_allclose([x[0], y[1]], [2.706630, 1.317363], atol=1e-6)


@pytest.mark.parametrize("kind", ["north_polar", "south_polar"])
def test_polar_maps_keep_angles(kind):
    project = Projection(kind, 30.0, 20.0 if kind == "north_polar" else -20.0)
    place = 60.0 if kind == "north_polar" else -60.0
    x, y, is_shown = project(np.array([50, 50 + 1e-3, 50]), np.array([place, place, place + 1e-3]))
    east, north = (x[1] - x[0], y[1] - y[0]), (x[2] - x[0], y[2] - y[0])
    np.testing.assert_allclose(np.dot(east, north) / np.hypot(*east) / np.hypot(*north), 0, atol=1e-4)
    np.testing.assert_allclose(np.hypot(*east) / np.hypot(*north), np.cos(np.radians(60)), rtol=1e-4)
    assert is_shown.all()
    assert not project(np.array([0.0]), np.array([-place]))[2].any()


def test_an_orthographic_map_shows_the_near_half():
    project = Projection("orthographic", 10.0, 50.0)
    x, y, is_shown = project(np.array([10.0, 190.0, 100.0]), np.array([50.0, -50.0, 0.0]))
    np.testing.assert_allclose([x[0], y[0], x[2], y[2]], [0, 0, 1, 0], atol=1e-12)
    assert is_shown.tolist()[:2] == [True, False]
    assert np.isfinite([x, y]).all()


@pytest.mark.parametrize("first", [0.0, 2.8125, -180.0, 100.0])
@pytest.mark.parametrize("middle", [0.0, 10.0, 177.0])
def test_columns_go_once_round_from_edge_to_edge(first, middle):
    grid = Grid(GLOBE.latitude, first + np.arange(64) * 5.625)
    columns, edges = columns_of(grid, Projection("equal_earth", middle))
    centres = (edges[1:] + edges[:-1]) / 2
    np.testing.assert_allclose((centres - grid.longitude[columns] + 180) % 360 - 180, 0, atol=1e-9)
    assert set(columns.tolist()) == set(range(64))
    assert edges[0] <= middle - 180 + 1e-6 < edges[1] + 1e-5
    assert edges[-2] - 1e-5 < middle + 180 - 1e-6 <= edges[-1]


def test_land_is_where_it_is():
    assert is_land(Grid([48.0], [10.0])).all()
    assert not is_land(Grid([40.0], [330.0])).any()
    assert is_land(Grid([-85.0, -25.0], [134.0])).all()
    assert not is_land(Grid([-50.0], [134.0])).any()
    share = np.average(is_land(Grid.equiangular(2.0)).mean(1), weights=Grid.equiangular(2.0).area_weights)
    assert share == pytest.approx(0.29, abs=0.01)  # of the Earth
    assert sum(line[0].size for line in coastlines()) == 5123


def test_coasts_are_the_earths_alone():
    earth = axes_of(GLOBE).assign(land_sea_mask=(("latitude", "longitude"), is_land(GLOBE)))
    assert earths_coasts(axes_of(GLOBE))
    assert earths_coasts(earth)
    assert not earths_coasts(earth.roll(longitude=20))
    assert not earths_coasts(axes_of(GLOBE).assign_attrs(planet="simulated"))
    fine = Grid(np.arange(36, 38, 0.02), np.arange(-5, 0, 0.02))
    assert not earths_coasts(axes_of(fine))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_holds_the_values_of_the_field(kind):
    field = np.arange(GLOBE.shape[0] * GLOBE.shape[1], dtype=float).reshape(GLOBE.shape)
    field[20, 5] = np.nan
    projection = Projection.of(GLOBE, kind)
    panel = Figure().subplots()
    image = draw_map(panel, field, axes_of(GLOBE), "viridis", 0, 1, projection=projection)
    drawn = np.ma.getdata(image.get_array())
    columns, _ = columns_of(GLOBE, projection)
    np.testing.assert_array_equal(drawn, field[:, columns])
    hidden = np.ma.getmaskarray(image.get_array())
    assert hidden[20, list(columns).index(5)]
    assert hidden.mean() == pytest.approx(
        {"north_polar": 0.6, "south_polar": 0.6, "orthographic": 0.46}.get(kind, 0), abs=0.04
    )
    assert len(panel.lines) > 0
    np.testing.assert_array_equal(shown_cells(field, GLOBE, projection).mask, hidden)


def test_projections_that_do_not_suit_are_refused():
    assert Projection.of(GLOBE).kind == "equal_earth"
    assert Projection.of(Grid(np.arange(30, 90, 5.0), GLOBE.longitude)).kind == "north_polar"
    south = Grid(np.arange(-80, -30, 5.0), np.arange(0, 60, 5.0))
    assert Projection.of(south) == Projection("equirectangular", 27.5)
    with pytest.raises(et.RecipeError, match="did you mean 'orthographic'"):
        Projection.of(GLOBE, "ortographic")
    with pytest.raises(et.RecipeError, match=r"ends at -32\.5°N"):
        Projection.of(south, "north_polar")
    with pytest.raises(et.RecipeError, match="latitudes lie between"):
        Projection.of(GLOBE, "orthographic:120,10")


def test_units_are_those_that_are_said():
    assert spoken("temperature_850", "degC") == ("°C", 1, 0)
    assert spoken("2m_temperature_std", "K").units == "K"
    assert spoken("2m_temperature_anomaly", "K").offset == 0
    assert spoken("precipitation_flux", "m s-1").factor == pytest.approx(86.4e6)
    assert spoken("vertical_velocity_500", "Pa s-1").units == "Pa s-1"
    assert spoken("pr", "mm/day").units == "mm/day"
    assert spoken("10m_u_component_of_wind", "kt").factor == pytest.approx(0.514444, rel=1e-5)


def test_colours_begin_at_zero_where_amounts_do_and_are_symmetric_where_signs_matter():
    assert value_range("total_precipitation_24hr", [np.array([0.0, 4.0])])[:2] == ("YlGnBu", 0)
    name, low, high = value_range("2m_temperature_anomaly", [np.array([-1.0, 3.0])])
    assert (name, low) == ("RdBu_r", -high)


def states(path, **attributes):
    time = np.datetime64("2020-01-01", "ns") + np.arange(3) * np.timedelta64(6, "h")
    values = 101325 + np.arange(3 * 32 * 64).reshape(3, 32, 64)
    pressure = (("time", "latitude", "longitude"), values, {"units": "Pa"})
    coordinates = {"time": time, "latitude": GLOBE.latitude[::-1], "longitude": GLOBE.longitude}
    xr.Dataset({"mean_sea_level_pressure": pressure}, coordinates, attributes).to_netcdf(path)


def test_the_verb_returns_a_figure_and_writes_it_where_it_is_told(tmp_path):
    states(tmp_path / "earth.nc")
    figure = et.plot(tmp_path / "earth.nc", time="2020-01-01T06", units="reader", region="Europe")
    panel, bar = figure.axes
    expected = (101325 + 2048 + np.arange(2048).reshape(32, 64))[::-1] / 100
    rows, columns = GLOBE.region(et.Region.parse("Europe"))
    np.testing.assert_allclose(np.ma.getdata(panel.collections[0].get_array()), expected[rows][:, columns])
    assert bar.get_xlabel() == "hPa"
    assert panel.lines  # coasts
    assert figure._repr_png_().startswith(b"\x89PNG")
    et.plot(tmp_path / "earth.nc", tmp_path / "globe.svg", projection="orthographic:50,10")
    assert (tmp_path / "globe.svg").read_text().count("<path") > 50
    with pytest.raises(et.GridError, match="no grid point lies inside"):
        et.plot(tmp_path / "earth.nc", region="1,2,1,2")


def test_a_map_has_its_title_and_the_time_close_above_it(tmp_path):
    states(tmp_path / "earth.nc")
    for options in ({}, {"region": "Europe"}, {"projection": "orthographic:50,10"}):
        figure = et.plot(tmp_path / "earth.nc", time="2020-01-01T06", **options)
        figure.draw_without_rendering()
        panel = figure.axes[0]
        places = [panel._left_title.get_window_extent(), figure._suptitle.get_window_extent()]
        assert panel.get_title(loc="left") == "2020-01-01 06:00 UTC"
        assert (
            panel.get_window_extent().y1 < places[0].y0 < places[0].y1 < places[1].y0 < places[0].y1 + 0.15 * figure.dpi
        )


def test_no_coasts_of_the_earth_are_drawn_on_another_planet(tmp_path):
    states(tmp_path / "planet.nc", planet="simulated")
    opened = et.open(tmp_path / "planet.nc")
    assert planet_of(opened) == {"planet": "simulated"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        et.prepare(opened, tmp_path / "store.zarr")
        et.baseline("persistence").forecast(
            tmp_path / "store.zarr", ("2020-01-01", "2020-01-01T00"), [6], out=tmp_path / "forecast.zarr"
        )
    equator = 1 + 5 + 6  # graticule: parallels and meridians
    for path in ("planet.nc", "store.zarr", "forecast.zarr"):
        drawn = et.plot(tmp_path / path)
        assert len(drawn.axes[0].lines) < equator, path
        with_coasts = et.plot(tmp_path / path, coastlines=True)
        assert len(with_coasts.axes[0].lines) == len(drawn.axes[0].lines) + 1


def test_scores_are_drawn_in_the_units_that_are_asked_for(tmp_path):
    dims = ("forecast", "channel", "region", "lead_time")
    held = {name: (dims, np.full((1, 1, 1, 2), 150.0)) for name in ("crps", "crps_low", "crps_high", "mse", "acc")}
    held["mse_by_initial_time"] = ((*dims, "initial_time"), np.zeros((1, 1, 1, 2, 3)))
    axes = {"forecast": ["a"], "channel": ["mean_sea_level_pressure"], "region": ["global"], "lead_time": [24, 48]}
    xr.Dataset(held, axes | {"units": ("channel", ["Pa"])}).to_netcdf(tmp_path / "scores.nc")
    for score, value, label in (("crps", 1.5, "CRPS (hPa)"), ("mse", 0.015, "MSE (hPa)²"), ("acc", 150, "Anomaly c")):
        figure = et.plot(tmp_path / "scores.nc", score=score, channel="mean_sea_level_pressure", units="reader")
        panel = figure.axes[0]
        np.testing.assert_allclose(panel.lines[0].get_ydata(), value)
        assert panel.get_ylabel().startswith(label)
    with pytest.raises(et.RecipeError, match="there is no score 'mse_by_initial_time'"):
        et.plot(tmp_path / "scores.nc", score="mse_by_initial_time", channel="mean_sea_level_pressure")


def test_a_truth_without_the_channel_is_refused(tmp_path):
    states(tmp_path / "truth.nc")
    with xr.open_dataset(tmp_path / "truth.nc") as data:
        forecast = data.rename(mean_sea_level_pressure="surface_pressure").isel(time=[0])
        forecast.expand_dims(prediction_timedelta=[np.timedelta64(6, "h")]).to_netcdf(tmp_path / "forecast.nc")
    with pytest.raises(et.ChannelError, match="surface_pressure"):
        et.plot(tmp_path / "forecast.nc", truth=tmp_path / "truth.nc")
