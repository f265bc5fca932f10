"""The simulated sea is stirred as the ocean is, its clouds move as clouds do, and the same seed gives the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from etesian.cli.main import main
from etesian.core.errors import DataError, RecipeError
from etesian.files.open import open_store
from etesian.simulation.clouds import CloudLibrary, moving_clouds
from etesian.simulation.ocean import SST, simulate_ocean

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")
KILOMETRES = 0.25 * 111.2 * np.cos(np.radians(38))


@pytest.fixture(scope="module")
def sea(tmp_path_factory: pytest.TempPathFactory) -> tuple[xr.Dataset, xr.Dataset]:
    """One year as observed and as it was."""
    folder = tmp_path_factory.mktemp("sea")
    simulate_ocean(str(folder / "seen.zarr"), years=1)
    return open_store(folder / "seen.zarr").load(), open_store(folder / "seen_truth.zarr").load()


def brief(path: Path, **options: Any) -> xr.Dataset:
    simulate_ocean(str(path), **{"years": 1, "points": 16, **options})
    return xr.open_zarr(path).load()


def test_the_truth_is_missing_on_land_only_and_observations_are_the_truth_with_noise(
    sea: tuple[xr.Dataset, xr.Dataset],
) -> None:
    seen, truth = sea
    land = truth["land_sea_mask"].values == 1
    assert land.mean() == pytest.approx(0.2, abs=0.001)
    assert (np.isnan(truth[SST].values) == land).all()
    assert np.isnan(seen[SST].values[:, land]).all()
    error = (seen[SST] - truth[SST]).values
    assert np.nanstd(error) == pytest.approx(0.1, abs=0.001)
    assert abs(np.nanmean(error)) < 0.001
    assert truth[SST].attrs["units"] == "K"


def test_the_spectrum_falls_as_in_the_mesoscale(sea: tuple[xr.Dataset, xr.Dataset]) -> None:
    """Between wavenumber to the power -1.7 and -3 from 300 to 80 km, as of observed SST."""
    points = 64
    rows = sea[1][SST].values[::10, :, -points:]
    rows = rows[:, np.isfinite(rows).all(axis=(0, 2))]
    ramp = np.linspace(-1, 1, points)
    rows = rows - rows.mean(-1, keepdims=True)
    rows = rows - (rows @ ramp / (ramp @ ramp))[..., None] * ramp
    power = (abs(np.fft.rfft(rows * np.hanning(points))) ** 2).mean(axis=(0, 1))
    wavelength = points * KILOMETRES / np.maximum(np.arange(power.size), 1e-9)
    band = (wavelength < 300) & (wavelength > 80)
    slope = np.polyfit(-np.log(wavelength[band]), np.log(power[band]), 1)[0]
    assert -3 < slope < -1.7


def test_structures_live_for_days_to_weeks(sea: tuple[xr.Dataset, xr.Dataset]) -> None:
    truth = sea[1][SST].values
    values = truth[:, np.isfinite(truth[0])]
    phase = 2 * np.pi * np.arange(len(values)) / 365
    terms = np.stack([np.ones_like(phase), np.cos(phase), np.sin(phase), np.cos(2 * phase), np.sin(2 * phase)], axis=1)
    anomaly = values - terms @ np.linalg.lstsq(terms, values, rcond=None)[0]

    def correlation(days: int) -> float:
        return float((anomaly[days:] * anomaly[:-days]).mean() / (anomaly**2).mean())

    assert 0.5 < anomaly.std() < 1.2
    assert correlation(1) > 0.95
    assert 0.5 < correlation(7) < 0.9
    assert abs(correlation(60)) < 0.3


def test_the_sea_is_warmest_in_late_summer_and_its_range_varies_in_space(sea: tuple[xr.Dataset, xr.Dataset]) -> None:
    monthly = sea[1][SST].groupby("time.month").mean()
    assert set(np.unique(monthly.mean(["latitude", "longitude"]).argmax("month") + 1)) <= {8, 9}
    span = (monthly.max("month") - monthly.min("month")).values
    assert np.nanquantile(span, 0.9) > 1.4 * np.nanquantile(span, 0.1)


def test_clouds_cover_as_much_as_asked_for_vary_from_day_to_day_and_last() -> None:
    days = moving_clouds(np.random.default_rng(0), (48, 48), (28.0, 22.0), 0.6)
    masks = np.stack([next(days) for _ in range(600)])
    share = masks.mean(axis=(1, 2))
    assert share.mean() == pytest.approx(0.6, abs=0.06)
    assert 0.1 < share.std() < 0.3
    anomaly = masks - masks.mean(axis=0)
    variance = (anomaly**2).mean()
    assert 0.15 < (anomaly[1:] * anomaly[:-1]).mean() / variance < 0.5
    # Neighbours are mostly alike, far points not.
    assert (anomaly[:, :, 1:] * anomaly[:, :, :-1]).mean() / variance > 0.6
    assert (anomaly[:, :, 40:] * anomaly[:, :, :-40]).mean() / variance < 0.35


def test_without_clouds_everything_is_seen(tmp_path: Path) -> None:
    seen = brief(tmp_path / "seen.zarr", cloud=0.0, land=0.0, noise=0.0)
    xr.testing.assert_equal(seen, xr.open_zarr(tmp_path / "seen_truth.zarr").load())
    assert np.isfinite(seen[SST]).all()


def test_the_same_seed_gives_the_same_and_the_truth_knows_nothing_of_the_clouds(tmp_path: Path) -> None:
    first = brief(tmp_path / "first.zarr", truth=str(tmp_path / "truth.zarr"))
    xr.testing.assert_identical(first, brief(tmp_path / "again.zarr"))
    assert not first[SST].equals(brief(tmp_path / "other.zarr", seed=1)[SST])
    # Other clouds over the same sea: its truth is there already and stays.
    clearer = brief(tmp_path / "clearer.zarr", truth=str(tmp_path / "truth.zarr"), cloud=0.3)
    assert np.isnan(clearer[SST]).sum() < np.isnan(first[SST]).sum()


def test_a_model_calendar_has_months_of_30_days(tmp_path: Path) -> None:
    seen = brief(tmp_path / "seen.zarr", calendar="360_day")
    assert seen.sizes["time"] == 360
    assert str(seen.time.values[59])[:10] == "2001-02-30"


def test_the_command_makes_both_and_leaves_what_is_finished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", "ocean", str(tmp_path / "seen.zarr"), "--years", "1", "--points", "12"]
    for arguments in (command, command):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    assert {"seen.zarr", "seen_truth.zarr"} == {path.name for path in tmp_path.iterdir()}
    with pytest.raises(SystemExit):
        main([*command, "--cloud", "0.2"])
    assert "seen.zarr exists, made with cloud = 0.7 instead of 0.2; use --overwrite" in capsys.readouterr().err


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"years": 0}, "years = 0 must be at least 1"),
        ({"cloud": 1.0}, r"cloud = 1 must be a share from 0 to below 1"),
        ({"land": 1.0}, "land = 1 must be a share"),
    ):
        with pytest.raises(RecipeError, match=message):
            brief(tmp_path / "no.zarr", **options)


def test_a_library_keeps_masks_that_are_partly_cloudy_and_continues_them_over_land() -> None:
    gaps = np.zeros((3, 4, 6), dtype=bool)
    gaps[:, :, 4:] = True  # land
    gaps[0, :2] = True
    gaps[1] = True  # overcast; the third day is clear
    library = CloudLibrary(gaps)
    assert library.masks.shape == (1, 4, 6)
    assert (library.masks[0] == np.array([1, 1, 0, 0], dtype=bool)[:, None]).all()
    with pytest.raises(DataError, match="of 1 times in the clouds' data set none has 5% to 95%"):
        CloudLibrary(gaps[2:])


def test_clouds_larger_than_their_mask_go_on_as_its_mirror_image() -> None:
    gaps = np.zeros((2, 2, 40), dtype=bool)
    gaps[0, :, :20] = True  # the other day is clear
    drawn = CloudLibrary(gaps).draw(np.random.default_rng(3), (5, 200))
    assert drawn.shape == (5, 200)
    edges = np.flatnonzero(np.diff(drawn[0].astype(int)))
    assert (np.diff(edges) == 40).all()
    assert len(edges) == 5


def test_real_clouds_hide_the_simulated_sea(shared: Path, tmp_path: Path) -> None:
    clouds = shared / "data" / "alboran_sst_gappy_daily" / "alboranSST_small.nc"
    seen = brief(tmp_path / "seen.zarr", points=48, clouds=str(clouds), noise=0.0, land=0.0)
    share = np.isnan(seen[SST]).mean(["latitude", "longitude"])
    assert 0.1 < float(share.mean()) < 0.95
    assert float(share.std()) > 0.05
