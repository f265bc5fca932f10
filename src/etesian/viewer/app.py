"""The whole page: fields and scores, and its address, which says what is seen."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import panel as pn
import xarray as xr

from etesian.core.errors import DataError
from etesian.viewer.fields import FieldPage
from etesian.viewer.scores import ScorePage
from etesian.viewer.sources import Source, read_sources

HOST = "127.0.0.1"
"""The page is for whoever sits at this machine: nobody else can open it."""

Held = str | Path | xr.Dataset


def build(paths: Sequence[Held], truth: Held | None = None) -> Any:
    """Return the page as a Panel object.

    Args:
        paths: what is looked at.
        truth: what really happened.

    Raises:
        EtesianError: if something cannot be read.
    """
    pn.extension()
    return _page(*_opened(paths, truth))


def serve(
    paths: Sequence[Held], truth: Held | None = None, *, port: int = 5006, show: bool = True, start: bool = True
) -> Any:
    """Serve the page on this machine until it is interrupted.

    Args:
        paths: what is looked at.
        truth: what really happened.
        port: of the page; 0 takes a free one.
        show: open a browser.
        start: whether to go on until interrupted; otherwise the server that is to be started is returned.

    Raises:
        DataError: if the port is taken; further as `build` does.
    """
    opened = _opened(paths, truth)
    port = port or _free_port()
    try:
        return pn.serve(
            {"view": lambda: _page(*opened)}, port=port, address=HOST, show=show, start=start,
            websocket_origin=[f"{HOST}:{port}", f"localhost:{port}"],
            title="etesian", verbose=start,
        )  # fmt: skip
    except OSError as error:
        raise DataError(f"port {port} cannot be used ({error.strerror or error}); choose another with --port") from None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind((HOST, 0))
        return int(free.getsockname()[1])


def _opened(paths: Sequence[Held], truth: Held | None) -> tuple[list[Source], dict[str, xr.Dataset], Source | None]:
    """Open all; a truth that has the name of other fields is told apart from these."""
    fields, scores = read_sources(paths)
    if truth is None:
        return fields, scores, None
    name = "truth" if isinstance(truth, xr.Dataset) else Path(truth).name.removesuffix(".zarr")
    if name in [source.name for source in fields] and str(truth) not in map(str, paths):
        name += " (truth)"
    return fields, scores, Source(name, truth)


def _page(fields: list[Source], scores: dict[str, xr.Dataset], truth: Source | None) -> Any:
    """Make a page of its own for everyone who opens it; what was read is shared."""
    pages: dict[str, FieldPage | ScorePage] = {}
    if fields:
        pages["Fields"] = FieldPage(fields, truth)
    if scores:
        pages["Scores"] = ScorePage(scores)
    tabs = pn.Tabs(*((name, page.view) for name, page in pages.items()))
    location = pn.state.location
    if location is None:
        return tabs
    asked = {name: str(value) for name, value in location.query_params.items()}
    for page in pages.values():
        page.restore(asked)
    if asked.get("page") in pages:
        tabs.active = list(pages).index(asked["page"])

    def tell() -> None:
        name = list(pages)[tabs.active]
        location.update_query(page=name, **pages[name].state())

    for page in pages.values():
        page.changed = tell
    tabs.param.watch(lambda _: tell(), "active")
    return tabs
