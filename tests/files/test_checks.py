"""What values are tallied to, and how `prepare` refuses what the doctor would have the user mend."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.files.checks import gather, tallies
from etesian.files.doctor import examine
from etesian.store.prepare import prepare


def raw(values: np.ndarray, units: str = "K", name: str = "tas") -> xr.Dataset:
    """Put (time, 6, 8) values on a global grid, daily."""
    coordinates = {
        "time": np.datetime64("2001-01-01", "ns") + np.arange(len(values)) * np.timedelta64(1, "D"),
        "lat": ("lat", np.arange(-75.0, 76, 30), {"units": "degrees_north"}),
        "lon": ("lon", np.arange(0.0, 360, 45), {"units": "degrees_east"}),
    }
    return xr.Dataset({name: (("time", "lat", "lon"), values.astype(np.float32), {"units": units})}, coordinates)


def written(dataset: xr.Dataset, path: Path) -> str:
    dataset.to_netcdf(path, encoding={name: {"_FillValue": None} for name in dataset.data_vars})
    return str(path)


def warm() -> np.ndarray:
    return np.random.default_rng(0).uniform(270, 300, (12, 6, 8))


@pytest.mark.parametrize("chunks", [(1, 3), (4, 1), (12, 3), (5, 2)])
def test_tallies_of_blocks_add_up_to_that_of_the_whole(chunks: tuple[int, int]) -> None:
    values = np.random.default_rng(1).integers(-4, 5, (12, 3, 2, 2)).astype(np.float32)
    values[np.random.default_rng(2).random(values.shape) < 0.3] = np.nan
    values[:, 1] = np.nan
    array = xr.DataArray(values, dims=("time", "level", "latitude", "longitude"))
    lazy = array.chunk(time=chunks[0], level=chunks[1])
    found = gather((first, tally.compute()) for first, tally in tallies(lazy))
    for level in range(3):
        first = level // chunks[1] * chunks[1]
        tally, i = found[first], level - first
        there = np.sort(values[:, level][~np.isnan(values[:, level])])
        assert (tally.count[i], tally.missing[i]) == (there.size, 48 - there.size)
        if not there.size:
            assert np.isnan([*tally.low[i, ::2], *tally.high[i, ::2]]).all()
            continue
        distinct, numbers = np.unique(there, return_counts=True)
        np.testing.assert_array_equal(tally.low[i], [distinct[0], numbers[0], distinct[1]])
        np.testing.assert_array_equal(tally.high[i], [distinct[-1], numbers[-1], distinct[-2]])
        assert tally.total[i] == pytest.approx(there.sum())


def broken(case: str) -> xr.Dataset:
    """Make one of the things that only the user can mend."""
    values = warm()
    if case == "celsius":
        return raw(values - 273.15)
    if case == "no units":
        return raw(values * 0 + 1013 + np.arange(8), "", "msl")
    values[:, 0, 0] = {"huge fill": 1e20, "round fill": -9999.0}[case]
    return raw(values)


CASES = ("celsius", "no units", "huge fill", "round fill")


@pytest.mark.parametrize("options", [{}, {"grid": "45"}, {"coarsen": 2}, {"every": 48, "resampling": "mean"}])
@pytest.mark.parametrize("case", CASES)
def test_prepare_refuses_what_the_doctor_would_have_mended_in_the_same_words(
    case: str, options: dict[str, object], tmp_path: Path
) -> None:
    source = written(broken(case), tmp_path / "a.nc")
    finding = examine(source).findings[0]
    assert examine(source).exit_status == 1
    with pytest.raises(DataError) as refused:
        prepare([source], str(tmp_path / "a.zarr"), **options)  # type: ignore[arg-type]
    assert str(refused.value) == f"{finding.text}; or leave the variable out"
    assert [path.name for path in tmp_path.iterdir()] == ["a.nc"]


def test_prepare_checks_no_more_than_is_kept(tmp_path: Path) -> None:
    both = raw(warm()).assign(u10=broken("round fill").tas.assign_attrs(units="m s-1"))
    source = written(both, tmp_path / "a.nc")
    with pytest.raises(DataError, match="'10m_u_component_of_wind' holds the value -9999 exactly 12 times"):
        prepare([source], str(tmp_path / "a.zarr"))
    prepare([source], str(tmp_path / "a.zarr"), exclude=["u10"])
    prepare([source], str(tmp_path / "b.zarr"), region="-90,0,90,359")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nc", "a.zarr", "b.zarr"]
