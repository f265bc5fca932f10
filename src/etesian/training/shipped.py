"""The recipes that come with the library."""

import importlib.resources


def recipes() -> dict[str, str]:
    """Return the recipes that come with the library: their text by name."""
    folder = importlib.resources.files("etesian") / "recipes"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return {file.name.removesuffix(".yaml"): file.read_text(encoding="utf-8") for file in files}
