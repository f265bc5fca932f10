"""`etesian quickstart`: simulate, prepare, train, forecast, evaluate, on the embedded planet."""

import importlib.resources
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from etesian.api import evaluate, predict
from etesian.simulation.atmosphere import simulate
from etesian.store.prepare import prepare

LEADS = [24, 48, 72, 96, 120]

HEADLINE = ["geopotential_500", "temperature_850"]


def quickstart(folder: str = "quickstart", *, days: int = 620) -> None:
    """Simulate a planet, train a small ClimaX on it, forecast 1 to 5 days from held-out times, and judge the result.

    Needs no download. Run again, it goes on from what is done.

    Args:
        folder: where everything goes.
        days: simulated days; the last 73 are held out.

    Raises:
        EtesianError: if a step cannot be done.
    """
    console = Console()
    base = Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    planet, store, run = base / "planet.zarr", base / "planet.store.zarr", base / "run"
    forecast, judged = base / "climax.zarr", base / "evaluation"

    console.rule("1/5  simulate the planet")
    simulate(str(planet), days=days)
    console.rule("2/5  prepare the training store")
    prepare([str(planet)], str(store), train_end="2001-05-15")
    console.rule("3/5  train ClimaX")
    recipe = base / "planet_climax.yaml"
    if not recipe.exists():
        recipe.write_text((importlib.resources.files("etesian") / "recipes" / "planet_climax.yaml").read_text())
    command = [sys.executable, "-m", "etesian", "fit", "-c", str(recipe), "--run", str(run)]
    if subprocess.run([*command, "--data.stores", f"[{store}]"], check=False).returncode != 0:
        raise SystemExit(1)
    console.rule("4/5  forecast")
    if not forecast.exists():
        predict(str(run), str(store), str(forecast), init=("2001-07-01", "2001-09-05"), leads=LEADS, every=12)
    console.rule("5/5  judge")
    evaluate(
        f"ClimaX={forecast}",
        str(store),
        out=str(judged),
        baselines=["persistence", "climatology", "seasonal_cycle"],
        headline=HEADLINE,
    )
