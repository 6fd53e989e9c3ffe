import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vitctl.io.recognize import open_weights
from vitctl.io.save import save_as
from vitctl.models.create import create_model, weights_of
from vitctl.models.resize import resize_weights
from vitctl.workflows.inputs.weights import load_weights
from vitctl.workflows.train.result import TrainResult

Run = Callable[..., Any]
QUICK = ("finetune", "--recipe", "transfer/500", "--batch", "16", "--precision", "float32", "--out", "run")
SHORT = (*QUICK, "--steps", "6", "--set", "save_every=2")


def tensors(path: Path | str) -> dict[str, torch.Tensor]:
    return dict(open_weights(Path(path)).tensors)


def test_to_a_higher_resolution_with_a_head_of_zeros(
    ran: Run, data: str, newest: str, trained: TrainResult, tmp_path: Path
) -> None:
    """At an lr of next to nothing, what was begun with is what comes out."""
    still = ("--res", "32x48", "--steps", "2", "--lr", "1e-30", "--set", "augment.flip=0")
    answer = ran(*QUICK, *still, "--json")
    told, after, before = json.loads(answer.stdout), open_weights(tmp_path / "run"), open_weights(Path(newest))
    assert (told["command"], told["res"], told["recipe"]) == ("finetune", [32, 48], "transfer/500")
    assert "weights: runs/one (the newest run), vitctl weights, vit-mu/8" in answer.stderr
    assert after.spec.grid == (4, 6)
    assert after.about.class_names == ("ant", "bee", "cow")
    assert [step["step"] for step in after.about.history] == ["positions", "head"]
    assert after.about.training["from_digest"] == trained.digest
    assert after.about.training["before"]["command"] == "pretrain"
    expected = resize_weights(before, 32, 48, "official").tensors
    assert set(after.tensors) == set(before.tensors)
    for name, tensor in after.tensors.items():
        if name.startswith("head."):
            assert float(tensor.abs().max()) < 1e-20
        else:
            assert torch.equal(tensor, expected[name]), name
    assert told["val_loss"] == pytest.approx(math.log(3))


def test_the_weights_decide_about_the_recipe(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    told = ran("finetune", "--dry-run").stderr
    assert re.search(r"recipe: finetune \(for 120 images\): AdamW, lr \S+, layer decay 0.75, batch 8, 40 epochs", told)
    assert "recipe: finetune (for 24 images)" in ran("finetune", "--dry-run", "--set", "limit=24").stderr
    paper = weights_of(create_model("vit-mu/8", height=16, width=16, classes=3))
    save_as(paper, tmp_path / "official.npz")
    told = ran("finetune", "--from", "official.npz", "--dry-run").stderr
    assert "recipe: transfer/500 (for 120 images)\n" in told


def test_a_cpu_takes_the_resolution_of_the_data(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    ran("interpolate-pos", "--res", "112", "--out", "large.safetensors")
    told = ran("finetune", "--from", "large.safetensors", "--dry-run", "--device", "cpu").stderr
    assert "resolution: 56 on a CPU; --res 112 is that of the weights" in told  # seven patches a side, at least
    assert "vit-mu/8 at 56x56" in ran("finetune", "--from", "large.safetensors", "--dry-run", "--device", "cpu").stdout


def test_only_the_head_learns_at_first(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    before = tensors(newest)
    first = ("finetune", "--batch", "16", "--steps", "6", "--set", "log_every=1", "--set", "eval_every=0")
    ran(*first, "--set", "head_first=6", "--out", "only")
    assert changed(before, tensors(tmp_path / "only")) == {"head.weight", "head.bias"}
    ran(*first, "--set", "head_first=2", "--out", "then")
    assert changed(before, tensors(tmp_path / "then")) == set(before) - {"pos_embed"}


@pytest.mark.usefixtures("one_thread")
def test_adapters_stand_apart_in_checkpoints_and_are_merged_in_weights(
    ran: Run, refused: Callable[..., str], data: str, newest: str, tmp_path: Path
) -> None:
    line = (*SHORT, "--lora", "4")
    answer = ran(*line, "--json")
    told, run, before = json.loads(answer.stdout), tmp_path / "run", tensors(newest)
    assert "lora: rank 4 on 2 layers" in answer.stderr
    assert "narrower than ViT-S" in answer.stderr
    assert changed(before, tensors(run)) == {"blocks.0.attn.qkv.weight", "blocks.0.attn.proj.weight", "head.weight",
                                             "head.bias"}  # fmt: skip
    checkpoint = max((run / "checkpoints").iterdir())
    assert "model.blocks.0.attn.qkv.lora_a" in load_file(checkpoint)
    for name, tensor in load_weights(f"{run}:step-6").tensors.items():
        assert torch.equal(tensor, tensors(run)[name]), name
    scores = json.loads(
        ran("evaluate", "--from", "run:last", "--split", "val", "--precision", "float32", "--json").stdout
    )
    assert (scores["top1"], scores["loss"]) == (told["top1"], pytest.approx(told["val_loss"], abs=1e-6))
    for path in (run / "result.json", run / "weights.safetensors", checkpoint):
        path.unlink()
    assert "run: resuming at step 4 of 6" in ran("finetune", "--resume", "run").stderr
    assert json.loads((run / "result.json").read_text())["digest"] == told["digest"]
    for wrong, code, said in ((("--lora", "0"), 2, "lora.rank is 0"), (("--lora", "33"), 2, "a rank cannot be larger"),
                              (("--lora", "4", "--freeze", "backbone"), 2, "omit --freeze"),
                              (("--lora", "4", "--parallel", "fsdp"), 2, "use --parallel ddp")):  # fmt: skip
        assert said in refused("finetune", *wrong, "--out", "other", code=code)
        assert not (tmp_path / "other").exists()


def test_it_learns_what_the_weights_knew(ran: Run, data: str, newest: str, trained: TrainResult) -> None:
    told = json.loads(ran(*QUICK, "--res", "32", "--steps", "40", "--lr", "0.1", "--json").stdout)
    assert told["top1"] > 0.6


def test_a_grid_of_rates_is_tried_on_a_part_of_the_training_data(
    ran: Run, data: str, newest: str, tmp_path: Path
) -> None:
    answer = ran(*SHORT, "--lr", "0.000001,0.1,0.03", "--json")
    told, run = json.loads(answer.stdout), tmp_path / "run"
    assert set(told["tried"]) == {"1e-06", "0.1", "0.03"}
    losses = {lr: json.loads((run / "trials" / f"lr-{lr}" / "result.json").read_text())["loss"] for lr in told["tried"]}
    best = max(told["tried"], key=lambda lr: (told["tried"][lr], -losses[lr]))
    assert told["lr"] == float(best)
    assert "3 learning rates are tried: 108 images to train on, 12 held out" in answer.stderr
    assert f"lr {best} was best on the held-out part; training on all 120" in answer.stderr
    assert {path.name for path in (run / "trials").iterdir()} == {"lr-1e-06", "lr-0.1", "lr-0.03"}
    for lr, score in told["tried"].items():
        assert json.loads((run / "trials" / f"lr-{lr}" / "result.json").read_text())["top1"] == score
        assert not list((run / "trials" / f"lr-{lr}").glob("*.safetensors"))
    single = json.loads(ran(*SHORT, "--out", "again", "--lr", best, "--json").stdout)
    assert single["digest"] == told["digest"]  # the trials leave no trace in what they decide about


def test_of_rates_that_are_as_good_the_one_with_the_lower_loss_is_best(
    ran: Run, data: str, newest: str, tmp_path: Path
) -> None:
    told = ran(*SHORT, "--lr", "0.00000001,0.00001").stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "run" / "trials").glob("*/result.json")]
    assert len(found) == 2
    assert found[0]["top1"] == found[1]["top1"]
    assert found[0]["loss"] != found[1]["loss"]
    assert f"lr {min(found, key=lambda each: each['loss'])['lr']:g} was best" in told


def test_what_is_done_to_fit_is_told(ran: Run, blots: Path, newest: str) -> None:
    ran("patchify", str(blots), "gray.h5", "--res", "16", "--patch", "8", "--channels", "1", "--quiet")
    told = ran(*SHORT, "--data", "gray.h5", "--res", "32", "--json").stderr
    assert "weights: positions [2, 2] to [4, 4], recomputed" in told
    assert "weights: channels 3 to 1, sum" in told
    assert "warning: gray.h5: images stored at 16x16 are enlarged to 32x32; the originals have no more pixels" in told


def test_what_is_frozen_stays_as_it_was_to_the_bit(ran: Run, data: str, newest: str, tmp_path: Path) -> None:
    before = tensors(newest)
    ran(*SHORT, "--lr", "0.1", "--freeze", "backbone")
    assert changed(before, tensors(tmp_path / "run")) == {"head.weight", "head.bias"}
    ran(*SHORT, "--lr", "0.1", "--freeze", "0", "--overwrite")
    found = changed(before, tensors(tmp_path / "run"))
    assert not [name for name in found if name.startswith(("patch_embed.", "pos_embed", "cls_token"))]
    assert {name.split(".")[0] for name in found} == {"blocks", "norm", "head"}


def changed(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.usefixtures("one_thread")
def test_resume_goes_on_without_the_weights_that_it_began_with_being_named(
    ran: Run, refused: Callable[..., str], data: str, newest: str, tmp_path: Path
) -> None:
    line = (*SHORT, "--lr", "0.03,0.1", "--resume", "auto")
    assert "weights: runs/one (the newest run)" in ran(*line).stderr
    run = tmp_path / "run"
    whole = {path.name: path.read_bytes() for path in (run / "weights.safetensors", run / "metrics.jsonl")}
    for path in (run / "result.json", run / "weights.safetensors", max((run / "checkpoints").iterdir())):
        path.unlink()
    (run / "trials" / "lr-0.1" / "result.json").unlink()
    assert "augment.flip" in refused("finetune", "--resume", "run", "--set", "augment.flip=0.1", code=2)
    assert "run: resuming at step 4 of 6" in ran(*line).stderr
    assert {name: (run / name).read_bytes() for name in whole} == whole
    assert "run: is finished" in ran("finetune", "--resume", "run").stderr


def test_resume_auto_begins_where_the_newest_run_is_of_another_kind(ran: Run, data: str, newest: str) -> None:
    answer = ran("finetune", "--steps", "2", "--batch", "16", "--resume", "auto")
    assert "weights: runs/one (the newest run)" in answer.stderr
    assert "run: runs/" in answer.stderr
    assert "is finished" in ran("finetune", "--steps", "2", "--batch", "16", "--resume", "auto").stderr


def test_the_mean_of_the_patches_in_place_of_the_class_token(
    ran: Run, refused: Callable[..., str], data: str, newest: str, tmp_path: Path
) -> None:
    assert "these weights have head gap, which cannot become cls" in refused(*SHORT, "--set", "head=cls", code=2)
    ran("pretrain", "--model", "vit-mu/8", "--steps", "1", "--batch", "16", "--set", "head=cls", "--out", "cls")
    ran(*SHORT, "--from", "cls", "--set", "head=gap")
    spec = open_weights(tmp_path / "run").spec
    assert (spec.head, "cls_token" in tensors(tmp_path / "run")) == ("gap", True)


STILL = (*QUICK, "--steps", "1", "--lr", "1e-30")


def test_a_kept_head_answers_at_once_as_interpolated_weights_do(ran: Run, data: str, newest: str) -> None:
    ran("interpolate-pos", "--from", newest, "--res", "32", "--out", "plain.safetensors")
    options = ("--split", "val", "--precision", "float32", "--json")
    score = json.loads(ran("evaluate", "--from", "plain.safetensors", "--data", data, *options).stdout)
    answer = ran(*STILL, "--res", "32", "--keep-head", "--json")
    told = json.loads(answer.stdout)
    assert "weights: head 3 to 3, kept\n" in answer.stderr
    assert (told["top1"], told["val_loss"]) == pytest.approx((score["top1"], score["loss"]), rel=1e-6)
    assert told["val_loss"] < 0.97 * math.log(3)  # not a head of zeros


def test_a_kept_head_takes_the_classes_in_the_order_of_the_data(
    ran: Run, blots: Path, newest: str, trained: TrainResult, tmp_path: Path
) -> None:
    (tmp_path / "names.txt").write_text("cow\nant\nbee\n")
    ran("patchify", str(blots), "turned.h5", "--res", "16", "--patch", "8", "--classes", "names.txt", "--quiet")
    answer = ran(*STILL, "--data", "turned.h5", "--keep-head", "--json")
    before, after = open_weights(Path(newest)), open_weights(tmp_path / "run")
    assert "head 3 to 3, kept, with rows reordered to the classes of the data" in answer.stderr
    assert (before.about.class_names, after.about.class_names) == (("ant", "bee", "cow"), ("cow", "ant", "bee"))
    for name in ("head.weight", "head.bias"):
        assert torch.equal(after.tensors[name], before.tensors[name][[2, 0, 1]])
    assert json.loads(answer.stdout)["top1"] == pytest.approx(trained.top1)


def test_where_classes_differ_a_flag_fails_and_a_recipe_takes_a_new_head(
    ran: Run, refused: Callable[..., str], blots: Path, newest: str, tmp_path: Path
) -> None:
    for name in ("bee", "cow", "elk", "fly"):
        source = name if name in ("bee", "cow") else "ant"
        shutil.copytree(blots / "train" / source, tmp_path / "others" / "train" / name)
    ran("patchify", "others", "others.h5", "--res", "16", "--patch", "8", "--quiet")
    line = (*STILL, "--data", "others.h5", "--res", "16")
    why = "the weights have 3 classes and the data 4"
    assert f"--keep-head: {why}; leave it out for a new head" in refused(*line, "--keep-head", code=2)
    assert not (tmp_path / "run").exists()
    answer = ran(*line, "--recipe", "deit3/finetune-s")
    assert f"weights: head 3 to 4, zeros, as {why}" in answer.stderr
    assert tensors(tmp_path / "run")["head.weight"].shape[0] == 4


def test_a_fresh_norm_behind_the_mean_as_mae_fine_tunes(
    ran: Run, refused: Callable[..., str], data: str, tmp_path: Path
) -> None:
    """models_vit.py of MAE: no norm on the tokens; the mean of the patches, fc_norm, the head."""
    ran("pretrain", "--model", "vit-mu/8", "--steps", "1", "--batch", "16", "--set", "head=cls", "--out", "cls")
    mae = (*QUICK, "--recipe", "mae/finetune-b", "--res", "16", "--steps", "1")
    answer = ran(*mae, "--from", "cls", "--lr", "1e-30")
    assert "weights: norm tokens to pooled, fresh" in answer.stderr
    fresh = open_weights(tmp_path / "run")
    assert (fresh.spec.head, fresh.spec.class_token, fresh.spec.norm) == ("gap", True, "pooled")
    assert not {"norm.weight", "norm.bias"} & set(fresh.tensors)
    assert torch.equal(fresh.tensors["fc_norm.weight"], torch.ones(32))
    assert float(fresh.tensors["fc_norm.bias"].abs().max()) < 1e-20
    ran(*mae, "--from", "run", "--out", "second")  # which learns
    second = ran(*mae, "--from", "second", "--lr", "1e-30", "--out", "third").stderr
    assert "weights: norm" not in second  # it is there already, and stays what it became
    assert "vit-mu/8, cannot have norm tokens; leave it out" in refused(
        *mae, "--from", "run", "--out", "fourth", "--set", "norm=tokens", code=2)  # fmt: skip
    learnt = tensors(tmp_path / "second")["fc_norm.weight"]
    assert not torch.equal(learnt, torch.ones(32))
    assert torch.equal(tensors(tmp_path / "third")["fc_norm.weight"], learnt)


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--lr", "0.1,x"), 2, "--lr 0.1,x: expected a number"),
        (("--lr", "0.1,-1"), 2, "lrs is -1.0; it must be above 0 and at most 1,000"),
        (("--freeze", "head"), 2, "write backbone, or a number of blocks"),
        (("--set", "keep_head=yes"), 2, "keep_head=yes: known: never, if-same, always"),
        (("--res", "20"), 2, "patches of 8 do not divide an image of 20x20"),
        (("--recipe", "small"), 2, "recipe small is for pretrain; vitctl recipes lists those for finetune"),
        (("--from", "nowhere"), 3, "nowhere: no such file or folder"),
        (("--set", "limit=6", "--lr", "0.1,0.2"), 3, "is too small to hold out 10% of each class"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], data: str, newest: str, flags: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refused(*SHORT, *flags, code=code)


def test_without_any_weights(refused: Callable[..., str], data: str, tmp_path: Path) -> None:
    for resume in ((), ("--resume", "auto")):
        assert "no weights given, and there is no run here" in refused("finetune", *resume, code=2)
    assert not (tmp_path / "runs").exists()
