"""No result replaces what the library did not write, nor what it is made from."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.core.outputs import (
    MARKER,
    claim,
    claim_run,
    complete_or_absent,
    keep_apart,
    mark,
    put_in_place,
    unfinished,
)


def store(path: Path, **attributes: str) -> Path:
    """Write a small Zarr store as anybody would."""
    fields = {"t": (("time", "latitude"), np.ones((2, 3), np.float32))}
    xr.Dataset(fields, {"latitude": [0.0, 1.0, 2.0]}, attributes).to_zarr(path, zarr_format=3, consolidated=True)
    return path


def everything(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_free_or_ours_may_be_written(tmp_path: Path) -> None:
    assert claim(tmp_path / "new.zarr", "forecasts") == tmp_path / "new.zarr"
    (tmp_path / "empty").mkdir()
    claim(tmp_path / "empty", "forecasts")
    ours = store(tmp_path / "ours.zarr")
    mark(ours, "forecasts")
    claim(ours, "forecasts")
    claim(ours, "forecasts", ["gs://bucket/ours.zarr", tmp_path / "not_there.nc"])


def test_what_somebody_else_wrote_may_not(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.txt").write_text("words")
    (tmp_path / "file.txt").write_text("words")
    store(tmp_path / "theirs.zarr")
    for name in ("home", "file.txt", "theirs.zarr", "home/..", "home/thesis.txt"):
        with pytest.raises(DataError, match=rf"{name} exists and holds no training store that etesian wrote"):
            claim(tmp_path / name, "training store")


def test_a_result_of_another_kind_stays(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours.zarr")
    mark(ours, "training store")
    with pytest.raises(DataError, match=r"ours.zarr exists and holds no forecasts that etesian wrote"):
        claim(ours, "forecasts")


def test_a_copy_made_with_xarray_is_not_ours(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours.zarr")
    mark(ours, "fields")
    copy = tmp_path / "copy.zarr"
    xr.open_zarr(ours).to_zarr(copy)
    with pytest.raises(DataError, match=r"copy.zarr exists and holds no fields"):
        claim(copy, "fields")


@pytest.mark.parametrize("added", ["notes.txt", "t/notes.txt", "t/c/0/notes.txt", "mine/zarr.json", "folder/deep/x.nc"])
def test_a_file_that_was_put_into_a_store_of_ours_is_named_and_kept(tmp_path: Path, added: str) -> None:
    ours = store(tmp_path / "ours.zarr")
    mark(ours, "forecasts")
    (ours / added).parent.mkdir(parents=True, exist_ok=True)
    (ours / added).write_text("mine")
    shown = added if added.startswith(("notes", "t/")) else added.split("/")[0]
    with pytest.raises(DataError, match=rf"holds {shown}, which etesian did not write: move that elsewhere"):
        claim(ours, "forecasts")
    claim(ours, "forecasts", overwrite=False)


def test_a_link_in_the_place_of_a_result_is_refused_and_so_is_one_inside(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours.zarr")
    mark(ours, "forecasts")
    (tmp_path / "link.zarr").symlink_to("ours.zarr")
    (tmp_path / "nowhere.zarr").symlink_to("not_there")
    for name in ("link.zarr", "nowhere.zarr"):
        with pytest.raises(DataError, match="is a symbolic link to"):
            claim(tmp_path / name, "forecasts")
    (tmp_path / "home").mkdir()
    (ours / "t" / "home").symlink_to(tmp_path / "home")
    with pytest.raises(DataError, match="holds t/home, which etesian did not write"):
        claim(ours, "forecasts")


def test_no_result_is_holds_or_lies_in_a_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = store(tmp_path / "data" / "source.zarr")
    mark(source, "fields")
    (tmp_path / "other.zarr").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    same = [
        "data/source.zarr",
        source,
        "data/../data/source.zarr",
        "data//source.zarr/",
        "other.zarr",
        "data/source.zarr/.",
    ]
    for path in same:
        for given in ("data/source.zarr", source, "other.zarr", f"file://{source}"):
            with pytest.raises(DataError, match="is a source"):
                keep_apart(path, [given])
    with pytest.raises(DataError, match=r"data holds a source, .*source.zarr: choose another place for the result"):
        keep_apart("data", [source])
    for path in ("data/source.zarr/new", "other.zarr/deep/new"):
        with pytest.raises(DataError, match="lies in a source"):
            keep_apart(path, [source])
    keep_apart("data/new.zarr", ["data"])
    keep_apart("data/new.zarr", [source])


def test_the_work_folder_is_neither_a_source_nor_anybodys(tmp_path: Path) -> None:
    source = store(tmp_path / "x.zarr.partial")
    with pytest.raises(DataError, match=r"x.zarr holds a source|x.zarr is a source"):
        claim(tmp_path / "x.zarr", "forecasts", [source])
    with pytest.raises(DataError, match=r"x.zarr.partial is needed for the work on .*x.zarr and holds something else"):
        claim(tmp_path / "x.zarr", "forecasts")


def test_addresses_are_no_place_for_results() -> None:
    with pytest.raises(DataError, match=r"gs://bucket/x\.zarr is an address"):
        claim("gs://bucket/x.zarr", "forecasts")


@pytest.mark.parametrize(
    ("kind", "attributes"),
    [("fields", {"plan": "{}"}), ("forecasts", {"source": "{}"}), ("filled fields", {}), ("training store", {})],
)
def test_stores_of_versions_without_a_marker_are_known_by_what_they_hold(
    tmp_path: Path, kind: str, attributes: dict[str, str]
) -> None:
    path = store(tmp_path / "x.zarr", **attributes)
    root = json.loads((path / "zarr.json").read_text())
    arrays = root["consolidated_metadata"]["metadata"]
    if kind == "forecasts":
        arrays["prediction_timedelta"] = {}
    if kind == "filled fields":
        arrays["t_flag"] = {"attributes": {"flag_meanings": "filled"}}
    if kind == "training store":
        arrays |= {"fields": {}, "channel": {}, "mean": {}, "std": {}}
        root["attributes"]["etesian_store"] = 1
    (path / "zarr.json").write_text(json.dumps(root))
    claim(path, kind)  # type: ignore[arg-type]
    (path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match=r"notes\.txt"):
        claim(path, kind)  # type: ignore[arg-type]


def test_an_evaluation_without_a_marker_is_known_unless_more_is_in_it(tmp_path: Path) -> None:
    for name in ("scores.nc", "scores.csv", "report.html", "maps.png"):
        (tmp_path / name).write_text("")
    claim(tmp_path, "evaluation")
    (tmp_path / "thesis.tex").write_text("words")
    with pytest.raises(DataError, match="holds no evaluation that etesian wrote"):
        claim(tmp_path, "evaluation")


def test_a_new_result_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with complete_or_absent(tmp_path / "out", "evaluation") as folder:
            (folder / f"{text}.txt").write_text(text)
    assert sorted(everything(tmp_path)) == [f"out/{MARKER}", "out/second.txt"]
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_failure_leaves_the_old_result_as_it_was(tmp_path: Path) -> None:
    with complete_or_absent(tmp_path / "out", "evaluation") as folder:
        (folder / "first.txt").write_text("first")
    before = everything(tmp_path)

    def fail() -> None:
        with complete_or_absent(tmp_path / "out", "evaluation") as folder:
            (folder / "second.txt").write_text("second")
            raise ValueError("half")

    with pytest.raises(ValueError, match="half"):
        fail()
    assert everything(tmp_path) == before


def test_what_came_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    place = claim(tmp_path / "out", "evaluation")
    new = unfinished(place)
    new.mkdir()
    place.mkdir()
    (place / "thesis.txt").write_text("words")
    with pytest.raises(DataError, match="holds no evaluation that etesian wrote"):
        put_in_place(new, place, "evaluation")
    assert (place / "thesis.txt").read_text() == "words"


def test_training_leaves_a_recipe_of_somebody_else(tmp_path: Path) -> None:
    claim_run(tmp_path / "new")
    (tmp_path / "mine.yaml").write_text("a: 1")
    claim_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("a: 1")
    with pytest.raises(DataError, match=r"training would replace .*recipe\.yaml, not one of its own"):
        claim_run(tmp_path)
    (tmp_path / "log").mkdir()
    claim_run(tmp_path)
