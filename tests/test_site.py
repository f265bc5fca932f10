"""The site of docs/: its reference has every public name, and its notebooks use names that there are."""

import ast
import inspect
import json
import re
from pathlib import Path

import pytest

import etesian as et
from etesian.core.names import HOMES

DOCS = Path(__file__).parents[1] / "docs"
NOTEBOOKS = [DOCS / "first_forecast.ipynb", *sorted((DOCS / "gallery").glob("*.ipynb"))]
KINDS = {True: "autoexception", False: "autoclass"}


def test_the_reference_has_each_public_name_once() -> None:
    pages = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    entries = re.findall(r"^\.\. (auto\w+):: (\w+)$", pages, re.M)
    assert sorted(name for _, name in entries) == sorted(name for names in HOMES.values() for name in names)
    for kind, name in entries:
        thing = getattr(et, name)
        assert kind == (KINDS[issubclass(thing, Exception)] if inspect.isclass(thing) else "autofunction"), name


def test_every_page_is_in_the_table_of_contents() -> None:
    index = "".join(page.read_text(encoding="utf-8") for page in DOCS.rglob("index.md"))
    listed = {line for block in re.findall(r"```\{toctree\}\n(.*?)```", index, re.S) for line in block.split()}
    pages = [*DOCS.glob("*.md"), *DOCS.glob("reference/*.md"), *NOTEBOOKS]
    names = {str(page.relative_to(DOCS).with_suffix("")).removeprefix("gallery/") for page in pages}
    assert names - {"index"} <= listed


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_parses_uses_public_names_and_stores_no_outputs(notebook: Path) -> None:
    book = json.loads(notebook.read_text(encoding="utf-8"))
    assert book["nbformat"] == 4
    assert book["metadata"]["kernelspec"]["name"] == "python3"
    assert book["cells"][0]["source"][0].startswith("# ")
    cells = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    tree = ast.parse("\n".join("".join(cell["source"]) for cell in cells))
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "etesian" in [name.name for node in imported if isinstance(node, ast.Import) for name in node.names]
    assert not any((node.module or "").startswith("etesian") for node in imported if isinstance(node, ast.ImportFrom))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "et":
            assert hasattr(et, node.attr), node.attr
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not node.args == node.keywords == []:
            verb = getattr(et, node.func.attr, None) if ast.unparse(node.func.value) == "et" else None
            if verb is not None and callable(verb):
                known = inspect.signature(verb).parameters
                assert {keyword.arg for keyword in node.keywords} <= set(known), ast.unparse(node)
            if node.func.attr == "fit":
                recipe = ast.literal_eval(node.args[0])
                assert recipe in et.recipes(), recipe
