"""A training store holds what the canonical dataset held, under the names and in the layout that are promised."""

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import etesian as et
from etesian.core.errors import DataError, GridError, RecipeError
from etesian.store.format import to_dataset
from etesian.store.prepare import prepare, prepare_dataset


def planet(steps: int = 40, *, freq: str = "6h", gaps: float = 0.1, seed: int = 0) -> xr.Dataset:
    """Random canonical fields on a 6×8 grid."""
    random = np.random.default_rng(seed)
    time = pd.date_range("2001-01-01", periods=steps, freq=freq)
    coordinates = {
        "time": time,
        "level": [500, 850],
        "latitude": np.linspace(-75, 75, 6),
        "longitude": np.arange(8) * 45.0,
    }
    temperature = random.standard_normal((steps, 2, 6, 8)).astype(np.float32) * 5 + 270
    temperature[random.random(temperature.shape) < gaps] = np.nan
    pressure = random.standard_normal((steps, 6, 8)).astype(np.float32) + 1e5
    return xr.Dataset(
        {
            "temperature": (("time", "level", "latitude", "longitude"), temperature, {"units": "K"}),
            "surface_pressure": (("time", "latitude", "longitude"), pressure, {"units": "Pa"}),
            "orography": (("latitude", "longitude"), random.random((6, 8)).astype(np.float32), {"units": "m"}),
            "land_sea_mask": (("latitude", "longitude"), np.zeros((6, 8), np.float32), {"units": "1"}),
        },
        coordinates,
    )


def test_fields_statics_and_coordinates_come_back(tmp_path: Path) -> None:
    source = planet()
    prepare_dataset(source.chunk(time=7), tmp_path / "store.zarr")
    back = to_dataset(tmp_path / "store.zarr")
    assert back["temperature"].chunks is not None
    xr.testing.assert_equal(back.load(), source)
    assert {name: back[name].attrs["units"] for name in back.data_vars} == {
        "temperature": "K", "surface_pressure": "Pa", "orography": "m", "land_sea_mask": "1",
    }  # fmt: skip


def test_units_of_statics_that_the_catalogue_does_not_know_come_back(tmp_path: Path) -> None:
    source = planet().assign(roughness=lambda ds: ds.orography / 1e3)
    source.roughness.attrs["units"] = "cm"
    prepare_dataset(source, tmp_path / "store.zarr")
    back = to_dataset(tmp_path / "store.zarr")
    assert [back[name].attrs["units"] for name in ("roughness", "orography")] == ["cm", "m"]


def test_the_store_opens_in_plain_xarray_with_the_promised_names(tmp_path: Path) -> None:
    source = planet()
    prepare_dataset(source, tmp_path / "store.zarr", train_end="2001-01-05")
    store = xr.open_zarr(tmp_path / "store.zarr", consolidated=True)
    assert store["fields"].dims == ("time", "channel", "latitude", "longitude")
    assert store["channel"].values.tolist() == ["temperature_500", "temperature_850", "surface_pressure"]
    assert store["variable"].values.tolist() == ["temperature", "temperature", "surface_pressure"]
    assert store["units"].values.tolist() == ["K", "K", "Pa"]
    np.testing.assert_array_equal(store["level"], [500, 850, np.nan])
    assert store["static"].values.tolist() == ["orography", "land_sea_mask"]
    assert store["static_std"].values[1] == 1
    assert store.attrs["train_start"] == "2001-01-01T00:00:00"
    assert store.attrs["train_end"] == "2001-01-05T18:00:00"
    assert (store.attrs["step_hours"], store.attrs["calendar"], store.attrs["etesian_store"]) == (
        6,
        "proleptic_gregorian",
        1,
    )
    assert "shorter than a year" in store.attrs["climatology_omitted"]
    training = source["temperature"][:20, 1].values.astype(np.float64)
    assert store["mean"].values[1] == pytest.approx(np.nanmean(training), rel=1e-12)
    assert store["std"].values[1] == pytest.approx(np.nanstd(training), rel=1e-10)
    assert store["count"].values[1] == np.isfinite(training).sum()
    assert store["missing"].values[1] == np.isnan(source["temperature"][:, 1]).sum()
    transformed = (training - np.nanmean(training)) / np.nanstd(training)
    transformed = np.sign(transformed) * np.log1p(0.2 * np.abs(transformed))
    assert store["log1p_mean"].values[1] == pytest.approx(np.nanmean(transformed), abs=1e-12)
    assert store["log1p_std"].values[1] == pytest.approx(np.nanstd(transformed), rel=1e-10)
    np.testing.assert_allclose(store["harmonics"][0, 2], source["surface_pressure"][:20].mean("time"), rtol=1e-6)


def test_a_training_period_without_times_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the training period 2005 to None holds none of the times"):
        prepare_dataset(planet(), tmp_path / "store.zarr", train_start="2005")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("other", "difference"),
    [
        (lambda made: made.drop_vars("surface_pressure"), "with surface_pressure among its channels"),
        (
            lambda made: made.assign(mean_sea_level_pressure=made.surface_pressure),
            "without mean_sea_level_pressure among",
        ),
        (lambda made: made.drop_vars("orography"), "with orography among its static fields"),
        (lambda made: made.isel(latitude=slice(1, None)), "on .* instead of "),
        (
            lambda made: made.isel(time=slice(4, None)),
            "of 40 times from 2001-.* of the calendar .* instead of 36 times",
        ),
    ],
)
def test_the_first_difference_from_the_store_at_hand_is_named(
    other: Callable[[xr.Dataset], xr.Dataset], difference: str, tmp_path: Path
) -> None:
    prepare_dataset(planet(), tmp_path / "store.zarr")
    with pytest.raises(DataError, match=f"exists, made {difference}"):
        prepare_dataset(other(planet()), tmp_path / "store.zarr")


def test_another_training_period_is_named(tmp_path: Path) -> None:
    prepare_dataset(planet(), tmp_path / "store.zarr")
    with pytest.raises(
        DataError, match=r"made with statistics of 2001-01-01T00:00:00 to .* instead of 2001-01-02T00:00:00"
    ):
        prepare_dataset(planet(), tmp_path / "store.zarr", train_start="2001-01-02")


def test_another_store_is_refused_and_a_finished_one_is_left_alone(tmp_path: Path) -> None:
    store = tmp_path / "store.zarr"
    prepare_dataset(planet(), store)
    before = (store / "zarr.json").stat().st_mtime_ns
    prepare_dataset(planet(), store)
    assert (store / "zarr.json").stat().st_mtime_ns == before
    with pytest.raises(
        DataError, match="exists, made of other files or with other options; choose another place or say"
    ):
        prepare_dataset(planet(seed=1), store)
    prepare_dataset(planet(seed=1), store, overwrite=True)
    xr.testing.assert_equal(to_dataset(store).load(), planet(seed=1))
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = tmp_path / "store.zarr"
    prepare_dataset(planet(), store)
    monkeypatch.setattr("etesian.store.format.write_shard", full)
    with pytest.raises(DataError, match=r"the disk of .*store.zarr is full: its fields alone need .* GB; free some"):
        prepare_dataset(planet(seed=1), store, overwrite=True)
    xr.testing.assert_equal(to_dataset(store).load(), planet())
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_files_are_prepared_with_every_option_at_once(tmp_path: Path) -> None:
    planet(gaps=0).to_netcdf(tmp_path / "source.nc")
    prepare(
        [str(tmp_path / "source.nc")],
        str(tmp_path / "store.zarr"),
        variables=["temperature"],
        exclude=["temperature_500", "land_sea_mask"],
        grid="45",
        region="0,90,0,180",
        every=24,
        resampling="mean",
        end="2001-01-08",
        memory_limit="1GB",
    )
    store = to_dataset(tmp_path / "store.zarr")
    assert dict(store.sizes) == {"time": 8, "level": 1, "latitude": 2, "longitude": 5}
    assert store["level"].values.tolist() == [850]
    assert list(store.data_vars) == ["temperature", "orography"]


def test_a_mean_of_members_is_refused_for_what_one_of_them_holds(tmp_path: Path) -> None:
    members = xr.concat([planet(gaps=0, seed=seed) for seed in range(10)], "member")
    prepare(members, str(tmp_path / "a.zarr"), member="mean")
    back = to_dataset(tmp_path / "a.zarr")
    np.testing.assert_allclose(back["temperature"], members["temperature"].mean("member"), rtol=1e-6)
    members["temperature"][3, :12, 0, :3, :4] = 0
    for member in (3, "mean"):
        with pytest.raises(DataError, match="'temperature_500' holds the value 0 exactly 144 times"):
            prepare(members, str(tmp_path / "b.zarr"), member=member)


def test_all_members_are_kept_each_in_a_store_that_its_number_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    members = xr.concat([planet(gaps=0, seed=seed) for seed in range(3)], pd.Index([0, 4, 7], name="member"))
    members.to_netcdf(tmp_path / "members.nc")
    source, out = str(tmp_path / "members.nc"), tmp_path / "kept_{member}.zarr"
    options: dict[str, Any] = {"train": ("2001-01-01", "2001-01-05"), "levels": [500]}
    with monkeypatch.context() as patch:
        patch.setattr("etesian.store.prepare.open_store", None)  # Opened once, for all members.
        stores = et.prepare_members(source, out, **options)
    et.prepare(source, tmp_path / "kept_4.zarr", member=4, **options)
    assert "kept_4.zarr is already there" in capsys.readouterr().out
    assert [Path(str(store.path)).name for store in stores] == ["kept_0.zarr", "kept_4.zarr", "kept_7.zarr"]
    for store, member in zip(stores, (0, 4, 7), strict=True):
        kept = members.temperature.sel(member=member, level=[500])
        np.testing.assert_array_equal(to_dataset(str(store.path))["temperature"].values, kept.values)
    et.prepare_members(members.isel(member=[0]).assign_coords(member=["../r1"]), out)
    assert (tmp_path / "kept_.._r1.zarr").is_dir()
    with pytest.raises(RecipeError, match=r"kept\.zarr cannot hold all members: .* as in .*kept_{member}\.zarr"):
        et.prepare_members(source, tmp_path / "kept.zarr")
    with pytest.raises(DataError, match="the data are no ensemble"):
        et.prepare_members(planet(gaps=0), out)


def test_a_period_beyond_the_source_is_refused(tmp_path: Path) -> None:
    said = r"the source holds 2001-01-01T00:00 to 2001-01-10T18:00, and 2001-01-01 to 2001-12 reaches beyond that; ask "
    with pytest.raises(DataError, match=rf"^{said}for 2001-01-01 to 2001-01-10$"):
        et.prepare(planet(gaps=0), tmp_path / "a.zarr", end="2001-12")
    assert len(et.prepare(planet(gaps=0), tmp_path / "a.zarr", start="2001", end="2001-01-05").time) == 20


def test_blocks_of_points_are_averaged_and_those_with_holes_are_missing(tmp_path: Path) -> None:
    source = planet(8, gaps=0.0)
    source.temperature[3, 1, 2, 4] = np.nan
    source.to_netcdf(tmp_path / "fine.nc")
    prepare([str(tmp_path / "fine.nc")], str(tmp_path / "coarse.zarr"), coarsen=2)
    back = to_dataset(tmp_path / "coarse.zarr").load()
    np.testing.assert_allclose(back.latitude, [-60, 0, 60])
    np.testing.assert_allclose(back.longitude, [22.5, 112.5, 202.5, 292.5])
    expected = source.temperature.values.reshape(8, 2, 3, 2, 4, 2).mean(axis=(3, 5))
    assert np.isnan(expected[3, 1, 1, 2])
    np.testing.assert_allclose(back.temperature.values, expected, rtol=1e-6)
    assert back.temperature.attrs["units"] == "K"
    with pytest.raises(GridError, match="blocks of 4×4 points do not divide a grid of 6×8"):
        prepare([str(tmp_path / "fine.nc")], str(tmp_path / "other.zarr"), coarsen=4)
