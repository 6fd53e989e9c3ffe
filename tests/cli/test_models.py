from collections.abc import Callable
from typing import Any

from vitctl.config.model import LISTED

Run = Callable[..., Any]


def test_a_table_of_one(vitctl: Run) -> None:
    answer = vitctl("models", "vit-mu")
    title, header, row = answer.out.splitlines()
    assert title == "at 224, 1,000 classes; 2 FLOPs a multiply-add"
    assert header.split() == ["model", "parameters", "GFLOPs", "tokens", "paper's", "exaFLOPs"]
    assert row.split() == ["vit-mu/16", "76,712", "0.02", "197"]
    assert answer.err.startswith("count: 1/1")


def test_a_filter_takes_every_name_that_has_it(vitctl: Run) -> None:
    answer = vitctl("models", "vit-b/16", "--json").json
    assert (answer["command"], set(answer)) == ("models", {"command", "version", "models"})
    rows = {row["name"]: row for row in answer["models"]}
    assert list(rows) == [name for name in LISTED if "vit-b/16" in name]
    parameters = {name: row["parameters"] for name, row in rows.items()}
    assert (parameters["vit-b/16"], parameters["r50+vit-b/16"]) == (86_567_656, 98_659_112)
    plain = rows["vit-b/16"]
    assert set(plain) == {"name", "family", "res", "tokens", "parameters", "gflops", "exaflops"}
    assert (plain["family"], plain["res"], plain["tokens"], plain["exaflops"]) == ("vit", [224, 224], 197, "224")
    assert 33 < plain["gflops"] < 36  # of the literature's 17.6 G multiply-adds
    assert {row["family"] for row in rows.values()} == {"vit", "hybrid", "axial"}


def test_a_glob_and_a_resolution(vitctl: Run) -> None:
    answer = vitctl("models", "VIT-[ms]*/16", "--res", "64x96", "--json", "--quiet")
    assert answer.err == ""
    answer = answer.json["models"]
    assert [row["name"] for row in answer] == ["vit-mu/16", "vit-s/16"]
    assert {(*row["res"], row["tokens"]) for row in answer} == {(64, 96, 25)}


def test_timms_pretrained_models_are_searched(vitctl: Run, refused: Callable[..., str]) -> None:
    rows = vitctl("models", "vit_small_patch16_dinov3.", "--timm", "--json", "--quiet").json["models"]
    assert rows == [
        {"name": "timm:vit_small_patch16_dinov3.lvd1689m", "parameters": 21_586_944, "res": [256, 256], "classes": 0,
         "license": "dinov3-license"}]  # fmt: skip
    answer = vitctl("models", "timm:resnet", "--timm")
    assert "parameters are counted for up to 100" in answer.err
    assert "timm:resnet50.a1_in1k" in answer.out
    assert "no pretrained model of timm matches" in refused("models", "vit-b", "--timm", code=2)


def test_a_name_that_is_not_listed_is_counted_too(vitctl: Run) -> None:
    (row,) = vitctl("models", "vit-mu/7", "--res", "14", "--json").json["models"]
    assert (row["name"], row["tokens"]) == ("vit-mu/7", 5)
    (row,) = vitctl("models", "timm:vit_tiny_patch16_224", "--json").json["models"]
    assert (row["family"], row["parameters"], row["tokens"]) == ("timm", 5_717_416, 0)


def test_a_resolution_that_patches_do_not_divide_is_counted_as_padded(vitctl: Run) -> None:
    answer = vitctl("models", "vit-mu", "--res", "40x48", "--json")
    assert answer.json["models"][0]["tokens"] == 3 * 3 + 1
    assert "vit-mu/16: patches of 16 do not divide 40x48; counted as padded to 48x48" in answer.err


def test_an_unknown_model_is_a_one_line_error(refused: Callable[..., str]) -> None:
    for arguments, message in (
        (["vit-q/16"], "size 'q' is unknown; known: mu, ti, s, b"),
        (["nonsense"], "vitctl models lists them"),
        (
            ["swinv2_cr_s"],
            "no listed model matches 'swinv2_cr_s'; models of timm are named timm:NAME: "
            "timm:swinv2_cr_small_224, timm:swinv2_cr_small_384, timm:swinv2_cr_small_ns_224",
        ),
        (["swin"], " more"),
        (["vit-b/999"], "a patch of 999x999 is larger than an image of 224x224"),
        (["timm:vit_tiny_patch16_22"], "did you mean 'vit_tiny_patch16_224'"),
        (["vit-mu", "--res", "big"], "resolution 'big' is not understood"),
    ):
        assert message in refused("models", *arguments, "--json", code=2)


def test_every_listed_name_is_read() -> None:
    """The table itself takes eight seconds; what it counts is tested with the models."""
    from vitctl.config.model import model_spec

    for name in LISTED:
        assert model_spec(name).name == name
