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
from etesian.projection.data import YearData
from etesian.projection.emulators import EMULATORS
from etesian.projection.scores import PROJECTION_SCORES, score_projections
from etesian.projection.task import ProjectionTask
from etesian.scores.maps import DIVERGING, STYLE, draw_map, map_height
from etesian.scores.page import page, picture, provenance, save_pictures, table, text, verdict_list
from etesian.scores.plots import colour_bar
from etesian.scores.tables import models, number, references, title, verdicts, with_best

Maps = Float[np.ndarray, "year channel lat lon"]


class ProjectionReport(Callback):
    """Scores the network beside emulators fitted to the years that it was trained on, when it is tested.

    Writes `projection/report.html`, `scores.csv`, `scores.nc` with intervals, and a picture of the mean over the test
    years for each target into the run directory, and prints the table with verdicts. The emulators see the inputs of
    one year, the network those of its window.

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
        means = {name: values.mean(0) for name, values in {"truth": truth, **maps}.items()}
        grid = data.layout.grid
        axes = xr.Dataset(
            coords={"latitude": grid.latitude, "longitude": grid.longitude}, attrs=dict(data.scenarios.planet)
        )
        figures = (
            (target, mean_maps({name: m[number] for name, m in means.items()}, target, units, axes))
            for number, (target, units) in enumerate(zip(targets, data.scenarios.units, strict=True))
        )
        (folder / "report.html").write_text(render(scores, save_pictures(figures, folder)), encoding="utf-8")
        _print(scores, folder)


def score_table(scores: xr.Dataset) -> pd.DataFrame:
    """Return ClimateBench's scores with their intervals, one row for each target and forecast."""
    names = [f"{name}{end}" for name in PROJECTION_SCORES for end in ("", "_low", "_high")]
    table = scores[names].isel(region=0, drop=True).to_dataframe(dim_order=["channel", "forecast"])
    return table.reset_index().rename(columns={"channel": "target"})


def render(scores: xr.Dataset, pictures: dict[str, bytes]) -> str:
    """Return one page that opens offline; pictures are PNG data by target."""
    model = models(scores)[0]
    targets = scores.channel.values.tolist()
    parts = [
        f"<h1>How good are the projections of {text(model)}?</h1>",
        f"<p class='lead'>Maps of {text(scores.attrs['points'])} beside the emulators "
        f"{text(', '.join(references(scores)))}.</p>",
        verdict_list(verdicts(scores, targets)),
        "<h2>ClimateBench's scores</h2>",
        "<p class='note'>Errors over the mean of the truth: of the map of the mean over years (NRMSE_s), of the global "
        "mean in each year (NRMSE_g), and NRMSE = NRMSE_s + 5 NRMSE_g with its 95 % interval. The lowest is bold.</p>",
        table(["", "", "NRMSE_s", "NRMSE_g", "NRMSE", "95 %"], _rows(scores), 2),
    ]
    for target in targets:
        heading = f"{title(target)}: mean over the years, and errors"
        parts += [f"<h2>{text(title(target))}</h2>", picture(pictures[target], heading)]
    entries = {
        "Projections": ", ".join(scores.forecast.values.tolist()),
        "Years": scores.attrs["points"],
        "Grid": scores.attrs["grid"],
        "Weights": "cosine of latitude, as in ClimateBench",
        "Intervals": "95 %, Student's t, allowing for the likeness of successive years, paired in verdicts",
        "Made with": f"Etesian {scores.attrs['etesian_version']}",
    }
    return page(f"Projections of {model}", [*parts, "<h2>What was compared</h2>", provenance(entries)])


def _rows(scores: xr.Dataset) -> list[list[str]]:
    rows = []
    for target in scores.channel.values.tolist():
        here = scores.isel(region=0).sel(channel=target)
        part = here[list(PROJECTION_SCORES)].to_array()
        best = part.min("forecast").values
        for row, name in enumerate(scores.forecast.values.tolist()):
            low, high = (float(here[f"nrmse_{end}"].sel(forecast=name)) for end in ("low", "high"))
            interval = f"{number(low)}–{number(high)}" if np.isfinite(low) else "–"
            cells = with_best(part.sel(forecast=name).values, best, "<b>{}</b>")
            rows.append([text(title(target)) if row == 0 else "", text(name), *cells, interval])
    return rows


def mean_maps(means: dict[str, Float[np.ndarray, "lat lon"]], target: str, units: str, axes: xr.Dataset) -> Figure:
    """Draw the mean over the years of the truth, and the error of every forecast beneath its map."""
    names = list(means)
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
        lower.tick_params(labelleft=column == 1)  # beneath the truth there is nothing
        lower.set_title("minus truth", loc="left", fontsize=9, color=STYLE["text"])
    colour_bar(figure, shown, panels[0], title(target), units, extend="neither")
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
    shown = Table(
        title="ClimateBench's scores over the test years (lower is better)",
        title_justify="left",
        caption="\n".join(verdicts(scores, scores.channel.values.tolist())),
        caption_justify="left",
    )
    for heading in ("target", "forecast"):
        shown.add_column(heading)
    for heading in ("NRMSE_s", "NRMSE_g", "total"):
        shown.add_column(heading, justify="right")
    for target in scores.channel.values.tolist():
        part = scores[list(PROJECTION_SCORES)].isel(region=0).sel(channel=target).to_array()
        best = part.min("forecast").values
        for row, name in enumerate(scores.forecast.values.tolist()):
            cells = with_best(part.sel(forecast=name).values, best, "[bold]{}[/]")
            shown.add_row(target if row == 0 else "", name, *cells)
    console = Console()
    console.print(shown)
    console.print(f"report.html, scores.csv, scores.nc with 95 % intervals, and maps are in {folder}")
