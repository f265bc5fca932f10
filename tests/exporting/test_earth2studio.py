"""A run as a prognostic model of earth2studio gives the numbers of its own forecasts, by the documented interface."""

import itertools
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_tasks
import torch
from torch import Tensor

import etesian as et
from etesian.core.errors import DataError, RecipeError

pytestmark = pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning")

LEADS = (6, 12, 18)


def saved(store: str, path: Path, network: Any, *, history: list[int], targets: Any = None, **options: Any) -> str:
    """A run of random weights that has seen the store's statistics."""
    torch.manual_seed(0)
    days = {"train": ("2001-01-01", "2001-01-10"), "validate": ("2001-01-11", "2001-01-15")}
    data = et.ForecastData([store], leads=[6, 12, 18], history=history, targets=targets, **days)
    data.setup("fit")
    task = et.ForecastTask(
        lambda own: small_tasks.stirred(network(own)), data.layout, data.statistics, anomalies=True, **options
    )
    task.provenance = data.provenance
    return small_tasks.saved(task, path)


def climax(layout: et.Layout) -> et.Network:
    return et.ClimaX(layout, patch=2, dim=16, depth=1, heads=2, dropout=0.0, drop_path=0.0)


def unet(layout: et.Layout) -> et.Network:
    return et.UNet(layout, LEADS, width=8, dropout=0.0, noise=0.0)


@pytest.fixture(scope="module")
def iterated(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("runs") / "iterated"
    return saved(store, path, climax, history=[-6, 0], step_hours=6, predict="change", limit=3.0)


@pytest.fixture(scope="module")
def several(store: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(store, tmp_path_factory.mktemp("runs") / "several", unet, history=[0], members=2)


def start(model: et.Earth2Prognostic, store: str, time: str, members: int) -> tuple[Tensor, OrderedDict[str, Any]]:
    """What a data source gives for one initial time, as earth2studio does: from north to south, members before it."""
    given, coords = et.Store(store), model.input_coords()
    hours = coords["lead_time"].astype(int)
    index = np.searchsorted(given.time, np.datetime64(time, "s").astype(np.int64) + 3600 * hours)
    states = torch.from_numpy(given.read(index, slice(None), slice(None), slice(None))).flip(-2)
    del coords["batch"]
    coords = OrderedDict(ensemble=np.arange(members)) | coords | {"time": np.array([time], "datetime64[ns]")}
    return states.expand(members, 1, *states.shape), coords


def forecast_of(run: str, store: str, time: str, **options: Any) -> Tensor:
    """(member, lead, channel, lat, lon) of the run's own forecast, its rows from north to south."""
    made = et.load(run).forecast(store, (time, time), LEADS, **options).isel(time=0)
    made = made if "number" in made.dims else made.expand_dims("number")
    channels = et.Store(store).channels
    layers = [made[c.name] if c.level is None else made[c.name].sel(level=c.level) for c in channels]
    order = ("number", "prediction_timedelta", "latitude", "longitude")
    return torch.stack([torch.from_numpy(layer.transpose(*order).values) for layer in layers], dim=2).flip(-2)


@pytest.mark.parametrize(("kind", "members"), [("iterated", 1), ("several", 3)])
def test_the_iterator_gives_the_forecasts_of_the_run_to_the_last_bit(
    kind: str, members: int, store: str, request: pytest.FixtureRequest
) -> None:
    run, time = request.getfixturevalue(kind), "2001-01-10T06"
    model = et.Earth2Prognostic(run, LEADS, store=store, seed=5)
    x, coords = start(model, store, time, members)
    steps = list(itertools.islice(model.create_iterator(x, coords), 4))
    torch.testing.assert_close(steps[0][0][:, :, 0], x[:, :, -1], rtol=0, atol=0)
    expected = forecast_of(run, store, time, **({} if members == 1 else {"members": members, "seed": 5}))
    for place, (answer, told) in enumerate(steps[1:]):
        assert torch.equal(answer[:, 0, 0], expected[:, place])
        assert told["lead_time"] == np.timedelta64(LEADS[place], "h")
        assert [len(values) for values in told.values()] == list(answer.shape)
        assert told["variable"].tolist() == ["t500", "t850", "sp"]
    single, told = model(x, coords)
    assert torch.allclose(single, steps[1][0], rtol=1e-6)
    assert list(told) == ["ensemble", "time", "lead_time", "variable", "lat", "lon"]


def test_the_leads_go_on_where_not_all_that_is_given_is_forecast(store: str, tmp_path: Path) -> None:
    run = saved(store, tmp_path / "run", climax, history=[0], targets=["temperature_850"])
    model = et.Earth2Prognostic(run, LEADS, store=store)
    steps = itertools.islice(model.create_iterator(*start(model, store, "2001-01-10T06", 1)), 4)
    assert [int(told["lead_time"].astype(int)[0]) for _, told in steps] == [0, *LEADS]


def test_it_has_what_the_interface_asks_for(iterated: str, store: str) -> None:
    model = et.Earth2Prognostic(iterated, LEADS, store=store)
    coords = model.input_coords()
    assert list(coords) == ["batch", "time", "lead_time", "variable", "lat", "lon"]
    assert coords["lead_time"].tolist() == [np.timedelta64(-6, "h"), np.timedelta64(0, "h")]
    assert coords["lat"].tolist() == [75, 45, 15, -15, -45, -75]
    assert model.to("cpu") is model
    assert model.output_coords(coords)["lead_time"].tolist() == [np.timedelta64(6, "h")]
    later = coords | {"lead_time": coords["lead_time"] + np.timedelta64(12, "h")}
    assert model.output_coords(later)["lead_time"].tolist() == [np.timedelta64(18, "h")]


def test_what_a_hook_changes_is_gone_on_from(iterated: str, store: str) -> None:
    model = et.Earth2Prognostic(iterated, LEADS, store=store)
    x, coords = start(model, store, "2001-01-10T06", 1)
    plain = [answer for answer, _ in itertools.islice(model.create_iterator(x, coords), 4)]
    seen: list[Any] = []

    def watch(window: Tensor, where: OrderedDict[str, Any]) -> tuple[Tensor, OrderedDict[str, Any]]:
        seen.append(where["lead_time"].tolist()[-1] // np.timedelta64(1, "h"))
        return window, where

    model.front_hook = watch
    watched = [answer for answer, _ in itertools.islice(model.create_iterator(x, coords), 4)]
    assert seen == [0, 6, 12]
    assert all(map(torch.equal, watched, plain))

    model.rear_hook = lambda answer, told: (answer + 1.0, told)
    changed = [answer for answer, _ in itertools.islice(model.create_iterator(x, coords), 3)]
    torch.testing.assert_close(changed[1], plain[1] + 1)
    model.rear_hook = et.Earth2Prognostic(iterated, LEADS, store=store).rear_hook
    window = torch.cat([x[:, :, 1:], changed[1]], dim=2)
    again, _ = model(window, coords | {"lead_time": coords["lead_time"] + np.timedelta64(6, "h")})
    torch.testing.assert_close(changed[2], again + 1)
    assert not torch.allclose(changed[2], plain[2] + 1, rtol=0, atol=1e-3)


def test_what_does_not_fit_is_refused(iterated: str, several: str, store: str, tmp_path: Path) -> None:
    model = et.Earth2Prognostic(iterated, LEADS, store=store)
    x, coords = start(model, store, "2001-01-10T06", 1)
    for wrong, message in (
        ({"variable": np.array(["t850", "t500", "sp"])}, "'variable' is .* must be"),
        ({"lat": coords["lat"][::-1]}, "'lat' is .* must be"),
        ({"lead_time": coords["lead_time"] * 2}, r"must lie at \[-6, 0\] h"),
    ):
        with pytest.raises(ValueError, match=message):
            model(x, coords | wrong)
    with pytest.raises(ValueError, match="must end in"):
        model.output_coords(OrderedDict(reversed(coords.items())))
    steps = model.create_iterator(x, coords)
    assert len(list(itertools.islice(steps, 4))) == 4
    with pytest.raises(RecipeError, match="end at 18 h; name more"):
        next(steps)
    with pytest.raises(RecipeError, match="no steps of one length"):
        et.Earth2Prognostic(iterated, [6, 18], store=store)
    means = et.load(iterated)
    means.task.provenance["average_hours"] = 24
    with pytest.raises(RecipeError, match="forecasts means over hours, for which"):
        et.Earth2Prognostic(means, LEADS, store=store)
    with pytest.raises(DataError, match="needs 'orography': give store"):
        et.Earth2Prognostic(iterated, LEADS)
    with pytest.raises(RecipeError, match="not for 24 h"):
        et.Earth2Prognostic(several, (6, 12, 18, 24), store=store)
