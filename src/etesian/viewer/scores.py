"""The page of scores: curves over lead time, or one number for each forecast, with 95 % intervals."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import panel as pn
import xarray as xr

from etesian.scores.plots import colours
from etesian.scores.tables import references, with_units
from etesian.viewer.figures import score_figure

_DIMS = {"forecast", "channel", "region"}


class ScorePage:
    """What is seen of scores, and what chooses it.

    Attributes:
        widgets: by name: scores, score, channel, region.
        changed: called with nothing after each change.
    """

    def __init__(self, scores: Mapping[str, xr.Dataset]) -> None:
        self.scores = dict(scores)
        self.changed: Callable[[], None] = lambda: None
        wide = {"sizing_mode": "stretch_width"}
        self.widgets: dict[str, Any] = {
            name: pn.widgets.Select(label=name.capitalize(), options=[], **wide)
            for name in ("scores", "score", "channel", "region")
        }
        self.widgets["scores"].param.update(options=list(self.scores), value=next(iter(self.scores)))
        self.pane = pn.Column()
        self.view = pn.Row(pn.Column(*self.widgets.values(), width=260), self.pane)
        self._settling = False
        for name, widget in self.widgets.items():
            widget.param.watch(lambda _, name=name: self._settle() if name == "scores" else self._draw(), "value")
        self._settle()

    def state(self) -> dict[str, str]:
        """Return what is shown as text."""
        return {name: str(widget.value) for name, widget in self.widgets.items()}

    def restore(self, state: Mapping[str, str]) -> None:
        """Show what `state` told, where it is there."""
        for name, widget in self.widgets.items():
            if state.get(name) in widget.options:
                widget.value = state[name]

    def curves(self) -> dict[str, tuple[Any, Any, Any | None, str, str]]:
        """Return what is drawn of each forecast: x, values, interval or None, colour and dash."""
        chosen, score = self._chosen(), self.widgets["score"].value
        drawn = {}
        for name, colour in colours(self.scores[self.widgets["scores"].value]).items():
            part = chosen.sel(forecast=name)
            values = np.atleast_1d(part[score].values)
            if not np.isfinite(values).any():
                continue
            ends = [np.atleast_1d(part[f"{score}_{end}"].values) for end in ("low", "high") if f"{score}_{end}" in part]
            interval = ends if len(ends) == 2 and np.isfinite(ends[0]).all() else None
            where = part.lead_time.values / 24 if "lead_time" in part.dims else [name]
            dash = "dashed" if name in references(chosen) else "solid"
            drawn[name] = (where, values, interval, colour, dash)
        return drawn

    def _chosen(self) -> xr.Dataset:
        held = self.scores[self.widgets["scores"].value]
        return held.sel(channel=self.widgets["channel"].value, region=self.widgets["region"].value)

    def _settle(self) -> None:
        held = self.scores[self.widgets["scores"].value]
        self._settling = True
        names = [
            str(name)
            for name, array in held.data_vars.items()
            if _DIMS <= set(array.dims) <= _DIMS | {"lead_time"}
            and not str(name).endswith(("_low", "_high"))
            and array.dtype.kind == "f"
        ]
        offered = {"score": names, "channel": held.channel.values.tolist(), "region": held.region.values.tolist()}
        for name, options in offered.items():
            widget = self.widgets[name]
            first = "rmse" if name == "score" and "rmse" in options else options[0]
            widget.param.update(options=options, value=widget.value if widget.value in options else first)
        self._settling = False
        self._draw()

    def _draw(self) -> None:
        if self._settling:
            return
        chosen, score = self._chosen(), self.widgets["score"].value
        curves = self.curves()
        categories = [] if "lead_time" in chosen[score].dims else list(curves)
        y = with_units(score, score, str(chosen.units.values) if "units" in chosen else "")
        floor = score in ("rmse", "mae", "crps", "spread")
        self.pane.objects = [pn.pane.Bokeh(score_figure(curves, "Lead (days)", y, floor, categories))]
        self.changed()
