"""The search for better settings of a recipe: trials that are runs, chosen and cut short by Optuna.

Optuna's journal says which trials there are, a file lock which of them are being trained: one that has neither ended
nor is locked was interrupted, and goes on from its own checkpoint.
"""

import json
import re
import shutil
import tempfile
import time
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from filelock import FileLock, Timeout

from etesian.core.errors import DataError, EtesianError, RecipeError, first_line, suggest
from etesian.core.outputs import MARKER, claim, first_beside, mark, marker
from etesian.core.resumable import LOCK, plan_text, refuse_another
from etesian.training.checkpoint import DESCRIPTION, read_description
from etesian.training.recipes import TrainingCLI, as_words, train, written_out
from etesian.training.space import Setting, read_space, value_in
from etesian.training.trusted import check, plain
from etesian.training.tuning_report import FILES, Tuning, best_of, write_tuning

TRIALS, SEEDS, _STUDY = "trials", "seeds", "study"

_OWN = (TRIALS, SEEDS, _STUDY, LOCK, *FILES)

_WRITTEN = re.compile(
    rf"\.etesian\.json|{LOCK}|{'|'.join(FILES)}|study/journal\.log.*|(trials|seeds)/\d+(\.lock|/(\.etesian\.json"
    r"|recipe\.yaml|loggers\.json|(log|tensorboard|lightning_logs)/version_\d+/(metrics|hparams|events\.out)\..*"
    r"|(wandb|mlruns)/.*|checkpoints/\.?(best|last)(\.\w+)?/(weights\.safetensors|description\.json|training\.pt)))"
)
"""All that a search and its runs write."""


def tune(
    recipe: str | Path | Mapping[str, Any],
    space: str | Path | Mapping[str, Any],
    out: str | Path | None = None,
    *,
    trials: int = 20,
    seeds: int = 3,
    prune: bool = True,
    seed: int = 0,
    stores: Sequence[Any] | None = None,
    epochs: int | None = None,
    options: Mapping[str, Any] | None = None,
    trust: Sequence[str] = (),
    overwrite: bool = False,
) -> Tuning:
    """Search the settings of a recipe with the lowest validation loss, then compare them with the recipe's.

    Each trial is a run that `etesian.load` takes, scored by its best checkpoint; the first has the recipe's own
    settings, where the space holds them. The test period is not read. The same call goes on where it was interrupted,
    and processes that make it at once share the trials.

    Args:
        recipe: name of one that ships (`etesian recipes` lists them), a YAML file, or a mapping like it.
        space: what to choose from: a YAML file, or a mapping like it, of dotted names to choices, `[64, 128]`, or
            bounds, `{low: 1.0e-4, high: 1.0e-2, log: true}` or `{low: 2, high: 8, step: 2}`.
        out: folder to make; by default runs/RECIPE-tuned.
        trials: how many there are to be, those that are there included.
        seeds: with how many further seeds the best settings and the recipe's own are trained in the end.
        prune: stop a trial whose validation loss is above the median of the others' at the same epoch.
        seed: of the search.
        stores: training stores, instead of those that the recipe names.
        epochs: to train, instead of the recipe's.
        options: further options that take the place of the recipe's, by their dotted names.
        trust: modules of your own that the recipe may name classes of.
        overwrite: begin anew, in place of an earlier search.

    Raises:
        RecipeError: if the extra `tune` is not installed, the recipe does not take what the space names, or no trial
            can be trained.
        DataError: if something else is at `out`, or the recipe or the space.
    """
    optuna()
    if trials < 1 or seeds < 0:
        raise RecipeError(f"trials = {trials} must be at least 1, and seeds = {seeds} at least 0")
    with tempfile.TemporaryDirectory() as folder:
        path = written_out(recipe, Path(folder))
        place = Path(f"runs/{path.stem}-tuned" if out is None else out)
        words = ["fit", f"--config={path}", *as_words(stores, epochs, options or {})]
        where, settings = read_space(space)
        complete = _checked(where, settings, words, trust)
        chosen = {f"space.{each.name}": list(vars(each).values())[1:] for each in settings}
        plan = json.loads(json.dumps({**dict(_flat("recipe", complete)), **chosen, "seed": seed}, default=str))
        inputs = [path, *([] if isinstance(space, Mapping) else [space])]
        place = claim(place, "tuning", inputs, overwrite=overwrite)
        _begin(place, plan, overwrite=overwrite)
        return _Search(place, path.stem, plan, words, settings, complete, trust, prune).run(trials, seeds)


def optuna() -> Any:
    """Return Optuna, quiet.

    Raises:
        RecipeError: if the extra `tune` is not installed.
    """
    try:
        import optuna as found
    except ImportError as error:
        if error.name != "optuna":
            raise
        raise RecipeError("tuning needs the extra 'tune': pip install 'etesian[tune]'") from None
    found.logging.set_verbosity(found.logging.ERROR)
    warnings.filterwarnings("ignore", category=found.exceptions.ExperimentalWarning)
    return found


class _ReadingCLI(TrainingCLI):
    """Reads a recipe as `fit` does, and makes nothing of it."""

    def before_instantiate_classes(self) -> None:
        config = self.config[self.subcommand]
        check(config, self.trusted)
        dump = self._parser(self.subcommand).dump
        self.complete: dict[str, Any] = plain(dump(config, skip_unset=False, skip_validation=True))

    def _set_seed(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def _checked(where: str, settings: Sequence[Setting], words: list[str], trust: Sequence[str]) -> dict[str, Any]:
    """Return the complete recipe, after its parser has taken every choice and every bound, or refused one."""

    def parsed(values: Mapping[str, Any], place: str) -> dict[str, Any]:
        try:
            read = train([*words, *as_words(None, None, values)], trust, _ReadingCLI)
        except (ArgumentError, RecipeError) as error:
            raise RecipeError(f"{place}{getattr(error, 'message', error)}") from error
        assert isinstance(read, _ReadingCLI)
        return {part: read.complete.get(part) for part in ("seed_everything", "data", "model", "trainer")}

    complete = parsed({}, "")
    own = _normalised_by(complete)
    for number in range(max(len(each.examples) for each in settings)):
        values = {each.name: each.examples[number % len(each.examples)] for each in settings}
        taken = parsed(values, f"{where}: ")
        if (other := _normalised_by(taken)) != own:
            raise RecipeError(
                f"{where}: model.start normalises by the statistics of {other}, the recipe by those of {own}, so that "
                "validation losses could not be compared; leave it out, or have the recipe itself start so"
            )
        for name, value in values.items():
            # The parser takes the beginning of a name for the name.
            if value is not None and value_in(taken, name) is None:
                names = [option.removeprefix(".").replace(".init_args", "") for option, _ in _flat("", complete)]
                raise RecipeError(f"{where}: the recipe has no '{name}'{suggest(name, names)}")
    return complete


def _normalised_by(recipe: Mapping[str, Any]) -> str:
    """Return whose statistics a recipe normalises by, in whose units its validation loss then is."""
    is_trained = value_in(recipe, "model.start.statistics") == "trained"
    return str(value_in(recipe, "model.start.checkpoint")) if is_trained else "its data"


def _flat(place: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Go through what a recipe says by dotted names, the first of which to differ tells two recipes apart."""
    if isinstance(value, dict) and value:
        for name, inside in value.items():
            yield from _flat(f"{place}.{name}", inside)
    else:
        yield place, value


def _begin(place: Path, plan: Mapping[str, Any], *, overwrite: bool) -> None:
    """Make the folder, or see that it is of this search."""
    if not marker(place):
        # Renamed with its marker in it: another process may be making the same.
        fresh = place.with_name(f".{place.name}.{time.time_ns()}")
        fresh.mkdir(parents=True)
        mark(fresh, "tuning", plan_text(plan), _OWN)
        with suppress(OSError):
            # Somebody may work in an empty folder that is there: it stays.
            empty = place.exists() and not any(place.iterdir())
            (fresh / MARKER).rename(place / MARKER) if empty else fresh.rename(place)
        shutil.rmtree(fresh, ignore_errors=True)
    elif overwrite:
        with FileLock(place / LOCK):
            _clear(place)
            mark(place, "tuning", plan_text(plan), _OWN)
    refuse_another(place, marker(place).get("plan"), plan)


def _clear(place: Path) -> None:
    """Remove an earlier search, unless another process is at work on it or something else lies among its runs."""
    for entry in (*place.glob(f"{TRIALS}/*.lock"), *place.glob(f"{SEEDS}/*.lock")):
        if (lock := _free(entry)) is None:
            raise DataError(f"{entry.with_suffix('')} is being trained by another process; end it, or wait for it")
        lock.release()
    if (other := first_beside(place, _WRITTEN)) is not None:
        raise DataError(f"{place} would be replaced, but holds {other}, which no search writes: move it elsewhere")
    for entry in place.iterdir():
        if entry.name not in (MARKER, LOCK):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def _free(file: Path) -> FileLock | None:
    """Return a lock, held from now on, if nobody else holds it; the system lets go of it with the process."""
    file.parent.mkdir(exist_ok=True)
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        return None
    return lock


class _Watch(L.Callback):
    """Tells a trial of its validation loss after each epoch, and stops it where it is to be cut short."""

    def __init__(self, trial: Any, *, prune: bool) -> None:
        told = trial.study._storage.get_trial(trial._trial_id)
        self.trial, self.prune, self.known = trial, prune, set(told.intermediate_values)
        # Of earlier starts, too.
        self.since, self.began = time.monotonic() - told.user_attrs.get("seconds", 0.0), False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = True

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trial.set_user_attr("seconds", time.monotonic() - self.since)
        loss, epoch = trainer.callback_metrics.get("val_loss"), trainer.current_epoch
        if loss is None:
            return
        if epoch not in self.known:
            self.trial.report(float(loss), epoch)
        if self.prune and epoch + 1 < (trainer.max_epochs or 0) and self.trial.should_prune():
            self.trial.set_user_attr("pruned", epoch + 1)
            trainer.should_stop = True


class _TrialCLI(TrainingCLI):
    """Trains a run that somebody watches, by a recipe that says nothing of it."""

    watch: _Watch

    def _built(self, **kwargs: Any) -> L.Trainer:
        self.trainer_defaults["callbacks"].append(self.watch)
        return super()._built(**kwargs)

    def before_fit(self) -> None:
        super().before_fit()
        if not self.model.has_best:
            raise RecipeError("adversarial training has no validation loss to choose by; tune its generator by itself")
        if self.trainer.world_size > 1:
            raise RecipeError(
                "one process trains a trial, and several share the trials if the same command runs several times; set "
                "trainer.devices: 1"
            )


@dataclass
class _Search:
    """One process's part in a search: the arguments of `tune` as they are used, and the complete recipe."""

    place: Path
    recipe: str
    plan: dict[str, Any]
    words: list[str]
    settings: list[Setting]
    complete: dict[str, Any]
    trust: Sequence[str]
    prune: bool

    def __post_init__(self) -> None:
        # Held for moments: whoever holds it may begin and end trials.
        self.lock = FileLock(self.place / LOCK)

    @cached_property
    def studies(self) -> dict[str, Any]:
        """The search and the comparison, in one journal."""
        # Optuna leaves locks beside its journal where it is killed.
        (self.place / _STUDY).mkdir(exist_ok=True)
        journal, path = optuna().storages.journal, str(self.place / _STUDY / "journal.log")
        # Optuna's usual lock is a link, which some systems have not.
        storage = journal.JournalStorage(journal.JournalFileBackend(path, journal.JournalFileOpenLock(path)))
        patience = max(self.complete["trainer"].get("max_epochs") or 0, 0) // 4
        pruner = optuna().pruners.MedianPruner(n_warmup_steps=patience)
        return {
            part: optuna().create_study(storage=storage, study_name=part, pruner=pruner, load_if_exists=True)
            for part in (TRIALS, SEEDS)
        }

    def known(self, part: str) -> list[Any]:
        found: list[Any] = self.studies[part].get_trials(deepcopy=False)
        return found

    def run(self, trials: int, seeds: int) -> Tuning:
        """Train what is left of the trials, compare the best settings with the recipe, and report."""
        self._train_all(TRIALS, trials)
        known = self.known(TRIALS)
        if any(each.state.name == "RUNNING" for each in known):
            print("other processes train the last trials, and will compare the best one with the recipe")
            return self._report()
        best = best_of(known)
        if best is None:
            raise RecipeError(f"none of {len(known)} trials could be trained to its end: {known[-1].user_attrs['why']}")
        with self.lock:
            self._ask_for(seeds, best)
        self._train_all(SEEDS, len(self.known(SEEDS)))
        return self._report()

    def _ask_for(self, seeds: int, best: Any) -> None:
        """Let the comparison have the recipe and the best settings with seeds that the search has not seen."""
        known, state = [each.user_attrs for each in self.known(SEEDS)], optuna().trial.TrialState.WAITING
        sides = {"recipe": {}, f"trial {best.number}": best.user_attrs["options"]}
        if all(value == value_in(self.complete, name) for name, value in best.user_attrs["options"].items()):
            sides = {"recipe": {}}
        for number in range(1, seeds + 1):
            drawn = {"seed_everything": int(self.complete["seed_everything"] or 0) + number}
            if (own := value_in(self.complete, "data.seed")) is not None:
                drawn["data.seed"] = own + number
            for side, options in sides.items():
                attrs = {"side": side, "seed": drawn["seed_everything"], "options": options | drawn}
                if not any(attrs.items() <= each.items() for each in known):
                    self.studies[SEEDS].add_trial(optuna().trial.create_trial(state=state, user_attrs=attrs))

    def _train_all(self, part: str, count: int) -> None:
        """Train runs of a part until so many have been begun, and nobody has left one unfinished."""
        with self.lock:
            claimed = self._claim(part, count)
        while claimed is not None:
            trial, lock = claimed
            try:
                state, score = self._trained(part, trial)
                with self.lock:
                    self.studies[part].tell(trial, score, state=state)
                    # Windows removes no open file.
                    with suppress(PermissionError):
                        Path(lock.lock_file).unlink()
                    self._report()
                    claimed = self._claim(part, count)
            finally:
                lock.release()

    def _claim(self, part: str, count: int) -> tuple[Any, FileLock] | None:
        """Return a trial that nobody trains, an interrupted one first, and its lock; None if there is none."""
        refuse_another(self.place, marker(self.place).get("plan"), self.plan)
        study, known = self.studies[part], self.known(part)
        for each in known:
            if each.state.name == "RUNNING" and (lock := _free(self._place(part, each.number, ".lock"))) is not None:
                return self._with_options(optuna().trial.Trial(study, each._trial_id)), lock
        if sum(each.state.name != "WAITING" for each in known) >= count:
            return None
        if not known:
            own = {each.name: each.parameter(value_in(self.complete, each.name)) for each in self.settings}
            if None not in own.values():
                study.enqueue_trial(own)
        # By its number: a search makes the same trials, interrupted or not.
        drawn = np.random.SeedSequence([self.plan["seed"], len(known)]).generate_state(1)[0]
        study.sampler = optuna().samplers.TPESampler(seed=int(drawn), constant_liar=True)
        trial = study.ask()
        lock = _free(self._place(part, trial.number, ".lock"))
        assert lock is not None
        return self._with_options(trial), lock

    def _with_options(self, trial: Any) -> Any:
        if "options" not in trial.user_attrs:
            trial.set_user_attr("options", {each.name: each.pick(trial) for each in self.settings})
        return trial

    def _place(self, part: str, number: int, ending: str = "") -> Path:
        return self.place / part / f"{number:04d}{ending}"

    def _trained(self, part: str, trial: Any) -> tuple[Any, float | None]:
        """Train a run, or go on with it; return its state and its score."""
        states, options = optuna().trial.TrialState, trial.user_attrs["options"]
        run, watching = self._place(part, trial.number), _Watch(trial, prune=self.prune and part == TRIALS)
        print(f"{run}: " + ", ".join(f"{name} = {value}" for name, value in options.items()))

        class Watched(_TrialCLI):
            watch = watching

        try:
            if "pruned" not in trial.user_attrs:
                train([*self.words, f"--run={run}", *as_words(None, None, options)], self.trust, Watched)
            score = _score(run)
        except (EtesianError, ArgumentError, torch.OutOfMemoryError) as error:
            why = str(getattr(error, "message", None) or first_line(error))
            if not watching.began and not any(each.state.is_finished() for each in self.known(part)):
                raise RecipeError(why) from error
            trial.set_user_attr("why", why)
            print(f"{run}: {why}")
            return states.FAIL, None
        finally:
            trial.set_user_attr("seconds", time.monotonic() - watching.since)
        trial.set_user_attr("score", score)
        stopped = trial.user_attrs.get("pruned")
        print(f"{run}: validation loss {score:.5g}" + (f", stopped after {stopped} epochs" if stopped else ""))
        return (states.PRUNED, None) if stopped else (states.COMPLETE, score)

    def _report(self) -> Tuning:
        with self.lock:
            return write_tuning(self.place, self.recipe, self.known(TRIALS), self.known(SEEDS))


def _score(run: Path) -> float:
    """Return the validation loss of the best checkpoint."""
    best = run / "checkpoints" / "best"
    found = read_description(best)["val_loss"] if (best / DESCRIPTION).exists() else None
    if found is None:
        raise RecipeError(f"{run} has no validation loss to choose by; let its trainer validate")
    return float(found)
