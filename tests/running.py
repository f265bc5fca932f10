"""Commands run in the process of the tests."""

import re
from pathlib import Path

from etesian.cli.main import main


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
