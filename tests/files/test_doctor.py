"""The doctor names what is wrong, also in files that cannot be opened, and says who mends it."""

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from rich.console import Console

from etesian.cli.data import doctor
from etesian.core.errors import DataError
from etesian.files.checks import Tally
from etesian.files.diagnosis import Diagnosis, Severity
from etesian.files.doctor import examine
from etesian.files.open import open_store

ROWS = np.arange(12).reshape(3, 4)


def series(name: str = "t2m", units: str | None = "K", values: np.ndarray | float | None = None) -> xr.Dataset:
    """Make ten days of one variable on a 3×4 grid, north to south."""
    generator = np.random.default_rng(0)
    array = generator.normal(280, 5, (10, 3, 4)) if values is None else np.broadcast_to(values, (10, 3, 4)).copy()
    times = (np.datetime64("2001-01-01", "D") + np.arange(10)).astype("datetime64[ns]")
    return xr.Dataset(
        {name: (("time", "lat", "lon"), array.astype(np.float32), {"units": units} if units else {})},
        {
            "time": times,
            "lat": ("lat", [50.0, 0.0, -50.0], {"units": "degrees_north"}),
            "lon": ("lon", [0.0, 90.0, 180.0, 270.0], {"units": "degrees_east"}),
        },
    )


def write(dataset: xr.Dataset, path: Path) -> Path:
    dataset.to_netcdf(path, encoding={name: {"_FillValue": None} for name in dataset.data_vars})
    return path


def sentences(diagnosis: Diagnosis, severity: Severity) -> list[str]:
    return [str(finding) for finding in diagnosis.findings if finding.severity is severity]


def test_a_healthy_file_has_numbers_and_nothing_to_mend(tmp_path: Path) -> None:
    dataset = series().sortby("lat")
    diagnosis = examine(write(dataset, tmp_path / "good.nc"))
    assert diagnosis.exit_status == 0
    assert diagnosis.findings == ()
    (summary,) = diagnosis.channels
    assert (summary.source_name, summary.source_units, summary.missing) == ("t2m", "K", 0)
    np.testing.assert_allclose(
        [summary.minimum, summary.mean, summary.maximum], [dataset.t2m.min(), dataset.t2m.mean(), dataset.t2m.max()]
    )
    assert diagnosis.times == "10 times, 2001-01-01 00:00:00 … 2001-01-10 00:00:00, daily"
    assert diagnosis.grid == "3×4 from -50 to 50°N, 0 to 270°E"


def test_what_prepare_will_mend_is_told_and_is_no_failure(tmp_path: Path) -> None:
    dataset = series(units="degC", values=10.0 + ROWS)
    dataset["t2m"][0, 0] = np.nan
    dataset = dataset.assign_coords(lon=("lon", [-180.0, -90.0, 0.0, 90.0], dataset.lon.attrs))
    diagnosis = examine(write(dataset, tmp_path / "file.nc"))
    assert diagnosis.exit_status == 0
    assert sentences(diagnosis, Severity.FIXED) == [
        "latitude runs from north to south: turned to ascending",
        "longitude -180…90 becomes 0…270",
        "'t2m' converted from degC to K",
        "1 of 1 channels have missing values, at most 3.3% ('2m_temperature'): they will be masked",
    ]


@pytest.mark.parametrize(
    ("dataset", "severity", "expected"),
    [
        (
            series(values=15.0 + ROWS),
            Severity.BROKEN,
            "'2m_temperature' says K but 15 … 26 looks like °C: say so, for example with "
            "`ncatted -O -a units,t2m,o,c,degC IN OUT`",
        ),
        (
            series(units=None, values=15.0 + ROWS),
            Severity.BROKEN,
            "'2m_temperature' has no units but 15 … 26 looks like °C: say so, for example with "
            "`ncatted -O -a units,t2m,o,c,degC IN OUT`",
        ),
        (
            series(units=None),
            Severity.LOOK,
            "'2m_temperature' has no units; the values are taken to be in K: give them with "
            "`ncatted -O -a units,t2m,o,c,K IN OUT`",
        ),
        (
            series("msl", "Pa", 1000.0 + ROWS),
            Severity.BROKEN,
            "'mean_sea_level_pressure' says Pa but has values 1000 … 1011, all outside 85000 … 110000 Pa: it looks "
            "like hPa: say so, for example with `ncatted -O -a units,msl,o,c,hPa IN OUT`",
        ),
        (
            series("msl", "hPa", 1e5 + ROWS),
            Severity.BROKEN,
            "'mean_sea_level_pressure' says hPa but has values 1e+07 … 1e+07, all outside 85000 … 110000 Pa: it looks "
            "like Pa: say so, for example with `ncatted -O -a units,msl,o,c,Pa IN OUT`",
        ),
        (
            series(units="degC", values=280.0 + ROWS),
            Severity.BROKEN,
            "'2m_temperature' says degC but has values 553.2 … 564.2, all outside 170 … 340 K: it looks like K: say "
            "so, for example with `ncatted -O -a units,t2m,o,c,K IN OUT`",
        ),
        (
            series("msl", "Pa", 84_990.0 + ROWS),
            Severity.LOOK,
            "'mean_sea_level_pressure' has values 8.499e+04 … 8.5e+04, outside the physical range 85000 … 110000 Pa",
        ),
        (
            series("msl", None, 1000.0 + ROWS),
            Severity.BROKEN,
            "'mean_sea_level_pressure' has no units, and 1000 … 1011 is outside 85000 … 110000 Pa: "
            "give it the units it is in, for example with `ncatted -O -a units,msl,o,c,UNITS IN OUT`",
        ),
        (series(values=281.0), Severity.LOOK, "'2m_temperature' is 281 everywhere: nothing can be learned from it"),
        (series(values=np.nan), Severity.LOOK, "'2m_temperature' holds no values at all: leave it out of `prepare`"),
        (
            series("tcco2", "kg m-2"),
            Severity.LOOK,
            "'tcco2' would be 'carbon_dioxide_total_column', but its units 'kg m-2' are no ppm: its name is kept",
        ),
        (series("t"), Severity.LOOK, "'temperature' comes without a level: is it at the surface?"),
    ],
)
def test_suspicious_values_and_units_are_named(
    tmp_path: Path, dataset: xr.Dataset, severity: Severity, expected: str
) -> None:
    diagnosis = examine(write(dataset, tmp_path / "file.nc"))
    assert expected in sentences(diagnosis, severity)
    assert diagnosis.exit_status == (severity is Severity.BROKEN)


@pytest.mark.parametrize("fill", [-9999.0, 1e20, -1e34])
@pytest.mark.parametrize("name", ["t2m", "unheard_of"])
def test_fill_values_that_are_not_declared_are_found(tmp_path: Path, fill: float, name: str) -> None:
    dataset = series(name)
    dataset[name][:, 0, :2] = fill
    diagnosis = examine(write(dataset, tmp_path / "file.nc"))
    (sentence,) = sentences(diagnosis, Severity.BROKEN)
    assert f"holds the value {np.float32(fill):g} exactly 20 times, a fill value" in sentence
    assert f"cdo setmissval,{np.float32(fill):g}" in sentence


@pytest.mark.parametrize(("units", "scale", "meant"), [("m2 s-2", 5500, "m"), ("m", 54000, "m2 s-2")])
def test_a_geopotential_in_the_units_of_a_height_is_told(tmp_path: Path, units: str, scale: float, meant: str) -> None:
    dataset = series("z", units, scale + ROWS).expand_dims(level=[500], axis=1)
    (sentence,) = sentences(examine(write(dataset, tmp_path / "a.nc")), Severity.BROKEN)
    assert f"says {units} but has values" in sentence
    assert f"it looks like {meant}: say so" in sentence


def test_a_repeated_extreme_in_wrong_units_is_no_fill_value(tmp_path: Path) -> None:
    dataset = series(values=np.maximum(np.linspace(-5, 30, 12).reshape(3, 4), -1.8))
    (sentence,) = sentences(examine(write(dataset, tmp_path / "file.nc")), Severity.BROKEN)
    assert "looks like °C" in sentence


def test_a_single_extreme_is_no_fill_value(tmp_path: Path) -> None:
    dataset = series()
    dataset["t2m"][0, 0, 0] = 400.0
    (sentence,) = sentences(examine(write(dataset, tmp_path / "file.nc")), Severity.LOOK)
    assert "outside the physical range 170 … 340 K" in sentence


def test_a_fill_value_may_occur_once_and_is_told_as_the_file_has_it(tmp_path: Path) -> None:
    dataset = series()
    dataset["t2m"] = (dataset["t2m"] - 273.15).assign_attrs(units="degC")
    for values, told in (([-999.9, -999.9], "-999.9 exactly 2 times"), ([-9999.0, 0], "-9999 exactly 1 time,")):
        dataset["t2m"][0, 0, :2] = values
        (sentence,) = sentences(examine(write(dataset, tmp_path / f"{told}.nc")), Severity.BROKEN)
        assert f"holds the value {told}" in sentence
        assert f"`cdo setmissval,{values[0]:g} IN OUT`" in sentence


def test_gaps_are_counted_and_located(tmp_path: Path) -> None:
    diagnosis = examine(write(series().isel(time=[0, 1, 2, 5, 6, 7, 9]), tmp_path / "file.nc"))
    assert "3 of 10 times missing (daily), the first after 2001-01-03 00:00:00: no sample will reach across a gap" in (
        sentences(diagnosis, Severity.LOOK)
    )


def test_months_of_uneven_length_are_no_gaps(tmp_path: Path) -> None:
    months = np.arange("2001-01", "2001-11", dtype="datetime64[M]").astype("datetime64[ns]")
    diagnosis = examine(write(series().assign_coords(time=months), tmp_path / "file.nc"))
    assert diagnosis.times.endswith("monthly")
    assert not sentences(diagnosis, Severity.LOOK)


def test_repeated_times_are_diagnosed_with_the_numbers_of_the_file(tmp_path: Path) -> None:
    diagnosis = examine(write(series().isel(time=[0, 1, 1, 2, 2, 2, 3]), tmp_path / "file.nc"))
    (sentence,) = sentences(diagnosis, Severity.BROKEN)
    assert "holds the time 2001-01-02 00:00:00 twice" in sentence
    assert "(3 repetitions in all)" in sentence
    assert len(diagnosis.channels) == 1
    assert diagnosis.exit_status == 1


def test_mixed_grids_are_diagnosed_and_both_files_shown(tmp_path: Path) -> None:
    first = write(series(), tmp_path / "a.nc")
    second = write(series("u10", "m s-1", 1.0).isel(lon=slice(3)), tmp_path / "b.nc")
    diagnosis = examine([first, second])
    assert diagnosis.grid == "3×4 from -50 to 50°N, 0 to 270°E; 3×3 from -50 to 50°N, 0 to 180°E"
    assert [str(summary.channel) for summary in diagnosis.channels] == ["2m_temperature", "10m_u_component_of_wind"]
    (sentence,) = sentences(diagnosis, Severity.BROKEN)
    assert "is on another grid" in sentence


def test_fields_beside_the_grid_are_named(tmp_path: Path) -> None:
    dataset = series().assign(section=(("time", "depth"), np.zeros((10, 5))))
    diagnosis = examine(write(dataset, tmp_path / "file.nc"))
    assert "'section' is left out: it lies on time × depth, not on the grid" in sentences(diagnosis, Severity.LOOK)


def bounded(**ends: np.ndarray) -> xr.Dataset:
    """Give axes of `series` the bounds that fit it, but for those that are given."""
    fitting = {"lat": [[90, 25], [25, -25], [-25, -90]], "lon": np.array([-45.0, 45]) + 90 * np.arange(4)[:, None]}
    dataset = series().assign_coords(time=("time", np.arange(10.0), {"units": "days since 2001-01-01"}))
    for axis, pairs in {**fitting, "time": np.arange(10.0)[:, None] + [0, 1], **ends}.items():
        dataset[axis].attrs["bounds"] = f"{axis}_bnds"
        given = np.asarray(pairs)
        dataset[f"{axis}_bnds"] = (("x" if len(given) != dataset.sizes[axis] else axis, "y"), given)
    return dataset


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        ({}, ""),
        ({"lon": [[315, 45], [45, 135], [135, 225], [225, 315]]}, ""),
        ({"lat": [[90, 28], [24, -24], [-26, -90]]}, ""),
        (
            {"lat": [[40, 25], [25, -25], [25, 90]]},
            "'lat_bnds' does not enclose 'lat' at 2 of 3 points, the first of which is 50 in 40…25 degrees_north: "
            "fields are put where 'lat' says",
        ),
        (
            {"lat": [[90, 45], [45, -25], [-25, -90]]},
            "'lat_bnds' puts edges of cells up to 20° from half way between the points of 'lat', where areas and "
            "regridding put them",
        ),
        ({"lon": np.array([0, 90]) + 90 * np.arange(4)[:, None]}, "'lon_bnds' puts edges of cells up to 45° from half"),
        ({"time": np.arange(10.0)[:, None] + [-31, -1]}, "'time_bnds' does not enclose 'time' at 10 of 10 points"),
        ({"time": np.zeros((3, 2))}, "'time_bnds' has 3 × 2 values, not 10 × 2 as bounds of 'time': it is not read"),
    ],
    ids=["fitting", "across 0°E", "Gaussian", "latitude", "edges", "corners", "time", "shape"],
)
def test_bounds_that_do_not_fit_their_axis_are_named(tmp_path: Path, ends: dict[str, np.ndarray], said: str) -> None:
    found = sentences(examine(write(bounded(**ends), tmp_path / "a.nc")), Severity.LOOK)
    assert [said in each for each in found] == ([True] if said else []), found


def test_many_times_are_checked_by_a_part_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etesian.files.doctor.MOST_BYTES", 200)
    diagnosis = examine(write(series(), tmp_path / "file.nc"))
    assert "only every 4th time is checked" in sentences(diagnosis, Severity.LOOK)[0]


def test_the_printed_page_and_the_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write(series(), tmp_path / "good.nc")
    assert doctor(str(good)) == 0
    printed = capsys.readouterr().out
    assert "2m_temperature" in printed
    assert "fixed automatically" in printed
    assert doctor(str(tmp_path / "god.nc")) == 1
    assert "did you mean" in " ".join(capsys.readouterr().out.split())


def test_levels_stand_in_one_line(tmp_path: Path) -> None:
    dataset = series("t").expand_dims(level=[500, 850], axis=1)
    dataset.level.attrs["units"] = "hPa"
    console = Console(width=120, record=True, quiet=False, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(examine(write(dataset, tmp_path / "file.nc")))
    assert "500…850 (2)" in console.export_text()


def test_one_finding_of_a_kind_counts_its_files(tmp_path: Path) -> None:
    for day in range(7):
        dataset = series().isel(time=[day]).assign_coords(time=("time", [30000.0 + day], {"Unit": "days"}))
        write(dataset, tmp_path / f"{day:03}.nc")
    diagnosis = examine(tmp_path)
    (finding,) = [finding for finding in diagnosis.findings if finding.severity is Severity.BROKEN]
    broken = str(finding)
    assert "000.nc" in broken
    assert "001.nc" not in broken
    assert broken.endswith("(the first of 7 files)")
    assert len(finding.files) == 7


def test_a_variable_that_holds_nothing_has_a_row_without_numbers(tmp_path: Path) -> None:
    diagnosis = examine(write(series(values=np.nan), tmp_path / "file.nc"))
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(diagnosis)
    (row,) = [line.split() for line in console.export_text().splitlines() if "t2m" in line]
    assert row == ["2m_temperature", "t2m", "K", "time", "100.0%"]


def test_a_notebook_shows_the_table_and_the_findings(tmp_path: Path) -> None:
    page = examine(write(series("a&b", None), tmp_path / "file.nc"))._repr_html_()
    assert "<td style='text-align:left'>a&amp;b</td>" in page
    assert "look at this" in page
    assert "<li>&#x27;a&amp;b&#x27; has no units: give them with `ncatted -O -a &#x27;units,a&amp;b,o,c" in page


def test_values_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = series()
    dataset["t2m"][:, 0, 0] = -9999.0
    path = write(dataset, tmp_path / "file.nc")
    times = []
    of = Tally.of.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Tally, "of", classmethod(lambda cls, *given: times.append(len(given[0])) or of(cls, *given)))
    assert examine(path).exit_status == 1
    assert sum(times) == 10


def test_damaged_values_are_one_finding_beside_what_the_others_hold(tmp_path: Path) -> None:
    for year in (2001, 2002, 2003):
        dataset = series(units="degC", values=np.random.default_rng(year).normal(12, 3, (10, 3, 4)))
        dataset = dataset.assign_coords(time=dataset.time + np.timedelta64(365 * (year - 2001), "D"))
        encoding = {"t2m": {"zlib": True, "chunksizes": (5, 3, 4)}}
        dataset.to_netcdf(path := tmp_path / f"{year}.nc", encoding=encoding)
        if year == 2002:
            with h5py.File(path) as file:
                chunk = file["t2m"].id.get_chunk_info(1)
            data = bytearray(path.read_bytes())
            data[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
            path.write_bytes(data)
    diagnosis = examine(tmp_path)
    (sentence,) = sentences(diagnosis, Severity.BROKEN)
    assert "2002.nc cannot be read at 't2m', it is damaged" in sentence
    (summary,) = diagnosis.channels
    assert abs(summary.mean - 285.15) < 1
    with pytest.raises(DataError, match="is damaged"):
        open_store(tmp_path).compute()
