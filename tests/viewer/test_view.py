"""The viewer without a browser: what its images and curves hold, and what moves them."""

import sys

import numpy as np
import pytest
import xarray as xr

import etesian as et
from etesian.core.grid import Grid
from etesian.store.derive import power_spectrum

pytest.importorskip("panel", reason="the extra 'view' is not installed")

from bokeh.events import RangesUpdate
from bokeh.models import HoverTool

from etesian.viewer.app import _opened, build
from etesian.viewer.fields import FieldPage
from etesian.viewer.scores import ScorePage
from etesian.viewer.sources import Source, read_sources, window

GRID = Grid.equiangular(15)
TIMES = np.datetime64("2020-01-01", "ns") + np.arange(12) * np.timedelta64(24, "h")
LEADS = np.array([24, 72], "timedelta64[h]").astype("timedelta64[ns]")
RNG = np.random.default_rng(0)
AXES = {"latitude": GRID.latitude, "longitude": GRID.longitude}


def truth():
    values = RNG.normal(54000, 900, (12, 2, *GRID.shape))
    dims = ("time", "level", "latitude", "longitude")
    fields = {
        "geopotential": (dims, values, {"units": "m2 s-2"}),
        "2m_temperature": (("time", *dims[2:]), values[:, 0] / 200, {"units": "K"}),
    }
    return xr.Dataset(fields, {"time": TIMES, "level": [500, 850], **AXES})


def forecast(levels=(500, 850)):
    values = RNG.normal(54000, 900, (4, 3, 2, len(levels), *GRID.shape))
    dims = ("time", "number", "prediction_timedelta", "level", "latitude", "longitude")
    return xr.Dataset(
        {"geopotential": (dims, values, {"units": "m2 s-2"})},
        {
            "time": ("time", TIMES[:4], {"standard_name": "forecast_reference_time"}),
            "number": [0, 1, 2],
            "prediction_timedelta": ("prediction_timedelta", LEADS, {"standard_name": "forecast_period"}),
            "level": list(levels),
            **AXES,
        },
    )


@pytest.fixture(scope="module")
def data():
    return forecast(), truth()


@pytest.fixture
def page(data):
    return FieldPage([Source("ours", data[0]), Source("analysis", data[1])])


def image(page, name):
    return page.maps[name].cells.data["image"][0]


def test_images_hold_forecast_truth_and_error(page, data):
    made, true = data
    mean = made.geopotential.values[0].mean(0)
    # The column at 180° is cut by both edges of the map.
    columns = page.source.columns
    np.testing.assert_allclose(image(page, "shown"), mean[0, 0][:, columns], rtol=1e-6)
    np.testing.assert_allclose(image(page, "truth"), true.geopotential.values[1, 0][:, columns], rtol=1e-6)
    np.testing.assert_allclose(
        image(page, "error"), (mean[0, 0] - true.geopotential.values[1, 0])[:, columns], rtol=1e-4, atol=0.1
    )
    cells = page.maps["shown"].cells.data
    assert (cells["x"][0], cells["dw"][0], cells["y"][0], cells["dh"][0]) == (-187.5, 375, -90, 180)
    assert page.maps["shown"].mapper is page.maps["truth"].mapper
    assert page.maps["error"].mapper.low == -page.maps["error"].mapper.high


def test_every_slider_moves_the_images(page, data):
    made, true = data
    page.widgets["level"].value = 850
    page.widgets["time"].value = 2
    page.widgets["lead"].value = 72
    page.widgets["member"].value = 1
    columns = page.source.columns
    np.testing.assert_allclose(image(page, "shown"), made.geopotential.values[2, 1, 1, 1][:, columns], rtol=1e-6)
    np.testing.assert_allclose(image(page, "truth"), true.geopotential.values[5, 1][:, columns], rtol=1e-6)
    page.widgets["units"].value = "reader"
    np.testing.assert_allclose(
        image(page, "shown"), made.geopotential.values[2, 1, 1, 1][:, columns] / 98.0665, rtol=1e-6
    )
    assert page.maps["shown"].bar.title == "dam"
    page.widgets["data"].value = "analysis"
    page.widgets["variable"].value = "2m_temperature"
    page.widgets["date"].value = "2020-01-09"
    assert list(page.maps) == ["shown"]
    np.testing.assert_allclose(image(page, "shown"), true["2m_temperature"].values[8][:, columns] - 273.15, rtol=1e-4)


def test_a_click_shows_the_plume_of_a_forecast_and_the_series_of_data(page, data, monkeypatch):
    made, true = data
    page.widgets["time"].value = 1
    page.click(50.0, -170.0)  # row 9 of 12; 190° E is nearest to the column at 195°
    row, column = 9, 13
    curves = page.curves.lines
    members = np.stack(curves["members"].data["y"])
    np.testing.assert_allclose(members, made.geopotential.values[1, :, :, 0, row, column])
    np.testing.assert_allclose(curves["values"].data["y"], members.mean(0))
    np.testing.assert_allclose(curves["truth"].data["y"], true.geopotential.values[[2, 4], 0, row, column])
    assert curves["values"].data["x"] == [1, 3]
    assert page.curves.figure.title.text == "Geopotential at 500 hPa at 52.50°N, 165.00°W"
    assert page.maps["error"].bar.title == "m² s⁻²"
    page.widgets["data"].value = "analysis"
    np.testing.assert_allclose(page.curves.lines["values"].data["y"], true.geopotential.values[:, 0, row, column])
    assert page.curves.lines["values"].data["x"][0] == TIMES[0].astype("datetime64[ms]").astype(int)
    # The series is read once; the mark of the time moves along it.
    monkeypatch.setattr(Source, "series_at", lambda *_: pytest.fail("read again"))
    page.widgets["time"].value = 7
    assert page.curves.span.location == TIMES[7].astype("datetime64[ms]").astype(int)


def test_the_address_brings_the_same_view_back(page, data):
    for name, value in {"level": 850, "time": 3, "lead": 72, "member": 2, "units": "reader"}.items():
        page.widgets[name].value = value
    page.click(-20.0, 30.0)
    page._ranges[0].update(start=-30, end=60)
    page._redraw()
    told = page.state()
    assert told["time"] == "2020-01-04T00:00"
    assert told["map"] == "-90.00,90.00,-30.00,60.00"
    other = FieldPage([Source("ours", data[0]), Source("analysis", data[1])])
    other.restore(told)
    assert other.state() == told
    np.testing.assert_array_equal(image(other, "shown"), image(page, "shown"))
    page.widgets["spectra"].value = True
    assert (told["spectra"], page.state()["spectra"]) == ("no", "yes")
    other.restore({"data": "gone", "lead": "5", "time": "1999", "map": "a,b", "place": ""})
    assert other.state() == told


def test_no_more_is_read_than_the_window_shows(monkeypatch):
    grid = Grid.equiangular(0.5)
    fields = xr.Dataset(
        {"2m_temperature": (("time", "latitude", "longitude"), np.zeros((1, *grid.shape), np.float32) + 280)},
        {"time": TIMES[:1], "latitude": grid.latitude, "longitude": grid.longitude},
    )
    page = FieldPage([Source("fine", fields)])
    shape = image(page, "shown").shape
    assert shape[0] <= page.maps["shown"].size[1]
    assert shape[1] <= page.maps["shown"].size[0] < grid.shape[1] + 200
    asked = []
    field = Source.field
    monkeypatch.setattr(
        Source, "field", lambda self, *args: asked.append([len(args[-2]), len(args[-1])]) or field(self, *args)
    )
    page._ranges[0].update(start=0, end=20)
    page._ranges[1].update(start=40, end=50)
    page._redraw(moved=True)
    assert asked == [[20, 41]]  # of the column at 0° a half


def test_a_move_of_maps_that_share_ranges_draws_them_once(page, monkeypatch):
    drawn = []
    monkeypatch.setattr(page, "_redraw", lambda **how: drawn.append(how))
    for panel in page.maps.values():  # Bokeh tells each of them
        panel.figure._trigger_event(RangesUpdate(panel.figure))
    assert drawn == [{"moved": True}]


def test_small_values_are_told_by_their_digits(page):
    hover = next(tool for tool in page.maps["shown"].figure.tools if isinstance(tool, HoverTool))
    assert hover.tooltips[0][1] == "@image{%.6g}"
    assert hover.formatters == {"@image": "printf"}


@pytest.mark.parametrize("edges", [np.arange(0, 101.0), np.sort(RNG.uniform(0, 100, 101))])
def test_a_window_shows_the_cell_at_the_middle_of_each_pixel(edges):
    seen = window(edges, 20.0, 60.0, 50)
    assert seen.low <= 20 < 60 <= seen.high
    assert len(seen.cells) <= 50
    middles = seen.low + (np.arange(len(seen.cells)) + 0.5) * (seen.high - seen.low) / len(seen.cells)
    assert ((edges[seen.cells] <= middles) & (middles < edges[seen.cells + 1])).all()
    assert window(edges, -500, 500, 1000).low == edges[0]


def test_a_truth_that_does_not_fit_is_told_and_one_that_ends_is_empty(data):
    made, true = data
    page = FieldPage([Source("ours", made)], Source("short", true.isel(time=slice(0, 2))))
    page.widgets["lead"].value = 72
    assert np.isnan(image(page, "truth")).all()
    assert "(not there)" in page.maps["truth"].figure.title.text
    other = true.assign_coords(longitude=true.longitude + 1)
    page = FieldPage([Source("ours", made)], Source("elsewhere", other))
    assert page.message.visible
    assert "bring the truth to the forecasts' grid" in page.message.object
    assert np.isfinite(image(page, "shown")).all()
    metres = true.assign(geopotential=true.geopotential.assign_attrs(units="m"))
    page = FieldPage([Source("ours", made)], Source("wrong", metres))
    page.click(0, 0)
    page.widgets["spectra"].value = True
    assert "convert it" in page.message.object
    assert "truth" not in page.curves.lines | page.spectrum.lines


def test_dates_of_other_calendars_are_days(data):
    dates = xr.date_range("2001-02-28", periods=5, freq="D", calendar="360_day", use_cftime=True)
    page = FieldPage([Source("model", data[1].isel(time=slice(0, 5)).assign_coords(time=dates))])
    page.click(0, 0)
    assert page.curves.lines["values"].data["x"] == [0, 1, 2, 3, 4]
    page.widgets["date"].value = "2001-02-30"
    assert page.widgets["time"].value == 2
    page.widgets["date"].value = "yesterday"
    assert page.message.visible
    first = FieldPage([Source("model", data[1].assign_coords(time=xr.date_range(
        "1970-01-01", periods=12, calendar="360_day", use_cftime=True)))])  # fmt: skip
    first.click(0, 0)
    assert first.curves.lines["values"].data["x"] == list(range(12))


def test_a_place_is_found_whichever_way_its_longitude_is_counted(data):
    region = Source("region", data[1].isel(longitude=slice(18, 24)))  # 270 to 345° E
    assert region.nearest(50.0, -30.0) == region.nearest(50.0, 330.0) == (9, 4)
    globe = Source("globe", data[1])
    assert globe.nearest(50.0, -170.0) == globe.nearest(50.0, 190.0) == (9, 13)


def test_spectra_are_those_of_the_fields(page, data):
    page.widgets["spectra"].value = True
    true = data[1].geopotential.isel(time=1, level=0, drop=True)
    expected = power_spectrum(true).values[1:]
    np.testing.assert_allclose(page.spectrum.lines["truth"].data["y"], expected, rtol=1e-5)
    assert page.spectrum.lines["values"].data["x"] == list(range(1, len(expected) + 1))


def scores():
    channels, leads = ["geopotential_500", "2m_temperature"], [24, 72]
    dims = ("forecast", "channel", "region", "lead_time")
    rmse = RNG.uniform(1, 2, (2, 2, 1, 2))
    return xr.Dataset(
        {"rmse": (dims, rmse), "rmse_low": (dims, rmse - 0.1), "rmse_high": (dims, rmse + 0.1)},
        {
            "forecast": ["ours", "persistence"], "channel": channels, "region": ["global"], "lead_time": leads,
            "reference": ["persistence"], "units": ("channel", ["m2 s-2", "K"]),
        },
    )  # fmt: skip


def test_scores_are_drawn_with_their_intervals():
    held = scores()
    page = ScorePage({"evaluation": held})
    page.widgets["channel"].value = "2m_temperature"
    x, values, (low, high), _, dash = page.curves()["persistence"]
    np.testing.assert_array_equal(values, held.rmse.sel(forecast="persistence", channel="2m_temperature")[0])
    np.testing.assert_allclose([high - values, values - low], 0.1)
    assert (x.tolist(), dash) == ([1, 3], "dashed")
    assert page.pane.objects[0].object.yaxis.axis_label == "rmse (K)"
    assert page.widgets["score"].options == ["rmse"]
    single = ScorePage({"filled": held.isel(lead_time=0, drop=True)})
    assert single.curves()["ours"][0] == ["ours"]


def test_paths_are_told_apart_and_what_is_nothing_is_refused(tmp_path, data):
    scores().to_netcdf(tmp_path / "scores.nc")
    data[1].to_netcdf(tmp_path / "truth.nc")
    fields, found = read_sources([tmp_path / "truth.nc", tmp_path])
    assert [source.name for source in fields] == ["truth.nc"]
    assert list(found) == [tmp_path.name]
    assert len(build([tmp_path / "truth.nc", tmp_path / "scores.nc"])) == 2
    with pytest.raises(et.DataError, match=r"there is no .*nothing\.zarr"):
        et.view(tmp_path / "nothing.zarr")
    with pytest.raises(et.DataError, match="nothing is given"):
        et.view()


def test_a_training_store_is_read_through_its_own_reader(tmp_path, data):
    et.prepare(et.open(_written(data[1], tmp_path / "truth.nc")), tmp_path / "store.zarr")
    source = Source("store", tmp_path / "store.zarr")
    page = FieldPage([source])
    page.widgets["time"].value = 5
    true = data[1].geopotential.values
    np.testing.assert_allclose(image(page, "shown"), true[5, 0][:, source.columns], rtol=1e-6)
    page.click(50.0, -170.0)
    np.testing.assert_allclose(page.curves.lines["values"].data["y"], true[:, 0, 9, 13], rtol=1e-6)


def _written(dataset, path):
    dataset.to_netcdf(path)
    return path


def test_a_truth_of_the_same_file_name_is_shown(tmp_path, data):
    for name, fields in (("ours", data[0]), ("theirs", data[1])):
        (tmp_path / name).mkdir()
        _written(fields, tmp_path / name / "fields.nc")
    fields, _, true = _opened([tmp_path / "ours" / "fields.nc"], tmp_path / "theirs" / "fields.nc")
    page = FieldPage(fields, true)
    assert page.maps["truth"].figure.title.text.startswith("fields.nc (truth): 2020-01-02")
    np.testing.assert_allclose(image(page, "truth"), data[1].geopotential[1, 0].values[:, page.source.columns])


def test_without_the_extra_one_sentence_names_the_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "panel", None)
    for name in [name for name in sys.modules if name.startswith("etesian.viewer")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("etesian.viewer.app", raising=False)
    with pytest.raises(et.RecipeError, match=r"pip install 'etesian\[view\]'"):
        et.view("store.zarr")
