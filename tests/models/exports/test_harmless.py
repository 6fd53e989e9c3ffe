"""What may be given to torch's reader of programs: the attacks that it would run, and the files that we write."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.models.exports.test_files import DYNAMIC, build_pair
from vitctl.errors import WeightsError
from vitctl.models.exports.harmless import check_harmless, is_arithmetic
from vitctl.models.exports.labels import export_labels
from vitctl.models.exports.torch_file import write_program


@pytest.mark.parametrize("text", [
    "Symbol('s77', positive=True, integer=True)",
    "Add(Mul(Integer(32), Symbol('s14')), Integer(-16))",
    "((L['images'].size()[2] // 4) % 16) != 0 or torch.sym_max(1, L['images'].size()[0]) >= 2",
])  # fmt: skip
def test_arithmetic_is_let_through(text: str) -> None:
    assert is_arithmetic(text)


@pytest.mark.parametrize("text", [
    "__import__('os').system('touch exploded')",
    "().__class__.__base__.__subclasses__()",
    "Symbol('x').func.__globals__",
    "torch.hub.load('a/b', 'c')",
    "torch.os.system('true')",
    "[x for x in (1, 2)]",
    "lambda: 1",
    "(y := 1)",
    "L['a; b']",
    "f'{1}'",
    "eval('1')",
    "1 +",
])  # fmt: skip
def test_anything_else_is_not(text: str) -> None:
    assert not is_arithmetic(text)


def program(folder: Path) -> Path:
    graph, weights = build_pair("vit-mu/16")
    labels = export_labels(weights, any_size=False, preprocessing=False, precision="float32")
    write_program(graph, torch.zeros(2, 3, 32, 48), {0: DYNAMIC}, folder / "good.pt2", labels)
    return folder / "good.pt2"


def changed(path: Path, change: Any) -> Path:
    bad = path.with_name("bad.pt2")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("models/model.json"):
                graph = json.loads(content)
                change(graph)
                content = json.dumps(graph).encode()
            new.writestr(name, content)
    return bad


def replaced(value: Any, key: str, text: str) -> bool:
    """Puts a text in the place of the first one of this key."""
    if isinstance(value, dict):
        if isinstance(value.get(key), str):
            value[key] = text
            return True
        return any(replaced(each, key, text) for each in value.values())
    return isinstance(value, list) and any(replaced(each, key, text) for each in value)


@pytest.mark.parametrize(("key", "text"), [
    ("expr_str", "__import__('pathlib').Path('exploded').touch()"),
    ("target", "torch.os.system"),
])  # fmt: skip
def test_a_graph_that_would_run_code_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, text: str
) -> None:
    monkeypatch.chdir(tmp_path)
    good = program(tmp_path)
    check_harmless(good)
    bad = changed(good, lambda graph: replaced(graph, key, text))
    with pytest.raises(WeightsError, match="could run code"):
        check_harmless(bad)
    assert not Path("exploded").exists()


def test_two_things_of_one_name_are_refused(tmp_path: Path) -> None:
    good = program(tmp_path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(good, "a") as archive:
        archive.writestr(next(name for name in archive.namelist() if name.endswith("_weights_config.json")), b"{}")
    with pytest.raises(WeightsError, match="two entries of the same name"):
        check_harmless(good)
