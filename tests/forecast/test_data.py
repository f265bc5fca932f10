"""A forecast run's data: splits, layout, statistics, and loaders that Lightning drives."""

import pickle
import re
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from etesian.core.errors import ChannelError, DataError, GridError, RecipeError
from etesian.forecast.data import ForecastData
from etesian.samples.windows import Horizon, RandomLeads
from etesian.store.reader import Store

TRAIN, VALIDATE, TEST = ("2001-01-01", "2001-01-08"), ("2001-01-09", "2001-01-11"), ("2001-01-12", "2001-01-15")


def data(stores: str | list[str], **options: object) -> ForecastData:
    chosen = {"train": TRAIN, "validate": VALIDATE, "test": TEST, "leads": [6, 24], "batch_size": 8} | options
    return ForecastData([stores] if isinstance(stores, str) else stores, **chosen)  # type: ignore[arg-type]


def test_splits_share_no_field(store: str) -> None:
    module = data(store, history=[-12, 0])
    used = {}
    for part in ("train", "validate", "test"):
        dataset = module.dataset(part)
        times = [dataset[[pick]] for pick in dataset.picks]
        used[part] = {t for b in times for f in (b.inputs, b.targets) for t in f.frame.time.flatten().tolist()}
    assert all(used.values())
    assert not used["train"] & used["validate"]
    assert not used["validate"] & used["test"]


@pytest.mark.parametrize("validate", [("2001-01-08", "2001-01-11"), ("2000", "2001"), ("2001-01-08T23", "2001-01-09")])
def test_periods_that_overlap_are_refused(store: str, validate: tuple[str, str]) -> None:
    with pytest.raises(RecipeError, match=r"periods \w+ \(.* to .*\) and \w+ \(.*\) overlap"):
        data(store, validate=validate)


def test_leads_and_histories_out_of_order_are_refused(store: str) -> None:
    for leads in ([], [24, 6], [6, 6], [0, 6], [-6]):
        with pytest.raises(RecipeError, match="must be ascending hours greater than 0"):
            data(store, leads=leads)
    for history in ([], [0, -6], [-6], [0, 6]):
        with pytest.raises(RecipeError, match="must be ascending hours that end with 0"):
            data(store, history=history)


def test_a_horizon_is_for_leads_drawn_at_random_and_begins_with_one_of_them(store: str) -> None:
    kept = data(store, leads=[6, 12], leads_per_sample=2, horizon=Horizon(6, 10)).dataset("train")
    assert kept.draw == RandomLeads(2, Horizon(6, 10))
    assert data(store, leads=[6, 12], horizon=Horizon(6, 10)).dataset("validate").draw is None
    for options in ({"horizon": Horizon(6, 10)}, {"leads_per_sample": 2}):
        with pytest.raises(RecipeError, match="are for leads drawn at random"):
            data(store, leads=[6, 12], draw="all", **options)
    with pytest.raises(RecipeError, match="at least one; set"):
        data(store, leads=[6, 12], leads_per_sample=0)
    for horizon in (Horizon(3, 10), Horizon(6, 0)):
        with pytest.raises(RecipeError, match="a horizon begins with the first lead, 6 h, or a longer one"):
            data(store, leads=[6, 12], horizon=horizon)


def test_what_the_recipe_names_wrongly_is_refused(store: str) -> None:
    with pytest.raises(ChannelError, match="did you mean 'temperature'"):
        data(store, inputs=["temprature"])
    with pytest.raises(ChannelError, match="did you mean 'orography'"):
        data(store, statics=["orografy"])
    with pytest.raises(GridError, match="region 'Erope'"):
        data(store, region="Erope")
    with pytest.raises(DataError, match="'2001-13' is no date of the proleptic_gregorian calendar"):
        data(store, test=("2001-13", "2001-14"))
    with pytest.raises(RecipeError, match="the recipe names no test period"):
        data(store, test=None).test_dataloader()
    with pytest.raises(DataError, match=r"leads of \[480\] h"):
        data(store, leads=[6, 480]).train_dataloader()


def test_the_layout_holds_what_was_asked_for(store: str) -> None:
    module = data(store, inputs=["temperature"], targets=["surface_pressure"], region="-50,50,300,60", history=[-6, 0])
    assert [str(c) for c in module.layout.inputs] == ["temperature_500", "temperature_850"]
    assert [str(c) for c in module.layout.targets] == ["surface_pressure"]
    assert [str(c) for c in module.layout.statics] == ["orography"]
    assert module.layout.grid.shape == (4, 3)
    batch = next(iter(module.val_dataloader()))
    assert batch.inputs.values.shape == (7, 2, 2, 4, 3)
    assert batch.targets.values.shape == (7, 2, 1, 4, 3)
    assert batch.statics.values.shape == (7, 1, 1, 4, 3)


def test_statistics_of_several_stores_are_pooled(store: str, make_store) -> None:  # type: ignore[no-untyped-def]
    other = make_store(pd.date_range("2002-01-01", periods=60, freq="6h"), seed=4)
    module = data([store, other], inputs=["surface_pressure"], targets=["temperature_850"], region="-50,50,300,60")
    statistics = module.statistics
    assert [str(c) for c in statistics.channels] == ["surface_pressure", "temperature_850", "orography"]
    values = np.concatenate([Store(path).read(range(60))[:, 2] for path in (store, other)]).astype(np.float64)
    np.testing.assert_allclose(statistics.mean[0], values.mean(), rtol=1e-9)
    np.testing.assert_allclose(statistics.std[0], values.std(), rtol=1e-6)
    assert statistics.harmonics is not None
    assert statistics.harmonics.shape == (5, 3, 4, 3)
    np.testing.assert_allclose(statistics.harmonics[0, 2], statistics.mean[2], rtol=1e-6)
    assert not statistics.harmonics[1:, 2].any()


class Watcher(L.LightningModule):
    """Records which samples come in which epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[tuple[int, list[int], list[int]]] = []

    def training_step(self, batch, _):  # type: ignore[no-untyped-def]
        initial = batch.inputs.frame.time[:, -1]
        leads = (batch.targets.frame.time[:, 0] - initial) // 3600
        self.seen.append((self.current_epoch, initial.tolist(), leads.tolist()))
        return self.weight.square().sum()

    def validation_step(self, batch, _):  # type: ignore[no-untyped-def]
        pass

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(
    module: ForecastData, epochs: int, folder: Path, checkpoint: Path | None = None, *, at_end: bool = True
) -> Watcher:
    watcher = Watcher()
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=epochs, logger=False, enable_progress_bar=False, enable_model_summary=False,
        default_root_dir=folder, use_distributed_sampler=False, num_sanity_val_steps=0,
        callbacks=[ModelCheckpoint(folder / str(at_end), str(epochs), save_on_train_epoch_end=at_end)],
    )  # fmt: skip
    trainer.fit(watcher, datamodule=module, ckpt_path=checkpoint)
    return watcher


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("workers", [0, 1])
def test_lightning_tells_the_sampler_the_epoch_also_after_a_resume(store: str, tmp_path: Path, workers: int) -> None:
    undisturbed = fit(data(store, workers=workers), 4, tmp_path).seen
    dataset = data(store).dataset("train")
    for epoch in range(4):
        expected = [
            (int(dataset.stores[0].time[pick.initial]), pick.leads[0]) for pick in dataset.epoch(0, epoch, shuffle=True)
        ]
        assert expected == [pair for e, *pairs in undisturbed if e == epoch for pair in zip(*pairs, strict=True)]
    assert undisturbed[0][1:] != undisturbed[4][1:]
    # Checkpoints are saved after validation or at the very end of an epoch.
    for at_end in (True, False):
        first = fit(data(store, workers=workers), 2, tmp_path, at_end=at_end).seen
        checkpoint = tmp_path / str(at_end) / "2.ckpt"
        assert first + fit(data(store, workers=workers), 4, tmp_path, checkpoint, at_end=at_end).seen == undisturbed


class _Ranges(SimpleHTTPRequestHandler):
    """Serves files and the parts of them that Zarr's shards are read by."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        content, status = path.read_bytes(), 200
        if wanted := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = wanted.groups()
            start = int(first) if first else len(content) - int(last)
            content, status = content[start : int(last) + 1 if first and last else None], 206
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@pytest.fixture
def address(store: str) -> Iterator[str]:
    handler = partial(_Ranges, directory=str(Path(store).parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{Path(store).name}"
        server.shutdown()


def test_workers_on_a_store_behind_an_address_start_afresh_and_read_what_one_process_reads(
    store: str, address: str
) -> None:
    """A fork would not take along the thread that holds the connections."""
    assert data(store, workers=1).val_dataloader().multiprocessing_context is None
    loader = data(address, workers=1).val_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "forkserver"
    sent = pickle.loads(pickle.dumps(loader.dataset))
    pick = sent.picks[3]
    ours, theirs = sent[[pick]], data(store).dataset("validate")[[pick]]
    assert torch.equal(ours.inputs.values, theirs.inputs.values)
    assert torch.equal(ours.inputs.frame.time, theirs.inputs.frame.time)
