"""Names that users write: what they, recipes and checkpoints call a class, wherever it lies, and recipes that ship."""

import re
from pathlib import Path

from etesian.core.errors import RecipeError, suggest

HOMES: dict[str, tuple[str, ...]] = {
    "api": (
        "baseline",
        "check",
        "doctor",
        "fetch",
        "fit",
        "load",
        "open",
        "plot",
        "prepare",
        "prepare_members",
        "simulate",
        "view",
    ),
    "evaluation": ("evaluate", "summary"),
    "exporting.export": ("export",),
    "exporting.earth2studio": ("Earth2Prognostic",),
    "sharing.share": ("pull", "push"),
    "files.data": ("data",),
    "baselines": ("Baseline",),
    "run": ("Run",),
    "core.channels": ("Channel",),
    "core.errors": ("EtesianError", "DataError", "ChannelError", "GridError", "CheckpointError", "RecipeError"),
    "core.fields": ("Batch", "Fields", "Frame", "Layout"),
    "core.grid": ("Grid", "Region"),
    "core.names": ("recipes",),
    "core.statistics": ("Statistics",),
    "store.reader": ("Store",),
    "networks.network": ("Network",),
    "networks.atmodist": ("AtmoDist", "Autoencoder", "StateEncoder"),
    "networks.climax": ("ClimaX",),
    "networks.climax_projection": ("ClimaXProjection",),
    "networks.dincae": ("GapFillUNet",),
    "networks.downscaler": ("Downscaler",),
    "networks.gapfiller": ("GapFiller",),
    "networks.srgan": ("SRGenerator",),
    "networks.unet": ("UNet",),
    "networks.weathermesh": ("WeatherMesh",),
    "samples.windows": ("Horizon",),
    "training.finetune": ("Start",),
    "training.field_task": ("LossTerm",),
    "training.optimizers": ("Shampoo",),
    "training.spectral_error": ("SpectralError",),
    "training.tuning": ("tune",),
    "forecast.data": ("ForecastData",),
    "forecast.task": ("ForecastTask",),
    "forecast.latent": ("LatentForecastTask",),
    "forecast.pretrain": ("PretrainTask",),
    "forecast.baselines": ("Persistence", "Climatology", "LinearForecast"),
    "fill.data": ("GapFillData",),
    "fill.task": ("GapFillTask",),
    "downscale.data": ("DownscalingData", "SuperResolutionData"),
    "downscale.task": ("DownscaleTask", "SuperResolutionTask"),
    "downscale.baselines": ("Interpolation",),
    "projection.data": ("ProjectionData", "SimulationData"),
    "projection.report": ("ProjectionReport",),
    "projection.task": ("ProjectionTask",),
    "distance.data": ("LagData",),
    "distance.distance": ("AtmoDistance", "Content"),
    "distance.task": ("InpaintTask", "TimeLagTask", "paper_optimizer"),
    "interop.gapfill": ("Prototype",),
    "interop.run": ("import_weights",),
}
"""Which module of the library holds what its users name."""

_MODULES = {name: f"etesian.{module}" for module, names in HOMES.items() for name in names}

RECIPE_PARTS = ("data", "model", "trainer", "seed_everything", "run", "ckpt_path", "config")
"""What a recipe may hold, and the options that it may be called with."""

_RECIPES = Path(__file__).parents[1] / "recipes"

_EARLIER = re.compile(r"etesian\.(?:\w+\.)+(\w+)")
"""A path into the library, now or in an earlier version: modules have changed, the names of classes have not."""


def locate(name: str) -> str:
    """Return the module and name behind a public name, with or without `etesian.`, or behind a path of any version.

    Anything else is returned as it is.

    >>> locate("ClimaX"), locate("etesian.models.climax.ClimaX")
    ('etesian.networks.climax.ClimaX', 'etesian.networks.climax.ClimaX')
    >>> locate("torch.optim.AdamW")
    'torch.optim.AdamW'
    """
    earlier = _EARLIER.fullmatch(name)
    bare = earlier[1] if earlier else name.removeprefix("etesian.")
    return f"{_MODULES[bare]}.{bare}" if bare in _MODULES else name


def public_name(path: str) -> str:
    """Return the public name of what a module of the library holds, or the path itself where it has none.

    >>> public_name("etesian.networks.climax.ClimaX"), public_name("torch.optim.AdamW")
    ('etesian.ClimaX', 'torch.optim.AdamW')
    """
    module, _, name = path.rpartition(".")
    return f"etesian.{name}" if _MODULES.get(name) == module else path


def recipes() -> dict[str, str]:
    """Return the recipes that come with the library: their text by name."""
    files = sorted(_RECIPES.glob("*.yaml"), key=lambda file: file.name)
    return {file.stem: file.read_text(encoding="utf-8") for file in files}


def recipe_text(name: str) -> str:
    """Return a recipe that comes with the library.

    Raises:
        RecipeError: if there is none of the name.
    """
    known = recipes()
    if name not in known:
        raise RecipeError(f"there is no recipe '{name}', neither a file nor one that ships{suggest(name, known)}")
    return known[name]
