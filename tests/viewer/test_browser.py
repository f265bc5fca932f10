"""The viewer in a real browser, where there is one."""

import importlib.util
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.core.grid import Grid

pytest.importorskip("panel", reason="the extra 'view' is not installed")

_SPEC = importlib.util.spec_from_file_location("chromium_driver", Path(__file__).with_name("chromium.py"))
chromium = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(chromium)

pytestmark = pytest.mark.skipif(chromium.found() is None, reason="there is no Chromium here")

# The model of a kind in the page, and the title of the figure that was made for series.
MODELS = "Bokeh.documents[0]._all_models ? Array.from(Bokeh.documents[0]._all_models.values()) : []"
SERIES = f"({MODELS}).filter(m => m.type == 'Title').map(m => m.text).find(t => t && t.includes('°N, '))"


@pytest.fixture
def server(tmp_path):
    grid = Grid.equiangular(10)
    times = np.datetime64("2020-01-01", "ns") + np.arange(10) * np.timedelta64(24, "h")
    values = np.random.default_rng(0).normal(280, 10, (10, *grid.shape))
    field = (("time", "latitude", "longitude"), values, {"units": "K"})
    axes = {"time": times, "latitude": grid.latitude, "longitude": grid.longitude}
    xr.Dataset({"2m_temperature": field}, axes).to_netcdf(tmp_path / "data.nc")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["view", str(tmp_path / "data.nc"), "--port", str(port), "--no-browser"]
    served = subprocess.Popen([sys.executable, "-m", "etesian", *words])
    address = f"http://127.0.0.1:{port}/view"
    for _ in range(400):
        try:
            urllib.request.urlopen(address).close()
            break
        except OSError:
            time.sleep(0.1)
    yield address, values
    served.terminate()
    served.wait(20)


def test_the_page_opens_slides_and_answers_a_click_without_an_error(server, tmp_path):
    address, _ = server
    page = chromium.Browser(address, tmp_path)
    try:
        page.until(f"window.Bokeh && Bokeh.documents.length && ({MODELS}).some(m => m.type == 'Image')")
        slider = f"({MODELS}).find(m => m.type == 'Slider' && m.end == 9)"
        page.run(f"{slider}.value = 4")
        page.until("location.search.includes('time=2020-01-05')")
        # Where the map's frame is on the page, through the shadows that Panel's parts live in.
        page.until(
            "(() => { const all = []; const walk = n => { for (const c of n.children) { all.push(c);"
            " if (c.shadowRoot) walk(c.shadowRoot); walk(c); } }; walk(document.body);"
            " const c = all.filter(e => e.tagName == 'CANVAS' && e.getBoundingClientRect().width > 500)[0];"
            " if (!c) return false; const r = c.getBoundingClientRect();"
            " window.place = [r.x + r.width / 2, r.y + r.height / 3]; return true; })()"
        )
        page.click(*page.run("window.place"))
        page.until("location.search.includes('place=')")
        assert page.until(SERIES).startswith("2 m temperature at ")
        page.picture(tmp_path / "page.png")
        assert (tmp_path / "page.png").stat().st_size > 20_000
        assert page.errors == []
    finally:
        page.close()
