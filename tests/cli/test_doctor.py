from collections.abc import Callable
from pathlib import Path
from typing import Any

Run = Callable[..., Any]


def test_it_says_what_is_here(vitctl: Run) -> None:
    answer = vitctl("doctor", "--json", code=None)
    facts = answer.json
    assert set(facts) == {
        "command", "version", "ok", "python", "platform", "libraries", "extras", "device", "devices", "precisions",
        "cores", "threads", "memory", "folder", "writable", "free_disk", "start_method", "advice"}  # fmt: skip
    assert answer.code == (0 if facts["ok"] else 4)
    assert facts["ok"] == (not facts["advice"])
    assert {"torch", "torchvision", "timm", "h5py"} <= set(facts["libraries"])
    assert facts["precisions"]["float32"] == "native"


def test_what_is_wrong_gets_a_line_of_advice(vitctl: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    facts = vitctl("doctor", "--out", "file", "--json", code=4).json
    assert facts["writable"] is False
    assert any(line == "file: is not writable: choose another folder with --out" for line in facts["advice"])
    assert "file: is not writable: choose another folder with --out" in vitctl("doctor", "--out", "file", code=4).out


def test_libraries_that_do_not_match_are_told_and_not_a_crash(vitctl: Run, tmp_path: Path) -> None:
    """A timm that dies on import, as it does beside a torchvision of another torch."""
    broken = tmp_path / "broken" / "timm"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    facts = vitctl("doctor", "--json", code=4, env={"PYTHONPATH": str(tmp_path / "broken")}).json
    assert "import timm fails (RuntimeError: operator torchvision::nms does not exist)" in facts["advice"][0]
    assert "pip install" in facts["advice"][0]
