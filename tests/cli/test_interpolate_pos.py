import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from safetensors import safe_open

from vitctl.io.recognize import open_weights
from vitctl.io.run_directory import create_run
from vitctl.io.save import save_as
from vitctl.io.weights import IMAGENET, Weights

Run = Callable[..., Any]


@pytest.fixture
def source(tiny: Weights, tmp_path: Path) -> Weights:
    """The tiny weights, also as w.safetensors."""
    save_as(tiny, tmp_path / "w.safetensors")
    return tiny


def zoomed(weights: Weights, rows: int, columns: int) -> np.ndarray:
    """The positions as the official code makes them: that of the class token, then the zoomed grid."""
    table = weights.tensors["pos_embed"].double().numpy()
    grid = table[0, 1:].reshape(*weights.spec.grid, -1)
    factors = (rows / grid.shape[0], columns / grid.shape[1], 1)
    return np.concatenate([table[0, :1], scipy.ndimage.zoom(grid, factors, order=1).reshape(rows * columns, -1)])[None]


def check(found: Weights, before: Weights, rows: int, columns: int, method: str = "official") -> None:
    """Official positions, everything else bit for bit the same, and what was done is written down."""
    np.testing.assert_allclose(found.tensors["pos_embed"].numpy(), zoomed(before, rows, columns), atol=1e-6)
    assert set(found.tensors) == set(before.tensors)
    for name, tensor in found.tensors.items():
        assert name == "pos_embed" or torch.equal(tensor, before.tensors[name]), name
    assert found.spec.grid == (rows, columns)


@pytest.mark.parametrize(("res", "rows", "columns"), [("80", 5, 5), ("32", 2, 2), ("48x64", 3, 4)])
def test_positions_are_the_official_ones_and_the_rest_stays(
    vitctl: Run, source: Weights, tmp_path: Path, res: str, rows: int, columns: int
) -> None:
    answer = vitctl("interpolate-pos", "--from", "w.safetensors", "--res", res)
    assert "weights: w.safetensors (--from), vitctl weights, vit-mu/16" in answer.err
    lines = dict(line.split(maxsplit=1) for line in answer.out.splitlines() if not line.startswith("there"))
    assert lines["before"] == "48x48, 3x3 patches, 10 tokens"
    height, width = rows * 16, columns * 16
    assert lines["after"] == f"{height}x{width}, {rows}x{columns} patches, {rows * columns + 1} tokens"
    assert lines["written"] == f"vit-mu-16-{res}.safetensors"
    check(open_weights(tmp_path / lines["written"]), source, rows, columns)


def test_the_file_says_from_which_grid_to_which_and_how(vitctl: Run, source: Weights, tmp_path: Path) -> None:
    first = vitctl("interpolate-pos", "--from", "w.safetensors", "--res", "64", "--out", "a.safetensors", "--json").json
    assert set(first) == {
        "command", "version", "out", "source", "model", "positions", "method", "res_before", "res_after",
        "grid_before", "grid_after", "tokens_before", "tokens_after", "round_trip_error", "parameters", "digest",
        "plot", "elapsed_s"}  # fmt: skip
    assert (first["command"], first["out"], first["source"]) == ("interpolate-pos", "a.safetensors", "w.safetensors")
    assert (first["grid_before"], first["grid_after"], first["res_after"]) == ([3, 3], [4, 4], [64, 64])
    assert 0 < first["round_trip_error"] < 1
    vitctl("interpolate-pos", "--from", "a.safetensors", "--res", "32", "--method", "bicubic-aa", "--out",
           "b.safetensors")  # fmt: skip
    with safe_open(tmp_path / "b.safetensors", "np") as file:
        about, spec = (json.loads(file.metadata()[part]) for part in ("about", "spec"))
        table = file.get_tensor("pos_embed")
    assert about["history"] == [
        {"step": "positions", "from": [3, 3], "to": [4, 4], "method": "official"},
        {"step": "positions", "from": [4, 4], "to": [2, 2], "method": "bicubic-aa"},
    ]
    assert (about["source"], about["class_names"]) == ("a test", ["cat", "dog", "owl"])
    assert (spec["height"], spec["width"]) == (32, 32)
    np.testing.assert_allclose(table, as_timm(open_weights(tmp_path / "a.safetensors"), 2), atol=1e-5)
    shown = vitctl("info", "b.safetensors").out
    assert "positions: 3x3 to 4x4, official" in shown
    assert "positions: 4x4 to 2x2, bicubic-aa" in shown


def as_timm(weights: Weights, side: int) -> np.ndarray:
    from timm.layers import resample_abs_pos_embed

    return np.asarray(resample_abs_pos_embed(weights.tensors["pos_embed"], [side, side]).numpy())


def test_from_npz_to_npz_by_the_environment(vitctl: Run, source: Weights, tmp_path: Path) -> None:
    save_as(source, tmp_path / "w.npz")
    answer = vitctl("interpolate-pos", "--res", "64", "--out", "big.npz", env={"VITCTL_FROM": "w.npz"})
    assert "weights: w.npz ($VITCTL_FROM), official npz (original), vit-mu/16" in answer.err
    check(open_weights(tmp_path / "big.npz"), source, 4, 4)
    with np.load(tmp_path / "big.npz") as after, np.load(tmp_path / "w.npz") as before:
        assert set(after) == set(before)
        assert after["Transformer/posembed_input/pos_embedding"].shape == (1, 17, 32)


def test_the_newest_run_is_found(vitctl: Run, source: Weights, tmp_path: Path) -> None:
    create_run(tmp_path / "runs" / "one", "pretrain", {}, "0.1.0")
    save_as(source, tmp_path / "runs" / "one" / "weights.safetensors")
    answer = vitctl("interpolate-pos", "--res", "64")
    assert "weights: runs/one (the newest run)" in answer.err
    check(open_weights(tmp_path / "vit-mu-16-64.safetensors"), source, 4, 4)


def test_without_any_weights_it_says_how_to_name_some(vitctl: Run) -> None:
    answer = vitctl("interpolate-pos", "--res", "384", "--json", code=2)
    assert "name a file, a folder or timm:NAME with --from or $VITCTL_FROM" in answer.error
    assert answer.out == ""


def test_a_run_without_weights_and_a_name_that_leads_nowhere(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    create_run(tmp_path / "runs" / "one", "bench", {}, "0.1.0")
    assert "runs/one: has no weights; none were saved yet" in refused("interpolate-pos", "--res", "64", code=2)
    monkeypatch.setenv("VITCTL_FROM", "gone.npz")
    line = refused("interpolate-pos", "--res", "64", code=3)
    assert "gone.npz: no such file or folder (gone.npz is $VITCTL_FROM)" in line


def test_damage_is_not_carried_over(refused: Callable[..., str], source: Weights, tmp_path: Path) -> None:
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "w.safetensors").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    line = refused("interpolate-pos", "--from", "w.safetensors", "--res", "64", code=3)
    assert "w.safetensors: damaged: its numbers have changed since they were written" in line


def test_the_plot_is_an_image(vitctl: Run, source: Weights, tmp_path: Path) -> None:
    answer = vitctl("interpolate-pos", "--from", "w.safetensors", "--res", "64x80", "--plot", "p.png", "--json").json
    assert answer["plot"] == "p.png"
    assert (tmp_path / "p.png").stat().st_size > 8000
    with Image.open(tmp_path / "p.png") as drawn:
        assert drawn.format == "PNG"
        pixels = np.asarray(drawn.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 100


def test_what_is_there_stays_unless_overwritten(
    vitctl: Run, refused: Callable[..., str], source: Weights, tmp_path: Path
) -> None:
    out = tmp_path / "vit-mu-16-64.safetensors"
    out.write_text("mine")
    line = refused("interpolate-pos", "--from", "w.safetensors", "--res", "64", code=2)
    assert "vit-mu-16-64.safetensors: exists already; --overwrite replaces it" in line
    assert out.read_text() == "mine"
    vitctl("interpolate-pos", "--from", "w.safetensors", "--res", "64x64", "--overwrite")
    check(open_weights(out), source, 4, 4)


def test_a_resolution_that_patches_do_not_divide(
    vitctl: Run, refused: Callable[..., str], source: Weights, tmp_path: Path
) -> None:
    line = refused("interpolate-pos", "--from", "w.safetensors", "--res", "50x70", code=2)
    assert "patches of 16 do not divide an image of 50x70; the nearest are 48x64 and 64x80" in line
    assert not list(tmp_path.glob("vit-mu*"))
    vitctl("interpolate-pos", "--from", "w.safetensors", "--res", "50x70", "--pad")
    found = open_weights(tmp_path / "vit-mu-16-50x70.safetensors")
    assert (found.spec.height, found.spec.width, found.spec.pad) == (50, 70, True)
    check(found, source, 4, 5)


@pytest.mark.parametrize("name", ["part.npz", "part.safetensors"])
def test_tensors_that_are_missing(
    vitctl: Run, refused: Callable[..., str], source: Weights, tmp_path: Path, name: str
) -> None:
    if name.endswith("npz"):
        save_as(source, tmp_path / "w.npz")
        with np.load(tmp_path / "w.npz") as file:
            np.savez(tmp_path / name, **{key: file[key] for key in file if key != "embedding/bias"})
    else:
        tensors = {key: tensor for key, tensor in source.tensors.items() if key != "patch_embed.proj.bias"}
        save_as(replace(source, tensors=tensors | {"stranger": torch.ones(2)}), tmp_path / name)
    line = refused("interpolate-pos", "--from", name, "--res", "64", code=3)
    assert f"{name}: lacks 1 tensor (" in line
    assert "--allow-missing loads what fits" in line
    answer = vitctl("interpolate-pos", "--from", name, "--res", "64", "--allow-missing")
    assert "the file lacks 1 tensor (" in answer.err
    found = open_weights(tmp_path / "vit-mu-16-64.safetensors")
    assert set(source.tensors) - set(found.tensors) == {"patch_embed.proj.bias"}
    assert set(found.tensors) <= set(source.tensors)


def test_what_cannot_be_done_is_one_line_and_nothing_is_written(
    refused: Callable[..., str], tiny: Weights, tmp_path: Path
) -> None:
    save_as(tiny, tmp_path / "w.npz")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    files = sorted(tmp_path.rglob("*"))
    for arguments, code, message in (
        (["--from", "vit-b/16"], 3, "vit-b/16: names a model, not weights"),
        (["--from", "w.npy"], 3, "did you mean 'w.npz'?"),
        (["--from", "nowhere/w.npz"], 3, "there is no folder nowhere"),
        (["--from", "folder"], 3, "folder: has no weights; use a run directory"),
        (["--from", "pipe"], 3, "pipe: is a pipe, a device or a socket, not a file"),
        (["--from", "/dev/zero"], 3, "/dev/zero: is a pipe, a device or a socket, not a file"),
        (["--res", "large"], 2, "resolution 'large' is not understood"),
        (["--res", "8"], 2, "a patch of 16x16 is larger than an image of 8x8"),
        (["--out", "w.pt"], 2, "w.pt: must end in .safetensors or .npz"),
        (["--out", "nowhere/w.npz"], 2, "the folder nowhere does not exist; create it first"),
        (
            ["--out", "x.npz", "--res", "48x64"],
            2,
            "the official npz layout cannot store width 64 (only 48)",
        ),
        (["--plot", "p.jpg"], 2, "p.jpg: must end in .png"),
        (["--plot", "nowhere/p.png"], 2, "the folder nowhere does not exist; create it first"),
        (["--set", "methode=bilinear"], 2, "did you mean 'method'?"),
    ):
        defaults = {"--from": "w.npz", "--res": "64"}
        more = [word for flag, value in defaults.items() if flag not in arguments for word in (flag, value)]
        assert message in refused("interpolate-pos", *arguments, *more, "--json", code=code)
    assert sorted(tmp_path.rglob("*")) == files


@pytest.mark.parametrize(
    ("spec", "about", "said"),
    [
        ({"gelu": "erf"}, {}, "gelu erf (only tanh)"),
        ({"positions": "sincos-mae"}, {}, "positions sincos-mae (only 1d)"),
        ({"norm_eps": 1e-5}, {}, "norm_eps 1e-05 (only 1e-06)"),
        ({}, {"mean": IMAGENET[0]}, "mean [0.485, 0.456, 0.406] (only 0.5)"),
        ({}, {"std": IMAGENET[1]}, "std [0.229, 0.224, 0.225] (only 0.5)"),
    ],
    ids=str,
)
def test_an_npz_that_would_be_read_as_something_else_is_not_written(
    refused: Callable[..., str], tiny: Weights, tmp_path: Path, spec: Any, about: Any, said: str
) -> None:
    save_as(
        replace(tiny, spec=tiny.spec.replace(**spec), about=replace(tiny.about, **about)), tmp_path / "w.safetensors"
    )
    line = refused("interpolate-pos", "--from", "w.safetensors", "--res", "64", "--out", "x.npz", code=2)
    assert said in line
    assert not (tmp_path / "x.npz").exists()


def test_a_plot_of_no_table_is_refused_before_anything_is_written(
    vitctl: Run, refused: Callable[..., str], tiny: Weights, tmp_path: Path
) -> None:
    tensors = {name: tensor for name, tensor in tiny.tensors.items() if name != "pos_embed"}
    save_as(replace(tiny, spec=tiny.spec.replace(positions="none"), tensors=tensors), tmp_path / "n.safetensors")
    arguments = ["interpolate-pos", "--from", "n.safetensors", "--res", "64", "--out", "o.safetensors"]
    assert "--plot draws a table of positions" in refused(*arguments, "--plot", "p.png", code=2)
    assert not (tmp_path / "o.safetensors").exists()
    answer = vitctl(*arguments, "--json").json
    assert (answer["method"], answer["round_trip_error"]) == ("nothing to do", 0.0)
