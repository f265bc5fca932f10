"""The embedded planet, a dry atmosphere over idealised mountains: its weather as a canonical Zarr store."""

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
import zarr
from jaxtyping import Float
from numpy.typing import NDArray
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from etesian.core.channels import CATALOGUE
from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.dataset import PLANET
from etesian.core.errors import RecipeError
from etesian.core.grid import Grid
from etesian.core.outputs import claim
from etesian.core.resumable import WorkFolder, create_empty_store, is_finished, plan_text, work_folder

Truncation = Literal["T21", "T42"]

Map = Float[np.ndarray, "lat lon"]

State = Mapping[str, NDArray[np.float32]]

LAYERS = 8
"""Sigma layers of equal thickness."""

STEP_MINUTES: dict[str, int] = {"T21": 60, "T42": 30}

SEA_LEVEL_PRESSURE = 1e5
"""Surface pressure of the initial state at rest, at height zero, Pa."""

LAPSE_RATE = 0.0065
"""Of the temperature below ground, K m⁻¹ (ICAO standard atmosphere)."""

EARTHLIKE = 60.0
"""Contrast of Held and Suarez: how much warmer the equator would be than the poles without motion, K."""

COAST = 100.0
"""Land is where the surface is higher than this, m."""

_MOUNTAINS = (  # height in m, latitude, longitude, and the two half-widths in degrees
    (2600, 38, 90, 14, 26),
    (1900, 46, 252, 18, 16),
    (1600, -18, 290, 18, 14),
    (900, 8, 20, 20, 20),
    (700, -24, 134, 12, 18),
    (2600, -90, 0, 17, np.inf),
)

BLOCK_DAYS = 10
"""Days per chunk of the store, and between two saved states."""

FIRST_TIME = np.datetime64("2000-01-01T00", "s")

_COMMENTS = {
    "2m_temperature": "temperature of the lowest model layer, about 500 m above the ground",
    "mean_sea_level_pressure": "surface pressure reduced along the standard lapse rate",
    "temperature": "below ground along the standard lapse rate from the lowest layer's temperature",
    "geopotential": "hydrostatic integral of the temperature, continued below ground",
    "land_sea_mask": "1 where the surface is higher than 100 m; land differs from sea in nothing else",
}


class Planet:
    """Primitive equations with Held and Suarez's forcing (1994, BAMS 75, 1825), on `dinosaur-dycore`.

    Eight equidistant sigma layers, semi-implicit Runge–Kutta steps, a spectral filter at the smallest
    scales. There are no seasons, no day, no moisture; the mountains shape the flow, and land differs
    from sea in nothing but its height.

    Attributes:
        grid: the Gaussian grid.
        orography: height of the surface as the model sees it, m.
        land_sea_mask: 1 where the surface is higher than `COAST`, else 0.
    """

    def __init__(self, truncation: Truncation, levels: Sequence[int], step_hours: int, contrast: float) -> None:
        jax, dinosaur = _libraries()
        self._jax, self._dinosaur = jax, dinosaur
        units, harmonics = dinosaur.scales.units, dinosaur.spherical_harmonic
        self._modes = getattr(harmonics.Grid, truncation)(spherical_harmonics_impl=harmonics.FastSphericalHarmonics)
        vertical = dinosaur.sigma_coordinates.SigmaCoordinates.equidistant(LAYERS)
        coordinates = dinosaur.coordinate_systems.CoordinateSystem(self._modes, vertical)
        specs = dinosaur.primitive_equations.PrimitiveEquationsSpecs.from_si(
            gravity_acceleration_si=STANDARD_GRAVITY * units.m / units.s**2
        )
        self._levels = np.asarray(levels, dtype=np.float64) * 100
        self._sigma = vertical.centers
        self._unit = {
            name: float(specs.dimensionalize(1.0, unit).magnitude)
            for name, unit in (("m/s", units.m / units.s), ("m", units.m), ("K", units.degK), ("Pa", units.pascal))
        }
        self._gas_constant = float(dinosaur.scales.IDEAL_GAS_CONSTANT.to("J/kg/K").magnitude)

        longitude, sine = self._modes.nodal_axes
        self.grid = Grid(np.degrees(np.arcsin(sine)), np.degrees(longitude))
        smooth = dinosaur.filtering.exponential_filter(self._modes, attenuation=16, order=2)
        terrain = self._modes.clip_wavenumbers(smooth(self._modes.to_modal(_mountains(self.grid).T)))
        height = np.asarray(self._modes.to_nodal(terrain))
        self.orography: Map = np.ascontiguousarray(height.T, dtype=np.float32)
        self.land_sea_mask: Map = (self.orography > COAST).astype(np.float32)

        at_rest, features = dinosaur.primitive_equations_states.isothermal_rest_atmosphere(
            coordinates,
            specs,
            p0=SEA_LEVEL_PRESSURE * units.pascal,
            p1=0.05 * SEA_LEVEL_PRESSURE * units.pascal,
            surface_height=height * units.m,
        )
        self._reference = np.asarray(features[dinosaur.xarray_utils.REF_TEMP_KEY])
        equations = dinosaur.time_integration.compose_equations(
            [
                dinosaur.primitive_equations.PrimitiveEquations(
                    self._reference, terrain / self._unit["m"], coordinates, specs
                ),
                dinosaur.held_suarez.HeldSuarezForcing(coordinates, specs, self._reference, dTy=contrast * units.degK),
            ]
        )
        minutes = STEP_MINUTES[truncation]
        step = specs.nondimensionalize(minutes * units.minute)
        integrate = dinosaur.time_integration.step_with_filters(
            dinosaur.time_integration.imex_rk_sil3(equations, step),
            [dinosaur.time_integration.exponential_step_filter(self._modes, step)],
        )
        self._start = jax.jit(at_rest)
        self._advance = jax.jit(dinosaur.time_integration.repeated(integrate, step_hours * 60 // minutes))
        self._diagnose = jax.jit(self._fields)

    def start(self, seed: int) -> Any:
        """Return the model state at rest with a seeded disturbance of the surface pressure."""
        return self._start(self._jax.random.PRNGKey(seed))

    def advance(self, state: Any) -> Any:
        """Return the model state one output step later."""
        return self._advance(state)

    def save(self, state: Any) -> State:
        """Return the model state as arrays, exactly."""
        return {name: np.asarray(value) for name, value in state.asdict().items() if name != "tracers"}

    def load(self, arrays: State) -> Any:
        """Return the model state that `save` gave."""
        return self._dinosaur.primitive_equations.State(**arrays)

    def fields(self, state: Any) -> dict[str, NDArray[np.float32]]:
        """Return what is written of a state, by canonical name, in canonical units, (level,) latitude, longitude.

        Temperature is linear in ln p between the layers' centres, constant above the uppermost and below the
        lowest, and follows the standard lapse rate below ground; the geopotential is its exact hydrostatic
        integral, which makes it the model's own at the centres and g·orography at the ground. Winds are
        linear in ln p, constant beyond the centres, and truncated to the model's waves; vorticity and
        divergence are exactly theirs. The 2 m temperature is the lowest layer's.
        """
        return {
            name: np.ascontiguousarray(np.swapaxes(np.asarray(value), -1, -2), dtype=np.float32)
            for name, value in self._diagnose(state).items()
        }

    def _fields(self, state: Any) -> dict[str, Any]:
        jnp, dinosaur, modes = self._jax.numpy, self._dinosaur, self._modes
        gas_constant, ground = self._gas_constant, STANDARD_GRAVITY * self.orography.T
        u, v = dinosaur.spherical_harmonic.vor_div_to_uv_nodal(modes, state.vorticity, state.divergence, clip=False)
        temperature = modes.to_nodal(state.temperature_variation) + self._reference[:, None, None]
        temperature = temperature * self._unit["K"]
        surface_pressure = jnp.exp(modes.to_nodal(state.log_surface_pressure))[0] * self._unit["Pa"]
        hydrostatic = dinosaur.primitive_equations.get_geopotential_weights(
            dinosaur.sigma_coordinates.SigmaCoordinates.equidistant(LAYERS), gas_constant
        )
        geopotential = ground + jnp.einsum("jk,kxy->jxy", hydrostatic, temperature, precision="highest")

        centres = np.log(self._sigma)
        depth = jnp.log(self._levels[:, None, None] / surface_pressure)
        inside = jnp.clip(depth, centres[0], centres[-1])
        share = [(inside - lower) / (upper - lower) for lower, upper in pairwise(centres)]
        rising = [1.0, *(jnp.clip(part, 0, 1) for part in share), 0.0]
        hats = [jnp.asarray(rising[k] - rising[k + 1]) for k in range(LAYERS)]
        weights = jnp.stack(hats, axis=1)

        def interpolate(values: Any) -> Any:
            return jnp.einsum("lkxy,kxy->lxy", weights, values, precision="highest")

        lowest = temperature[-1]
        exponent = gas_constant * LAPSE_RATE / STANDARD_GRAVITY
        below = jnp.maximum(depth, 0)
        on_levels = interpolate(temperature) + lowest * jnp.expm1(exponent * below)
        between = sum(
            hats[k] * hats[k + 1] * (temperature[k + 1] - temperature[k]) * (centres[k + 1] - centres[k]) / 2
            for k in range(LAYERS - 1)
        )
        beyond = interpolate(temperature) * (inside - jnp.minimum(depth, 0))
        underground = -lowest * jnp.expm1(exponent * below) / exponent
        height = interpolate(geopotential) + gas_constant * (between + beyond + underground)

        vorticity, divergence = dinosaur.spherical_harmonic.uv_nodal_to_vor_div_modal(
            modes, interpolate(u), interpolate(v)
        )
        u, v = dinosaur.spherical_harmonic.vor_div_to_uv_nodal(modes, vorticity, divergence, clip=False)
        per_second = self._unit["m/s"] / self._unit["m"]
        reduction = 1 + LAPSE_RATE * self.orography.T / lowest
        return {
            "geopotential": height,
            "temperature": on_levels,
            "u_component_of_wind": u * self._unit["m/s"],
            "v_component_of_wind": v * self._unit["m/s"],
            "vorticity": modes.to_nodal(vorticity) * per_second,
            "divergence": modes.to_nodal(divergence) * per_second,
            "surface_pressure": surface_pressure,
            "mean_sea_level_pressure": surface_pressure * reduction ** (1 / exponent),
            "2m_temperature": lowest,
        }


@cache
def planet(truncation: Truncation, levels: tuple[int, ...], step_hours: int, contrast: float = EARTHLIKE) -> Planet:
    """Return the planet of these settings, compiled once per process."""
    return Planet(truncation, levels, step_hours, contrast)


def _mountains(grid: Grid) -> Float[np.ndarray, "lat lon"]:
    height = np.zeros(grid.shape)
    for top, latitude, longitude, half_height, half_width in _MOUNTAINS:
        east = (grid.longitude - longitude + 180) % 360 - 180
        north = grid.latitude[:, None] - latitude
        height += top * np.exp(-((north / half_height) ** 2) - (east / half_width) ** 2)
    return height


def _libraries() -> tuple[Any, Any]:
    try:
        import dinosaur
        import jax
    except ImportError:
        raise RecipeError("the embedded planet needs the extra 'simulate': pip install 'etesian[simulate]'") from None
    return jax, dinosaur


def simulate(
    path: str,
    *,
    days: int = 800,
    spinup_days: int = 180,
    seed: int = 0,
    step_hours: int = 6,
    levels: Sequence[int] = (100, 250, 500, 700, 850),
    truncation: Truncation = "T21",
    contrast: float = EARTHLIKE,
    overwrite: bool = False,
) -> None:
    """Simulate the weather of an idealised planet into a Zarr store.

    A dry atmosphere over smooth mountains, heated as Held and Suarez (1994) did: baroclinic weather with
    Earth-like jets and limits of predictability, but without seasons, days or moisture. The same seed gives
    the same store. An interrupted run continues where it stopped, to the same values; a finished one is left
    as it is.

    Args:
        path: the Zarr store to write.
        days: simulated days to keep.
        spinup_days: simulated days before the first one that is kept; the weather is typical after about 150.
        seed: of the disturbance from which the weather grows.
        step_hours: hours between two kept times, a divisor of 24.
        levels: pressure levels in hPa.
        truncation: T21 (32×64 points) or T42 (64×128, which takes about 15 times as long).
        contrast: how much warmer the equator would be than the poles without motion, in K; planets that differ in it
            differ as climate models do.
        overwrite: replace a store of other settings that is there already.

    Raises:
        RecipeError: if a setting is impossible, or the extra `simulate` is not installed.
        DataError: if something else is at the path and not to be overwritten.
    """
    _check(days, spinup_days, step_hours, levels, contrast)
    plan = {
        "days": days,
        "spinup_days": spinup_days,
        "seed": seed,
        "step_hours": step_hours,
        "levels": sorted(levels),
        "truncation": truncation,
        "contrast": contrast,
    }
    target = claim(path, "fields", overwrite=overwrite)
    if is_finished(target, plan, overwrite=overwrite):
        return
    model = planet(truncation, tuple(sorted(levels)), step_hours, contrast)
    with work_folder(target, "fields") as place:
        if not place.begin(plan) or place.load("state") is None:
            _create(place.result, model, plan)
        _run(place, model, seed, spinup_days * 24 // step_hours, days * 24 // step_hours, step_hours)
        place.finish()


def _check(days: int, spinup_days: int, step_hours: int, levels: Sequence[int], contrast: float) -> None:
    if days < 1 or spinup_days < 0:
        raise RecipeError(f"days = {days} must be at least 1 and spinup_days = {spinup_days} at least 0")
    if step_hours < 1 or 24 % step_hours:
        raise RecipeError(f"step_hours = {step_hours} must divide 24")
    if not 20 <= contrast <= 120:
        raise RecipeError(f"contrast = {contrast:g} must be 20 to 120 K; outside, there is no weather or no stable run")
    if not levels or min(levels) < 10 or max(levels) > 1000 or len(set(levels)) < len(levels):
        raise RecipeError(f"levels = {list(levels)} must be different pressures from 10 to 1000 hPa")


def _run(place: WorkFolder, model: Planet, seed: int, spinup: int, kept: int, step_hours: int) -> None:
    """Advance the model block by block; after each, its fields and then its state are on disk."""
    block = BLOCK_DAYS * 24 // step_hours
    edges = [*range(0, spinup, block), *range(spinup, spinup + kept, block), spinup + kept]
    saved = place.load("state")
    done = 0 if saved is None else int(saved.pop("step"))
    state = model.start(seed) if saved is None else model.load(saved)
    group = zarr.open_group(place.result, mode="r+")
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("day {task.fields[day]} of {task.fields[days]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        total = spinup + kept
        days = total * step_hours // 24
        bar = progress.add_task("Simulating", total=total, completed=done, day=done * step_hours // 24, days=days)
        for begin, end in pairwise(edges):
            if begin < done:
                continue
            fields: list[dict[str, NDArray[np.float32]]] = []
            for step in range(begin, end):
                if begin >= spinup:
                    fields.append(model.fields(state))
                state = model.advance(state)
                progress.update(bar, completed=step + 1, day=(step + 1) * step_hours // 24)
            if fields:
                for name in fields[0]:
                    group[name][begin - spinup : end - spinup] = np.stack([each[name] for each in fields])
            place.save("state", step=np.asarray(end), **model.save(state))


def _create(store: Path, model: Planet, plan: dict[str, Any]) -> None:
    """Write everything but the values that change in time."""
    steps, block = (days * 24 // plan["step_hours"] for days in (plan["days"], BLOCK_DAYS))
    times = FIRST_TIME + np.arange(steps) * np.timedelta64(plan["step_hours"], "h")
    coordinates = {
        "time": ("time", times, {"standard_name": "time"}),
        "level": ("level", np.asarray(plan["levels"]), {"standard_name": "air_pressure", "units": "hPa"}),
        "latitude": ("latitude", model.grid.latitude, {"standard_name": "latitude", "units": "degrees_north"}),
        "longitude": ("longitude", model.grid.longitude, {"standard_name": "longitude", "units": "degrees_east"}),
    }
    statics = {"orography": model.orography, "land_sea_mask": model.land_sea_mask}
    dataset = xr.Dataset(
        {name: (("latitude", "longitude"), values, _attributes(name)) for name, values in statics.items()},
        coordinates,
        {
            "Conventions": "CF-1.11",
            "title": "Weather of an idealised planet",
            PLANET: "simulated",
            "source": "dinosaur-dycore, dry primitive equations with Held-Suarez forcing over idealised mountains",
            "plan": plan_text(plan),
        },
    )
    fields = model.fields(model.start(plan["seed"]))
    horizontal = ("latitude", "longitude")
    moving = {
        name: xr.DataArray(values, dims=("level", *horizontal)[3 - values.ndim :], attrs=_attributes(name))
        for name, values in fields.items()
    }
    create_empty_store(store, dataset, moving, steps_per_chunk=dict.fromkeys(moving, block))


def _attributes(name: str) -> dict[str, str]:
    known = CATALOGUE[name]
    attributes = {"units": known.units, "long_name": name.replace("_", " ")}
    if known.standard_name:
        attributes["standard_name"] = known.standard_name
    if name in _COMMENTS:
        attributes["comment"] = _COMMENTS[name]
    return attributes
