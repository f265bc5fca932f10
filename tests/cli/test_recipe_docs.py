"""docs/recipes.md describes exactly the options there are."""

import inspect
import re
from pathlib import Path

import pytest
import yaml

from etesian.forecast.data import ForecastData
from etesian.forecast.task import ForecastTask
from etesian.training.finetune import Start

PAGE = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()


def keys(heading: str) -> dict[str, str]:
    """Return the keys of the table behind a heading, with what it says of their defaults."""
    section = PAGE.split(f"## {heading}")[1].split("\n## ")[0]
    found = {}
    for line in section.splitlines():
        if line.startswith("| `"):
            first, *_, default = line.strip("| ").split(" | ")
            found |= dict.fromkeys(re.findall(r"`(\w+)`", first), default)
    return found


@pytest.mark.parametrize(
    ("heading", "owner", "from_data"),
    [
        ("`data`", ForecastData, set()),
        ("`model`", ForecastTask, {"layout", "statistics"}),
        ("Fine-tuning: `start`", Start, set()),
    ],
)
def test_the_tables_name_every_option_and_its_default(heading: str, owner: type, from_data: set[str]) -> None:
    parameters = inspect.signature(owner).parameters
    described = keys(heading)
    assert set(described) == set(parameters) - from_data
    for name, default in described.items():
        required = parameters[name].default is inspect.Parameter.empty
        assert (default == "required") == required, name
        if isinstance(parameters[name].default, str | int | bool | list) and re.fullmatch(r"`?[\w\[\]]+`?", default):
            assert yaml.safe_load(default.strip("`")) == parameters[name].default, name


def test_the_example_of_callbacks_is_one_that_lightning_has() -> None:
    import lightning.pytorch.callbacks as callbacks

    section = PAGE.split("## `trainer`")[1]
    example = yaml.safe_load(re.search(r"```yaml\n(.*?)```", section, re.S)[1])  # type: ignore[index]
    for item in example["trainer"]["callbacks"]:
        callback = getattr(callbacks, item["class_path"].rpartition(".")[2])
        inspect.signature(callback).bind(**item["init_args"])
