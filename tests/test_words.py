"""The words of the code: one name for one thing, functions that are verbs, and no function longer than a screen."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import vitctl

ROOT = Path(vitctl.__file__).parent
TREES = {path.relative_to(ROOT).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
LONGEST = 60

# Words that look like participles and are none, or that are the field's own names.
NOT_PARTICIPLES = {
    "set": "sets a value; a verb in the present",
    "put": "puts something in its place",
    "read": "reads a file",
    "split": "splits a set",
    "cut": "cuts a log",
    "embed": "computes token embeddings",
    "seed": "a number",
    "feed": "a verb",
    "setting": "a noun: declares a field, as dataclasses.field does",
}
IRREGULAR = re.compile(
    "begun|bent|bound|bought|broken|built|chosen|come|done|drawn|driven|fallen|felt|found|given|gone|grown|held|hidden|"
    "kept|known|led|left|lost|made|meant|met|said|seen|sent|shown|sought|spoken|stolen|struck|taken|taught|thought|"
    "thrown|told|understood|won|worn|woven|written"
)


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def is_property(function: ast.FunctionDef) -> bool:
    return any("property" in ast.unparse(each) for each in function.decorator_list)


def is_participle(name: str) -> bool:
    word = name.strip("_").split("_")[0]
    return word not in NOT_PARTICIPLES and bool(IRREGULAR.fullmatch(word) or re.search(r"(?:[^e]ed|ing)$", word))


def test_a_name_means_one_thing() -> None:
    places = defaultdict(list)
    for path, tree in TREES.items():
        for node in tree.body:  # type: ignore[attr-defined]
            is_overload = any(ast.unparse(each) == "overload" for each in getattr(node, "decorator_list", ()))
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("__") and not is_overload:
                places[node.name].append(path)

    def are_command_and_workflow(paths: list[str]) -> bool:
        return sorted(path.split("/")[0] for path in paths) == ["cli", "workflows"]

    shared = {name: paths for name, paths in places.items() if len(paths) > 1 and not are_command_and_workflow(paths)}
    assert not shared


def test_functions_are_verbs() -> None:
    found = [
        f"{path}: {function.name}"
        for path, tree in TREES.items()
        for function in functions(tree)
        if is_participle(function.name) and not is_property(function)
    ]
    assert not found


def test_a_function_fits_on_a_screen() -> None:
    found = [
        f"{path}: {function.name}"
        for path, tree in TREES.items()
        for function in functions(tree)
        if (function.end_lineno or 0) - function.lineno >= LONGEST
    ]
    assert not found
