"""The notebook of docs/ runs from its first cell to its last, and its forecasts beat what it judges them by."""

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs" / "first_forecast.ipynb"


@pytest.mark.skipif(not find_spec("dinosaur"), reason="the extra 'simulate' is not installed")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("no_rendering")
def test_the_notebook_goes_from_data_to_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names: dict[str, object] = {}
    for cell in cells:
        exec("".join(cell["source"]), names)
    table = names["table"]
    assert list(table.columns) == [24, 48]
    assert np.isfinite(table.to_numpy()).all()
    for other in ("persistence", "seasonal_cycle"):
        assert table.loc["ClimaX", 24] < table.loc[other, 24]
    run = names["run"]
    assert run.best == run.log["val_loss"].min()
    assert (tmp_path / "evaluation" / "report.html").exists()
    assert (tmp_path / "rmse.png").stat().st_size > 0
