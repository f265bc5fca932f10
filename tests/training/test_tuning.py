"""A search makes runs, goes on where it was interrupted, is shared by processes, and ends in a recipe."""

import copy
import shutil
import sys
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from running import call, etesian

import etesian as et
from etesian.training import tuning, tuning_report
from etesian.training.trusted import read

pytest.importorskip("optuna", reason="the extra 'tune' is not installed")

DIM, RATE = "model.network.dim", "model.optimizer.lr"
RECIPE = yaml.safe_load("""
data:
  class_path: etesian.ForecastData
  init_args:
    {stores: [], leads: [6], batch_size: 8, train: ["2001-01-01", "2001-01-06"], validate: ["2001-01-09", "2001-01-11"],
    test: ["2030-01-01", "2030-02-01"]} # Of which there is nothing to be read.
model:
  class_path: etesian.ForecastTask
  init_args:
    network: {class_path: ClimaX, init_args: {patch: 2, dim: 16, depth: 1, heads: 2}}
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3}}
trainer: {accelerator: cpu, max_epochs: 2, enable_model_summary: false, logger: false}
""")
SPACE = {DIM: [8, 16], RATE: {"low": 1e-4, "high": 1e-1, "log": True}}


def search(store: str, out: Path, space: dict[str, Any] = SPACE, **more: Any) -> Any:
    return et.tune(RECIPE, space, out, **{"stores": [store], "trials": 3, "seeds": 1, **more})


def share(store: str, out: str) -> None:
    search(store, Path(out), {DIM: [16, 8]}, trials=2, seeds=0, epochs=1)


@pytest.fixture(scope="module", autouse=True)
def _checked_once() -> Iterator[None]:
    """Let the same recipe and space be checked once: a parser for each of their choices costs more than training."""
    real, known = tuning._checked, dict[str, Any]()

    def checked(where: str, settings: Any, words: list[str], trust: Any) -> Any:
        config = Path(words[1].removeprefix("--config="))
        asked = repr((where, settings, config.read_text(), words[2:], trust))
        if asked not in known:
            known[asked] = real(where, settings, words, trust)
        return copy.deepcopy(known[asked])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tuning, "_checked", checked)
        yield


@pytest.fixture(scope="module")
def found(store: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return search(store, tmp_path_factory.mktemp("tune") / "out")


def test_trials_are_runs_with_their_own_scores_and_end_in_a_recipe(found: Any, store: str, tmp_path: Path) -> None:
    assert list(found.trials.state) == ["complete"] * 3
    for number, row in found.trials.iterrows():
        run = et.load(found.path / "trials" / f"{number:04d}")
        assert isinstance(run, et.Run)
        assert row.val_loss == pytest.approx(run.best, rel=1e-6)
        assert run.task.network.describe()["arguments"]["dim"] == row[DIM]
    assert found.trials.loc[0, [DIM, RATE]].tolist() == [16, 1e-3]  # The recipe's own come first.
    chosen = found.trials.loc[found.trials.val_loss.idxmin()]
    assert found.best == {DIM: chosen[DIM], RATE: chosen[RATE]}
    again = et.fit(found.path / "best.yaml", run=tmp_path / "best")
    assert again.best == pytest.approx(chosen.val_loss, rel=1e-6)


def test_the_best_is_compared_with_the_recipe_on_seeds_of_its_own(found: Any) -> None:
    assert set(found.seeds.seed) == {1}
    for number, row in found.seeds.iterrows():
        kept = read(found.path / "seeds" / f"{number:04d}" / "recipe.yaml")
        assert kept["seed_everything"] == kept["data"]["init_args"]["seed"] == 1
        rate = 1e-3 if row.side == "recipe" else found.best[RATE]
        assert kept["model"]["init_args"]["optimizer"]["init_args"]["lr"] == rate
    page = (found.path / "report.html").read_text()
    assert "seeds that the search has not seen: recipe" in page
    assert f"{found.seeds.val_loss[0]:.5g} ± nan (n = 1)" in page


def test_an_interrupted_search_goes_on_to_the_same_trials(
    found: Any, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Any, trainer: Any, module: Any) -> None:
        if self.trial.number == 1 and trainer.current_epoch == 1:
            raise MemoryError
        real(self, trainer, module)

    real = tuning._Watch.on_train_epoch_end
    with monkeypatch.context() as patch:
        patch.setattr(tuning._Watch, "on_train_epoch_end", broken)
        with pytest.raises(MemoryError):
            search(store, tmp_path / "out", trials=2, seeds=0)
    again = search(store, tmp_path / "out", trials=2, seeds=0)
    columns = ["state", "val_loss", "epochs", DIM, RATE]
    pd.testing.assert_frame_equal(again.trials[columns], found.trials[columns][:2])
    assert [len(list(run.glob("log/*"))) for run in sorted((tmp_path / "out" / "trials").iterdir())] == [1, 2]


def test_two_processes_share_the_trials(store: str, tmp_path: Path) -> None:
    spawn = get_context("forkserver").Process
    both = [spawn(target=call, args=(__file__, "share", store, str(tmp_path / "out"))) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
    assert [process.exitcode for process in both] == [0, 0]
    runs = sorted((tmp_path / "out" / "trials").iterdir())
    assert [run.name for run in runs] == ["0000", "0001"]
    assert [len(list(run.glob("log/*"))) for run in runs] == [1, 1]
    trials = pd.read_csv(tmp_path / "out" / "trials.csv")
    assert list(trials.state) == ["complete", "complete"]


def test_a_trial_that_is_cut_short_or_cannot_be_trained_is_no_best_one(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("optuna.trial.Trial.should_prune", lambda trial: trial.number > 0)
    monkeypatch.setattr("etesian.training.space.Setting.pick", lambda _, trial: [16, 8, 15][trial.number])
    result = search(store, tmp_path, {DIM: [16, 8, 15]}, seeds=0)
    assert list(result.trials.state) == ["complete", "pruned", "failed"]
    assert list(result.trials.epochs) == [2, 1, 0]
    assert result.best == {DIM: 16}
    assert "heads" in result.trials.why[2]


def test_another_search_is_refused_and_replaces_only_what_is_its_own(found: Any, store: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(found.path, out)
    with pytest.raises(et.DataError, match=r"made with space.model.network.dim = .*'choice'.*; use --overwrite"):
        search(store, out, SPACE | {DIM: [16, 32]})
    with pytest.raises(et.DataError, match=r"recipe.trainer.max_epochs = 2 instead of 1; use --overwrite"):
        search(store, out, epochs=1)
    for mine in ("trials/notes.txt", "trials/0000/scores/mine.csv", "trials/0000/log/version_0/mine.png", "study/mine"):
        (out / mine).parent.mkdir(exist_ok=True)
        (out / mine).touch()
        with pytest.raises(et.DataError, match=rf"holds .*{mine}, which no search writes"):
            search(store, out, epochs=1, overwrite=True)
        (out / mine).unlink()
    for name, content in (("recipe", RECIPE), ("space", {DIM: [16]})):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(content))
    etesian(
        "tune", tmp_path / "recipe.yaml", tmp_path / "space.yaml", "--out", out, "--stores", store, "--trials", 1,
        "--seeds", 0, "--no-prune", "--overwrite", "--trainer.max_epochs=1", "--model.network.heads", 4,
    )  # fmt: skip
    assert [run.name for run in (out / "trials").iterdir()] == ["0000"]
    kept = read(out / "best.yaml")
    assert kept["trainer"]["max_epochs"] == 1
    assert kept["model"]["init_args"]["network"]["init_args"]["heads"] == 4


def test_a_search_replaces_no_recipe_of_its_own_and_may_lie_where_one_works(
    found: Any, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(et.DataError, match=r"out holds a source, .*best\.yaml"):
        et.tune(found.path / "best.yaml", SPACE, found.path, stores=[store], overwrite=True)
    monkeypatch.chdir(tmp_path)
    search(store, Path(), {DIM: [16]}, trials=1, seeds=0, epochs=1)
    assert Path("best.yaml").exists()


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "nothing to choose"),
        ({"model.network.dmi": [8]}, "the space: ClimaX has no option 'dmi'; did you mean 'dim'"),
        (
            {"trainer.max_epoch": [8]},
            "the space: the recipe has no 'trainer.max_epoch'; did you mean 'trainer.max_epochs'",
        ),
        ({DIM: [8, "wide"]}, "the space: .*dim is 'wide', but must be int"),
        ({"modle.network.dim": [8]}, "no setting of .* did you mean 'model'"),
        ({"seed_everything": [1, 2]}, "no setting of"),
        ({"data.validate": [["2001", "2001"]]}, "data.validate could change what the validation loss"),
        ({"data.history": [[0], [-6, 0]]}, "data.history could change what the validation loss"),
        ({"trainer.limit_val_batches": [1, 2]}, "limit_val_batches could change what the validation loss"),
        ({"model.loss": ["l1", "l2"]}, "model.loss could change what the validation loss"),
        ({"model.band_weight": [0.0, 0.2]}, "model.band_weight could change what the validation loss"),
        ({DIM: 8}, "give choices"),
        ({RATE: {"low": 1.0, "high": 0.1}}, "from low 1.0 to high 0.1; give both, low below high"),
        ({RATE: {"low": 0.1, "high": float("inf")}}, "from low 0.1 to high inf"),
        ({RATE: {"low": 0.0, "high": 0.1, "log": True}}, "needs a low above 0"),
        ({RATE: {"low": 0.0, "hihg": 0.1}}, "has no 'hihg'; did you mean 'high'"),
        ({RATE: {"low": "a", "high": 0.1}}, "give numbers"),
        ({DIM: {"low": 8, "high": 16, "step": 9}}, "has step 9"),
        ({DIM: [8], "model.init_args.network.dim": [8]}, "model.network.dim twice"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_a_sentence(
    space: dict[str, Any], said: str, store: str, tmp_path: Path
) -> None:
    with pytest.raises(et.RecipeError, match=said):
        search(store, tmp_path / "out", space)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("recipe", "space"),
    [
        ({}, {"": [None, {"checkpoint": "b", "statistics": "trained"}]}),
        ({"checkpoint": "a"}, {".statistics": ["data", "trained"]}),
        ({"checkpoint": "a", "statistics": "trained"}, {".checkpoint": ["a", "b"]}),
    ],
    ids=["start", "statistics", "checkpoint"],
)
def test_losses_that_are_normalised_differently_are_not_compared(
    recipe: dict[str, Any], space: dict[str, Any], store: str, tmp_path: Path
) -> None:
    options = {f"model.start.{name}": value for name, value in recipe.items()}
    chosen = {f"model.start{name}": choices for name, choices in space.items()}
    with pytest.raises(et.RecipeError, match=r"normalises by the statistics of .*, the recipe by those of .*; leave"):
        search(store, tmp_path / "out", chosen, options=options)


def test_where_all_scores_are_the_same_no_setting_matters() -> None:
    import optuna

    among = {DIM: optuna.distributions.IntDistribution(8, 16)}
    trials = [optuna.create_trial(params={DIM: 8 + number}, distributions=among, value=1.0) for number in range(8)]
    assert tuning_report._importances(trials) == {}


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(et.RecipeError, match=r"pip install 'etesian\[tune\]'"):
        et.tune("planet_climax", SPACE)
