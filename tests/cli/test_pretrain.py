import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.io.weights import read_ours
from vitctl.workflows.patchify import patchify
from vitctl.workflows.train.result import TrainResult

Run = Callable[..., Any]
QUICK = ("pretrain", "--model", "vit-mu/8", "--batch", "16", "--precision", "float32", "--out", "run")
SHORT = (*QUICK, "--steps", "6", "--set", "save_every=2")
KEYS = {
    "command", "version", "run", "model", "res", "recipe", "data", "data_digest", "classes", "parameters", "steps",
    "epochs", "batch", "micro_batch", "ranks", "device", "precision", "seed", "lr", "loss", "top1", "top5", "val_loss",
    "balanced", "macro_f1", "best_top1", "best_balanced", "best_macro_f1", "best_step", "tried", "task", "scores",
    "best_scores", "weights", "digest", "images_per_s", "ceiling_share", "elapsed_s", "minutes", "stopped"}  # fmt: skip


def lines(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def kept(run: Path) -> dict[str, bytes]:
    """What is the same bytes however often a run was stopped."""
    paths = [run / "weights.safetensors", run / "best.safetensors", run / "metrics.jsonl", *run.glob("checkpoints/*")]
    return {path.name: path.read_bytes() for path in paths}


def cut_off(run: Path) -> None:
    """As a kill behind the last but one checkpoint leaves it."""
    for name in ("result.json", "weights.safetensors", "curves.png"):
        (run / name).unlink()
    max((run / "checkpoints").iterdir()).unlink()


def steps_of(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("step-")) for path in (run / "checkpoints").glob("step-*"))


# --- a run, from its start to its end --------------------------------------------------------------------------------


def test_a_run_says_what_it_did_and_leaves_it(ran: Run, data: str, tmp_path: Path) -> None:
    answer = ran(*SHORT, "--json")
    told, run = json.loads(answer.stdout), tmp_path / "run"
    assert set(told) == KEYS
    assert (told["command"], told["run"], told["model"], told["res"]) == ("pretrain", "run", "vit-mu/8", [16, 16])
    assert (told["steps"], told["batch"], told["ranks"], told["classes"]) == (6, 16, 1, 3)
    assert told["epochs"] == pytest.approx(6 * 16 / 120)
    assert 0 <= told["top1"] <= told["best_top1"] <= told["top5"] == 1
    assert json.loads((run / "result.json").read_text()) == {
        name: value for name, value in told.items() if name not in ("command", "version")
    }
    assert {path.name for path in run.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "best.safetensors", "weights.safetensors", "curves.png",
        "result.json"}  # fmt: skip
    assert steps_of(run) == [4, 6]
    assert [line["step"] for line in lines(run) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert [line["step"] for line in lines(run) if "val_top1" in line] == [6]
    for line in ("recipe: small (for 120 images)", "data: data.h5 (found here)", "run: run", "6 steps of 16"):
        assert line in answer.stderr
    assert "Traceback" not in answer.output


def test_curves_are_drawn(trained: TrainResult) -> None:
    assert (Path(str(trained.run)) / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_finished_run_says_so(ran: Run, data: str, tmp_path: Path) -> None:
    first = json.loads(ran(*SHORT, "--json").stdout)
    before = kept(tmp_path / "run")
    again = ran("pretrain", "--resume", "run", "--json")
    assert "run: is finished; there is nothing left to do" in again.stderr
    assert json.loads(again.stdout) == first
    assert kept(tmp_path / "run") == before


def test_resume_refuses_what_would_change_the_end_by_its_name(
    ran: Run, refused: Callable[..., str], data: str, tmp_path: Path
) -> None:
    ran(*SHORT)
    cut_off(tmp_path / "run")
    resume = ("pretrain", "--resume", "run")
    assert "optim.lr is 0.5 now and was 0.001" in refused(*resume, "--lr", "0.5", code=2)
    assert "recipe is 'digits' now and was 'small'" in refused(*resume, "--recipe", "digits", code=2)
    assert "augment.flip is 0.25 now and was 0.5" in refused(*resume, "--set", "augment.flip=0.25", code=2)
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file.attrs["digest"] = "0" * 64
    assert "data_digest is '000" in refused(*resume, code=2)
    assert "run: is a run of vitctl pretrain, not of finetune" in refused("finetune", "--resume", "run", code=2)
    assert "nowhere: not a run directory" in refused("pretrain", "--resume", "nowhere", code=3)


def test_resume_auto_starts_and_then_goes_on(ran: Run, data: str, tmp_path: Path) -> None:
    line = (*SHORT, "--set", "schedule.warmup=1000", "--resume", "auto")
    assert "a warm-up of 1,000 steps is longer than the run of 6" in ran(*line).stderr
    whole = kept(tmp_path / "run")
    cut_off(tmp_path / "run")
    assert "run: resuming at step 4 of 6" in ran(*line, "--set", "save_every=1", "--micro-batch", "8").stderr
    assert set(kept(tmp_path / "run")) == (set(whole) | {"step-000000005.safetensors"}) - {"step-000000004.safetensors"}
    assert "is finished" in ran(*line).stderr


def test_a_run_is_trained_by_one_process_at_a_time(ran: Run, data: str, tmp_path: Path) -> None:
    """The second one is refused, and the lock of one that was killed is taken over."""
    line = [sys.executable, "-m", "vitctl", *QUICK, "--steps", "100000", "--set", "save_every=1", "--resume", "auto"]
    first = subprocess.Popen(line, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        while not list((tmp_path / "run").glob("checkpoints/step-*.safetensors")):
            assert first.poll() is None
            time.sleep(0.02)
        for arguments in (line[3:], ("pretrain", "--resume", "run"), (*QUICK, "--overwrite")):
            refusal = ran(*arguments, code=2).stderr
            assert f"error: run: process {first.pid} on " in refusal
            assert "is training this run" in refusal
    finally:
        first.kill()
        first.wait()
    assert (tmp_path / "run" / ".lock").exists()
    again = ran(*QUICK, "--steps", "1", "--overwrite")
    assert "run: run" in again.stderr
    assert not (tmp_path / "run" / ".lock").exists()
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1]


def test_a_refused_run_leaves_no_folder(refused: Callable[..., str], data: str, tmp_path: Path) -> None:
    refused(
        "pretrain", "--model", "vit-mu/8", "--out", "new", "--batch", "16", "--set", "val=none", "--recipe", "x", code=2
    )
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


def test_photos_are_patchified_once_for_many_resolutions(ran: Run, folder: Run, tmp_path: Path) -> None:
    """Up to what vitctl patchify stores, 352; above it another file is made, with a margin for the crops."""
    folder({"train/one": 3, "train/two": 3, "val/one": 1, "val/two": 1}, scale=10)
    line = ("pretrain", "--data", "pictures", "--dry-run", "--set", "shape.depth=1", "--batch", "2")
    small = ran(*line, "--model", "vit-mu/16")
    assert "patchifying it to pictures.h5" in small.stderr
    assert "224x224" not in small.stderr
    for res in ("128", "224", "320"):
        told = ran(*line, "--model", "vit-mu/16", "--res", res)
        assert "using pictures.h5" in told.stderr
        assert "enlarged" not in told.stderr
    large = ran(*line, "--model", "vit-mu/14", "--res", "392")
    assert "patchifying it to pictures-392.h5" in large.stderr
    assert "enlarged" not in large.stderr
    with h5py.File(tmp_path / "pictures.h5") as one, h5py.File(tmp_path / "pictures-392.h5") as other:
        assert (one.attrs["height"], one.attrs["fit"], other.attrs["height"]) == (352, "whole", 448)
    assert "using pictures-392.h5" in ran(*line, "--model", "vit-mu/14", "--set", "res=392").stderr
    named = ran(*line[:2], "pictures.h5", *line[3:], "--model", "vit-mu/16", "--res", "384")
    assert "warning: pictures.h5: images stored at 352x352 are enlarged to 384x384; vitctl patchify" in named.stderr


def test_small_photos_are_stored_as_they_are_and_trained_in_whole_patches(ran: Run, folder: Run) -> None:
    folder({"train/one": 3, "train/two": 3, "val/one": 1, "val/two": 1})
    line = ("pretrain", "--data", "pictures", "--dry-run", "--set", "shape.depth=1", "--batch", "2")
    told = ran(*line, "--model", "vit-mu/14").stderr
    assert "images are 40x48: stored at 48" in told
    assert "images stored at 48x48 are enlarged to 56x56; the originals have no more pixels" in told
    assert "using pictures.h5" in ran(*line, "--model", "vit-mu/14", "--res", "252").stderr


@pytest.mark.parametrize("path", [".", "./", "../pictures/.", "train/.."])
def test_a_folder_may_be_called_by_any_path(
    path: str, ran: Run, folder: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder({"train/one": 2, "train/two": 2, "val/one": 1, "val/two": 1})
    monkeypatch.chdir(tmp_path / "pictures")
    line = ("pretrain", "--data", path, "--dry-run", "--model", "vit-mu/16", "--batch", "2", "--res", "48")
    assert "patchifying it to" in ran(*line).stderr
    assert "using" in ran(*line).stderr


def test_a_damaged_checkpoint_is_told_and_the_one_before_it_taken(ran: Run, data: str, tmp_path: Path) -> None:
    ran(*SHORT)
    whole = kept(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    last = max((tmp_path / "run" / "checkpoints").iterdir())
    last.write_bytes(last.read_bytes()[:-100])
    answer = ran("pretrain", "--resume", "run")
    assert f"warning: {last.relative_to(tmp_path)}: damaged" in answer.stderr
    assert "using the checkpoint before it" in answer.stderr
    assert "resuming at step 4 of 6" in answer.stderr
    assert kept(tmp_path / "run") == whole


def test_a_dry_run_writes_nothing(ran: Run, data: str, tmp_path: Path) -> None:
    told = json.loads(ran("pretrain", "--model", "vit-mu/8", "--dry-run", "--json").stdout)
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]
    assert set(told) == KEYS
    assert (told["steps"], told["run"], told["weights"]) == (1, None, None)


def test_what_is_not_finite_stops_the_run_before_it_spoils_anything(
    refused: Callable[..., str], data: str, tmp_path: Path
) -> None:
    decay = ("--set", "optim.weight_decay=1000", "--set", "optim.decay_on=all")
    planted = ("--lr", "1000", *decay, "--set", "optim.clip=0", "--set", "save_every=1", "--set", "schedule.warmup=0")
    line = refused(*SHORT, *planted, code=4)
    assert line.startswith("error: step 1: the loss is ")
    assert "at lr " in line
    assert "the gradient norm " in line
    assert steps_of(tmp_path / "run") == [1]
    assert not (tmp_path / "run" / "result.json").exists()
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    assert [entry["step"] for entry in lines(tmp_path / "run")] == [1]


def test_without_a_val_it_warns_and_trains(ran: Run, data: str, tmp_path: Path) -> None:
    answer = ran(*SHORT, "--set", "val=nothing", "--json")
    assert "warning: data.h5: has no images in split nothing, so nothing is evaluated during training" in answer.stderr
    assert [json.loads(answer.stdout)[key] for key in ("top1", "val_loss", "best_top1")] == [None, None, None]
    assert "val" not in ran("pretrain", "--resume", "run").stdout


def test_another_split_is_trained_on_and_stays_that_on_resume(ran: Run, data: str, tmp_path: Path) -> None:
    told = json.loads(ran(*SHORT, "--set", "split=val", "--set", "val=train", "--json").stdout)
    assert told["epochs"] == pytest.approx(6 * 16 / 30)
    whole = kept(tmp_path / "run")
    cut_off(tmp_path / "run")
    ran("pretrain", "--resume", "run")
    assert kept(tmp_path / "run") == whole


def test_an_output_that_is_there_stays_unless_overwritten(
    ran: Run, refused: Callable[..., str], data: str, tmp_path: Path
) -> None:
    ran(*SHORT)
    before = kept(tmp_path / "run")
    assert "run: is not empty; use --overwrite to replace a run" in refused(*SHORT, code=2)
    assert "patches of 8 do not divide an image of 20x20" in refused(*SHORT, "--overwrite", "--res", "20", code=2)
    assert kept(tmp_path / "run") == before
    ran(*SHORT, "--overwrite", "--seed", "1")
    assert kept(tmp_path / "run")["weights.safetensors"] != before["weights.safetensors"]


# --- what cannot be trained on: one line, the right code, and no run is left behind ----------------------------------


@pytest.mark.parametrize(
    ("flags", "code", "words"),
    [
        (("--recipe", "smal"), 2, "recipe 'smal' is unknown; did you mean 'small'?"),
        (("--recipe", "vtab-1k"), 2, "recipe vtab-1k is for finetune; vitctl recipes lists those for pretrain"),
        (("--model", "vit-mu/7", "--res", "16"), 2, "patches of 7 do not divide an image of 16x16"),
        (("--model", "vit-q/8"), 2, "vit-q/8"),
        (("--epochs", "3"), 2, "both steps and epochs are given"),
        (("--set", "optim.lrr=1"), 2, "there is no field 'lrr'; did you mean 'lr'?"),
        (("--set", "split=dev"), 3, "dev"),
        (("--micro-batch", "some"), 2, "write auto, or a number of images"),
        (("--batch", "0"), 2, "batch is 0"),
        (("--device", "toaster"), 2, "--device toaster is unknown"),
        (("--data", "nowhere"), 3, "nowhere"),
        (("--model", "bit-r50x1", "--res", "32", "--set", "norm=pooled"), 2, "norm pooled: bit-r50x1 has its own"),
    ],
)
def test_wrong_usage(
    refused: Callable[..., str], data: str, tmp_path: Path, flags: tuple[str, ...], code: int, words: str
) -> None:
    assert words in refused(*SHORT, *flags, code=code)
    assert [path.name for path in tmp_path.iterdir()] == ["data.h5"]


def test_images_without_labels(refused: Callable[..., str], blots: Path, tmp_path: Path) -> None:
    patchify(
        PatchifyConfig(
            source=str(blots / "train" / "ant"), out=str(tmp_path / "data.h5"), res=Res(16), patch=8, workers=1
        )
    )
    assert "data.h5: has 0 classes; training needs at least two" in refused(*SHORT, code=3)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_image_without_a_label(refused: Callable[..., str], data: str, tmp_path: Path, split: str) -> None:
    with h5py.File(tmp_path / "data.h5", "r+") as file:
        file[split]["labels"][3] = -1
    assert f"split {split}: 1 of" in refused(*SHORT, code=3)
    assert not (tmp_path / "run").exists()


def test_a_train_split_of_rejects_alone(refused: Callable[..., str], blots: Path, tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        (tmp_path / "bad" / "train" / name).mkdir(parents=True)
        (tmp_path / "bad" / "train" / name / "1.png").write_text("no image")
        shutil.copytree(blots / "val" / name, tmp_path / "bad" / "val" / name)
    patchify(
        PatchifyConfig(source=str(tmp_path / "bad"), out=str(tmp_path / "data.h5"), res=Res(16), patch=8, workers=1)
    )
    assert "data.h5: split train is empty" in refused(*SHORT, code=3)


@pytest.mark.parametrize("name", ["source=x.npz", "lrs=0.1,0.2", "masking.ratio=0.5", "keep_head=always"])
def test_what_it_does_not_use_is_refused(refused: Callable[..., str], data: str, name: str) -> None:
    assert f"there is no field '{name.split('.')[0].split('=')[0]}'" in refused(
        *SHORT, "--set", name, code=2)  # fmt: skip


def test_the_norm_may_stand_behind_the_mean(ran: Run, data: str, tmp_path: Path) -> None:
    ran(*QUICK, "--steps", "1", "--set", "norm=pooled")
    tensors = read(tmp_path / "run" / "weights.safetensors")
    assert {name.partition(".")[0] for name in tensors if "norm" in name.partition(".")[0]} == {"fc_norm"}


def test_no_devices(refused: Callable[..., str], ran: Run, data: str) -> None:
    assert "at least one device is needed" in ran(*SHORT, "--devices", "0", code=2).stderr


# --- stopped, killed, and on several ranks: the end is the same ------------------------------------------------------

STEPS = 60
EVERYTHING = (
    "pretrain", "--model", "vit-mu/8", "--data", "data.h5", "--recipe", "small", "--steps", str(STEPS), "--batch",
    "8", "--micro-batch", "4", "--precision", "float32", "--device", "cpu", "--set", "dropout=0.1", "--set", "ema=0.9",
    "--set", "save_every=2", "--set", "eval_every=7", "--set", "log_every=3")  # fmt: skip


class Running:
    """The real command; a signal ends it when it has its first checkpoint."""

    def __init__(self, folder: Path, number: int, out: str, *flags: str) -> None:
        command = [sys.executable, "-m", "vitctl", *EVERYTHING, "--out", out, *flags]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
        self.process = subprocess.Popen(command, cwd=folder, env=environment, stdout=-1, stderr=-1)
        self.checkpoints, self.number = folder / out / "checkpoints", number
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()

    def watch(self) -> None:
        while not list(self.checkpoints.glob("step-*.safetensors")) and self.process.poll() is None:
            time.sleep(0.005)
        self.process.send_signal(self.number)

    def end(self) -> tuple[int, str]:
        """Its code, and what it told; an answer it has not given."""
        try:
            printed, told = self.process.communicate(timeout=300)
        finally:
            self.process.kill()
            self.thread.join()
        assert printed == b""
        return self.process.returncode, told.decode()


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory, blots_h5: Path) -> tuple[Path, dict[str, tuple[int, str]]]:
    """Three runs that were ended on their way, started together because a start takes seconds; and their data."""
    folder = tmp_path_factory.mktemp("ended")
    shutil.copy(blots_h5, folder / "data.h5")
    running = {
        "stopped": Running(folder, signal.SIGTERM, "stopped"),
        "killed": Running(folder, signal.SIGKILL, "killed"),
        "two": Running(folder, signal.SIGTERM, "two", "--devices", "2"),
    }
    return folder, {name: each.end() for name, each in running.items()}


@pytest.fixture
def whole(ended: Any, ran: Run, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    """An undisturbed run beside them. Here is where the test is, too."""
    monkeypatch.chdir(ended[0])
    if not (ended[0] / "whole").exists():
        ran(*EVERYTHING, "--out", "whole")
    return ended[0] / "whole"


@pytest.mark.parametrize("name", ["stopped", "killed"])
def test_a_run_that_was_ended_ends_in_the_bytes_of_an_undisturbed_one(
    ended: Any, whole: Path, ran: Run, name: str
) -> None:
    code, told = ended[1][name]
    assert code == {"stopped": 143, "killed": -signal.SIGKILL}[name], told
    if name == "stopped":
        assert f"of {STEPS}; continue with: vitctl pretrain --resume stopped" in told
        assert "Traceback" not in told
    assert 0 < steps_of(whole.with_name(name))[-1] < STEPS
    assert f"{name}: resuming at step " in ran("pretrain", "--resume", name).stderr
    assert kept(whole.with_name(name)) == kept(whole)


def test_two_ranks_agree_with_one_and_one_goes_on_where_two_stopped(ended: Any, whole: Path, ran: Run) -> None:
    code, told = ended[1]["two"]
    assert code == 143, told
    assert told.count("continue with: vitctl pretrain --resume two --devices 2\n") == 1
    assert "2 ranks" in told
    assert "Warning" not in told
    assert 0 < steps_of(whole.with_name("two"))[-1] < STEPS
    ran("pretrain", "--resume", "two")
    compare(whole.with_name("two"), whole)


def compare(run: Path, other: Path) -> None:
    """Ranks add up in another order: nothing else may differ."""
    assert len(lines(run)) == len(lines(other)) > STEPS // 3
    for mine, theirs in zip(lines(run), lines(other), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4, abs=1e-5)
    one, two = (read(run / "weights.safetensors") for run in (run, other))
    for name, tensor in one.items():
        is_told = torch.ones(len(tensor), dtype=torch.bool)
        if name.endswith("attn.qkv.bias"):  # a key's bias changes no attention: its gradient is rounding alone
            is_told = torch.arange(len(tensor)) // (len(tensor) // 3) != 1
        torch.testing.assert_close(tensor[is_told], two[name][is_told], rtol=1e-3, atol=1e-4)


def read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return read_ours(path, file.metadata(), {name: file.get_tensor(name) for name in file.keys()}).tensors  # noqa: SIM118


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread", "data")
def test_ranks_and_the_way_to_share_a_model_may_change_on_the_way(vitctl: Run, ran: Run, tmp_path: Path) -> None:
    ran(*EVERYTHING, "--out", "one")
    for out, first, then in (
        ("a", ("--devices", "2"), ("--devices", "2", "--parallel", "fsdp")),
        ("b", ("--devices", "2", "--parallel", "fsdp"), ()),
        ("c", (), ("--devices", "2")),
    ):
        code, told = Running(tmp_path, signal.SIGTERM, out, *first).end()
        assert code == 143, told
        vitctl("pretrain", "--resume", out, *then)
        compare(tmp_path / out, tmp_path / "one")


@pytest.mark.slow
@pytest.mark.usefixtures("data")
def test_two_ranks_end_in_the_bytes_of_two_undisturbed_ranks(vitctl: Run, tmp_path: Path) -> None:
    vitctl(*EVERYTHING, "--out", "whole", "--devices", "2")
    for out, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        Running(tmp_path, number, out, "--devices", "2").end()
        vitctl("pretrain", "--resume", out, "--devices", "2")
        assert kept(tmp_path / out) == kept(tmp_path / "whole"), out


def test_a_head_that_has_no_hidden_layer_says_so(ran: Run, refused: Any, data: str, tmp_path: Path) -> None:
    line = ("pretrain", "--model", "axial-vit-mu/8", "--batch", "16", "--steps", "1", "--dry-run")
    told = ran(*line, "--recipe", "paper/vit-i1k", "--res", "16").stderr
    assert (
        "warning: hidden: the head of axial-vit-mu/8 has no hidden layer; that of recipe paper/vit-i1k is left" in told
    )
    assert "the head of axial-vit-mu/8 has no hidden layer; leave it out by --set hidden=false" in refused(
        *line, "--set", "hidden=true", code=2
    )
