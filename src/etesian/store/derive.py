"""Vorticity, divergence, winds, streamfunction, truncation and spectra of global fields."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Complex, Float
from numpy.typing import NDArray

from etesian.core.channels import CATALOGUE, canonical_name
from etesian.core.constants import STANDARD_GRAVITY
from etesian.core.errors import ChannelError, DataError, suggest
from etesian.core.grid import Grid
from etesian.core.sphere import inverse_laplacian, power, spherical_harmonics
from etesian.files.canonical import side_by_side
from etesian.store.select import select_period

_U, _V = "u_component_of_wind", "v_component_of_wind"

_SOURCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "vorticity": ((_U, _V),),
    "divergence": ((_U, _V),),
    "streamfunction": (("vorticity",), (_U, _V)),
    "velocity_potential": (("divergence",), (_U, _V)),
    _U: (("vorticity", "divergence"),),
    _V: (("vorticity", "divergence"),),
    "orography": (("geopotential_at_surface",),),
    "latitude_field": ((),),
}
"""What can be derived, and from which variables: the first that are all there."""

BY_HARMONICS = ("vorticity", "divergence", "streamfunction", "velocity_potential", _U, _V)
"""Of these, what takes a field on the whole globe as point values."""

_ANOMALY = "_anomaly"

_PIECE_VALUES = 2**21

_GRID = ("latitude", "longitude")


def vorticity_divergence(u: xr.DataArray, v: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return relative vorticity and divergence, s⁻¹, of winds in m s⁻¹.

    Like every function here it takes arrays on (…, latitude, longitude) in any order of dimensions, latitude ascending,
    lazily where they are lazy, and gives their type.

    Raises:
        GridError: if the grid is no globe with even longitudes and Gaussian or evenly spaced latitudes.
        DataError: if values are missing.
    """
    vorticity, divergence = _mapped(_vorticity_divergence, (u, v), 2)
    return _named(vorticity, "vorticity"), _named(divergence, "divergence")


def winds(vorticity: xr.DataArray, divergence: xr.DataArray) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the winds u and v, m s⁻¹, that have a vorticity and a divergence, s⁻¹, whose means have to be zero.

    Raises:
        GridError, DataError: as `vorticity_divergence`.
    """
    u, v = _mapped(_winds, (vorticity, divergence), 2)
    return _named(u, _U), _named(v, _V)


def streamfunction(vorticity: xr.DataArray) -> xr.DataArray:
    """Return the streamfunction, m² s⁻¹, with mean zero, of a vorticity.

    Raises:
        GridError, DataError: as `vorticity_divergence`.
    """
    return _named(_mapped(_inverted, (vorticity,))[0], "streamfunction")


def velocity_potential(divergence: xr.DataArray) -> xr.DataArray:
    """Return the velocity potential, m² s⁻¹, with mean zero, of a divergence: ∇²χ = δ.

    Raises:
        GridError, DataError: as `vorticity_divergence`.
    """
    return _named(_mapped(_inverted, (divergence,))[0], "velocity_potential")


def truncate(field: xr.DataArray, truncation: int) -> xr.DataArray:
    """Return what of a scalar has total wavenumbers up to `truncation`.

    Raises:
        GridError: as `vorticity_divergence`, or if the grid does not resolve the truncation.
        DataError: if values are missing.
    """
    return _mapped(_truncated, (field,), truncation=truncation)[0].assign_attrs(field.attrs).rename(field.name)


def high_pass(field: xr.DataArray, truncation: int) -> xr.DataArray:
    """Return what of a scalar is left without total wavenumbers up to `truncation`, beyond the grid's own too.

    Raises:
        GridError, DataError: as `truncate`.
    """
    return (field - truncate(field, truncation)).assign_attrs(field.attrs).rename(field.name)


def power_spectrum(field: xr.DataArray) -> xr.DataArray:
    """Return a scalar's power by total wavenumber, (…, wavenumber), which adds up to the area mean of its square.

    Raises:
        GridError, DataError: as `vorticity_divergence`.
    """
    return _mapped(_power, (field,), spectral=True)[0].rename(field.name)


def kinetic_energy_spectrum(u: xr.DataArray, v: xr.DataArray) -> xr.DataArray:
    """Return the kinetic energy per mass, m² s⁻², by total wavenumber, (…, wavenumber); it adds up to the area mean.

    a² / (2 n (n + 1)) times the power of vorticity and divergence (Lambert 1984, Atmos.-Ocean 22, 411).

    Raises:
        GridError, DataError: as `vorticity_divergence`.
    """
    energy: xr.DataArray = _mapped(_kinetic_energy, (u, v), spectral=True)[0]
    return energy.rename("kinetic_energy").assign_attrs(units="m2 s-2")


def synthesise(coefficients: Complex[np.ndarray, "*batch n m"], grid: Grid) -> Float[np.ndarray, "*batch lat lon"]:
    """Return the fields on a grid that spherical-harmonic coefficients mean.

    Args:
        coefficients: complex, zero for m > n, as ECMWF normalises: `etesian.core.sphere` says how. Those of
            pyshtools, 4π-normalised (2, n, m), become these by (C − iS) / √2, without the root for m = 0.
        grid: global; what it does not resolve is left out.

    Raises:
        GridError: as `vorticity_divergence`.
    """
    return spherical_harmonics(grid).synthesise(coefficients)


def derive(
    dataset: xr.Dataset, names: Sequence[str], train: tuple[str | None, str | None] = (None, None)
) -> xr.Dataset:
    """Add vorticity, divergence, streamfunction, velocity potential, winds, orography, latitudes or anomalies, lazily.

    The dataset is a canonical one. Orography is the geopotential at the surface over standard gravity; the anomaly of a
    variable is its departure, at each point, from its mean over the training period.

    Args:
        dataset: canonical.
        names: what to add; `temperature_anomaly` is the anomaly of `temperature`.
        train: first and last date of the training period.

    Raises:
        ChannelError: if a name cannot be derived, or from nothing that is there.
        DataError: if it is there already.
        GridError: as `vorticity_divergence`.
    """
    fields = {str(name): array for name, array in dataset.data_vars.items()}
    for name in names:
        if name in fields:
            raise DataError(f"'{name}' is in the data already; leave it out of derive")
    made: dict[str, xr.DataArray] = {}
    for name in names:
        sources = _shared_levels([fields[source] for source in sources_of([name], fields)])
        if name == "latitude_field":
            globe = dataset["latitude"].expand_dims(longitude=dataset["longitude"]).transpose(*_GRID)
            made[name] = _named(globe.astype(np.float32), name)
        elif name == "orography":
            made[name] = _named(sources[0] / STANDARD_GRAVITY, name)
        elif (base := _anomaly_of(name)) is not None:
            made[name] = _departure(dataset[base], train).rename(name)
        elif name in ("vorticity", "divergence", _U, _V):
            pair = vorticity_divergence(*sources) if name in ("vorticity", "divergence") else winds(*sources)
            made[name] = pair[name in ("divergence", _V)]
        else:
            made[name] = _stepwise(name, sources)
        if sources and "levels" in sources[0].attrs:
            made[name].attrs["levels"] = sources[0].attrs["levels"]
    return side_by_side([*fields.values(), *made.values()])


def sources_of(names: Sequence[str], known: Iterable[str]) -> list[str]:
    """Return the variables that others are derived from, of those that are known.

    Raises:
        ChannelError: if one cannot be derived, or from nothing that is known.
    """
    there = set(known)
    found: dict[str, None] = {}
    for name in names:
        base = _anomaly_of(name)
        ways = _SOURCES.get(name) if base is None else ((base,),)
        if ways is None:
            raise ChannelError(f"'{name}' cannot be derived{suggest(name, _SOURCES)}")
        usable = [sources for sources in ways if there.issuperset(sources)]
        if not usable:
            wanted = ", or ".join(" and ".join(sources) for sources in ways)
            raise ChannelError(f"'{name}' is derived from {wanted}, which the data lack{suggest(wanted, there)}")
        found |= dict.fromkeys(usable[0])
    return list(found)


def names_to_derive(texts: Sequence[str]) -> list[str]:
    """Read names or short names, apart or with commas between.

    >>> names_to_derive(["vo,divergence", "tcw_anomaly"])
    ['vorticity', 'divergence', 'total_column_water_anomaly']
    """
    words = [word.strip() for text in texts for word in text.split(",") if word.strip()]
    return list(dict.fromkeys(_canonical(word) for word in words))


def _canonical(word: str) -> str:
    base = word.removesuffix(_ANOMALY)
    return canonical_name(word) or (canonical_name(base) or base) + word[len(base) :]


def _anomaly_of(name: str) -> str | None:
    """Return the variable that a name is the anomaly of; None if it is none."""
    return name.removesuffix(_ANOMALY) if name.endswith(_ANOMALY) else None


def _departure(field: xr.DataArray, train: tuple[str | None, str | None]) -> xr.DataArray:
    """Return the departure at each point from the mean over the training period, which is read at once.

    Raises:
        DataError: if the field does not change in time, or no time lies in the period.
    """
    if "time" not in field.dims:
        raise DataError(f"'{field.name}' does not change in time, so that it has no anomaly; leave it out of derive")
    known = select_period(field.to_dataset(), *train)[field.name]
    mean = known.mean("time", dtype=np.float64).compute().astype(field.dtype)
    return (field - mean).transpose(*field.dims).assign_attrs(field.attrs)


def _stepwise(name: str, sources: Sequence[xr.DataArray]) -> xr.DataArray:
    if len(sources) > 1:
        sources = [vorticity_divergence(*sources)[name == "velocity_potential"]]
    return streamfunction(sources[0]) if name == "streamfunction" else velocity_potential(sources[0])


def _shared_levels(arrays: Sequence[xr.DataArray]) -> list[xr.DataArray]:
    """Return arrays on the levels that all of them have values on."""
    if not arrays or not all("level" in array.dims for array in arrays):
        return list(arrays)
    each = [array.attrs.get("levels", array["level"].values.tolist()) for array in arrays]
    levels = [level for level in each[0] if all(level in others for others in each)]
    return [array.sel(level=levels).assign_attrs(levels=levels) for array in arrays]


def _named(array: xr.DataArray, name: str) -> xr.DataArray:
    variable = CATALOGUE[name]
    attrs = {"units": variable.units, "standard_name": variable.standard_name, "source_name": name}
    return array.rename(name).assign_attrs(attrs | {"source_units": variable.units})


def _mapped(
    function: Callable[..., Any],
    fields: Sequence[xr.DataArray],
    outputs: int = 1,
    *,
    spectral: bool = False,
    truncation: int | None = None,
) -> tuple[xr.DataArray, ...]:
    """Apply a function of arrays (batch, latitude, longitude) and of the transforms, lazily where one is lazy."""
    grid = Grid(fields[0]["latitude"].values, fields[0]["longitude"].values)
    size = spherical_harmonics(grid, truncation).truncation + 1
    dtype = np.result_type(*(field.dtype for field in fields), np.float32)
    result = xr.apply_ufunc(
        _in_chunks,
        *(field.chunk(latitude=-1, longitude=-1) if field.chunks is not None else field for field in fields),
        kwargs={"function": function, "grid": grid, "truncation": truncation, "outputs": outputs, "dtype": dtype},
        input_core_dims=[_GRID] * len(fields),
        output_core_dims=[("wavenumber",) if spectral else _GRID] * outputs,
        dask="parallelized",
        output_dtypes=[dtype] * outputs,
        dask_gufunc_kwargs={"output_sizes": {"wavenumber": size}} if spectral else {},
    )
    arrays = result if outputs > 1 else (result,)
    if spectral:
        return tuple(array.assign_coords(wavenumber=np.arange(size)) for array in arrays)
    return tuple(array.transpose(*fields[0].dims) for array in arrays)


def _in_chunks(
    *fields: NDArray[Any], function: Callable[..., Any], grid: Grid, truncation: int | None, outputs: int, dtype: Any
) -> Any:
    """Work on some fields at a time, which bounds the memory that double precision takes."""
    harmonics = spherical_harmonics(grid, truncation)
    batch = fields[0].shape[:-2]
    flat = [field.reshape(-1, *grid.shape) for field in fields]
    step = max(1, _PIECE_VALUES // (grid.shape[0] * grid.shape[1]))
    blocks = []
    for first in range(0, max(len(flat[0]), 1), step):
        made = function(*(field[first : first + step] for field in flat), harmonics)
        blocks.append([part.astype(dtype) for part in (made if outputs > 1 else (made,))])
    whole = [np.concatenate(parts) for parts in zip(*blocks, strict=True)]
    shaped = tuple(array.reshape(*batch, *array.shape[1:]) for array in whole)
    return shaped if outputs > 1 else shaped[0]


def _vorticity_divergence(u: NDArray[Any], v: NDArray[Any], harmonics: Any) -> Any:
    return tuple(harmonics.synthesise(part) for part in harmonics.analyse_winds(u, v))


def _winds(vorticity: NDArray[Any], divergence: NDArray[Any], harmonics: Any) -> Any:
    return harmonics.synthesise_winds(harmonics.analyse(vorticity), harmonics.analyse(divergence))


def _inverted(values: NDArray[Any], harmonics: Any) -> Any:
    return harmonics.synthesise(harmonics.analyse(values) * inverse_laplacian(harmonics.truncation)[:, None])


def _truncated(values: NDArray[Any], harmonics: Any) -> Any:
    return harmonics.synthesise(harmonics.analyse(values))


def _power(values: NDArray[Any], harmonics: Any) -> Any:
    return power(harmonics.analyse(values))


def _kinetic_energy(u: NDArray[Any], v: NDArray[Any], harmonics: Any) -> Any:
    total = sum(power(part) for part in harmonics.analyse_winds(u, v))
    return -inverse_laplacian(harmonics.truncation) / 2 * total
