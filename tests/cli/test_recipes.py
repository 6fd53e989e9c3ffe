import json
from collections.abc import Callable
from typing import Any

import pytest

from vitctl.config.overrides import as_setting, override
from vitctl.config.recipes import RECIPES
from vitctl.workflows.recipes import list_recipes

Run = Callable[..., Any]


def test_all_are_listed(ran: Run) -> None:
    answer = json.loads(ran("recipes", "--json").stdout)
    assert set(answer) == {"command", "version", "recipes"}
    assert [row["name"] for row in answer["recipes"]] == list(RECIPES)
    assert set(answer["recipes"][0]) == {"name", "purpose", "model", "source", "command", "expected", "settings"}
    shown = ran("recipes").stdout
    assert "digits" in shown
    assert "paper/vit-b16-jft" in shown


def test_one_is_shown_in_full(ran: Run) -> None:
    rows = dict(line.split(maxsplit=1) for line in ran("recipes", "paper/vit-b16-jft").stdout.splitlines() if line)
    assert rows["purpose"] == "pretrain"
    assert rows["model"] == "vit-b/16"
    assert rows["source"].startswith("arXiv 2010.11929, Table 3, JFT")
    assert rows["expected"].startswith("84.15% ImageNet")
    assert (rows["optim.lr"], rows["optim.weight_decay"], rows["schedule.warmup"]) == ("0.0008", "0.1", "10000")


def test_a_part_of_a_name_is_enough(ran: Run) -> None:
    answer = json.loads(ran("recipes", "mae/", "--json").stdout)["recipes"]
    assert [row["name"] for row in answer] == [
        f"mae/{kind}-{size}" for kind in ("finetune", "pretrain") for size in "blh"
    ]
    assert len(json.loads(ran("recipes", "paper/*jft*", "--json").stdout)["recipes"]) > 10


def test_an_unknown_one(refused: Callable[..., str]) -> None:
    assert "recipe 'digit5' is unknown; did you mean 'digits'?" in refused("recipes", "digit5", code=2)


@pytest.mark.parametrize("row", list_recipes().recipes, ids=lambda row: row.name)
def test_what_is_shown_is_what_set_takes(row: Any) -> None:
    config = override(
        type(RECIPES[row.name].config)(), [f"{name}={as_setting(value, 6)}" for name, value in row.settings.items()]
    )
    shown = list_recipes(row.name).recipes[0].settings
    for name, value in shown.items():
        found: Any = config
        for part in name.split("."):
            found = getattr(found, part)
        found = str(found) if name == "res" else found
        assert found == (pytest.approx(value, rel=1e-5) if isinstance(value, float) else value), name
