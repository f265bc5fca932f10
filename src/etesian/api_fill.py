"""Gaps filled by baselines and runs, and filled fields judged: `predict` and `evaluate` where there are no leads."""

from rich.console import Console

from etesian.core.clock import decode_time, month_start
from etesian.core.errors import DataError, RecipeError
from etesian.core.outputs import claim, complete_or_absent, keep_apart
from etesian.fill.baselines import GAP_BASELINES, fill_baseline
from etesian.fill.filled import Resolution
from etesian.fill.pairs import FilledPairs
from etesian.fill.report import filled_summary
from etesian.fill.run import Empty, fill_to
from etesian.fill.scores import score_filled
from etesian.fill.task import GapFillTask
from etesian.samples.windows import Period
from etesian.scores.series import is_training_store
from etesian.store.reader import TrainingStore


def fill(
    name: str,
    store: str,
    out: str,
    init: tuple[str, str],
    target: Resolution = "monthly",
    channels: list[str] | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Fill the gaps of a period of a store with a baseline, into a Zarr store that is complete or not there.

    Raises:
        DataError: if OUT exists and may not be replaced.
    """
    if claim(out, "filled fields", [store], overwrite=overwrite).exists() and not overwrite:
        raise DataError(f"{out} exists; remove it or pass --overwrite")
    source = TrainingStore(store)
    filled = fill_baseline(name, source, source.resolve(channels), *init, target, progress=True)
    with complete_or_absent(out, "filled fields") as folder:
        filled.to_zarr(folder, mode="a", zarr_format=3, consolidated=True)


def fill_gaps(
    task: GapFillTask,
    store: str,
    out: str,
    init: tuple[str, str],
    identity: dict[str, object],
    empty: Empty = "missing",
    *,
    overwrite: bool = False,
) -> None:
    """Fill the gaps of the months of a store with a trained run; see `fill_to`."""
    source = TrainingStore(store)
    fill_to(task, source, out, Period(*init), source=identity, empty=empty, overwrite=overwrite, label=out)


def evaluate_filled(
    filled: dict[str, str],
    truth: str,
    observed: str,
    out: str,
    baselines: list[str] | None = None,
    channels: list[str] | None = None,
) -> None:
    """Score filled fields beside baselines made from the same observations, which are kept in OUT.baselines.

    Raises:
        RecipeError: if baselines are asked for and the observations are no training store.
    """
    wanted = baselines if baselines is not None else list(GAP_BASELINES) if is_training_store(observed) else []
    if wanted and not is_training_store(observed):
        raise RecipeError(
            f"baselines are fitted to a training store, which {observed} is not; "
            "pass --baselines with nothing behind it"
        )
    pairs = FilledPairs(filled, truth, observed, channels)
    months = decode_time(month_start(pairs.time[[0, -1]], pairs.calendar), pairs.calendar)
    first, last = (str(month)[:7] for month in months)
    target: Resolution = "monthly" if pairs.monthly else "daily"
    for name in wanted:
        path = f"{out}.baselines/{name}.zarr"
        keep_apart(path, [*filled.values(), truth, observed])
        fill(name, observed, path, (first, last), target, [str(c) for c in pairs.channels], overwrite=True)
        filled = {**filled, name: path}
    scores = score_filled(filled, truth, observed, channels=channels, out=out)
    console = Console()
    console.print(filled_summary(scores))
    console.print(f"report: {out}/report.html")
