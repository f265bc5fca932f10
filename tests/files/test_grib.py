"""GRIB: the order of points, what a message covers in time, and ensembles."""

import itertools
from pathlib import Path
from typing import Any

import eccodes
import numpy as np
import pytest
import xarray as xr

from etesian.core.channels import Channel
from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.dataset import channels_of
from etesian.core.errors import DataError, GridError
from etesian.files.diagnosis import Severity
from etesian.files.doctor import examine
from etesian.files.open import field, open_store

GRID = {
    "Ni": 6, "Nj": 4,
    "latitudeOfFirstGridPointInDegrees": 45, "latitudeOfLastGridPointInDegrees": -45,
    "longitudeOfFirstGridPointInDegrees": 0, "longitudeOfLastGridPointInDegrees": 300,
    "iDirectionIncrementInDegrees": 60, "jDirectionIncrementInDegrees": 30,
    "dataDate": 20010101, "dataTime": 0,
}  # fmt: skip


def message(values: np.ndarray | float, *, sample: str = "regular_ll_sfc_grib2", **keys: object) -> int:
    handle: int = eccodes.codes_grib_new_from_samples(sample)
    for key, value in (GRID | keys).items():
        eccodes.codes_set(handle, key, value)
    count = eccodes.codes_get(handle, "Ni") * eccodes.codes_get(handle, "Nj")
    eccodes.codes_set_values(handle, np.broadcast_to(np.asarray(values, dtype=float).ravel(), (count,)).copy())
    return handle


def write(path: Path, *handles: int) -> Path:
    with path.open("ab") as file:
        for handle in handles:
            eccodes.codes_write(handle, file)
            eccodes.codes_release(handle)
    return path


def over(step_type: str, steps: str, value: float, **keys: object) -> int:
    """A message of edition 2 over a range of steps, such as "0-6"."""
    return message(value, productDefinitionTemplateNumber=8, **{"stepType": step_type, "stepRange": steps} | keys)


def pressure(number: int, value: float, **keys: object) -> int:
    """The mean sea level pressure as NCEP reduces it: 1 is `prmsl`, 192 is `mslet`."""
    kind = {"centre": "kwbc", "discipline": 0, "parameterCategory": 3, "parameterNumber": number}
    return message(value, **kind, typeOfFirstFixedSurface=101, **keys)


def at(level: int, name: str, offset: float = 0.0, *, edition: int = 2, **keys: object) -> int:
    """A message on a pressure level whose values count from `offset`."""
    keys = {"typeOfLevel": "isobaricInhPa", "shortName": name, "level": level} | keys
    return message(np.arange(24.0) + offset, sample=f"regular_ll_pl_grib{edition}", **keys)


@pytest.mark.parametrize("edition", [1, 2])
def test_hypercubes_of_different_levels_and_heights_become_one_dataset(tmp_path: Path, edition: int) -> None:
    height = "gh" if edition == 2 else "z"
    given = [(500, "t", 250), (850, "t", 270), (850, "q", 0), (500, height, 5500)]
    handles = [at(*each, edition=edition) for each in given]
    handles += [at(0, name, 280, edition=edition, typeOfLevel="surface") for name in ("sp", "skt")]
    handles.append(at(2, "2t", 281, edition=edition, typeOfLevel="heightAboveGround"))
    opened = open_store(write(tmp_path / "many.grib", *handles))
    assert set(opened.data_vars) == {
        "temperature", "specific_humidity", "geopotential", "surface_pressure", "skin_temperature", "2m_temperature",
    }  # fmt: skip
    expected = (np.arange(24.0) + 5500).reshape(4, 6)[::-1] * (STANDARD_GRAVITY if edition == 2 else 1)
    np.testing.assert_allclose(field(opened, Channel("geopotential", 500))[0], expected, rtol=1e-4)
    assert [str(c) for c in channels_of(opened[["temperature", "specific_humidity"]])] == [
        "temperature_500", "temperature_850", "specific_humidity_850",
    ]  # fmt: skip
    assert opened.time.values.tolist() == np.array(["2001-01-01"], "datetime64[s]").tolist()
    assert [file.name for file in tmp_path.iterdir()] == ["many.grib"]


def test_u_and_v_in_one_message_are_both_found(tmp_path: Path) -> None:
    multi = eccodes.codes_grib_multi_new()
    for handle in (at(500, "u", 1), at(500, "v", -7)):
        eccodes.codes_grib_multi_append(handle, 4, multi)
    with (tmp_path / "uv.grib2").open("wb") as file:
        eccodes.codes_grib_multi_write(multi, file)
    opened = open_store(tmp_path / "uv.grib2")
    np.testing.assert_allclose(opened.u_component_of_wind.min(), 1, atol=1e-3)
    np.testing.assert_allclose(opened.v_component_of_wind.min(), -7, atol=1e-3)


def test_fields_that_occur_twice_and_forecasts_that_overlap_are_refused(tmp_path: Path) -> None:
    overlapping = [at(500, "t", dataTime=time, step=step) for time in (0, 600) for step in (6, 12)]
    with pytest.raises(DataError, match="2 initial times × 2 steps whose valid times overlap: keep one step"):
        open_store(write(tmp_path / "fc.grib2", *overlapping))
    with pytest.raises(DataError, match=r"twice\.grib2 holds 't' more than once for one time, level and member"):
        open_store(write(tmp_path / "twice.grib2", at(500, "t"), at(500, "t", 3)))


def test_means_beside_instants_keep_a_name_of_their_own(tmp_path: Path) -> None:
    both = message(5, shortName="sp", step=6), over("avg", "0-6", 1, shortName="sp")
    assert set(open_store(write(tmp_path / "both.grib2", *both))) == {"surface_pressure", "avg_sp"}


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "cut", at(500, "t"), at(850, "t"))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.8)])
    with pytest.raises(DataError, match="truncated"):
        open_store(path)


def test_two_parameters_of_one_meaning_are_both_kept(tmp_path: Path) -> None:
    paths = [
        write(tmp_path / f"{step}.grib2", pressure(192, 1e5 + step, step=step), pressure(1, 1.01e5 + step, step=step))
        for step in (0, 6)
    ]
    for source, times in ((paths[0], 1), (paths, 2)):
        opened = open_store(source)
        assert set(opened.data_vars) == {"mean_sea_level_pressure", "mslet"}
        assert means(opened, "mean_sea_level_pressure") == pytest.approx([1.01e5, 1.01e5 + 6][:times])
        assert means(opened, "mslet") == pytest.approx([1e5, 1e5 + 6][:times])
    alone = open_store(write(tmp_path / "alone.grib2", pressure(192, 1e5)))
    assert list(alone.data_vars) == ["mean_sea_level_pressure"]
    diagnosis = examine(paths[0])
    assert diagnosis.exit_status == 0
    said = "'mslet' means 'mean_sea_level_pressure' as 'prmsl' does: its name is kept"
    assert said in [finding.text for finding in diagnosis.findings]


def test_sums_over_several_lengths_in_several_files_are_kept_apart(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{end}.grib2", rain(f"0-{end}", end / 1000)) for end in (6, 12)]
    opened = open_store(paths)
    assert list(opened.data_vars) == ["tp_6h", "tp_12h"]
    np.testing.assert_array_equal(means(opened, "tp_6h"), [0.006, np.nan])
    np.testing.assert_array_equal(means(opened, "tp_12h"), [np.nan, 0.012])
    together = tmp_path / "all.grib2"
    together.write_bytes(b"".join(path.read_bytes() for path in paths))
    assert means(open_store(together), "total_precipitation") == pytest.approx([0.006, 0.006])


def rain(steps: str, value: float, **keys: object) -> int:
    return over("accum", steps, value, shortName="tp", **keys)


def means(dataset: xr.Dataset, name: str) -> list[float]:
    return [round(float(value), 4) for value in dataset[name].mean(("latitude", "longitude"))]


ORDERS = [(1, *flags, 0) for flags in itertools.product((0, 1), repeat=3)]
ORDERS += [(2, *flags) for flags in itertools.product((0, 1), repeat=4)]


def scanned(edition: int, west: int, north: int, columns: int, alternating: int, **region: object) -> int:
    """A message whose values are 100 latitude + longitude, written in one of GRIB's orders."""
    sample = f"regular_ll_sfc_grib{edition}"
    first, last = (20, 350) if west else (350, 20)
    keys: dict[str, object] = {
        "Ni": 4, "iDirectionIncrementInDegrees": 10, "bitsPerValue": 24,
        "longitudeOfFirstGridPointInDegrees": first, "longitudeOfLastGridPointInDegrees": last,
        "latitudeOfFirstGridPointInDegrees": -45 if north else 45,
        "latitudeOfLastGridPointInDegrees": 45 if north else -45,
        "iScansNegatively": west, "jScansPositively": north, "jPointsAreConsecutive": columns,
    }  # fmt: skip
    if edition == 2:
        keys["alternativeRowScanning"] = alternating
    longitude = np.array([20, 10, 0, -10] if west else [-10, 0, 10, 20])
    latitude = np.array([-45, -15, 15, 45] if north else [45, 15, -15, -45])
    values = 100.0 * latitude[:, None] + longitude
    lines = (values.T if columns else values).copy()
    if alternating:
        lines[1::2] = lines[1::2, ::-1]
    return message(lines, sample=sample, **keys, **region)


@pytest.mark.parametrize("order", ORDERS, ids=str)
def test_points_are_read_in_the_order_that_the_message_gives(tmp_path: Path, order: tuple[int, ...]) -> None:
    handle = scanned(*order)
    if not order[-1]:
        # eccodes' own triples; it does not turn every other line, so alternating ones are held against the table.
        triples = eccodes.codes_get_double_array(handle, "latLonValues").reshape(-1, 3)
        east = (triples[:, 1] + 180) % 360 - 180
        np.testing.assert_allclose(triples[:, 2], 100 * triples[:, 0] + east, atol=1e-2)
    (opened,) = open_store(write(tmp_path / "a.grib", handle)).data_vars.values()
    expected = 100 * opened.latitude.values[:, None] + (opened.longitude.values - 360)
    assert opened.longitude.values.tolist() == [350, 360, 370, 380]
    np.testing.assert_allclose(opened.values.squeeze(), expected, atol=1e-2)


@pytest.mark.parametrize("columns", [0, 1])
@pytest.mark.parametrize("north", [0, 1])
def test_gaussian_grids_are_read_in_their_order(tmp_path: Path, north: int, columns: int) -> None:
    handle = eccodes.codes_grib_new_from_samples("regular_gg_sfc_grib2")
    eccodes.codes_set(handle, "jScansPositively", north)
    eccodes.codes_set(handle, "jPointsAreConsecutive", columns)
    for end, sign in (("First", -1 if north else 1), ("Last", 1 if north else -1)):
        eccodes.codes_set(handle, f"latitudeOf{end}GridPointInDegrees", sign * 87.863799)
    latitude, longitude = (eccodes.codes_get_double_array(handle, f"distinct{a}itudes") for a in ("Lat", "Long"))
    values = latitude[:, None] + longitude / 1000
    eccodes.codes_set(handle, "bitsPerValue", 24)
    eccodes.codes_set_values(handle, (values.T if columns else values).ravel())
    (opened,) = open_store(write(tmp_path / "a.grib", handle)).data_vars.values()
    expected = opened.latitude.values[:, None] + opened.longitude.values / 1000
    np.testing.assert_allclose(opened.values.squeeze(), expected, atol=1e-3)
    assert opened.latitude.values[-1] == pytest.approx(87.86379884)


def test_a_part_of_a_field_reads_no_other_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handles = [message(step, shortName="2t", step=step) for step in (6, 12, 18)]
    opened = open_store(write(tmp_path / "a.grib2", *handles))
    wanted: list[int] = []
    codes_get_values = eccodes.codes_get_values
    monkeypatch.setattr(eccodes, "codes_get_values", lambda handle: wanted.append(1) or codes_get_values(handle))
    assert float(opened["2m_temperature"][1, 0, 0]) == pytest.approx(12)
    assert wanted == [1]


@pytest.mark.parametrize(
    ("sample", "words", "remedy"),
    [
        ("rotated_gg_sfc_grib2", "a grid of the kind 'rotated_gg'", "grid=1/1"),
        ("rotated_ll_sfc_grib1", "a rotated latitude–longitude grid", "cdo remapcon,r360x180"),
        ("polar_stereographic_sfc_grib2", "a polar stereographic grid", "cdo remapcon,r360x180"),
        ("lambert", "Lambert's conformal grid", "cdo remapcon,r360x180"),
    ],
)
def test_other_grids_are_refused_with_a_remedy(tmp_path: Path, sample: str, words: str, remedy: str) -> None:
    if sample == "lambert":
        handle = eccodes.codes_grib_new_from_samples("GRIB2")
        eccodes.codes_set(handle, "gridType", sample)
    else:
        handle = eccodes.codes_grib_new_from_samples(sample)
    with pytest.raises(GridError, match=rf"message 1 \('.*'\) of .*a\.grib is on {words}.*`{remedy}"):
        open_store(write(tmp_path / "a.grib", handle))


def test_sums_since_the_start_become_sums_over_each_step(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2", rain("0-6", 1), rain("0-12", 3), rain("0-18", 7))
    opened = open_store(path)
    assert means(opened, "total_precipitation") == [1, 2, 4]
    assert opened.time.values.astype("datetime64[h]").astype(int).tolist() == [271758, 271764, 271770]
    said = [finding.text for finding in examine(path).findings]
    assert "'tp' is summed since the start of the forecast: differences make it sums over each step" in said


@pytest.mark.parametrize(
    ("sums", "expected"),
    [
        ((("0-3", 1), ("0-6", 3), ("6-9", 5), ("6-12", 11)), [1, 2, 5, 6]),
        ((("0-6", 1), ("0-6", 1), ("0-12", 10), ("6-12", 9)), [1, 9]),
    ],
)
def test_buckets_that_fill_up_become_sums_over_each_step(tmp_path: Path, sums: Any, expected: list[int]) -> None:
    handles = [rain(steps, value) for steps, value in sums]
    assert means(open_store(write(tmp_path / "a.grib2", *handles)), "total_precipitation") == expected


def test_sums_over_steps_of_several_lengths_are_kept_apart(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2", rain("0-3", 1), rain("0-6", 3), rain("0-12", 9))
    opened = open_store(path)
    assert set(opened.data_vars) == {"tp_3h", "tp_6h"}
    assert means(opened, "tp_3h")[:2] == [1, 2]
    assert means(opened, "tp_6h")[-1] == 6
    assert any("covers 3h, 6h (accum)" in finding.text for finding in examine(path).findings)


def test_files_of_several_leads_open_together_with_sums_apart(tmp_path: Path) -> None:
    for hour, sums in ((0, ()), (3, ("0-3",)), (6, ("0-6",)), (9, ("6-9", "0-9"))):
        instant = message(280 + hour, shortName="2t", step=hour)
        rains = [over("accum", steps, 10 * hour + len(sums), centre="kwbc", shortName="tp") for steps in sums]
        write(tmp_path / f"f{hour:03d}.grib2", instant, *rains)
    opened = open_store(tmp_path)
    assert set(opened.data_vars) == {"2m_temperature", "tp_3h", "tp_6h", "tp_9h"}
    assert means(opened, "2m_temperature") == [280, 283, 286, 289]
    np.testing.assert_allclose(opened.tp_3h.mean(("latitude", "longitude")), [np.nan, 31, np.nan, 92], rtol=1e-6)
    np.testing.assert_allclose(opened.tp_6h.mean(("latitude", "longitude")), [np.nan, np.nan, 61, np.nan], rtol=1e-6)
    assert {opened[name].attrs["units"] for name in ("tp_3h", "tp_6h", "tp_9h")} == {"kg m**-2"}
    assert not [finding for finding in examine(tmp_path).findings if finding.severity is Severity.BROKEN]


def test_files_of_sums_over_one_length_are_one_series(tmp_path: Path) -> None:
    for hour in (0, 6, 12):
        sums = [rain(f"{hour - 6}-{hour}", hour)] if hour else []
        write(tmp_path / f"f{hour:03d}.grib2", message(280, shortName="2t", step=hour), *sums)
    opened = open_store(tmp_path)
    np.testing.assert_allclose(means(opened, "total_precipitation"), [np.nan, 6, 12], rtol=1e-6)


def test_hourly_sums_of_two_forecasts_a_day_stay_as_they_are(tmp_path: Path) -> None:
    handles = [
        message(
            float(hour), sample="regular_ll_sfc_grib1", shortName="tp", dataTime=time, timeRangeIndicator=4,
            P1=hour - 1, P2=hour,
        )
        for time in (600, 1800) for hour in (1, 2, 3)
    ]  # fmt: skip
    assert means(open_store(write(tmp_path / "a.grib", *handles)), "total_precipitation") == [1, 2, 3, 1, 2, 3]


def test_means_over_several_lengths_are_kept_apart(tmp_path: Path) -> None:
    handles = [over("avg", steps, value, shortName="sdswrf") for steps, value in (("0-3", 1), ("0-6", 2), ("6-9", 3))]
    opened = open_store(write(tmp_path / "a.grib2", *handles))
    assert {str(name)[-3:] for name in opened.data_vars} == {"_3h", "_6h"}
    assert all("sdswrf" in str(name) for name in opened.data_vars)


@pytest.mark.parametrize(("kind", "name"), [("max", "maximum_2m_temperature"), ("min", "minimum_2m_temperature")])
def test_extremes_of_the_temperature_are_no_instants(tmp_path: Path, kind: str, name: str) -> None:
    opened = open_store(write(tmp_path / "a.grib2", over(kind, "0-6", 280, shortName="2t")))
    assert list(opened.data_vars) == [name]
    assert opened[name].attrs["cell_methods"] == f"time: {kind}imum"


@pytest.mark.parametrize("short_name", ["2t", "10u", "sp", "msl", "2d", "tcc"])
@pytest.mark.parametrize("kind", ["avg", "max", "min", "accum", "diff", "sd", "rms"])
def test_what_was_done_over_hours_never_passes_for_an_instant(tmp_path: Path, short_name: str, kind: str) -> None:
    both = message(280, shortName=short_name, step=6), over(kind, "0-6", 281, shortName=short_name)
    instant, processed = (open_store(write(tmp_path / f"{i}.grib2", handle)) for i, handle in enumerate(both))
    assert not set(instant.data_vars) & set(processed.data_vars)


def test_means_of_months_go_under_the_plain_name(tmp_path: Path) -> None:
    handles = [
        message(value, sample="regular_ll_sfc_grib1", shortName="2t", dataDate=date, timeRangeIndicator=123)
        for value, date in ((270, 20010101), (280, 20010201))
    ]
    opened = open_store(write(tmp_path / "a.grib", *handles))
    assert means(opened, "2m_temperature") == [270, 280]
    assert len(open_store(write(tmp_path / "b.grib2", over("avg", "0-744", 1, shortName="2t"))).data_vars) == 1


def member(number: int, value: float, **keys: object) -> int:
    kind = {"typeOfProcessedData": 4, "typeOfEnsembleForecast": 3} | keys
    return message(
        value, productDefinitionTemplateNumber=1, shortName="2t", perturbationNumber=number,
        numberOfForecastsInEnsemble=3, **kind,
    )  # fmt: skip


def test_control_and_perturbed_members_are_one_ensemble(tmp_path: Path) -> None:
    control = member(0, 250, typeOfProcessedData=3, typeOfEnsembleForecast=1)
    opened = open_store(write(tmp_path / "a.grib2", member(2, 252), control, member(1, 251)))
    assert opened["2m_temperature"].dims == ("time", "member", "latitude", "longitude")
    assert opened.member.values.tolist() == [0, 1, 2]
    assert means(opened.isel(time=0), "2m_temperature") == [250, 251, 252]


def test_mean_and_spread_of_an_ensemble_are_no_members(tmp_path: Path) -> None:
    derived = [
        message(value, productDefinitionTemplateNumber=2, shortName="2t", derivedForecast=code)
        for code, value in ((0, 260), (4, 1.5))
    ]
    opened = open_store(write(tmp_path / "a.grib2", member(1, 251), member(2, 252), *derived))
    assert means(opened.isel(time=0), "2m_temperature") == [251, 252]
    others = {str(name)[:6]: means(opened, str(name)) for name in opened.data_vars if name != "2m_temperature"}
    assert others == {"t2m_em": [260], "t2m_es": [1.5]}


def test_a_forecast_beside_an_ensemble_keeps_a_name_of_its_own(tmp_path: Path) -> None:
    opened = open_store(write(tmp_path / "a.grib2", message(249, shortName="2t"), member(1, 251), member(2, 252)))
    assert opened["2m_temperature"].sizes["member"] == 2
    (other,) = set(opened.data_vars) - {"2m_temperature"}
    assert means(opened, str(other)) == [249]


def test_steps_in_minutes_and_months_are_dated(tmp_path: Path) -> None:
    handles = [message(1, shortName="2t", indicatorOfUnitOfTimeRange=0, forecastTime=step) for step in (30, 90)]
    opened = open_store(write(tmp_path / "a.grib2", *handles))
    assert opened.time.values.astype("datetime64[m]").astype(str).tolist() == ["2001-01-01T00:30", "2001-01-01T01:30"]
    handles = [message(1, shortName="2t", indicatorOfUnitOfTimeRange=3, forecastTime=step) for step in (1, 2, 13)]
    opened = open_store(write(tmp_path / "b.grib2", *handles))
    assert opened.time.values.astype("datetime64[D]").astype(str).tolist() == ["2001-02-01", "2001-03-01", "2002-02-01"]


def test_missing_points_are_those_of_the_bitmap(tmp_path: Path) -> None:
    handle = message(1, shortName="2t")
    eccodes.codes_set(handle, "missingValue", 9999)
    eccodes.codes_set(handle, "bitmapPresent", 1)
    values = np.full(24, 280.0)
    values[3] = 9999
    eccodes.codes_set_values(handle, values)
    real = message(np.where(np.arange(24) == 5, 9999, 280.0), shortName="2t", dataDate=20010102, bitsPerValue=24)
    field = open_store(write(tmp_path / "a.grib2", handle, real))["2m_temperature"][:, ::-1].values.reshape(2, 24)
    assert np.isnan(field).nonzero()[1].tolist() == [3]
    assert field[1, 5] == pytest.approx(9999, abs=0.1)
    assert field[0, 4] == 280


def test_a_field_that_is_missing_everywhere_is_missing(tmp_path: Path) -> None:
    handle = message(1, shortName="2t")
    eccodes.codes_set(handle, "bitmapPresent", 1)
    eccodes.codes_set_values(handle, np.full(24, float(eccodes.codes_get(handle, "missingValue"))))
    assert np.isnan(open_store(write(tmp_path / "a.grib2", handle))["2m_temperature"].values).all()


def test_dates_and_grids_that_cannot_be_are_refused_by_name(tmp_path: Path) -> None:
    far = message(1, shortName="2t", indicatorOfUnitOfTimeRange=4, forecastTime=500000)
    with pytest.raises(DataError, match=r"message 1 \('2t'\) of .*a\.grib2 is dated 2001-01-01 .* is no date between"):
        open_store(write(tmp_path / "a.grib2", far))
    with pytest.raises(DataError, match=r"message 1 \('2t'\) of .*b\.grib2 is dated 2001-13-01"):
        open_store(write(tmp_path / "b.grib2", message(1, shortName="2t", month=13)))
    uneven = message(1, shortName="10u", iDirectionIncrementInDegrees=45)
    with pytest.raises(GridError, match=r"message 1 \('10u'\) of .*c\.grib2 has a grid that contradicts itself"):
        open_store(write(tmp_path / "c.grib2", uneven))
    gaussian = eccodes.codes_grib_new_from_samples("regular_gg_sfc_grib1")
    eccodes.codes_set(gaussian, "N", 48)
    with pytest.raises(GridError, match=r"message 1 \('.*'\) of .*d\.grib has a grid that contradicts itself"):
        open_store(write(tmp_path / "d.grib", gaussian))


def test_a_damaged_message_is_never_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2", *(message(step, shortName="2t", step=step) for step in (6, 12, 18)))
    content = bytearray(path.read_bytes())
    second = content.index(b"GRIB", 10)
    content[second + 8 : second + 16] = bytes(8)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.grib2 (holds a damaged message|is truncated)"):
        open_store(path)


def test_padding_between_messages_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2", message(1, shortName="2t"))
    with path.open("ab") as file:
        file.write(b"\0" * 100)
    write(path, message(2, shortName="2t", step=6))
    with path.open("ab") as file:
        file.write(b"the end\n")
    assert means(open_store(path), "2m_temperature") == [1, 2]
    (tmp_path / "b.grib2").write_bytes(b"GRIB")
    with pytest.raises(DataError, match=r"b\.grib2 (holds no GRIB message|is truncated)"):
        open_store(tmp_path / "b.grib2")


def test_values_that_cannot_be_unpacked_are_refused_when_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.grib2", message(np.arange(24.0), shortName="2t"))
    content = bytearray(path.read_bytes())
    opened = open_store(path)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match=r"'2t' at byte 0 of .*a\.grib2 cannot be unpacked"):
        opened.load()
