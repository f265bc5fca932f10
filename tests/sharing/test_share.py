"""Runs that are pushed and pulled: what travels, that it answers as before, and what is refused on the way."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import fsspec
import numpy as np
import pandas as pd
import pretended_hub
import pytest
import xarray as xr
import yaml
from fsspec.implementations.memory import MemoryFileSystem
from running import etesian

import etesian as et
from etesian.files import copies, zarrs
from etesian.scores.tables import tidy
from etesian.sharing import card, manifest
from etesian.store.prepare import prepare_dataset

WEIGHTS = "checkpoints/best/weights.safetensors"
METRICS = "log/version_0/metrics.csv"
TRAVELS = {"README.md", "recipe.yaml", METRICS, WEIGHTS, "checkpoints/best/description.json"}
PERIODS = {"train": ["2001-01", "2001-01"], "validate": ["2001-02-01", "2001-02-05"], "test": ["2001-02-06", "2001-02"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, stored: Path) -> Path:
    """A run directory of a stored network, with what must not travel, and the store of its states beside it."""
    folder = tmp_path_factory.mktemp("trained")
    axes = {"time": pd.date_range("2001-01-01", periods=50), "level": [500, 850]}
    axes |= {"latitude": -82.5 + 15 * np.arange(12.0), "longitude": 15 * np.arange(24.0)}
    values = np.random.default_rng(0).normal(270, 9, (50, 2, 12, 24)).astype("f4")
    prepare_dataset(xr.Dataset({"temperature": (tuple(axes), values, {"units": "K"})}, axes), folder / "store.zarr")
    run = folder / "unet"
    shutil.copytree(stored / "forecast_unet", run / "checkpoints" / "best")
    told = json.loads((stored / "forecast_unet" / "description.json").read_text())
    told["provenance"] |= {"periods": PERIODS, "units": {"temperature_500": "K", "temperature_850": "K"}}
    (run / METRICS).parent.mkdir(parents=True)
    for name, text in {
        "checkpoints/best/description.json": json.dumps(told), "checkpoints/best/training.pt": "a pickle",
        "recipe.yaml": "seed_everything: 0", METRICS: "epoch,val_loss\n0,0.5\n", "secrets.txt": "mine",
        "log/version_old/metrics.csv": "epoch\n9\n",
    }.items():  # fmt: skip
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def _somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pushed(trained: Path) -> Path:
    et.push(trained / "unet", "hub", license="cc-by-4.0")
    return Path("hub/unet")


def test_a_pulled_run_answers_by_the_code_on_its_page_as_the_pushed_one(trained: Path, capsys) -> None:
    etesian("push", trained / "unet", "hub", "--license", "apache-2.0", "--data", "era5", "a sea of ours")
    assert re.search(r"hub/unet: \d+ kB in 5 files", capsys.readouterr().out)
    os.symlink(trained / "store.zarr", "store.zarr")
    page, found = Path("hub/unet/README.md").read_text(), dict[str, xr.Dataset]()
    exec(re.findall(r"```python\n(.*?)```", page, re.S)[0], found)
    theirs = et.load(trained / "unet").forecast("store.zarr", ("2001-02-06", "2001-02-06"), [24, 48])
    xr.testing.assert_identical(found["forecast"].drop_attrs(), theirs.drop_attrs())
    for folder in (Path("hub/unet"), Path("unet")):
        files = {each.relative_to(folder).as_posix() for each in folder.rglob("*") if each.is_file()}
        assert files - {".etesian.json"} == TRAVELS | {"manifest.json"}
    for run in ("unet", trained / "unet"):
        assert et.load(run).log.val_loss.tolist() == [0.5]
    header = yaml.safe_load(page.split("---")[1])
    assert (header["license"], header["library_name"], header["datasets"]) == ("apache-2.0", "etesian", ["era5"])
    weights = sum(each.numel() for each in et.load("unet").task.network.parameters())
    for said in (
        "| predicts | temperature (K) at 500, 850 hPa |", "| leads | 24, 48 h |", f"UNet, {weights:,} weights",
        "- training: 2001-01\n", "- test: 2001-02-06 to 2001-02\n", "for the test was held out", "on a sea of ours.",
        "Licence to Use Copernicus Products", "Hersbach",
    ):  # fmt: skip
        assert said in page


def test_the_same_again_does_nothing_and_anything_else_needs_overwrite(trained: Path, pushed: Path, capsys) -> None:
    et.pull(pushed, "out")
    for seen in ("out/Thumbs.db", "hub/unet/log/.DS_Store"):  # by a file manager
        Path(seen).touch()
    before = {each: each.stat().st_mtime_ns for each in Path().rglob("*")}
    et.push(trained / "unet", "hub", license="CC-BY-4.0")
    etesian("pull", pushed, "out")
    assert capsys.readouterr().out.endswith("hub/unet is already there\nout is already there\n")
    assert {each: each.stat().st_mtime_ns for each in Path().rglob("*")} == before
    with pytest.raises(et.DataError, match=r"hub/unet exists with another README\.md; use --overwrite"):
        et.push(trained / "unet", "hub", license="MIT")
    et.push(trained / "unet", "hub", license="MIT", overwrite=True)
    with pytest.raises(et.DataError, match="out exists and holds another run; use --overwrite"):
        et.pull(pushed, "out")
    et.pull(pushed, "out", overwrite=True)
    assert "license: mit" in Path("out/README.md").read_text()
    Path("out", WEIGHTS).write_bytes(b"")
    with pytest.raises(et.DataError, match=r"weights.safetensors in it is not as it was pulled"):
        et.pull(pushed, "out")
    Path("http_hub/unet").mkdir(parents=True)
    Path("http_hub/unet/README.md").touch()
    with pytest.raises(et.DataError, match=r"http_hub/unet holds README\.md"):
        et.push(trained / "unet", "http_hub", license="MIT")
    with pytest.raises(et.DataError, match=r"hub/unet is a source"):
        et.push(pushed, "hub", license="0BSD", overwrite=True)
    assert (pushed / WEIGHTS).exists()
    (pushed / "manifest.json").write_text("{}")
    with pytest.raises(et.DataError, match=r"manifest\.json is damaged"):  # or of something else
        et.push(trained / "unet", "hub", license="MIT", overwrite=True)
    for name, content in (("manifest.json", b"{"), (WEIGHTS, b"x" * (pushed / WEIGHTS).stat().st_size)):
        for folder in (pushed, Path("out")):
            (folder / WEIGHTS).unlink()
            (folder / name).write_bytes(content)
        with pytest.raises(et.DataError, match=name):
            et.pull(pushed, "out")
        et.push(trained / "unet", "hub", license="GPL-3.0-only OR 0BSD", overwrite=True)
        et.pull(pushed, "out", overwrite=True)
    assert "license: other\nlicense_name: gpl-3.0-only-or-0bsd\n" in Path("out/README.md").read_text()
    for folder in (Path("out"), pushed):
        (folder / "checkpoints" / "mine.txt").touch()
    for verb in (lambda: et.pull("hub/unet", "out", overwrite=True), lambda: et.push(
        trained / "unet", "hub", license="0BSD", overwrite=True)):  # fmt: skip
        with pytest.raises(et.DataError, match=r"holds checkpoints/mine\.txt, which is no file of the run"):
            verb()
    assert Path("out/checkpoints/mine.txt").exists()
    assert not list(Path().glob("*.partial"))


def lists(folder: Path, **files: object) -> None:
    told = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps(told | {"files": told["files"] | files}))


ENTRY = {"sha256": "0" * 64, "size": 1}


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (lambda at: (at / WEIGHTS).write_bytes(b"x" * 39496), f"hub/unet/{WEIGHTS} is missing or not what"),
        (lambda at: (at / "recipe.yaml").unlink(), r"there is no hub/unet/recipe\.yaml"),
        (lambda at: (at / "code.py").write_text("1"), r"holds code\.py, which is no file of the run"),
        (lambda at: (at / "log" / "x").symlink_to("/etc/passwd"), "log/x is a symbolic link"),
        (lambda at: lists(at, **{"../../evil": ENTRY}), r"names '\.\./\.\./evil', which is no file of a run"),
        (lambda at: lists(at, **{"checkpoints/best/training.pt": ENTRY}), "names 'checkpoints/best/training.pt'"),
        (lambda at: lists(at, **{"recipe.yaml\n": ENTRY}), "which is no file of a run"),
        (lambda at: lists(at, **{"recipe.yaml": 3}), r"manifest\.json is damaged"),
        (lambda at: lists(at, **{"recipe.yaml": ENTRY | {"size": float("inf")}}), r"manifest\.json is damaged"),
        (lambda at: (at / "manifest.json").write_text('{"format": 2, "etesian": "9"}'), "was pushed by etesian 9"),
        (lambda at: (at / "manifest.json").unlink(), "holds no shared run"),
    ],
)
def test_nothing_that_is_not_what_the_manifest_lists_arrives(pushed: Path, tamper, message: str) -> None:
    tamper(pushed)
    with pytest.raises(et.DataError, match=message):
        et.pull(pushed, "out")
    assert not Path("out").exists()
    assert not Path("evil").exists()


def test_classes_of_others_are_said_on_the_page_and_not_imported(trained: Path, pushed: Path, monkeypatch) -> None:
    file = pushed / "checkpoints" / "best" / "description.json"
    file.write_text(file.read_text().replace("etesian.models.unet.UNet", "evil.UNet"))
    files = {name: pushed / name for name in TRAVELS}
    (pushed / "manifest.json").write_bytes(manifest.write(manifest.listed(files)))
    monkeypatch.syspath_prepend(".")
    Path("evil.py").write_text("open('called', 'w')")
    with pytest.raises(et.CheckpointError, match="evil"):
        _ = et.pull(pushed, "out").task
    assert not Path("called").exists()
    run = et.load(trained / "unet")
    monkeypatch.setattr(type(run.task.network), "__module__", "mine.networks")
    assert "--trust mine |" in card.model_card(run, "x", "hub/x", "MIT")


def test_what_is_behind_an_address_goes_on_where_it_stopped(trained: Path, stored: Path, monkeypatch) -> None:
    monkeypatch.setattr(zarrs, "FIRST_PAUSE", 0)
    monkeypatch.setattr(copies, "BLOCK_BYTES", 6_000)
    fsspec.filesystem("memory").store.clear()
    real, asked, dead = MemoryFileSystem.cat_file, list[tuple[str, int | None]](), 12_000

    def dying(self, path, start=None, end=None, **options):
        asked.append((path.rpartition("/")[2], start))
        if dead and start == dead:
            raise ConnectionError("gone")
        return real(self, path, start, end, **options)

    with monkeypatch.context() as full:
        full.setattr(MemoryFileSystem, "put_file", lambda *_: {}["quota"])
        with pytest.raises(et.DataError, match=r"memory://hub/unet fails \('quota'\); run the same command again"):
            et.push(trained / "unet", "memory://hub/", license="MIT")
    assert et.push(trained / "unet", "memory://hub/", license="MIT") == "memory://hub/unet"
    monkeypatch.setattr(MemoryFileSystem, "cat_file", dying)
    with pytest.raises(et.DataError, match=r"stopped answering \(gone\); run the same command again"):
        et.pull("memory://hub/unet", "out")
    assert not Path("out").exists()
    assert Path(f"out.partial/result/{WEIGHTS}.part").stat().st_size == 12_000
    dead = 0
    asked.clear()
    et.pull("memory://hub/unet", "out")
    assert asked == [
        ("manifest.json", None), ("weights.safetensors", 12_000), ("weights.safetensors", 18_000), ("metrics.csv", 0),
        ("recipe.yaml", 0),
    ]  # fmt: skip
    assert Path("out", WEIGHTS).read_bytes() == (stored / "forecast_unet" / "weights.safetensors").read_bytes()
    assert not Path("out.partial").exists()


def test_scores_stand_on_the_page_with_their_intervals(trained: Path) -> None:
    store, run = trained / "store.zarr", et.load(trained / "unet")
    forecast = run.forecast(store, ("2001-01-30", "2001-02-08"), [24, 48])
    scores = et.evaluate({"unet": forecast}, store, baselines=["persistence"], headline=["temperature_850"])
    Path("scores").mkdir()
    tidy(scores).to_csv("scores/scores.csv", index=False)
    scores.to_netcdf("scores/scores.nc")
    et.push(run, "hub", license="MIT", scores="scores")
    page, of = Path("hub/unet/README.md").read_text(), scores.isel(region=0, lead_time=0)
    of = of.sel(forecast="unet", channel="temperature_850")
    assert "| unet | persistence |" in page
    assert f"| 1 day | {of.rmse:.1f} ({of.rmse_low:.1f} – {of.rmse_high:.1f}) |" in page
    assert "10 initial times, 2001-01-30 to 2001-02-08, of which 2 lie in the TRAINING period" in page
    assert Path("hub/unet/scores.csv").read_bytes() == Path("scores/scores.csv").read_bytes()
    et.push(run, "hub", license="MIT", overwrite=True)
    assert not Path("hub/unet/scores.csv").exists()
    with pytest.raises(et.DataError, match=r"hub holds no scores\.nc"):
        et.push(run, "hub", license="MIT", scores="hub")


def test_what_cannot_be_pushed_is_one_sentence(trained: Path, monkeypatch) -> None:
    run = trained / "unet"
    for kind, message, options in (
        (et.RecipeError, "'cc-by' is no identifier of SPDX.* CC-BY-4.0", {"license": "cc-by"}),
        (et.RecipeError, r"'\.\./x' cannot be the name", {"name": "../x"}),
        (et.CheckpointError, "no_run does not exist", {"run": "no_run"}),
        (et.RecipeError, "give hf://OWNER/NAME", {"to": "hf://owner"}),
        (et.DataError, "nothing://x/unet is no address", {"to": "nothing://x"}),
    ):
        with pytest.raises(kind, match=message):
            et.push(**{"run": run, "to": "hub", "license": "MIT"} | options)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(et.RecipeError, match=r"needs the extra 'hub': pip install 'etesian\[hub\]'"):
        et.pull("hf://owner/name", "out")
    assert not Path("hub").exists()
    assert "NOT held out: train, validate saw" in card._periods({"periods": PERIODS | {"test": ["2001", "2001"]}})
    scenarios = {"train": ["historical", "ssp126"], "validate": "2015", "test": "ssp245", "test_years": [2080, 2100]}
    assert card._periods({"scenarios": scenarios}).splitlines() == [
        "- training: historical, ssp126", "- validation, by which the weights were chosen: 2015", "- test: ssp245",
        "- test years: 2080, 2100", "",
        "What is for the test was held out: neither training nor the choice of weights saw it.",
    ]  # fmt: skip


def test_a_run_goes_to_hugging_face_and_back(trained: Path, monkeypatch) -> None:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setenv("HF_TOKEN", "hf_none")
    run, address = trained / "unet", "hf://me/unet"
    with pretended_hub.running() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        pattern = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", pattern)
        with pytest.raises(et.DataError, match=r"holds no shared run, or is private: `hf auth login`"):
            et.pull(address, "out")
        etesian("push", run, address, "--license", "MIT")
        assert set(hub.files) == TRAVELS | {"manifest.json", ".gitattributes"}
        et.push(run, address, license="MIT")
        assert len(hub.commits) == 2
        et.pull(address, "out")
        assert sorted(set(hub.sent)) == sorted(TRAVELS | {"manifest.json"})
        assert {name: Path("out", name).read_bytes() for name in TRAVELS}.items() <= hub.files.items()
        assert not Path("out/.cache").exists()
        et.push(run, address, license="CC0-1.0", overwrite=True)
        assert b"license: cc0-1.0" in hub.files["README.md"]
        et.pull(f"{address}@{list(hub.commits)[1]}", "again")
        assert "license: mit" in Path("again/README.md").read_text()
        hub.commit(hub.files | {WEIGHTS: b"x" * 39496})
        with pytest.raises(et.DataError, match=f"{address}/{WEIGHTS} is missing or not what"):
            et.pull(address, "bad")
        assert not Path("bad").exists()
