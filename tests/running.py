"""Commands run in the process of the tests, and functions of tests in processes of their own."""

import os
import re
import runpy
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import start_processes

from etesian.cli.main import main
from etesian.training.measuring import answer
from etesian.training.prediction import PredictionWriter

# One process imports the library, once, and all others are forked from it: each would take seconds to import it.
get_context("forkserver").set_forkserver_preload(
    ["lightning", "etesian.forecast.data", "etesian.forecast.latent", "etesian.networks.weathermesh"]
)


def etesian(*words: object) -> None:
    """Run a command in this process; any exit status but 0 fails."""
    status: int | str | None = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    assert not status, words


def commands(page: Path) -> list[str]:
    """Return the lines of a page that are commands, continued lines put together, without what follows # or >."""
    text = re.sub(r"\\\n#?\s*", " ", page.read_text(encoding="utf-8"))
    lines = re.findall(r"^(?:#\s+|\s*)etesian ([^`\n]*)$", text, re.M)
    return [re.split(r"\s+[#>]\s", line)[0].replace("…", "") for line in lines]


@contextmanager
def interrupted_after(blocks: int) -> Iterator[list[list[int]]]:
    """Interrupt what writes forecasts after so many blocks, which are given."""
    real, written = PredictionWriter.write, list[list[int]]()

    def write(self: PredictionWriter, some: list[int], parts: Any) -> bool:
        if len(written) == blocks:
            raise KeyboardInterrupt
        written.append(some)
        return real(self, some, parts)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PredictionWriter, "write", write)
        with pytest.raises(KeyboardInterrupt):
            yield written


def train_together(processes: int, work: Callable[..., None], *arguments: object) -> None:
    """Call a function of a test in several processes that know each other as torchrun's do; all end as they should.

    Raises:
        torch.multiprocessing.ProcessExitedException: if one was killed.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # A test is no module that another process could import, so its function travels by file and name.
    where = (work.__code__.co_filename, work.__name__)
    start_processes(_work, (processes, port, where, arguments), nprocs=processes, start_method="forkserver")


def measured_here(words: list[str], **_: Any) -> SimpleNamespace:
    """Answer `preflight.measure` here: a process of its own takes seconds to start."""
    answer(*words[3:])
    return SimpleNamespace(stdout="")


def call(path: str, name: str, *arguments: object) -> None:
    """Call a function of a test by its file and name, as a process of its own does."""
    runpy.run_path(path)[name](*arguments)


def _work(rank: int, processes: int, port: int, where: tuple[str, str], arguments: tuple[object, ...]) -> None:
    os.environ |= {
        "TORCHELASTIC_RUN_ID": "test", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
        "WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes), "RANK": str(rank), "LOCAL_RANK": str(rank),
    }  # fmt: skip
    torch.set_num_threads(1)
    call(*where, *arguments)
