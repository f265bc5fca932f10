"""Public names lead to their classes, and so does every path that an earlier version wrote."""

import ast
import inspect
from importlib import import_module
from pathlib import Path

import pytest

import etesian
from etesian.core.names import HOMES, locate, public_name

EARLIER = (Path(__file__).parents[1] / "stored" / "paths.txt").read_text().split()


def found(path: str) -> object:
    module, _, name = path.rpartition(".")
    return vars(import_module(module))[name]


@pytest.mark.parametrize("path", EARLIER)
def test_paths_of_version_0_1_lead_to_what_has_the_name_now(path: str) -> None:
    thing = found(locate(path))
    assert thing.__name__ == path.rpartition(".")[2]  # type: ignore[attr-defined]
    assert thing is getattr(etesian, path.rpartition(".")[2])


@pytest.mark.parametrize(
    "path",
    [
        "etesian.distance.content.Content",
        "etesian.distance.inpaint.InpaintTask",
        "etesian.downscale.superresolution.SuperResolutionTask",
        "etesian.downscale.superresolution_data.SuperResolutionData",
        "etesian.forecast.baseline_networks.LinearForecast",
    ],
)
def test_paths_of_modules_that_are_part_of_others_now_lead_there(path: str) -> None:
    assert found(locate(path)).__name__ == path.rpartition(".")[2]  # type: ignore[attr-defined]


def test_every_public_name_is_defined_where_the_table_says_and_nowhere_twice() -> None:
    names = [name for names in HOMES.values() for name in names]
    assert len(names) == len(set(names))
    for module, own in HOMES.items():
        for name in own:
            thing = getattr(etesian, name)
            if inspect.isclass(thing) or inspect.isfunction(thing):
                assert thing.__module__ == f"etesian.{module}"
                assert public_name(f"{thing.__module__}.{thing.__name__}") == f"etesian.{name}"
                assert locate(name) == locate(f"etesian.{name}") == f"etesian.{module}.{name}"


def test_the_stub_for_type_checkers_says_the_same_as_the_table() -> None:
    stub = ast.parse(Path(str(etesian.__file__)).with_suffix(".pyi").read_text())
    said = {
        (node.module, alias.name, alias.asname)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert said == {(f"etesian.{module}", name, name) for module, names in HOMES.items() for name in names}


@pytest.mark.parametrize("name", ["torch.optim.AdamW", "etesian.Nothing", "Nothing", "os.system", ""])
def test_other_names_stay_what_they_are(name: str) -> None:
    assert locate(name) == public_name(name) == name


def test_a_name_that_is_not_there_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="Nothing"):
        _ = etesian.Nothing  # type: ignore[attr-defined]
