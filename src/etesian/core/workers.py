"""Who does the work: this process and its threads, or the workers of a Dask cluster."""

import asyncio
import os
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import CancelledError, wait
from functools import cached_property
from threading import Lock
from time import monotonic
from types import TracebackType
from typing import Any, TypeVar
from uuid import uuid4

import dask
import torch
from dask import threaded
from dask.utils import parse_bytes, parse_timedelta
from threadpoolctl import threadpool_limits

from etesian.core.errors import EtesianError, RecipeError

Job = TypeVar("Job")
Block = TypeVar("Block")
Result = TypeVar("Result")

_BYTES_PER_TASK = 2**29

LOOK_EVERY = 5.0
"""Seconds between two looks at whether a cluster has workers."""

PATIENCE = 120.0
"""Seconds that a cluster may be without any, where Dask's `distributed.scheduler.no-workers-timeout` does not say."""

RESTART = "10 minutes"
"""What a worker that was ended may take to start again here, before Dask's cluster does without it. Dask's own 15 s are
less than a busy machine needs to import the library."""

_jobs: dict[str, tuple[Lock, Any]] = {}
"""What this process has built of the work that it was last given, by the name of the work."""

_building = Lock()


class Workers:
    """Does work in blocks: on a Dask cluster, or in this process.

    Args:
        scheduler: address of a cluster; `local` for as many processes on this machine as it has cores, `gpus` for one
            for each of its GPUs; None means this process.
        memory_limit: what the threads of this process may use, such as `4GB`; None means no limit.

    Attributes:
        elsewhere: whether the work is done by other processes.

    Raises:
        RecipeError: if the limit is no amount of memory; at the first work, if no cluster answers, or Dask's cluster is
            not installed.
    """

    def __init__(self, scheduler: str | None = None, memory_limit: str | None = None) -> None:
        self._cluster: Any = None
        self.scheduler, self.elsewhere = scheduler, scheduler is not None
        self._settings: Any = None
        self.threads = os.cpu_count() or 1
        if memory_limit is not None:
            try:
                allowed = parse_bytes(memory_limit)
            except ValueError:
                raise RecipeError(f"'{memory_limit}' is no amount of memory; write 4GB or 512MB") from None
            self.threads = max(1, min(self.threads, allowed // _BYTES_PER_TASK))

    @property
    def at_once(self) -> int:
        """How many large tasks to give to `compute` together; workers may come while there is work already."""
        if not self.elsewhere:
            return self.threads
        try:
            threads: dict[str, int] = self._client.nthreads()
        except OSError:
            raise self._gone() from None
        return max(1, sum(threads.values()))

    @cached_property
    def _client(self) -> Any:
        scheduler = self.scheduler
        try:
            from distributed import Client
        except ImportError:
            raise RecipeError(
                f"the scheduler '{scheduler}' needs Dask's cluster; install it with pip install 'etesian[cluster]', or "
                "leave it out"
            ) from None
        try:
            if scheduler in ("local", "gpus"):
                self._settings = dask.config.set({"distributed.deploy.lost-worker-timeout": RESTART})
                self._cluster = _processes(scheduler, self.threads)
            return Client(self._cluster or scheduler, timeout=30, set_as_default=False)
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"no Dask cluster answers at '{scheduler}' ({error}); start one, say local, or leave it out"
            ) from None

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        """Compute Dask collections together.

        With one thread of linear algebra each, on a cluster as here: how sums are divided among threads shows in their
        last bits.

        Raises:
            EtesianError: if the work has ended several workers, or there are none to do it.
        """
        if self.elsewhere:
            # Dask starts its workers with one thread each for linear algebra.
            return self._results(self._client.compute(list(collections)))
        with threadpool_limits(1, "blas"):
            return list(dask.compute(*collections, scheduler=threaded.get, num_workers=self.threads))

    def each(
        self, build: Callable[[], Job], work: Callable[[Job, Block], Result], blocks: Sequence[Block]
    ) -> Generator[Result, None, None]:
        """Yield what becomes of each block, in the order of the blocks, whoever is ready first.

        On a cluster every process builds the job once and works on one block at a time.

        Args:
            build: makes what all blocks need; for a cluster it must be a function of a module, or `partial` of one.
            work: from the job and a block to a result; like `build`.
            blocks: of work.

        Raises:
            EtesianError: if a block has ended several workers, or there are none to do it.
        """
        if not self.elsewhere:
            job = build()
            for block in blocks:
                yield work(job, block)
            return
        client, name = self._client, uuid4().hex
        # By way of a future, so that each worker is sent the instructions once, whatever they hold.
        instructions = client.submit(_as_given, build, key=f"job-{name}")
        pending: deque[Any] = deque()
        left = iter(enumerate(blocks))
        try:
            while True:
                while len(pending) < 2 * self.at_once and (following := next(left, None)) is not None:
                    number, block = following
                    key = f"block-{name}-{number}"
                    pending.append(client.submit(_do, instructions, name, work, block, key=key))
                if not pending:
                    return
                (result,) = self._results([pending[0]])
                pending.popleft()
                yield result
        finally:
            client.cancel([instructions, *pending])

    def _results(self, futures: list[Any]) -> list[Any]:
        """Wait for results, for as long as there is somebody to make them.

        Dask itself does work again that a worker was ended at, gives up what has ended several, and waits for workers
        without end.
        """
        from distributed import KilledWorker

        # Waiting is not interrupted by a look: to gather what is large may take longer than there is between two.
        gathering = self._client.gather(futures, asynchronous=True)
        gathered = asyncio.run_coroutine_threadsafe(gathering, self._client.loop.asyncio_loop)
        patience = parse_timedelta(dask.config.get("distributed.scheduler.no-workers-timeout", None) or PATIENCE)
        seen = monotonic()
        try:
            while not wait([gathered], LOOK_EVERY).done:
                if self._able():
                    seen = monotonic()
                elif monotonic() - seen > patience:
                    raise EtesianError(
                        f"the cluster at '{self.scheduler}' has had no worker for {patience:g} s that takes work; see "
                        "why in their logs (they end, or pause, for lack of memory), start some, and repeat the command"
                    )
            return list(gathered.result())
        except KilledWorker as error:
            raise EtesianError(
                f"a block of the work has ended {error.allowed_failures + 1} of the workers, most likely for lack of "
                "memory; give each worker more, or make batches smaller"
            ) from None
        except CancelledError:
            raise self._gone() from None

    def _able(self) -> bool:
        """Whether any worker takes work, or is busy with some, as far as the scheduler says."""
        try:
            workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        except OSError:
            return False
        return any(w["status"] == "running" or w["metrics"]["task_counts"].get("executing") for w in workers)

    def _gone(self) -> EtesianError:
        return EtesianError(
            f"the scheduler of the cluster at '{self.scheduler}' is gone; start it and its workers again, and repeat "
            "the command"
        )

    def close(self) -> None:
        """Let go of the cluster, and end one that was started here."""
        if (client := self.__dict__.get("_client")) is not None:
            client.close()
        if self._cluster is not None:
            self._cluster.close()
        if self._settings is not None:
            self._settings.__exit__(None, None, None)

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _processes(kind: str, count: int) -> Any:
    """Start a cluster on this machine: so many processes of one thread, or one for each GPU, which sees that one only.

    Raises:
        RecipeError: if there is no GPU.
    """
    from distributed import LocalCluster, Nanny, Scheduler, SpecCluster

    # Nobody looks at a dashboard of so short a life. What is mapped into memory is no reason to end a worker.
    if kind == "local":
        return LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=None, memory_limit=0)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(torch.cuda.device_count())))).split(",")
    if not torch.cuda.device_count():
        raise RecipeError("there is no GPU here; say local for a process on each core")
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False}
    workers = {
        number: {"cls": Nanny, "options": options | {"env": {"CUDA_VISIBLE_DEVICES": gpu}}}
        for number, gpu in enumerate(visible)
    }
    return SpecCluster(workers, {"cls": Scheduler, "options": {"dashboard": False, "port": 0}})


def _as_given(build: Callable[[], Job]) -> Callable[[], Job]:
    return build


def _do(build: Callable[[], Job], name: str, work: Callable[[Job, Block], Result], block: Block) -> Result:
    """Work on a block, in a process of a cluster."""
    # What is opened lazily is read here: given to the cluster, it would wait for the process that waits for it.
    with dask.config.set(scheduler="synchronous"):
        with _building:
            if name not in _jobs:
                _jobs.clear()
                _jobs[name] = Lock(), build()
            lock, job = _jobs[name]
        with lock:
            return work(job, block)
