"""The page of fields: a map, or forecast, truth and error side by side; series and spectra below."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import panel as pn
import xarray as xr
from bokeh.models import LinearColorMapper, Range1d
from jaxtyping import Float
from numpy.typing import NDArray

from etesian.core.channels import Channel
from etesian.core.clock import parse_time
from etesian.core.errors import DataError, EtesianError
from etesian.scores.maps import DIVERGING, STYLE, largest_value, value_range
from etesian.scores.readers_units import Spoken, spoken
from etesian.scores.series import check_match
from etesian.scores.tables import days, pretty_units, title
from etesian.store.derive import power_spectrum
from etesian.viewer.figures import Curves, MapPanel
from etesian.viewer.sources import MEAN, Source, Window, axes_of, window

_DATED = ("standard", "proleptic_gregorian", "gregorian")
"""Calendars whose dates Bokeh can draw."""

_CHOSEN = ("data", "variable", "level", "lead", "member", "units")
"""Widgets that offer what there is, in the order in which one decides what the next can offer."""

_WIDTH = {1: 900, 3: 400}
"""Pixels of a map, by how many stand side by side."""


class FieldPage:
    """What is seen of fields, and what moves it.

    Args:
        sources: to choose among.
        truth: what really happened, to show beside all others; by default beside forecasts the first fields without
            leads on their grid.

    Attributes:
        widgets: by name: data, variable, level, time, lead, member, units.
        maps: `shown`, and with a truth `truth` and `error`.
        changed: called with nothing after each change, to keep the address of the page.
    """

    def __init__(self, sources: list[Source], truth: Source | None = None) -> None:
        self.sources = {source.name: source for source in sources}
        self._given_truth = truth
        self.place: tuple[float, float] | None = None
        self.maps: dict[str, MapPanel] = {}
        self.changed: Callable[[], None] = lambda: None
        self._settling = False
        names = list(self.sources)
        wide = {"sizing_mode": "stretch_width"}
        self.widgets: dict[str, Any] = {
            "data": pn.widgets.Select(label="Data", options=names, **wide),
            "variable": pn.widgets.Select(label="Variable", options=[], **wide),
            "level": pn.widgets.DiscreteSlider(label="Level (hPa)", options=[0], **wide),
            "time": pn.widgets.IntSlider(label="Time", start=0, end=1, **wide),
            "date": pn.widgets.TextInput(label="Date", **wide),
            "lead": pn.widgets.DiscreteSlider(label="Lead (h)", options=[0], **wide),
            "member": pn.widgets.DiscreteSlider(label="Member", options=[MEAN], **wide),
            "units": pn.widgets.RadioButtonGroup(label="Units", options=["data", "reader"], value="data", **wide),
            "spectra": pn.widgets.Checkbox(label="Spectra", value=False),
        }
        self._rescale = pn.widgets.Button(label="Colours from this map", **wide)
        self.message = pn.pane.Alert("", alert_type="warning", visible=False)
        self.heading = pn.pane.Markdown("")
        self._top = pn.Row()
        self._bottom = pn.Row()
        shown = ["data", "variable", "level", "time", "date", "lead", "member", "units", "spectra"]
        self.view = pn.Row(
            pn.Column(*(self.widgets[name] for name in shown), self._rescale, width=260),
            pn.Column(self.message, self.heading, self._top, self._bottom),
        )
        self.widgets["data"].param.watch(lambda _: self._settle(), "value")
        self.widgets["variable"].param.watch(lambda _: self._settle(), "value")
        self.widgets["date"].param.watch(lambda event: self._go_to(event.new), "value")
        for name in ("time", "lead", "member", "spectra"):
            self.widgets[name].param.watch(lambda _: self._redraw(), "value")
        for name in ("level", "units"):
            self.widgets[name].param.watch(lambda _: self._redraw(rescale=True), "value")
        self._rescale.on_click(lambda _: self._redraw(rescale=True))
        self._settle()

    @property
    def source(self) -> Source:
        """The fields that are shown."""
        return self.sources[self.widgets["data"].value]

    @property
    def channel(self) -> Channel:
        """The channel that is shown."""
        name = self.widgets["variable"].value
        return next(
            c for c in self.source.channels if c.name == name and c.level in (None, self.widgets["level"].value)
        )

    @property
    def truth(self) -> Source | None:
        """What is shown beside the fields, if anything is."""
        others = list(self.sources.values()) if self._given_truth is None else [self._given_truth]
        if self._given_truth is None and not self.source.is_forecast:
            return None
        fitting = (
            each
            for each in others
            if not each.is_forecast and each.name != self.source.name and self.channel in each.channels
        )
        return next((each for each in fitting if self._given_truth or each.grid == self.source.grid), None)

    def state(self) -> dict[str, str]:
        """Return what is shown as text, for the address of the page."""
        west, east, south, north = self._edges()
        held = {name: str(self.widgets[name].value) for name in _CHOSEN}
        held |= {"time": self.source.times[self.widgets["time"].value]}
        held |= {"map": ",".join(f"{edge:.2f}" for edge in (south, north, west, east))}
        # What is left out keeps its old value in the address.
        held["spectra"] = "yes" if self.widgets["spectra"].value else "no"
        if self.place is not None:
            held["place"] = f"{self.place[0]:.3f},{self.place[1]:.3f}"
        return held

    def restore(self, state: Mapping[str, str]) -> None:
        """Show what `state` told; what is not there any more is left as it is."""
        widgets = self.widgets
        for name in _CHOSEN:
            options = widgets[name].options
            found = [option for option in options if str(option) == state.get(name)]
            if found:
                widgets[name].value = found[0]
        if state.get("time") in self.source.times:
            widgets["time"].value = self.source.times.index(state["time"])
        widgets["spectra"].value = state.get("spectra") == "yes"
        numbers = {key: _numbers(state.get(key, "")) for key in ("map", "place")}
        if len(numbers["map"]) == 4:
            south, north, west, east = numbers["map"]
            self._ranges[0].update(start=west, end=east)
            self._ranges[1].update(start=south, end=north)
        if len(numbers["place"]) == 2:
            self.place = (numbers["place"][0], numbers["place"][1])
        self._redraw()

    def click(self, latitude: float, longitude: float) -> None:
        """Show the series at a place."""
        self.place = (latitude, longitude)
        self._redraw()

    def _settle(self) -> None:
        """Offer what the data have, and keep what was chosen where they have it too."""
        if self._settling:
            return
        self._settling = True
        source, widgets = self.source, self.widgets
        _offer(widgets["variable"], list(dict.fromkeys(channel.name for channel in source.channels)))
        levels = [c.level for c in source.channels if c.name == widgets["variable"].value and c.level is not None]
        _offer(widgets["level"], levels or [0])
        _offer(widgets["lead"], source.leads or [0])
        _offer(widgets["member"], [MEAN, *source.members])
        widgets["time"].param.update(
            end=max(1, len(source.times) - 1), value=min(widgets["time"].value, len(source.times) - 1)
        )
        widgets["level"].visible = len(levels) > 1
        widgets["time"].visible = len(source.times) > 1
        widgets["lead"].visible = len(source.leads) > 1
        widgets["member"].visible = len(source.members) > 1
        self._settling = False
        self._build()
        self._redraw(rescale=True)

    def _build(self) -> None:
        source = self.source
        west, east, south, north = axes_of(source)
        names = ("shown",) if self.truth is None else ("shown", "truth", "error")
        self._ranges = (Range1d(west, east, bounds=(west, east)), Range1d(south, north, bounds=(south, north)))
        colours, errors = LinearColorMapper(low=0, high=1), LinearColorMapper(low=-1, high=1)
        self.maps = {
            name: MapPanel(source, _WIDTH[len(names)], self._ranges, errors if name == "error" else colours)
            for name in names
        }
        for panel in self.maps.values():
            panel.on_click(self.click)
        # Every map that shares the ranges is told of a move.
        self.maps["shown"].on_move(lambda: self._redraw(moved=True))
        dated = source.calendar in _DATED
        axis = "Lead (days)" if source.is_forecast else "Time" if dated else f"Days since {source.times[0]}"
        options = {} if source.is_forecast or not dated else {"x_axis_type": "datetime"}
        self._asked: tuple[Any, ...] | None = None
        self._when = np.zeros(0, dtype=np.int64)
        self.curves = Curves("Click on a map", axis, **options)
        self.spectrum = Curves("Spectrum", "Total wavenumber", x_axis_type="log", y_axis_type="log")
        self._top.objects = [pn.pane.Bokeh(panel.figure) for panel in self.maps.values()]
        self._bottom.objects = [pn.pane.Bokeh(self.curves.figure), pn.pane.Bokeh(self.spectrum.figure)]

    def _edges(self) -> tuple[float, float, float, float]:
        west, east, south, north = axes_of(self.source).tolist()
        x, y = self._ranges
        return tuple(  # type: ignore[return-value]
            float(default if edge is None or not np.isfinite(edge) else edge)
            for edge, default in ((x.start, west), (x.end, east), (y.start, south), (y.end, north))
        )

    def _windows(self, source: Source) -> tuple[Window, Window]:
        west, east, south, north = self._edges()
        width, height = self.maps["shown"].size
        return window(source.latitude_edges, south, north, height), window(source.longitude_edges, west, east, width)

    def _redraw(self, *, rescale: bool = False, moved: bool = False) -> None:
        if self._settling:
            return
        self.message.visible = False
        try:
            self._draw_maps(rescale=rescale)
            if not moved:
                self._draw_series()
                self._draw_spectra()
        except EtesianError as error:
            self.message.param.update(object=str(error), visible=True)
        # On a page of one's own the changes go there by themselves; a notebook has to be told.
        pn.io.push_notebook(self.view)
        self.changed()

    def _draw_maps(self, *, rescale: bool) -> None:
        source, channel, truth = self.source, self.channel, self.truth
        if ("truth" in self.maps) != (truth is not None):
            self._build()
            rescale = True
        time, lead, member = self._chosen()
        self._settling = True
        self.widgets["date"].value = source.times[time]
        self._settling = False
        reading = self._spoken(source, channel)
        rows, columns = self._windows(source)
        field = reading(source.field(channel, time, lead, member, rows.cells, source.columns[columns.cells]))
        after = f" + {days(source.leads[lead])}" if source.leads else ""
        of = "" if not source.members else ", mean of members" if member == MEAN else f", member {member}"
        self.heading.object = f"**{title(str(channel))}**, {source.times[time]}{after}"
        fields = {"shown": (f"{source.name}{of}", field)}
        if truth is not None:
            valid = source.valid(time, lead)
            true = self._true(truth, channel, valid, rows, columns)
            missing = "" if np.isfinite(true).any() else " (not there)"
            fields["truth"] = (f"{truth.name}: {source.date(valid)}{missing}", true)
            fields["error"] = ("Error", field - true)
        for name, (text, values) in fields.items():
            self.maps[name].show(text, values, rows, columns)
        if rescale:
            compared = [values for name, (_, values) in fields.items() if name != "error"]
            colours = value_range(str(channel), compared)
            self.maps["shown"].colour(*_apart(*colours), pretty_units(reading.units))
            if truth is not None:
                self.maps["truth"].colour(*_apart(*colours), pretty_units(reading.units))
                largest = largest_value([fields["error"][1]])
                self.maps["error"].colour(*_apart(DIVERGING, -largest, largest), pretty_units(reading.units))

    def _true(
        self, truth: Source, channel: Channel, valid: int, rows: Window, columns: Window
    ) -> Float[np.ndarray, "lat lon"]:
        position = truth.find(valid, self.source.calendar) if self._fits(truth, channel) else None
        if position is None:
            return np.full((len(rows.cells), len(columns.cells)), np.nan)
        field = truth.field(channel, position, rows=rows.cells, columns=truth.columns[columns.cells])
        return np.asarray(self._spoken(truth, channel)(field))

    def _fits(self, truth: Source, channel: Channel) -> bool:
        """Whether a truth can be compared with what is shown; if not, the message says why."""
        try:
            check_match(self.source.series, truth.series, [channel])
        except EtesianError as error:
            self.message.param.update(object=str(error), visible=True)
            return False
        return True

    def _draw_series(self) -> None:
        for panel in self.maps.values():
            x, y = ([], []) if self.place is None else ([self.place[1]], [self.place[0]])
            panel.place.data = {"x": x, "y": y}
        if self.place is None:
            return
        source, channel, truth = self.source, self.channel, self.truth
        time, lead, _ = self._chosen()
        row, column = source.nearest(*self.place)
        reading = self._spoken(source, channel)
        now = int(source.seconds[time])
        asked = (source.name, channel, row, column, reading, now if source.leads else None)
        if asked == self._asked and (source.leads or self._when[0] <= now <= self._when[-1]):
            # A series is long to read where files hold whole maps; while it holds the time, the mark moves along it.
            self._mark(lead)
            return
        when, read = source.series_at(channel, row, column, time)
        self._asked, self._when = asked, when
        values = reading(read)
        x = self._axis(when, now)
        curves, names = self.curves, ["values"]
        north, east = source.grid.latitude[row], (source.grid.longitude[column] + 180) % 360 - 180
        where = f"{abs(north):.2f}°{'S' if north < 0 else 'N'}, {abs(east):.2f}°{'W' if east < 0 else 'E'}"
        curves.figure.title.text = f"{title(str(channel))} at {where}"
        curves.figure.yaxis.axis_label = pretty_units(reading.units)
        self._mark(lead)
        style = {"color": "#0b6e99", "line_width": 2, "dots": True}
        if source.members:
            apart = [x] * values.shape[1], list(values.T)
            curves.line("members", *apart, color="#6fb1cf", line_width=0.8, line_alpha=0.8, many=True)
            names.append("members")
        curves.line(
            "values", x, values.mean(axis=1), label="mean of members" if source.members else source.name, **style
        )
        if truth is not None and self._fits(truth, channel):
            seen = self._spoken(truth, channel)(truth.at_times(channel, *truth.nearest(*self.place), when))
            curves.line("truth", x, seen.mean(axis=1), color=STYLE["text"], line_width=1.5, dots=True)
            names.append("truth")
        curves.keep(names)

    def _mark(self, lead: int) -> None:
        """Mark the time that the map shows."""
        time = self.widgets["time"].value
        shown = self.source.seconds[[time]] if not self.source.leads else self._when[[lead]]
        self.curves.span.location = self._axis(shown, int(self.source.seconds[time]))[0]

    def _axis(self, when: NDArray[np.int64], start: int) -> list[float]:
        """Return times as the axis of a series has them: days after the initial time, or dates in milliseconds."""
        if self.source.is_forecast:
            return ((when - start) / 86400).tolist()  # type: ignore[no-any-return]
        if self.source.calendar in _DATED:
            return (when * 1000).tolist()  # type: ignore[no-any-return]
        return ((when - self.source.seconds[0]) / 86400).tolist()  # type: ignore[no-any-return]

    def _draw_spectra(self) -> None:
        wanted = self.widgets["spectra"].value
        self.spectrum.figure.visible = wanted
        if not wanted:
            return
        source, channel, truth = self.source, self.channel, self.truth
        time, lead, member = self._chosen()
        self._spectrum_of("values", source, channel, source.field(channel, time, lead, member), color="#0b6e99")
        names = ["values"]
        if truth is not None and self._fits(truth, channel):
            position = truth.find(source.valid(time, lead), source.calendar)
            if position is not None:
                self._spectrum_of("truth", truth, channel, truth.field(channel, position), color=STYLE["text"])
                names.append("truth")
        self.spectrum.keep(names)

    def _spectrum_of(
        self, name: str, source: Source, channel: Channel, field: Float[np.ndarray, "lat lon"], **style: Any
    ) -> None:
        axes = {"latitude": source.grid.latitude, "longitude": source.grid.longitude}
        if not np.isfinite(field).all():
            raise DataError(f"{source.name} has missing values on this map; spectra are of whole globes")
        values = self._spoken(source, channel)(field)
        power = power_spectrum(xr.DataArray(np.asarray(values, dtype=np.float64), axes, ("latitude", "longitude")))
        waves = np.arange(1, power.sizes["wavenumber"])
        # What rounding leaves of smooth fields would stretch the axis.
        seen = np.maximum(power.values[1:], 1e-10 * power.values[1:].max())
        self.spectrum.line(name, waves, seen, label=source.name, line_width=2, **style)

    def _chosen(self) -> tuple[int, int, int | str]:
        """Return the positions of time and lead, and the member."""
        source, widgets = self.source, self.widgets
        lead = source.leads.index(widgets["lead"].value) if source.leads else 0
        return widgets["time"].value, lead, widgets["member"].value

    def _spoken(self, source: Source, channel: Channel) -> Spoken:
        units = source.series.units(channel)
        return spoken(str(channel), units) if self.widgets["units"].value == "reader" else Spoken(units)

    def _go_to(self, text: str) -> None:
        if self._settling:
            return
        try:
            seconds = parse_time(text, self.source.calendar)
        except EtesianError as error:
            self.message.param.update(object=str(error), visible=True)
            return
        self.widgets["time"].value = int(np.abs(self.source.seconds - seconds).argmin())


def _offer(widget: Any, options: list[Any]) -> None:
    kept = widget.value if widget.value in options else options[0]
    widget.param.update(options=options, value=kept)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        return []


def _apart(colours: str, low: float, high: float) -> tuple[str, float, float]:
    """Return a scale whose ends differ, as Bokeh needs them to."""
    return colours, low, high if high > low else low + 1.0
