"""`etesian test` of a projection: one table of the network and its baselines, and maps of all of them."""

from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from lightning.pytorch.callbacks import Callback
from matplotlib.figure import Figure
from rich.console import Console
from rich.progress import track
from rich.table import Table

from etesian.core.errors import RecipeError, suggest
from etesian.core.grid import Grid
from etesian.projection.data import YearData
from etesian.projection.emulators import EMULATORS
from etesian.projection.scores import PROJECTION_SCORES, score_projections
from etesian.projection.task import ProjectionTask
from etesian.scores.drawing import DIVERGING, STYLE, colour_bar, draw_map, map_height
from etesian.scores.tables import with_best

Maps = Float[np.ndarray, "year channel lat lon"]


class ProjectionReport(Callback):
    """Scores the network beside emulators fitted to the years that it was trained on, when it is tested.

    Writes `projection/scores.csv`, `scores.nc` with intervals, and a picture of the mean over the test years for each
    target into the run directory, and prints the table. The emulators see the inputs of one year, the network those of
    its window.

    Args:
        baselines: emulators to fit; of `pattern_scaling`, `gaussian_process` and `random_forest`.

    Raises:
        RecipeError: if there is no such emulator.
    """

    def __init__(self, baselines: list[str] = list(EMULATORS)) -> None:  # noqa: B006
        for name in baselines:
            if name not in EMULATORS:
                raise RecipeError(f"there is no baseline '{name}'{suggest(name, EMULATORS)}")
        self.baselines = baselines

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the baselines, score everything, write and print.

        Raises:
            RecipeError: if the run is no projection, or is tested on several processes.
        """
        data = getattr(trainer, "datamodule", None)
        if not (isinstance(data, YearData) and isinstance(pl_module, ProjectionTask)):
            raise RecipeError("ProjectionReport is for ProjectionTask with ProjectionData or SimulationData")
        if trainer.world_size > 1:
            raise RecipeError("the scores of a projection are over all years; test it with --trainer.devices=1")
        given, truth = data.dataset("test").arrays()
        maps: dict[str, Maps] = {"network": _predicted(pl_module, data)}
        fitted = data.dataset("train").arrays()
        for name in track(self.baselines, "Fitting baselines", transient=True):
            maps[name] = EMULATORS[name](*fitted, data.layout.grid).predict(given)
        folder = Path(trainer.default_root_dir) / "projection"
        folder.mkdir(parents=True, exist_ok=True)
        targets = [str(channel) for channel in data.layout.targets]
        scores = score_projections(maps, truth, targets, data.layout.grid)
        scores.to_netcdf(folder / "scores.nc")
        score_table(scores).to_csv(folder / "scores.csv", index=False)
        for number, target in enumerate(targets):
            means = {name: values[:, number].mean(0) for name, values in {"truth": truth, **maps}.items()}
            figure = mean_maps(means, target, data.scenarios.units[number], data.layout.grid)
            figure.savefig(folder / f"{target}.png", dpi=110)
        _print(scores, folder)


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """Return ClimateBench's scores, one row for each target and forecast."""
    table = scores[list(PROJECTION_SCORES)].isel(region=0, drop=True).to_dataframe(dim_order=["channel", "forecast"])
    return table.reset_index().rename(columns={"channel": "target"})


def mean_maps(means: dict[str, Float[np.ndarray, "lat lon"]], target: str, units: str, grid: Grid) -> Figure:
    """Draw the mean over the years of the truth, and the error of every forecast beneath its map."""
    names, axes = list(means), xr.Dataset(coords={"latitude": grid.latitude, "longitude": grid.longitude})
    figure = Figure(figsize=(3.6 * len(names), 2 * map_height(axes, 3.4) + 1.6), layout="constrained")
    panels = figure.subplots(2, len(names), squeeze=False, sharex=True, sharey=True)
    largest = max(float(np.abs(values).max()) for values in means.values())
    error = max(float(np.abs(means[name] - means["truth"]).max()) for name in names[1:])
    for column, name in enumerate(names):
        upper, lower = panels[:, column]
        shown = draw_map(upper, means[name], axes, DIVERGING, -largest, largest)
        upper.set_title(name.replace("_", " "), loc="left", fontsize=10, color=STYLE["text"])
        if name == "truth":
            lower.set_visible(False)
            continue
        errors = draw_map(lower, means[name] - means["truth"], axes, "PuOr_r", -error, error)
        lower.set_title("minus truth", loc="left", fontsize=9, color=STYLE["text"])
    colour_bar(figure, shown, panels[0], target, units, extend="neither")
    colour_bar(figure, errors, panels[1], "Error", units, extend="neither")
    return figure


def _predicted(task: ProjectionTask, data: YearData) -> Maps:
    task.eval()
    parts = []
    for batch in data.test_dataloader():
        moved = batch.to(task.device)
        assert moved.targets is not None
        with torch.no_grad():
            parts.append(task.predict(moved, moved.targets.frame).values[:, 0].cpu().numpy())
    return np.concatenate(parts)


def _print(scores: xr.Dataset, folder: Path) -> None:
    table = Table(title="ClimateBench's scores over the test years (lower is better)", title_justify="left")
    for heading in ("target", "forecast"):
        table.add_column(heading)
    for heading in ("NRMSE_s", "NRMSE_g", "total"):
        table.add_column(heading, justify="right")
    for target in scores.channel.values.tolist():
        part = scores[list(PROJECTION_SCORES)].isel(region=0).sel(channel=target).to_array()
        best = part.min("forecast").values
        for row, name in enumerate(scores.forecast.values.tolist()):
            cells = with_best(part.sel(forecast=name).values, best, "[bold]{}[/]")
            table.add_row(target if row == 0 else "", name, *cells)
    console = Console()
    console.print(table)
    console.print(f"scores.csv, scores.nc with 95 % intervals, and maps are in {folder}")
