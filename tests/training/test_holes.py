"""A network that knows no holes is not trained on fields with holes without a word."""

import numpy as np
import pandas as pd
import pytest

from etesian.core import Channel
from etesian.core.errors import RecipeError
from etesian.forecast.data import ForecastData
from etesian.networks.climax import ClimaX
from etesian.networks.unet import UNet
from etesian.training.recipes import told_of_holes

PERIODS = (("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-15"), [24])


def data(store: str, **options: object) -> ForecastData:
    return ForecastData([store], *PERIODS, **options)  # type: ignore[arg-type]


def test_a_network_is_told_of_holes_or_says_what_it_takes_them_for(gappy_store: str) -> None:
    holes = data(gappy_store).holes()
    assert {str(channel) for channel in holes} == {"temperature_500", "temperature_850"}
    assert all(share == pytest.approx(0.1, abs=0.02) for share in holes.values())
    layout = data(gappy_store).layout
    said = r"values are missing in temperature_.* \(0\.1.* of its values\).*, and ClimaX would take them for the"
    with pytest.raises(RecipeError, match=said):
        told_of_holes(ClimaX(layout, patch=2, dim=8, depth=1, heads=1), holes)
    assert told_of_holes(ClimaX(layout, patch=2, dim=8, depth=1, heads=1, validity=True), holes) == ""
    assert told_of_holes(UNet(layout, leads=(24,)), holes).startswith("Missing values enter UNet as the mean")


def test_fields_without_holes_and_channels_that_are_not_fed_in_say_nothing(store: str, gappy_store: str) -> None:
    assert data(store).holes() == {}
    chosen = data(gappy_store, inputs=["surface_pressure"], targets=["temperature"])
    assert chosen.holes() == {}
    assert told_of_holes(ClimaX(chosen.layout, patch=2, dim=8, depth=1, heads=1), {}) == ""


def test_a_region_of_the_sea_has_no_holes_for_the_land_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    from conftest import weather

    from etesian.store.prepare import prepare_dataset

    source = weather(pd.date_range("2001-01-01", periods=60, freq="6h"))
    source["surface_pressure"][:, :, :2] = np.nan
    source["orography"][0, 0] = np.nan
    path = tmp_path_factory.mktemp("land") / "store.zarr"
    prepare_dataset(source, path)
    whole = data(str(path)).holes()
    assert whole == {Channel("surface_pressure"): 0.25, Channel("orography"): pytest.approx(1 / 48)}
    assert data(str(path), region="-80,80,80,330").holes() == {}
    assert data(str(path), region="-80,80,40,330").holes()[Channel("surface_pressure")] == pytest.approx(1 / 7)
