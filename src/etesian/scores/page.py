"""Pages that open offline, in any browser: their parts."""

import base64
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from etesian.scores.tables import days, is_win, title, with_best, with_units

STYLE = """
:root{--ink:#22292e;--soft:#5b666e;--line:#dfe4e7;--ground:#fff;--card:#f6f8f9;--accent:#0b6e99}
@media (prefers-color-scheme:dark){:root{--ink:#e6eaed;--soft:#a0abb3;--line:#343c42;--ground:#15191c;--card:#1d2327;
--accent:#5cb8de}img{filter:brightness(.92)}}
*{box-sizing:border-box}body{margin:0 auto;max-width:1120px;padding:2.5rem 1.5rem 5rem;background:var(--ground);
color:var(--ink);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:2rem;line-height:1.2;margin:0 0 .3rem}h2{font-size:1.3rem;margin:3rem 0 .6rem}
h3{font-size:1.02rem;margin:1.6rem 0 .4rem}.lead,.note,figcaption{color:var(--soft)}.note{font-size:.9rem}
ul.verdicts{list-style:none;padding:0;margin:1.2rem 0}ul.verdicts li{background:var(--card);
border-left:4px solid var(--accent);border-radius:4px;padding:.55rem .9rem;margin:.4rem 0}
ul.verdicts li.no{border-color:#c8553d}
figure{margin:1rem 0}figure img{max-width:100%;border-radius:6px;background:#fff;border:1px solid var(--line)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.9rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600;color:var(--soft)}td:first-child,th:first-child,td.name,th.name{text-align:left}
td.coloured{color:#1c2226}td.bad{color:#c8553d;font-weight:600}tbody tr:hover{background:var(--card)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;font-size:.93rem}dt{color:var(--soft)}
dd{margin:0}
"""


def save_pictures(figures: Iterable[tuple[str, Figure]], folder: Path) -> dict[str, bytes]:
    """Write figures as PNG files, and return their data by name."""
    pictures = {}
    for name, figure in figures:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        pictures[name] = buffer.getvalue()
        (folder / f"{name}.png").write_bytes(pictures[name])
    return pictures


def page(heading: str, parts: Sequence[str]) -> str:
    """Return a page that needs nothing else."""
    body = "\n".join(parts)
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width,initial-scale=1'>"
        f"<title>{text(heading)}</title><style>{STYLE}</style></head><body>\n{body}\n</body></html>\n"
    )


def text(value: object) -> str:
    """Return a value as it may stand in a page."""
    return html.escape(str(value))


def table(head: list[str], rows: list[list[str]], names: int) -> str:
    """Lay out a table; the first columns are names. Cells that are no complete cell yet become one."""
    first = "".join(f"<th class='name'>{cell}</th>" for cell in head[:names])
    first += "".join(f"<th>{cell}</th>" for cell in head[names:])
    body = ""
    for row in rows:
        cells = [f"<td class='name'>{cell}</td>" for cell in row[:names]]
        cells += [cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row[names:]]
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<div class='scroll'><table><thead><tr>{first}</tr></thead><tbody>{body}</tbody></table></div>"


def named(scores: xr.Dataset, channel: str) -> str:
    """Return a channel with its units."""
    return text(with_units(title(channel), "rmse", str(scores.units.sel(channel=channel).values)))


def by_lead(scores: xr.Dataset, groups: Iterable[tuple[str, xr.DataArray, xr.DataArray]], names: Sequence[str]) -> str:
    """Return a table of leads with a row for each forecast.

    Args:
        scores: whose leads they are.
        groups: what heads the rows of a group, its score over (forecast, lead_time), and the best at each lead.
        names: of the forecasts.
    """
    rows = []
    for head, score, best in groups:
        for row, name in enumerate(names):
            own, least = (each.sel(forecast=name).values for each in xr.broadcast(score, best))
            rows.append([head if row == 0 else "", text(name), *with_best(own, least, "<b>{}</b>")])
    return table(["", "", *(days(lead) for lead in scores.lead_time.values)], rows, 2)


def verdict_list(sentences: Sequence[str]) -> str:
    """List verdicts, those that are no win marked."""
    mark = {True: "", False: " class='no'"}
    items = "".join(f"<li{mark[is_win(item)]}>{text(item)}</li>" for item in sentences)
    return f"<ul class='verdicts'>{items}</ul>"


def provenance(entries: Mapping[str, object]) -> str:
    """List what was compared, and what it was made with."""
    return "<dl>" + "".join(f"<dt>{key}</dt><dd>{text(value)}</dd>" for key, value in entries.items()) + "</dl>"


def picture(data: bytes, caption: str, kind: str = "png") -> str:
    """Return a picture that lies in the page itself."""
    encoded = base64.b64encode(data).decode()
    return f"<figure><img alt='{text(caption)}' src='data:image/{kind};base64,{encoded}'></figure>"
