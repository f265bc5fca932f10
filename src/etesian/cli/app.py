"""The application, and the kinds of options that its commands take."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

Words = Annotated[list[str], Parameter(consume_multiple=True, negative=())]
Numbers = Annotated[list[int], Parameter(consume_multiple=True, negative=())]
Dates = Annotated[tuple[str, str], Parameter(negative=())]
Switch = Annotated[bool, Parameter(negative=())]

app = App(
    name="etesian",
    help="Train, run and judge learned models of the atmosphere and ocean.",
    help_format="plaintext",
    version_flags=["--version", "-V"],
)


@app.command
def completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    """A script that completes commands and options in a shell, such as `source <(etesian completion bash)`.

    Args:
        shell: that is to run the script.
    """
    print(app.generate_completion(shell=shell))
