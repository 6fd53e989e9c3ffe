"""Checks a file of torch.export before torch's reader, which unpickles and evaluates parts of it, may read it.

Only what vitctl's own files contain is accepted: numbers, a graph of torch's operators, and arithmetic on sizes.
"""

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from vitctl.errors import WeightsError

PLACES = (
    r"models/\w+\.json|data/(weights|constants)/(\w+_config\.json|(weight|tensor)_\d+)|data/sample_inputs/\w+\.pt"
    r"|extra/labels\.json|archive_(format|version)|\.data/\w+|byteorder|version"
)
OPERATORS = r"torch\.ops\.aten\.\w+\.\w+|_operator\.\w+|torch\.sym_\w+"
TEXTS = ("expr_str", "guards_code")  # the strings that the reader evaluates
NAMES = {
    "Symbol", "Integer", "Add", "Mul", "Pow", "Min", "Max", "Mod", "PythonMod", "FloorDiv", "CleanDiv", "CeilDiv",
    "ModularIndexing", "L", "torch"}  # fmt: skip
ATTRIBUTES = {"size", "sym_min", "sym_max"}
GRAMMAR = (
    ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Attribute, ast.Subscript, ast.Constant, ast.BinOp,
    ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop)  # fmt: skip


def check_harmless(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        if len({entry.filename for entry in entries}) < len(entries):
            raise WeightsError(f"{path}: contains two entries of the same name; refused")
        for entry in entries:
            place = entry.filename.partition("/")[2]
            if not re.fullmatch(PLACES, place):
                raise WeightsError(f"{path}: contains {place}, which is neither numbers nor a graph; refused")
            check_part(path, place, archive.read(entry))


def check_part(path: Path, place: str, content: bytes) -> None:
    if place.endswith("_config.json") and any(map(is_pickled, json.loads(content)["config"].values())):
        raise WeightsError(f"{path}: {place} requests a pickle, which could run code; refused")
    if place.startswith("data/sample_inputs/"):
        torch.load(io.BytesIO(content), weights_only=True)
    if place.startswith("models/"):
        for text in dangers(json.loads(content)):
            raise WeightsError(f"{path}: {place} contains {text[:60]!r}, which could run code; refused")


def is_pickled(part: dict[str, Any]) -> bool:
    return part.get("use_pickle", True) or not str(part.get("path_name")).startswith(("weight_", "tensor_"))


def dangers(value: Any, key: str = "") -> Iterator[str]:
    """Yields operators that are not torch's own, and evaluated strings that are more than arithmetic on sizes."""
    if isinstance(value, dict):
        target = value.get("target")
        if isinstance(target, str) and "inputs" in value and not re.fullmatch(OPERATORS, target):
            yield target
        for name, each in value.items():
            yield from dangers(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from dangers(each, key)
    elif key in TEXTS and isinstance(value, str) and not is_arithmetic(value):
        yield value


def is_arithmetic(text: str) -> bool:
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, RecursionError, MemoryError):
        return False
    return all(map(is_known, nodes))


def is_known(node: ast.AST) -> bool:
    if isinstance(node, ast.Name):
        return node.id in NAMES
    if isinstance(node, ast.Attribute):
        return node.attr in ATTRIBUTES
    if isinstance(node, ast.Constant):
        return isinstance(node.value, int | float) or bool(re.fullmatch(r"\w+", str(node.value)))
    return isinstance(node, GRAMMAR)
