"""`etesian quickstart`: simulate, prepare, train, forecast, evaluate, on the embedded planet."""

from pathlib import Path

from rich.console import Console

import etesian as et

LEADS = [24, 48, 72, 96, 120]

HEADLINE = ["geopotential_500", "temperature_850"]


def quickstart(folder: str, *, days: int) -> None:
    """Simulate a planet, train a small ClimaX on it, forecast 1 to 5 days from held-out times, and score the result.

    Needs no download. Run again, it goes on from what is done, and repeats nothing.

    Args:
        folder: where everything goes.
        days: simulated days; the last 73 are held out.

    Raises:
        EtesianError: if a step cannot be done.
    """
    console = Console()
    base = Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    forecast, recipe = base / "climax.zarr", base / "planet_climax.yaml"

    console.rule("1/5  simulate the planet")
    et.simulate("atmosphere", base / "planet.zarr", days=days)
    console.rule("2/5  prepare the training store")
    store = et.prepare(base / "planet.zarr", base / "planet.store.zarr", train=(None, "2001-05-15"))
    console.rule("3/5  train ClimaX")
    if not recipe.exists():
        recipe.write_text(et.recipes()["planet_climax"], encoding="utf-8")
    run = et.fit(recipe, run=base / "run", stores=[store])
    console.rule("4/5  forecast")
    run.forecast(store, ("2001-07-01", "2001-09-05"), LEADS, every=12, out=forecast)
    console.rule("5/5  score")
    scores = et.evaluate(
        {"ClimaX": forecast},
        store,
        baselines=["persistence", "climatology", "seasonal_cycle"],
        headline=HEADLINE,
        out=base / "evaluation",
    )
    console.print(et.summary(scores))
    console.print(f"report: {base}/evaluation/report.html")
