"""The recipes of the published size are complete and say what was published."""

from pathlib import Path

import pytest
import yaml

from etesian.cli.main import main

RECIPES = Path(__file__).parents[2] / "recipes"
NETWORK = {"dim": 1024, "depth": 8, "heads": 16, "dropout": 0.1, "drop_path": 0.1}


@pytest.mark.parametrize(
    ("recipe", "patch", "rate"),
    [("climax_5.625", 2, 5e-7), ("climax_1.40625", 4, 5e-7), ("climax_pretrain_cmip6", 2, 5e-4)],
)
def test_the_full_size_recipes_are_read_as_published(
    recipe: str, patch: int, rate: float, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", str(RECIPES / f"{recipe}.yaml"), "--print_config"])
    assert not stop.value.code
    read = yaml.safe_load(capsys.readouterr().out)
    model, data = (read[part]["init_args"] for part in ("model", "data"))
    assert NETWORK | {"patch": patch} == {key: model["network"]["init_args"][key] for key in (*NETWORK, "patch")}
    assert (model["optimizer"]["init_args"]["lr"], model["warmup_steps"]) == (rate, 10000)
    if recipe.startswith("climax_pretrain"):
        assert data["leads"] == list(range(6, 169, 6))
        assert len(data["stores"]) == 5
        assert (read["trainer"]["max_steps"], model["optimizer"]["init_args"]["betas"]) == (200000, [0.9, 0.95])
    else:
        # The other three of the 48 are static: land-sea mask, orography, latitude.
        assert len(set(data["inputs"])) == 45
