"""`vitctl evaluate --compare`: the paired difference of two models, by the real command."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import clean_environment
from vitctl.config.evaluate import EvaluateConfig
from vitctl.io.patch_file import PatchFile
from vitctl.probing.paired import tango_interval
from vitctl.workflows.evaluate import evaluate
from vitctl.workflows.inputs.weights import load_model

Run = Callable[..., Any]
EXACT = ("--precision", "float32")


@pytest.fixture
def second(ran: Run, data: str) -> str:
    """A run that has learned less."""
    line = ("pretrain", "--model", "vit-mu/8", "--recipe", "digits", "--batch", "16", "--steps", "8")
    ran(*line, "--data", data, "--out", "second", *EXACT)
    return "second"


def save(ran: Run, out: str, *arguments: str) -> Any:
    """Of an evaluation in float32."""
    text = ran("evaluate", *arguments, *EXACT, "--json").stdout
    Path(out).write_text(text)
    return json.loads(text)


def find_wrong(source: str, split: str) -> set[int]:
    """Restated, one image at a time."""
    images, model = PatchFile("data.h5").split(split), load_model(source)
    labels = images.labels()
    with torch.no_grad():
        answers = [int(model(model.preprocess([pixels])).argmax()) for pixels in images.images(np.arange(images.rows))]
    return {row for row, answer in enumerate(answers) if answer != labels[row]}


def test_the_difference_of_two_models_is_counted_image_by_image(ran: Run, data: str, newest: str, second: str) -> None:
    for split in ("train", "val"):
        other = save(ran, "one.json", "--from", f"{newest}:last", "--split", split)
        line = ("--from", f"{second}:last", "--split", split, "--compare", "one.json")
        told = save(ran, "two.json", *line)
        theirs, own = (find_wrong(f"{name}/weights.safetensors", split) for name in (newest, second))
        assert (other["wrong"], told["wrong"]) == (sorted(theirs), sorted(own))
        found = told["comparison"]
        assert (found["only_this"], found["only_other"]) == (len(theirs - own), len(own - theirs))
        assert found["difference"] == pytest.approx((len(theirs) - len(own)) / told["pictures"])
        assert found["ci95"] == list(tango_interval(found["only_this"], found["only_other"], told["pictures"]))
        names = ("against", "weights", "weights_digest", "metric", "value")
        assert [found[name] for name in names] == [
            "one.json", f"{newest}:last", other["weights_digest"], "top1", other["top1"]
        ]  # fmt: skip
        back = save(ran, "back.json", "--from", f"{newest}:last", "--split", split, "--compare", "two.json")
        assert back["comparison"]["difference"] == -found["difference"]
        assert back["comparison"]["p"] == found["p"]
    assert found["difference"] < 0
    assert other["comparison"] is None


def test_the_table_says_it_in_words(ran: Run, data: str, newest: str, second: str) -> None:
    other = save(ran, "one.json", "--from", newest)
    told = save(ran, "two.json", "--from", second, "--compare", "one.json")["comparison"]
    shown = " ".join(ran("evaluate", "--from", second, "--compare", "one.json", *EXACT).stdout.split())
    low, high = told["ci95"]
    assert f"against one.json: {newest}, vit-mu/8, top-1 {other['top1']:.2%} difference top-1 " in shown
    assert (
        f"top-1 {100 * told['difference']:+.2f} points, 95% interval {100 * low:+.2f} to {100 * high:+.2f}; only this "
        f"is right: {told['only_this']}, only the other: {told['only_other']}, p = {told['p']:.2g}"
    ) in shown


def test_an_export_is_compared_with_its_weights(ran: Run, data: str, newest: str) -> None:
    ran("export", "--from", newest, "--data", data, "--out", "model.onnx")
    save(ran, "one.json", "--from", newest)
    told = save(ran, "two.json", "--from", "model.onnx", "--compare", "one.json")["comparison"]
    assert (told["difference"], told["only_this"], told["only_other"], told["p"]) == (0, 0, 0, 1)
    assert told["ci95"] == list(tango_interval(0, 0, 30))


@pytest.mark.slow
def test_two_ranks_have_the_same_wrong_images_and_one_of_them_speaks(
    ran: Run, data: str, newest: str, second: str, tmp_path: Path
) -> None:
    """30 images in batches of 8: the last one is smaller."""
    save(ran, "one.json", "--from", newest)
    line = ["evaluate", "--from", second, "--batch", "8", *EXACT, "--compare", "one.json", "--device", "cpu", "--json"]
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "vitctl"]
    environment = clean_environment(tmp_path) | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*start, *line], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    two, one = json.loads(done.stdout), json.loads(ran(*line).stdout)
    for name in ("wrong", "top1", "pictures", "comparison"):
        assert two[name] == one[name]


def test_another_way_to_evaluate_is_noted(ran: Run, data: str, newest: str) -> None:
    save(ran, "one.json", "--from", newest)
    same = ran("evaluate", "--from", newest, *EXACT, "--compare", "one.json")
    assert "another way" not in same.stderr
    assert "one.json: its weights were chosen on these images, so that its result is too good" in same.stderr
    line = ("--precision", "bf16", "--crops", "5", "--eval-crop", "0.875", "--compare", "one.json")
    crop = "the short side is resized (bicubic)"
    assert (
        f"one.json: was computed in another way: precision float32, crops 1, evaluation crop: {crop}; here it is "
        f"precision bf16, crops 5, evaluation crop: {crop}, then the central 0.875 of each side"
    ) in ran("evaluate", "--from", f"{newest}:last", *line).stderr


def test_labels_of_a_file_must_be_the_same(ran: Run, data: str, newest: str, second: str) -> None:
    names = PatchFile(data).split("val").names(np.arange(30))
    Path("some.json").write_text(json.dumps({name: ["ant", "bee"] for name in names[:20]}))
    Path("same.json").write_text(json.dumps({name: ["ant", "bee"] for name in reversed(names[:20])}, indent=1))
    Path("fewer.json").write_text(json.dumps({name: ["ant", "bee"] for name in names[:19]}))
    other = save(ran, "one.json", "--from", newest, "--labels", "some.json")
    assert len(other["wrong"]) == 20 - round(20 * other["top1"])
    told = save(ran, "two.json", "--from", second, "--labels", "same.json", "--compare", "one.json")["comparison"]
    assert told["ci95"] == list(tango_interval(told["only_this"], told["only_other"], 20))
    for line, words in (((), "(none)"), (("--labels", "fewer.json"), "(fewer.json)")):
        error = ran("evaluate", "--from", second, *line, "--compare", "one.json", code=3).stderr
        assert f"one.json: has other labels (--labels some.json) than this {words}; evaluate both with" in error


def test_what_cannot_be_compared_is_one_line(
    ran: Run, refused: Callable[..., str], data: str, newest: str, tmp_path: Path
) -> None:
    whole = save(ran, "one.json", "--from", newest)
    line = ("evaluate", "--from", newest, "--compare")
    assert "absent.json: cannot be read as JSON (No such file or directory)" in refused(*line, "absent.json", code=3)
    cases = {
        "is of other data (": whole | {"data_digest": "0" * 64},
        "is of split test, not of val": whole | {"split": "test"},
        "does not have one class per image": whole | {"task": "sets"},
        "is not a result of vitctl evaluate; make one with vitctl evaluate --json": whole | {"command": "predict"},
        "is not a result of vitctl evaluate": [whole],
        "cannot be read as JSON (": json.dumps(whole)[:-200],
        "cannot be read as JSON (Expecting value": "",
        "lacks the answers per image, as of an earlier version": {
            name: value for name, value in whole.items() if name != "wrong"
        },
    }
    for words, content in cases.items():
        Path("bad.json").write_text(content if isinstance(content, str) else json.dumps(content))
        assert f"bad.json: {words}" in refused(*line, "bad.json", code=3)
    changes = [{"wrong": [30]}, {"wrong": ["1"]}, {"wrong": [-1]}, {"wrong": None}, {"model": 3}]
    for change in (*changes, *({"top1": value} for value in (None, "1", float("nan"), 10**400))):
        Path("bad.json").write_text(json.dumps(whole | change))
        assert "bad.json: lacks the answers per image" in refused(*line, "bad.json", code=3)
    Path("one.png").write_text(json.dumps(whole))
    assert "one.png: is an input of this command" in refused(*line, "one.png", "--confusion", "one.png", code=2)


def test_a_result_of_the_python_api_compares_too(ran: Run, data: str, newest: str) -> None:
    config = EvaluateConfig(source=newest, data=data, precision="float32")
    Path("one.json").write_text(json.dumps({"command": "evaluate", **asdict(evaluate(config))}))
    found = evaluate(EvaluateConfig(source=newest, data=data, precision="float32", compare="one.json")).comparison
    assert found is not None
    assert (found.difference, found.only_this, found.only_other) == (0, 0, 0)
