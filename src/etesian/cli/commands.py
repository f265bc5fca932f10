"""The commands: what each takes, in words; each calls one verb of the library and prints what it returns.

Nothing but signatures is needed to parse and to help, so the library is imported inside the commands.
"""

from etesian.cli import results
from etesian.cli.app import app
from etesian.cli.data import simulate
from etesian.cli.training import TRUSTED

__all__ = ["TRUSTED", "app", "results", "simulate"]

for group in (app, simulate):
    for name in group:
        if not name.startswith("-"):
            # Completion does not inherit it, as help does, and reads every word as Markdown, which takes as long again.
            group[name].help_format = "plaintext"
