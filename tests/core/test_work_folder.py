"""The folder in which long work is done, and its lock."""

import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from unittest.mock import Mock

import pytest
import xarray as xr

from etesian.core.errors import DataError
from etesian.core.resumable import ResumableStore, work_folder

HOLDER = """
import os, signal, sys
from pathlib import Path
from etesian.core.resumable import work_folder

with work_folder(Path(sys.argv[1]), "fields") as place:
    place.begin({"seed": 1})
    (place.folder / "half").write_text("done")
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that is making tmp_path/store.zarr."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "store.zarr")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_and_a_killed_one_is_succeeded(tmp_path, holder):
    target = tmp_path / "store.zarr"
    with pytest.raises(DataError, match=r"store\.zarr is being made by another run; wait for it or end it"):
        work_folder(target, "fields").__enter__()
    holder.kill()
    holder.wait()
    with work_folder(target, "fields") as place:
        assert place.begin({"seed": 1})
        assert (place.folder / "half").read_text() == "done"
        place.result.mkdir()
        place.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["store.zarr"]


def test_a_second_run_in_the_same_process_is_refused(tmp_path):
    with work_folder(tmp_path / "a", "fields"), pytest.raises(DataError, match="being made by another run"):
        work_folder(tmp_path / "a", "fields").__enter__()
    assert not list(tmp_path.iterdir())


def begin_and_fail(target, error):
    with work_folder(target, "fields") as place:
        place.begin({"seed": 1})
        raise error


def test_an_error_of_the_users_leaves_nothing_behind_and_any_other_leaves_the_work(tmp_path):
    for error, left in ((DataError("mend it"), []), (KeyboardInterrupt(), ["a.partial"])):
        with pytest.raises(type(error)):
            begin_and_fail(tmp_path / "a", error)
        assert [path.name for path in tmp_path.iterdir()] == left
    with work_folder(tmp_path / "a", "fields") as place:
        assert place.begin({"seed": 1})
        assert not place.begin({"seed": 2})


@pytest.mark.parametrize("allowed", range(5))
def test_a_folder_whose_clearing_is_interrupted_is_neither_taken_for_work_nor_left_behind(
    tmp_path, monkeypatch, allowed
):
    removals = iter(range(5))
    unlink, rmtree = Path.unlink, shutil.rmtree

    def killed(remove):
        def one_of_a_few(path, *_, **__):
            if path.name != "lock" and next(removals) == allowed:
                raise KeyboardInterrupt
            remove(path)

        return one_of_a_few

    with work_folder(tmp_path / "a", "fields") as place:
        place.begin({"seed": 1})
        place.save("block")
        place.old.mkdir()
        (place.folder / "complete").touch()
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(Path, "unlink", killed(unlink))
            patch.setattr(shutil, "rmtree", killed(rmtree))
            place.clear()
        assert (place.folder / "complete").exists() == (allowed < 4)
        assert (place.folder / "plan.json").exists() == (allowed < 1)
    with work_folder(tmp_path / "a", "fields"):
        pass
    assert not list(tmp_path.iterdir())


def test_another_plans_store_whose_removal_is_interrupted_is_begun_again(tmp_path, monkeypatch):
    def store(seed):
        return ResumableStore(str(tmp_path / "a"), "fields", {"seed": seed}, lambda: xr.Dataset({"a": seed}))

    store(1).mark([0])
    assert store(1).done() == {0}
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store(2)
    assert store(1).done() == set()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/a cannot be written: Not a directory; choose another place"):
        work_folder(tmp_path / "file" / "a", "fields").__enter__()
