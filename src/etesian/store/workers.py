"""Who does the work: this machine's threads, or a Dask cluster."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import dask
from dask.utils import parse_bytes

from etesian.core.errors import RecipeError

_BYTES_PER_TASK = 2**29


class Workers:
    """Computes Dask collections on a cluster or on as many threads as memory allows.

    Args:
        scheduler: address of a cluster; None means threads of this machine.
        memory_limit: what the threads may use, such as `4GB`; None means no limit.

    Attributes:
        at_once: how many large tasks to give to `compute` together.

    Raises:
        RecipeError: if the limit is no amount of memory, or no cluster answers.
    """

    def __init__(self, scheduler: str | None, memory_limit: str | None) -> None:
        self._client: Any = None
        self.threads = self.at_once = os.cpu_count() or 1
        if memory_limit is not None:
            try:
                allowed = parse_bytes(memory_limit)
            except ValueError:
                raise RecipeError(f"'{memory_limit}' is no amount of memory; write 4GB or 512MB") from None
            self.threads = self.at_once = max(1, min(self.at_once, allowed // _BYTES_PER_TASK))
        if scheduler is not None:
            from distributed import Client

            try:
                self._client = Client(scheduler, timeout=10, set_as_default=False)
            except (OSError, ValueError) as error:
                raise RecipeError(
                    f"no Dask cluster answers at '{scheduler}' ({error}); start one, or leave it out"
                ) from None
            self.at_once = max(1, sum(self._client.nthreads().values()))

    def compute(self, collections: Sequence[Any]) -> list[Any]:
        """Compute collections together."""
        if self._client is not None:
            return list(self._client.gather(self._client.compute(list(collections))))
        return list(dask.compute(*collections, scheduler="threads", num_workers=self.threads))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            self._client.close()
