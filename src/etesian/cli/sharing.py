"""Commands by which trained runs travel."""

from etesian.cli.app import Switch, Words, app, explained


@app.command
@explained("sharing.share.push")
def push(
    run: str,
    to: str,
    *,
    license: str,
    name: str | None = None,
    checkpoint: str | None = None,
    scores: str | None = None,
    data: Words | None = None,
    overwrite: Switch = False,
) -> None:
    """A trained run → a folder, a bucket or Hugging Face, for others to pull.

    Weights, their description, recipe, log and a page travel; nothing else of the run's directory does.
    `hf://OWNER/NAME` needs `pip install 'etesian[hub]'` and `hf auth login`.
    """
    import etesian as et

    et.push(
        run, to, license=license, name=name, checkpoint=checkpoint, scores=scores, data=data or (), overwrite=overwrite
    )


@app.command
@explained("sharing.share.pull")
def pull(source: str, out: str, *, overwrite: Switch = False) -> None:
    """A run that somebody has pushed → a run directory here, for `etesian forecast` and all other commands.

    Every file is held against its hash, and nothing in it is carried out. Interrupted, the same command goes on.
    """
    import etesian as et

    et.pull(source, out, overwrite=overwrite)
