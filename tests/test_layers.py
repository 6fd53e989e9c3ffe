"""The floors: cli -> workflows -> training -> rooms -> io -> ground. Rooms of one floor never import each other."""

import ast
from pathlib import Path

import pytest

import vitctl

ROOT = Path(vitctl.__file__).parent
GROUND = {"config", "errors", "patches", "randomness", "reporting", "machine"}
ROOMS = {"models", "data", "probing", "inspection"}
FLOOR = {"cli": 6, "workflows": 5, "training": 4, **dict.fromkeys(ROOMS, 3), "io": 2, **dict.fromkeys(GROUND, 1)}
FILES = sorted(
    path for path in ROOT.rglob("*.py") if path.parent != ROOT or path.name not in ("__init__.py", "__main__.py")
)


def place(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Every module of ours that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {name for name in names if name.split(".")[0] == "vitctl"}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down(path: Path) -> None:
    here = place(path)
    assert here in FLOOR, f"{here} has no floor: add it to the house on purpose"
    for name in imports(path):
        there = name.split(".")[1]
        if there in ("__version__", "reporting") or there == here:
            continue
        assert there in FLOOR, f"{path} imports {name}, which has no floor"
        assert FLOOR[there] < FLOOR[here] or (here in GROUND and there in GROUND), f"{here} must not import {name}"


def test_no_circles_between_files() -> None:
    graph = {
        module(path): {target for name in imports(path) for target in resolve(name)} - {module(path)} for path in FILES
    }
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> None:
        assert node not in trail, " -> ".join([*trail, node])
        if node not in done:
            for target in sorted(graph.get(node, ())):
                visit(target, [*trail, node])
            done.add(node)

    for node in sorted(graph):
        visit(node, [])


def module(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def resolve(name: str) -> set[str]:
    """`from a.b import c` means the module a.b.c, or the module a.b."""
    known = {module(path) for path in FILES}
    return {name} & known or {name.rpartition(".")[0]} & known


def test_ground_floor_errors_is_the_lowest() -> None:
    assert imports(ROOT / "errors.py") == set()
    for name in ("patches", "reporting", "randomness", "machine"):
        assert imports(ROOT / f"{name}.py") <= {"vitctl.errors.ConfigError"}, name
