"""What a search has found: tables, a page, and a recipe of the best settings."""

import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from etesian.scores.page import page, picture, save_pictures, table, text
from etesian.scores.plots import dress

FILES = ("best.yaml", "trials.csv", "seeds.csv", "history.png", "report.html")
"""What is written into the folder of a search beside its runs."""

_ENOUGH = 8
"""Trials to tell from which settings matter."""

_COLUMNS = ("state", "val_loss", "epochs", "seconds")


@dataclass(frozen=True)
class Tuning:
    """What a search has found.

    Attributes:
        path: of its folder.
        trials: a row for each: state, val_loss of its best checkpoint, epochs, seconds, settings, and why one failed.
        best: settings of the best trial that was trained to its end.
        seeds: a row for each run of the comparison: side (the recipe, or the best trial), seed, and as of trials.
    """

    path: Path
    trials: pd.DataFrame
    best: dict[str, Any]
    seeds: pd.DataFrame

    @property
    def verdict(self) -> str:
        """How the best settings compare with the recipe on seeds that the search has not seen."""
        if not self.best:
            return "No trial has been trained to its end yet."
        best = f"trial {self.trials.val_loss.where(self.trials.state == 'complete').idxmin()}"
        sides = {side: self.seeds.val_loss[self.seeds.side == side].dropna() for side in ("recipe", best)}
        told = [
            f"{side} {each.mean():.5g} ± {each.std():.2g} (n = {each.size})"
            for side, each in sides.items()
            if each.size
        ]
        if not told:
            return f"The lowest score is that of {best}, which it flatters: it was chosen by it."
        said = f"Validation loss with seeds that the search has not seen: {', '.join(told)}"
        own, found = sides.values()
        if not (own.size and found.size):
            return f"{said}; {best} is the best."
        change = found.mean() - own.mean()
        by_chance = not abs(change) > 2 * math.hypot(own.sem(), found.sem())
        way = "lower" if change < 0 else "higher"
        return f"{said}: {100 * abs(change / own.mean()):.1f} % {way}{', which may be chance' if by_chance else ''}."

    def __str__(self) -> str:
        states = ", ".join(f"{count} {state}" for state, count in self.trials.state.value_counts().items())
        chosen = ", ".join(f"{name} = {_short(value)}" for name, value in self.best.items())
        return f"{self.path}: {states}; best: {chosen}\n{self.verdict}"


def best_of(trials: Sequence[Any]) -> Any:
    """Return the trial of Optuna's with the lowest score of those trained to their end; None where there is none."""
    return min((each for each in trials if each.state.name == "COMPLETE"), key=lambda each: each.value, default=None)


def write_tuning(folder: Path, recipe: str, trials: Sequence[Any], seeds: Sequence[Any]) -> Tuning:
    """Write what is known by now, and return it.

    Args:
        folder: of the search.
        recipe: its name.
        trials: Optuna's of the search.
        seeds: Optuna's of the comparison.
    """
    rows = [
        _row(each) | each.user_attrs.get("options", {}) | {"why": each.user_attrs.get("why", "")} for each in trials
    ]
    compared = [{name: each.user_attrs[name] for name in ("side", "seed")} | _row(each) for each in seeds]
    best = best_of(trials)
    found = Tuning(
        folder,
        pd.DataFrame(rows).rename_axis("trial"),
        {} if best is None else best.user_attrs["options"],
        pd.DataFrame(compared, columns=["side", "seed", *_COLUMNS]).rename_axis("run"),
    )
    for part in ("trials", "seeds"):
        (folder / f"{part}.csv").write_text(getattr(found, part).to_csv(), encoding="utf-8")
    if best is not None:
        said = "".join(f"#   {name}: {value}\n" for name, value in found.best.items())
        kept = (folder / "trials" / f"{best.number:04d}" / "recipe.yaml").read_text(encoding="utf-8")
        (folder / "best.yaml").write_text(f"# {recipe} as in trial {best.number}:\n{said}{kept}", encoding="utf-8")
    (folder / "report.html").write_text(_page(recipe, found, _importances(trials)), encoding="utf-8")
    return found


def _row(trial: Any) -> dict[str, Any]:
    told, state = trial.user_attrs, trial.state.name.lower().replace("fail", "failed")
    values = state, told.get("score", math.nan), len(trial.intermediate_values), round(told.get("seconds", 0.0), 1)
    return dict(zip(_COLUMNS, values, strict=True))


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _importances(trials: Sequence[Any]) -> dict[str, float]:
    """Return which share of the scores' variance each setting explains, by functional ANOVA; nothing of few trials."""
    import optuna

    complete = [each for each in trials if each.state.name == "COMPLETE"]
    if len(complete) < _ENOUGH:
        return {}
    study = optuna.create_study()
    study.add_trials(complete)
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    with suppress(RuntimeError):  # all scores are the same
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))
    return {}


def _page(recipe: str, found: Tuning, importances: dict[str, float]) -> str:
    drawn = save_pictures([("history", _history(found.trials))], found.path)["history"]
    parts = [f"<h1>Tuning {text(recipe)}</h1>", f"<p class='lead'>{text(found.verdict)}</p>"]
    parts.append(picture(drawn, "Scores of the trials"))
    if len(found.seeds):
        parts += ["<h2>With further seeds</h2>", _table(found.seeds)]
    if importances:
        rows = [[text(name), f"{share:.2f}"] for name, share in importances.items()]
        note = "Share of the variance of the scores that a setting explains; of few trials, a hint."
        parts += ["<h2>What matters</h2>", f"<p class='note'>{note}</p>", table(["setting", "share"], rows, 1)]
    note = "By validation loss of the best checkpoint. Pruned: stopped above the median of the others."
    ordered = found.trials.sort_values("val_loss", kind="stable")
    return page(f"Tuning {recipe}", [*parts, "<h2>Trials</h2>", f"<p class='note'>{note}</p>", _table(ordered)])


def _table(rows: pd.DataFrame) -> str:
    rows = rows.reset_index()
    return table([*map(text, rows.columns)], [[text(_short(cell)) for cell in row] for row in rows.to_numpy()], 1)


def _history(trials: pd.DataFrame) -> Figure:
    """Draw the score of each trial, and the lowest so far."""
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panel = figure.subplots()
    losses = trials.val_loss
    # What went astray would hide how the others differ; it stays at the edge.
    top = losses.median() + 2 * (losses.median() - losses.min())
    for state, colour, shape in (("complete", "#0b6e99", "o"), ("pruned", "#c8553d", "x")):
        panel.plot(losses.where((trials.state == state) & (losses <= top)), shape, color=colour, label=state)
    panel.plot((losses * 0 + top).where(losses > top), "^", color="#5b666e", label=f"above {_short(top)}")
    best = losses.where(trials.state == "complete").cummin().ffill()
    panel.step(best.index, best, where="post", color="#0b6e99", linewidth=1, label="lowest so far")
    panel.set(xlabel="trial", ylabel="validation loss")
    panel.legend(frameon=False)
    dress(panel)
    return figure
