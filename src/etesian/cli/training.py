"""Commands that train, and what training begins with."""

from argparse import ArgumentError
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from etesian.cli.app import Switch, Words, app, explained
from etesian.core.errors import suggest
from etesian.core.names import RECIPE_PARTS, recipe_text
from etesian.core.names import recipes as shipped

TRUSTED: list[str] = []
"""Modules that the user has named by `--trust`."""

LEADS = [24, 48, 72, 96, 120]
"""Of the quickstart, hours."""

HEADLINE = ["geopotential_500", "temperature_850"]
"""What the quickstart's tables and pictures show."""

Option = Annotated[str, Parameter(name="RECIPE and further options", allow_leading_hyphen=True)]
Recipes = Annotated[list[str], Parameter(name=["-c", "--config"], negative=())]

TRAINING = {
    "words": "name of a recipe that ships (`etesian recipes` lists them), and any option of the recipe by its dotted "
    "name, such as --data.leads [24,72] or --trainer.precision=bf16-mixed.",
    "config": "recipe of your own, a YAML file, such as the recipe.yaml of a run directory; several are laid over each "
    "other.",
}
"""What only the command line has."""


@app.command
def quickstart(folder: str = "quickstart", *, days: int = 620) -> None:
    """The whole path on the embedded planet: simulate, prepare, train, forecast 1 to 5 days, score.

    Needs no download. Run again, it goes on from what is done, and repeats nothing.

    Args:
        folder: where everything goes.
        days: simulated days; the last 73 are held out.
    """
    from rich.console import Console

    import etesian as et

    console = Console()
    base = Path(folder)
    base.mkdir(parents=True, exist_ok=True)
    forecast, recipe, weather = base / "climax.zarr", base / "planet_climax.yaml", base / "weather.png"

    console.rule("1/5  simulate the planet")
    et.simulate("atmosphere", base / "planet.zarr", days=days)
    if not weather.exists():
        et.plot(base / "planet.zarr", weather, channel=HEADLINE[0], time="2001-07-01")
    console.print(f"the first day to be forecast from: {weather}")
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


@app.command
def recipes(name: str | None = None) -> None:
    """What ships to train from, one line each; with a name, that recipe, to be written into a file of yours.

    Args:
        name: of a recipe: `etesian recipes planet_climax > mine.yaml`.
    """
    if name is not None:
        print(recipe_text(name), end="")
        return
    known = shipped()
    width = max(map(len, known))
    for each, text in known.items():
        print(f"{each:<{width}}  {text.splitlines()[0].removeprefix('#').strip()}")


@app.command
@explained("api.fit", **TRAINING, help_trainer="list every option of data, model and trainer.")
def fit(
    *words: Option,
    config: Recipes | None = None,
    run: str | None = None,
    stores: Words | None = None,
    epochs: int | None = None,
    help_trainer: Switch = False,
) -> None:
    """Train from a recipe; run again, it goes on where it stopped, or says that it is finished.

    A run directory gets the complete recipe, checkpoints (`best` by validation loss, and `last`), and a log.
    """
    _train("fit", words, config, run, stores, epochs, help_trainer)


@app.command
@explained("api.check", **TRAINING)
def check(
    *words: Option,
    config: Recipes | None = None,
    run: str | None = None,
    stores: Words | None = None,
    epochs: int | None = None,
) -> int:
    """What training from a recipe will take: a few steps at its batch size, measured in a process that keeps nothing.

    Says parameters, samples, steps, the first loss, memory, time and disk, and what to change. Exit status 1 if memory
    or disk is not enough.
    """
    from rich.console import Console

    from etesian.training.preflight import measure

    with _arguments("fit", words, config, run, stores, epochs) as arguments:
        named = words[0] if words and not words[0].startswith("-") else ", ".join(config or [])
        result = measure(arguments, TRUSTED, named)
    if result is None:
        return 0
    Console().print(result)
    return 0 if result.fits else 1


@app.command
@explained(
    "training.tuning.tune",
    words="any option of the recipe by its dotted name, which stays as it is given.",
    space="YAML file of what to choose from: dotted names of the recipe, each with choices, such as "
    "model.network.dim: [64, 128], or bounds, such as model.optimizer.lr: {low: 1.0e-4, high: 1.0e-2, log: true}.",
)
def tune(
    recipe: str,
    space: str,
    *words: Annotated[str, Parameter(name="FURTHER OPTIONS", allow_leading_hyphen=True)],
    out: str | None = None,
    trials: int = 20,
    seeds: int = 3,
    prune: bool = True,
    seed: int = 0,
    stores: Words | None = None,
    epochs: int | None = None,
    overwrite: Switch = False,
) -> None:
    """Search better settings of a recipe, by their validation loss; needs the extra `tune`.

    Run again, or by several processes at once, it goes on. The best settings are then trained with further seeds
    beside the recipe as it is, and best.yaml is a recipe of them that `etesian fit -c` takes.
    """
    import etesian as et

    _refuse_wrong_words([recipe, *words])
    given, options = iter(words), dict[str, str]()
    for word in given:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            raise ArgumentError(None, f"'{word}' is no option; name what to set, such as --trainer.max_epochs=20")
        options[name.removeprefix("--")] = value if equals else next(given, "")
    found = et.tune(
        recipe, space, out, trials=trials, seeds=seeds, prune=prune, seed=seed, stores=stores, epochs=epochs,
        options=options, trust=TRUSTED, overwrite=overwrite,
    )  # fmt: skip
    print(found)


def _scored_on(part: str, period: str) -> Callable[..., None]:
    """Return the command that scores a run on one of its periods."""

    def command(
        *words: Option, config: Recipes | None = None, run: str | None = None, stores: Words | None = None
    ) -> None:
        _train(part, words, config, run, stores)

    command.__doc__ = f"Score the best checkpoint of a run on the {period} period."
    return explained("api.fit", **TRAINING)(command)


app.command(_scored_on("validate", "validation"), name="validate")
app.command(_scored_on("test", "test"), name="test")


def _train(
    command: str,
    words: tuple[str, ...],
    config: list[str] | None,
    run: str | None,
    stores: list[str] | None,
    epochs: int | None = None,
    help_trainer: bool = False,
) -> None:
    with _arguments(command, words, config, run, stores, epochs) as arguments:
        from etesian.training.recipes import train

        train([*arguments, *(["--help"] if help_trainer else [])], TRUSTED)


@contextmanager
def _arguments(
    command: str,
    words: tuple[str, ...],
    config: list[str] | None,
    run: str | None,
    stores: list[str] | None,
    epochs: int | None,
) -> Iterator[list[str]]:
    """Give what the trainer's command line takes, with recipes as files, which are there as long as the context is."""
    from tempfile import TemporaryDirectory

    rest = list(words)
    _refuse_wrong_words(rest)
    from etesian.training.recipes import as_words, written_out

    with TemporaryDirectory() as folder:
        recipes = list(config or [])
        if rest and not rest[0].startswith("-"):
            recipes.insert(0, str(written_out(rest.pop(0), Path(folder))))
        given = [f"--config={path}" for path in recipes]
        if run is not None:
            given.append(f"--run={run}")
        yield [command, *given, *as_words(stores, epochs, {}), *rest]


def _refuse_wrong_words(words: list[str]) -> None:
    """See that the recipe is there and the parts that options name exist, before seconds go into loading the trainer.

    Raises:
        RecipeError: if there is no such recipe.
        ArgumentError: if a recipe has no such part.
    """
    if words and not words[0].startswith("-") and not Path(words[0]).is_file():
        recipe_text(words[0])
    for option in words:
        part = option.partition("=")[0].partition(".")[0].removeprefix("--")
        if option.startswith("--") and part not in (*RECIPE_PARTS, "print_config"):
            raise ArgumentError(None, f"a recipe has no part '{part}'{suggest(part, RECIPE_PARTS)}")


@app.command(name="import")
@explained("interop.run.import_weights")
def import_weights(
    path: str,
    out: str,
    *,
    num_heads: int = 16,
    grid: str | None = None,
    variables: Words | None = None,
    patch: int = 160,
    overwrite: Switch = False,
) -> None:
    """An original ClimaX or AtmoDist checkpoint → a network of this library."""
    import etesian as et

    report = et.import_weights(
        path, out, num_heads=num_heads, grid=grid, variables=variables, patch=patch, overwrite=overwrite
    )
    if report is not None:
        print(report)
