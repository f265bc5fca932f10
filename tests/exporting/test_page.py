"""What docs/export.md shows runs as it is."""

import re
import shutil
from pathlib import Path

import pytest
from running import etesian

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")


def test_the_examples_run(tmp_path: Path, store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(store, tmp_path / "store.zarr")
    monkeypatch.chdir(tmp_path)
    for block in re.findall(r"```python\n(.*?)```", PAGE, re.S):
        exec(block, {})
    assert {"forecast.nc", "forecast.grib2"} <= {file.name for file in tmp_path.iterdir()}
    etesian("export", "forecast.nc", "again.grib2")
