"""Times of files, and fields that have none."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.files.canonical import canonicalise
from etesian.files.diagnosis import Severity
from etesian.files.doctor import examine
from etesian.files.open import open_store
from etesian.store.prepare import prepare

NORTH, EAST = {"units": "degrees_north"}, {"units": "degrees_east"}
INITIAL, VALID = {"standard_name": "forecast_reference_time"}, {"standard_name": "time"}
PERIOD = {"standard_name": "forecast_period"}
SINCE = "hours since 2020-01-01"


def fields(dims: tuple[str, ...] = ("time",), sizes: tuple[int, ...] = (3,), **coordinates: Any) -> xr.Dataset:
    """Make fields that count the steps of their leading dimensions."""
    values = np.arange(np.prod(sizes), dtype=np.float32).reshape(sizes)[..., None, None] + np.zeros((2, 4), np.float32)
    grid = {"lat": ("lat", [-10.0, 10.0], NORTH), "lon": ("lon", [0.0, 90, 180, 270], EAST)}
    return xr.Dataset({"t2m": ((*dims, "lat", "lon"), values + 280, {"units": "K"})}, {**coordinates, **grid})


def counted(values: Any, units: str = SINCE, dim: str = "time", **attrs: Any) -> tuple[str, Any, dict[str, Any]]:
    return dim, np.asarray(values), {"units": units, **attrs}


def times_of(dataset: xr.Dataset, notes: list[str] | None = None) -> list[str]:
    canonical, found = canonicalise(dataset, "a.nc")
    if notes is not None:
        notes += found
    return [str(time)[:19].replace("T", " ") for time in canonical.time.values]


def six_hourly(*hours: float) -> list[str]:
    return [f"2020-01-{1 + int(h) // 24:02d} {int(h) % 24:02d}:00:00" for h in hours]


@pytest.mark.parametrize(
    "dataset",
    [
        fields(("time", "step"), (3, 1), time=counted([0, 24, 48], **INITIAL), step=counted([6], "hours", "step")),
        fields(time=counted([0, 24, 48]), step=((), 6, {"units": "hours"})),
        fields(time=counted([0, 24, 48]), prediction_timedelta=((), np.timedelta64(6, "h").astype("m8[ns]"))),
        fields(("time", "lead"), (3, 1), time=counted([0, 24, 48]), lead=counted([360], "minutes", "lead")),
        fields(("init",), init=counted([0, 24, 48], dim="init"), lead_time=((), 0.25, {"units": "days"})),
        fields(time=counted([0, 24, 48], **INITIAL), valid_time=counted([6, 30, 54]), step=((), 6, {"units": "hours"})),
        fields(time=counted([6, 30, 54], **VALID), forecast_period=((), 6, PERIOD | {"units": "hours"})),
        fields(
            time=counted([6, 30, 54]), forecast_reference_time=((), 0, {"units": SINCE}),
            forecast_period=counted([6, 30, 54], "hours", **PERIOD),
        ),
    ],
)  # fmt: skip
def test_fields_are_dated_by_their_valid_time(dataset: xr.Dataset) -> None:
    assert times_of(dataset) == six_hourly(6, 30, 54)


def test_initial_times_and_leads_become_one_axis_of_valid_times_in_order() -> None:
    base, lead = counted([0, 24], dim="forecast_reference_time"), counted([18, 6], "hours", "forecast_period")
    dataset = fields(
        ("forecast_reference_time", "forecast_period"), (2, 2), forecast_reference_time=base, forecast_period=lead
    )
    valid = (("forecast_reference_time", "forecast_period"), [[18, 6], [42, 30]], {"units": SINCE} | VALID)
    for each in (dataset, dataset.assign_coords(valid_time=valid)):
        assert times_of(each) == six_hourly(6, 18, 30, 42)
        canonical, _ = canonicalise(each, "a.nc")
        assert canonical["2m_temperature"][:, 0, 0].values.tolist() == [281, 280, 283, 282]


@pytest.mark.parametrize("name", ["prediction_timedelta", "step"])
def test_forecasts_that_overlap_are_refused_as_forecasts(name: str) -> None:
    dataset = fields(("time", name), (2, 2), time=counted([0, 24]), **{name: counted([24, 48], "hours", name)})
    with pytest.raises(
        DataError, match=rf"a\.nc is a forecast with 2 leads along '{name}', .*`ncks -d {name},0 IN OUT`"
    ):
        times_of(dataset)
    assert times_of(dataset.isel({name: [1]})) == six_hourly(48, 72)


def test_leads_in_months_and_leads_beside_a_valid_time_are_refused() -> None:
    with pytest.raises(DataError, match="leads in 'forecastMonth' in the units 'months', which have no one length"):
        times_of(fields(time=counted([0, 24, 48]), forecastMonth=((), 2, {"units": "months"})))
    odd = fields(("time", "lead"), (3, 1), time=counted([0, 6, 12], **VALID), lead=counted([6], "hours", "lead"))
    with pytest.raises(DataError, match="calls 'time' the valid time but has a dimension of leads, 'lead'"):
        times_of(odd)
    with pytest.raises(DataError, match="has leads in 'lead' but no date from which they count"):
        times_of(fields(("lead",), lead=counted([6, 12, 18], "hours", "lead")))


@pytest.mark.parametrize("name", ["day", "Times_1", "time2", "init_time", "forecast_reference_time", "when"])
def test_the_only_coordinate_with_dates_is_the_time_whatever_its_name(name: str) -> None:
    assert times_of(fields((name,), **{name: counted([0, 6, 12], dim=name)})) == six_hourly(0, 6, 12)


def test_of_several_dates_the_one_that_is_called_time_is_taken() -> None:
    bounds = (("time", "nv"), [[0, 6], [6, 12], [12, 18]], {"units": SINCE})
    dataset = fields(
        time=counted([3, 9, 15], bounds="time_bnds"), start_time=counted([0, 6, 12]), end_time=counted([6, 12, 18])
    )
    assert times_of(dataset.assign(time_bnds=bounds)) == six_hourly(3, 9, 15)
    rivals = fields(("record",), begin=counted([0, 6, 12], dim="record"), end=counted([6, 12, 18], dim="record"))
    with pytest.raises(DataError, match=r"dates in 'begin' and 'end': .*`ncrename -v begin,time IN OUT`"):
        times_of(rivals)
    assert times_of(rivals.rename(end="time")) == six_hourly(6, 12, 18)


@pytest.mark.parametrize(
    ("units", "value", "expected"),
    [
        (SINCE, 6.0, "2020-01-01 06:00:00"),
        ("days since 1800-01-01", np.float32(80350.04), "2019-12-29 01:00:00"),
        ("months since 2020-01-01", 2, "2020-03-01 00:00:00"),
        ("day as %Y%m%d.%f", 20200101.5, "2020-01-01 12:00:00"),
    ],
)
def test_one_moment_dates_all_fields(units: str, value: Any, expected: str) -> None:
    dataset = fields(time=counted([0, 6, 12])).isel(time=0, drop=True)
    assert times_of(dataset.assign_coords(time=((), value, {"units": units}))) == [expected]
    lead = dataset.assign_coords(time=((), 0.0, {"units": SINCE}), step=((), 6.0, {"units": "hours"}))
    assert times_of(lead) == ["2020-01-01 06:00:00"]


def test_fields_whose_values_are_dates_are_left_out_with_a_word() -> None:
    notes: list[str] = []
    dataset = fields(time=counted([0, 6, 12]))
    times_of(dataset.assign(onset=dataset.t2m.assign_attrs(units="days since 2020-01-01")), notes)
    assert "'onset' is left out: its values are dates" in notes


@pytest.mark.parametrize(
    ("units", "values", "expected"),
    [
        ("Hours Since 2020-1-1", [0, 6, 12.0], six_hourly(0, 6, 12)),
        ("DAYS since 2020-01-01T00:00:00Z", [0, 0.25, 1.5], six_hourly(0, 6, 36)),
        ("hours since 2020-01-01 02:00 +02:00", [0, 6, 12], six_hourly(0, 6, 12)),
        ("seconds since 2019-12-31 24:00:00.0", [0, 21600, 43200], six_hourly(0, 6, 12)),
        ("hr since 20200101", [0, 6, 12], six_hourly(0, 6, 12)),
        ("hours since 1-1-1 00:00:0.0", np.array([17067072.0, 17067078, 17067084]), 
         ["1948-01-01 00:00:00", "1948-01-01 06:00:00", "1948-01-01 12:00:00"]),
        ("day as %Y%m%d.%f", [20200101.0, 20200101.25, 20200102.5], six_hourly(0, 6, 36)),
        ("YYYYMMDD", [20200101, 20200102, 20200103], six_hourly(0, 24, 48)),
        ("months since 1958-1-15", [0.0, 1, 14], ["1958-01-15 00:00:00", "1958-02-15 00:00:00", "1959-03-15 00:00:00"]),
        ("years since 1850-07-01 12:00", [0, 1, 450],
         ["1850-07-01 12:00:00", "1851-07-01 12:00:00", "2300-07-01 12:00:00"]),
    ],
)  # fmt: skip
def test_units_are_read_as_they_are_meant(units: str, values: Any, expected: list[str]) -> None:
    assert times_of(fields(time=counted(values, units))) == expected


def test_units_under_another_attribute_are_read_and_named_once() -> None:
    notes: list[str] = []
    time = ("time", [37255.0, 37256, 37257], {"Unit": "days since 1900-1-1"})
    assert times_of(fields(time=time), notes)[0] == "2002-01-01 00:00:00"
    assert "the units of 'time' stand in an attribute 'Unit': read as 'days since 1900-1-1'" in notes


@pytest.mark.parametrize(
    ("units", "values", "message"),
    [
        ("hours since 0000-00-00", [0, 6, 12], "units 'hours since 0000-00-00'.*'0000-00-00' is no date.*cdo settaxis"),
        ("fortnights since 2020-01-01", [0, 1, 2], "'fortnights' is no unit of time: .*cdo settaxis"),
        ("months since 2000-01-01", [0.5, 1.5, 2.5], "with fractions .0.5 months., .*settaxis,2000-01-16,00:00,1month"),
        ("months since 2000-01-31", [0, 1, 2], "'2000-2-31' is no date of the standard calendar"),
        (SINCE, [0, 6, np.nan], r"has 1 missing values .* among 3 dates: .*`ncks -d time,0,1 IN OUT`"),
        (SINCE, [9.96921e36, 6, 12], r"has 1 missing values .*9.96.*`ncks -d time,1,2 IN OUT`"),
        (SINCE, [-2147483647, 6, 12], r"has 1 missing values .*-2147483647.*`ncks -d time,1,2 IN OUT`"),
        ("days since 2020-01-01", [0, 1, 4e7], "dates outside the years 1 to 9999"),
        ("days since 2020-01-01", [0, 1, 3e6], "dates outside the years 1 to 9999"),
        ("seconds since 2020-01-01", [0, 0.5, 1], "steps of 0.5 s with fractions of a second"),
        ("day as %Y%m%d.%f", np.array([20200101, 20200102, 20200103], "f4"), "spells dates in float32"),
        ("day as %Y%m%d.%f", [20200101, 20200230, 20200303], "'2020-2-30' is no date"),
        (
            "",
            [20200101, 20200102, 20200103],
            "without a date .*20200101 spell dates, say so with `ncatted -a 'units,time",
        ),
        ("days since 01-01-1970", [0, 1, 2], "'01-01-1970' is no date that can be read"),
        ("", [0, 6, 12], r"in 'time' without a date .no units.: give it units such as"),
        ("hours", [0, 6, 12], "without a date .units 'hours'.: give it units such as"),
    ],
)
def test_times_that_cannot_be_read_are_refused_with_units_values_and_a_remedy(
    units: str, values: Any, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        times_of(fields(time=counted(values, units)))


@pytest.mark.parametrize(
    ("calendar", "message"),
    [
        ("no-leap", "calendar 'no-leap', which is none of .*; did you mean 'noleap'.*ncatted -a calendar,time,o,c"),
        ("none", "calendar 'none', which is none of"),
        ("360day", "ncatted -a calendar,time,o,c,360_day IN OUT"),
    ],
)
def test_unknown_calendars_are_refused_and_capitals_are_not(calendar: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        times_of(fields(time=counted([0, 6, 12], calendar=calendar)))
    assert (
        times_of(fields(time=counted([58, 59, 60], "days since 2020-01-01", calendar="NoLeap")))[1][:10] == "2020-03-01"
    )
    half_months = counted([0.5, 1.5, 14.5], "months since 1960-01-01", calendar="360")
    assert times_of(fields(time=half_months)) == [f"19{day} 00:00:00" for day in ("60-01-16", "60-02-16", "61-03-16")]
    assert times_of(fields(time=counted([0, 6, 12], calendar="Gregorian"))) == six_hourly(0, 6, 12)


@pytest.mark.parametrize(
    "texts",
    [
        ["2020-01-01T00:00:00", "2020-01-01T06:00:00", "2020-01-02T12:00:00"],
        ["2020-01-01_00:00:00", "2020-01-01_06:00:00", "2020-01-02_12:00:00"],
        ["2020-01-01 00:00Z", "2020-01-01 06:00Z", "2020-01-02 12:00Z"],
        ["2020010100", "2020010106", "2020010212"],
        ["2020-01-01T01:00+01:00", "2020-01-01T07:00+01:00", "2020-01-02T13:00+01:00"],
    ],
)
def test_dates_in_text_are_read(texts: list[str], tmp_path: Path) -> None:
    fields(time=("time", np.array(texts, "S"))).to_netcdf(tmp_path / "chars.nc")
    fields(time=("time", np.array(texts, object))).to_netcdf(tmp_path / "strings.nc")
    fields(("Time",), Times=("Time", np.array(texts, "S"))).to_netcdf(tmp_path / "wrf.nc")
    for file in ("chars", "strings", "wrf"):
        read = open_store(tmp_path / f"{file}.nc").time.values
        assert [str(time)[:13] for time in read] == ["2020-01-01T00", "2020-01-01T06", "2020-01-02T12"]


def test_text_that_is_no_date_is_named() -> None:
    with pytest.raises(DataError, match=r"times in 'time' as text that is no date .'1st of May'.: .*cdo settaxis"):
        times_of(fields(time=("time", np.array(["1st of May", "2nd", "3rd"]))))
    leap = ("time", np.array(["2001-02-28", "2001-02-29", "2001-03-01"]), {"calendar": "noleap"})
    with pytest.raises(DataError, match="'2001-02-29' is no date of the noleap calendar"):
        times_of(fields(time=leap))


def test_a_time_dimension_without_dates_or_without_steps_is_refused() -> None:
    with pytest.raises(
        DataError, match=r"a dimension 'time' without dates: add a variable time\(time\) with units such"
    ):
        times_of(fields())
    with pytest.raises(DataError, match="holds no times, its 'time' is empty: it was never filled; leave it out"):
        times_of(fields(time=counted([0, 6, 12])).isel(time=slice(0)))
    grid = fields().t2m.isel(time=0)
    both = (
        fields(time=counted([0, 6, 12]))
        .assign(u10=grid.expand_dims(time2=2))
        .assign_coords(time2=counted([0, 6], dim="time2"))
    )
    with pytest.raises(
        DataError, match=r"fields on several time axes, 'time' and 'time2': part them with `ncks -v NAME"
    ):
        times_of(both)


def test_times_are_rounded_to_the_second_that_is_meant_and_it_is_said() -> None:
    notes: list[str] = []
    early = 43829 + np.arange(3) / 4 - np.array([0, 1.5e-6, 3e-6])
    assert times_of(fields(time=counted(early, "days since 1900-01-01")), notes) == six_hourly(0, 6, 12)
    assert [note for note in notes if "up to 0.26 s off whole seconds: rounded to them" in note]
    odd = ["2020-01-01 00:00:01", "2020-01-01 00:13:14", "2020-01-01 05:59:59"]
    assert times_of(fields(time=counted([1, 794, 21599], "seconds since 2020-01-01"))) == odd


@pytest.mark.parametrize("step", [600, 1200, 3600, 10800])
def test_times_in_too_few_digits_become_even_where_they_can_be(step: int) -> None:
    count = 200
    days = (80350 + np.arange(count) * step / 86400).astype(np.float32)
    dataset = fields(sizes=(count,), time=counted(days, "days since 1800-01-01"))
    if step < 675:
        with pytest.raises(DataError, match="its times repeat, for float32 is too coarse for 'days since 1800-01-01'"):
            times_of(dataset)
        return
    found = canonicalise(dataset, "a.nc")[0].time.values
    assert (np.diff(found) == np.timedelta64(step, "s")).all()
    assert str(found[0]) == "2019-12-29T00:00:00"


def test_uneven_times_in_too_few_digits_are_kept_and_named() -> None:
    notes: list[str] = []
    uneven = np.array([80350.01, 80350.3, 80351.7], np.float32)
    times_of(fields(time=counted(uneven, "days since 1800-01-01")), notes)
    assert [note for note in notes if "float32 'days since 1800-01-01', exact to 675 s only: kept as it is" in note]


def days(first: int, count: int, name: str, units: str, values: Any) -> xr.Dataset:
    times = (np.datetime64("2001-01-01", "D") + np.arange(first, first + count)).astype("datetime64[ns]")
    array = np.broadcast_to(values, (count, 3, 4)).astype(np.float32)
    return xr.Dataset(
        {name: (("time", "lat", "lon"), array, {"units": units})},
        {
            "time": times,
            "lat": ("lat", [-10.0, 0.0, 10.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 90.0, 180.0, 270.0], {"units": "degrees_east"}),
        },
    )


def written(path: Path, *datasets: xr.Dataset) -> list[str]:
    for i, dataset in enumerate(datasets):
        dataset.to_netcdf(path / f"{i}.nc")
    return [str(path / f"{i}.nc") for i in range(len(datasets))]


MASK = np.array([[1, 0, 0, 1], [0, 1, np.nan, 0], [1, 1, 1, 0]])


def test_a_static_field_that_changes_keeps_its_time_and_prepare_refuses_it(tmp_path: Path) -> None:
    mask = days(0, 3, "lsm", "1", MASK)
    mask.lsm[1, 0, 0] = 0.5  # the first and the last time agree
    files = written(tmp_path, mask, days(0, 3, "t2m", "K", np.arange(280.0, 284)))
    assert float(open_store(files).land_sea_mask[1, 0, 0]) == 0.5
    told = "'land_sea_mask' should not change in time but does: leave it out with --exclude land_sea_mask, or rename it"
    assert [f.text for f in examine(files).findings if f.severity is Severity.BROKEN] == [told]
    with pytest.raises(DataError, match=told):
        prepare(files, str(tmp_path / "a.zarr"))
    prepare(files, str(tmp_path / "a.zarr"), exclude=["land_sea_mask"])


def test_a_static_field_that_stands_still_is_kept_by_prepare_whether_listed_or_not(tmp_path: Path) -> None:
    files = written(tmp_path, days(0, 3, "lsm", "1", MASK), days(0, 3, "t2m", "K", np.arange(280.0, 284)))
    prepare(files, str(tmp_path / "a.zarr"), variables=["t2m"])
    statics = xr.open_zarr(tmp_path / "a.zarr")["statics"]
    np.testing.assert_array_equal(statics[0], MASK)


@pytest.mark.parametrize(("first", "count"), [(0, 2), (9, 1)])
def test_a_static_field_kept_at_other_times_than_the_rest_loses_them(tmp_path: Path, first: int, count: int) -> None:
    files = written(tmp_path, days(0, 5, "t2m", "K", 280.0), days(first, count, "lsm", "1", MASK))
    opened = open_store(files)
    assert opened.land_sea_mask.dims == ("latitude", "longitude")
    assert opened.sizes["time"] == 5


def test_files_of_one_and_of_several_times_join_their_static_fields(tmp_path: Path) -> None:
    files = written(tmp_path, days(0, 4, "lsm", "1", MASK), days(4, 1, "lsm", "1", MASK))
    assert open_store(files).land_sea_mask.sizes["time"] == 5
