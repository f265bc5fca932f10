"""Commands run in the process of the tests."""

from etesian.cli.main import main


def etesian(*words: object) -> None:
    """Run a command in this process; any exit status but 0 fails."""
    status: int | str | None = 0
    try:
        main([str(word) for word in words])
    except SystemExit as stop:
        status = stop.code
    assert not status, words
