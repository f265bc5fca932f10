import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from etesian.core import Channel, Grid, Layout
from etesian.core.errors import CheckpointError
from etesian.core.recorded import Recorded, find_class, from_plain, rebuild, to_plain


class Thing(Recorded):
    def __init__(self, layout: Layout, width: int = 3, *, widths: tuple[int, ...] = (1, 2)) -> None:
        self.layout, self.width, self.widths = layout, width, widths


def test_a_description_survives_json_and_rebuilds_an_equal_object() -> None:
    thing = Thing(Layout((Channel("temperature", 850),), (Channel("2m_temperature"),), Grid.equiangular(30)), width=7)
    again = rebuild(json.loads(json.dumps(thing.describe() | {"class": f"{__name__}.Thing"})))
    assert again.layout == thing.layout
    assert (again.width, again.widths) == (7, (1, 2))


def test_a_checkpoint_cannot_call_arbitrary_code() -> None:
    with pytest.raises(CheckpointError, match="not one of its kind"):
        rebuild({"class": "subprocess.Popen", "arguments": {"args": "true"}})


def test_keys_that_are_numbers_stay_numbers() -> None:
    weights = {24: 1.5, 48: 0.5}
    assert from_plain(json.loads(json.dumps(to_plain(weights)))) == weights


@pytest.mark.parametrize("kind", ["a module that is there", "a module that is not"])
def test_a_checkpoint_cannot_import_a_module(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    if kind == "a module that is there":
        (tmp_path / "unasked.py").write_text("raise SystemExit('imported')")
    with pytest.raises(
        CheckpointError, match=r"needs unasked.Net, which nothing has imported; where you trust it, imp"
    ):
        rebuild({"class": "unasked.Net", "arguments": {}})
    assert "unasked" not in sys.modules


def test_a_class_of_a_module_that_the_user_imported_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("mine")
    module.Thing = Thing  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mine", module)
    assert find_class(Recorded, "mine.Thing") is Thing
    # What a module only makes when asked for it is not asked for.
    module.__getattr__ = lambda name: pytest.fail(name)  # type: ignore[method-assign, assignment]
    with pytest.raises(CheckpointError, match=r"needs mine\.Other"):
        find_class(Recorded, "mine.Other")
