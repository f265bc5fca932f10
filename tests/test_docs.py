"""The pages name commands, options and files that there are."""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError
from running import commands

import etesian as et
from etesian.cli.main import app

ROOT = Path(__file__).parents[1]
HOUSE = ROOT / "src" / "etesian"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((HOUSE / "recipes").glob("*.yaml"))]


@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=lambda page: page.name)
def test_every_command_of_the_pages_and_recipes_is_one_that_there_is(page: Path) -> None:
    for line in commands(page):
        try:
            app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)
        except CycloptsError as error:
            pytest.fail(f"etesian {line}: {error}")


def test_the_pages_hold_commands_of_every_job() -> None:
    verbs = {line.split()[0] for page in PAGES for line in commands(page)}
    assert verbs >= {"prepare", "fit", "forecast", "fill", "downscale", "project", "evaluate", "simulate", "doctor"}


def test_what_is_said_to_those_who_come_from_elsewhere_exists() -> None:
    spans = re.findall(r"`([^`]+)`", (ROOT / "docs" / "coming_from.md").read_text(encoding="utf-8"))
    lines = [span.split(" > ")[0].removeprefix("etesian ") for span in spans if span.startswith("etesian ")]
    whole = [line for line in lines if " " in line and "…" not in line]
    assert len(whole) > 20
    for line in whole:
        app.parse_args(shlex.split(line), exit_on_error=False, print_error=False)
    shipped = {words[1] for line in lines if (words := line.split())[0] == "fit" and len(words) > 1}
    assert shipped - {"-c"} <= set(et.recipes())
    named = {name for span in spans for name in re.findall(r"\b(?:et|etesian)\.(\w+)", span)}
    assert named > {"AtmoDistance", "evaluate", "GapFiller"}
    assert [name for name in sorted(named) if not hasattr(et, name)] == []


def test_the_house_is_drawn_as_it_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = set(re.findall(r"`((?:\w+/)?\w+\.py)`", page))
    assert len(drawn) > 30
    assert [name for name in sorted(drawn) if not (HOUSE / name).is_file()] == []
    table = page.split("| folder | holds |")[1].split("\n\n")[0]
    folders = {folder.name for folder in HOUSE.iterdir() if folder.is_dir() and not folder.name.startswith("_")}
    assert set(re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line))) == (
        folders - {"cli"}
    )
