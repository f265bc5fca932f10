"""Weather that can be predicted for a while: travelling waves that lose their memory, on a climatology."""

import numpy as np
import xarray as xr

from etesian.core.grid import Grid

GRID = Grid.equiangular(11.25)
NAMES = {
    "geopotential": (500,),
    "temperature": (500, 850),
    "u_component_of_wind": (850,),
    "v_component_of_wind": (850,),
}
MEAN = {"geopotential": 54000.0, "temperature": 270.0, "u_component_of_wind": 5.0, "v_component_of_wind": 0.0}
SIZE = {"geopotential": 900.0, "temperature": 6.0, "u_component_of_wind": 7.0, "v_component_of_wind": 6.0}
MEMORY = 0.8
"""Autocorrelation of a day."""


def smooth_noise(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Noise of planetary waves, variance about 1."""
    spectrum = np.fft.rfft(rng.normal(size=shape), axis=-1)
    spectrum[..., 7:] = 0
    field = np.fft.irfft(spectrum, n=shape[-1], axis=-1)
    for _ in range(3):
        padded = np.concatenate([field[..., :1, :], field, field[..., -1:, :]], axis=-2)
        field = (padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]) / 4
    return field / field.std()


def anomalies(times: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Daily anomalies of each variable: (time, level, latitude, longitude)."""
    rng = np.random.default_rng(seed)
    result = {}
    for name, levels in NAMES.items():
        shape = (len(levels), *GRID.shape)
        state, states = smooth_noise(rng, shape), []
        for _ in range(times):
            states.append(state)
            state = MEMORY * np.roll(state, 1, axis=-1) + np.sqrt(1 - MEMORY**2) * smooth_noise(rng, shape)
        result[name] = SIZE[name] * np.stack(states)
    return result


def mean_field(name: str) -> np.ndarray:
    """The climatology of a variable: (latitude, longitude)."""
    return (MEAN[name] + 2.5 * SIZE[name] * np.cos(np.radians(GRID.latitude)))[:, None] + np.zeros(GRID.shape)


def dataset(fields: dict[str, np.ndarray], dims: tuple[str, ...], coords: dict[str, object]) -> xr.Dataset:
    """Fields with their level, latitude and longitude; level only where a variable has it."""
    arrays = {
        name: xr.DataArray(
            (values + mean_field(name)).astype(np.float32),
            dims=(*dims, "level", "latitude", "longitude"),
            coords={"level": list(NAMES[name])},
            attrs={"levels": list(NAMES[name])},
        )
        for name, values in fields.items()
    }
    grid = {"latitude": GRID.latitude, "longitude": GRID.longitude}
    return xr.Dataset(arrays).assign_coords(**coords, **grid)


def truth(times: int = 60) -> xr.Dataset:
    """Daily analyses from 2020-12-01."""
    days = np.datetime64("2020-12-01", "ns") + np.arange(times) * np.timedelta64(1, "D")
    land = (np.cos(np.radians(GRID.longitude)) > 0.3) & (np.abs(GRID.latitude)[:, None] < 60)
    weather = dataset(anomalies(times), ("time",), {"time": days})
    return weather.assign(land_sea_mask=(("latitude", "longitude"), land.astype(np.float32)))


def forecasts(kind: str, initial: slice, leads: tuple[int, ...] = (1, 2, 3, 5), times: int = 60) -> xr.Dataset:
    """Forecasts of the same weather: `persistence`, `climatology`, or a `model` close to the best possible."""
    states = anomalies(times)
    rng = np.random.default_rng(5)
    fields = {}
    for name, values in states.items():
        start = values[initial]
        by_lead = []
        for lead in leads:
            if kind == "persistence":
                by_lead.append(start)
            elif kind == "climatology":
                by_lead.append(np.zeros_like(start))
            else:
                noise = 0.12 * SIZE[name] * smooth_noise(rng, start.shape)
                by_lead.append(MEMORY**lead * np.roll(start, lead, axis=-1) + noise)
        fields[name] = np.stack(by_lead, axis=1)
    day = np.timedelta64(1, "D").astype("timedelta64[ns]")
    coords = {"time": truth(times).time.values[initial], "prediction_timedelta": np.array(leads) * day}
    return dataset(fields, ("time", "prediction_timedelta"), coords)


def climatology() -> xr.Dataset:
    """WeatherBench 2's layout: the same map on every day, at 0 UTC."""
    days = np.arange(1, 367)
    fields = {name: np.zeros((1, 366, len(levels), *GRID.shape)) for name, levels in NAMES.items()}
    return dataset(fields, ("hour", "dayofyear"), {"hour": [0], "dayofyear": days})
