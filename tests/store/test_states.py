"""A dataset gives the states that the training store made from it gives."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import weather

from etesian import Layout, Store
from etesian.core.errors import ChannelError, DataError
from etesian.samples.windows import WindowReader
from etesian.store.prepare import prepare_dataset
from etesian.store.states import DatasetStates

TIMES = pd.date_range("2001-01-01", periods=20, freq="6h")


def test_windows_of_a_dataset_are_those_of_the_store_made_from_it(tmp_path: object) -> None:
    dataset = weather(TIMES, gaps=0.1)
    prepare_dataset(dataset, f"{tmp_path}/s.zarr")
    store = Store(f"{tmp_path}/s.zarr")
    states = DatasetStates(dataset.isel(latitude=slice(None, None, -1)).chunk(time=5))
    layout = Layout(store.channels[::-1], store.channels, store.grid, store.static_channels, history=(-6, 0))
    assert (states.step_hours, states.calendar, states.grid) == (6, store.calendar, store.grid)
    assert {str(c): states.units[c] for c in store.channels} == {str(c): store.units[c] for c in store.channels}
    batches = [WindowReader(each, layout).start(store.time[[3, 7]]) for each in (store, states)]
    for one, other in zip(batches[0].parts(), batches[1].parts(), strict=True):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one.filled(), other.filled())
    assert batches[1].inputs.valid is not None
    np.testing.assert_array_equal(batches[0].inputs.valid, batches[1].inputs.valid)


def test_datasets_that_differ_are_told_apart_and_those_that_cannot_serve_are_refused() -> None:
    dataset = weather(TIMES)
    assert DatasetStates(dataset).fingerprint == DatasetStates(weather(TIMES)).fingerprint
    assert DatasetStates(dataset).fingerprint != DatasetStates(dataset + 1).fingerprint
    with pytest.raises(DataError, match="no dimension 'time'"):
        DatasetStates(dataset.isel(time=0, drop=True))
    states = DatasetStates(dataset)
    with pytest.raises(ChannelError, match="the dataset has no channel 'temperature_1'"):
        WindowReader(states, Layout((type(states.channels[0])("temperature", 1),), (), states.grid))
