"""`vitctl patchify` as a shell sees it: one clear line for everything that is wrong, and nothing lost."""

import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

Run = Callable[..., Any]
Folder = Callable[..., Path]
SMALL = ("--res", "16", "--patch", "4")


def test_a_folder_becomes_a_file_and_json_says_what_is_in_it(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"train/cat": 4, "train/dog": 3, "val/cat": 2, "val/dog": 1})
    answer = vitctl("patchify", "pictures", "out.h5", *SMALL, "--json").json
    assert (answer["command"], answer["out"]) == ("patchify", "out.h5")
    assert set(answer) == {"command", "version", "out", "data", "elapsed_s", "images_per_s"}
    data = answer["data"]
    assert data["splits"]["train"] == {
        "pictures": 7, "labelled": 7, "classes": 2, "smallest_class": 3, "largest_class": 4,
        "sets": None, "numbers": None, "skew": ""}  # fmt: skip
    assert (data["class_names"], data["patch"], data["height"], data["rejects"]) == (["cat", "dog"], 4, 16, 0)
    assert vitctl("info", "out.h5", "--json").json["digest"] == data["digest"]


def test_json_keys_are_pinned(vitctl: Run, folder: Folder) -> None:
    folder({"cat": 2})
    assert set(vitctl("patchify", "pictures", *SMALL, "--json").json["data"]) == {
        "path", "kind", "splits", "classes", "class_names", "height", "width", "channels", "patch", "patches", "fit",
        "mean", "std", "rejects", "rejected", "duplicates", "leaked", "leaks", "shards", "compressed", "codec",
        "codec_bytes", "task", "originals", "bytes",
        "source", "created_by", "digest", "verified"}  # fmt: skip


def test_the_story_is_on_stderr_and_the_answer_on_stdout(vitctl: Run, folder: Folder) -> None:
    folder({"cat": 2, "dog": 2})
    answer = vitctl("patchify", "pictures", *SMALL)
    assert "patchify: 4/4" in answer.err
    assert "patchify: 4/4" not in answer.out
    assert "cat, dog" in answer.out
    assert vitctl("patchify", "pictures", "b.h5", *SMALL, "--quiet").err == ""


def test_unreadable_images_are_listed_counted_and_told(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    root = folder({"train/cat": 6, "val/cat": 2}, ending="jpg")
    cut = root / "train/cat/001.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (root / "train/cat/bad.jpg").write_bytes(b"this is text")
    Image.new("CMYK", (40, 40), (0, 200, 200, 0)).save(root / "train/cat/cmyk.jpg")
    Image.new("L", (3000, 2000)).save(root / "train/cat/bomb.png")
    answer = vitctl("patchify", "pictures", *SMALL, "--set", "max_pixels=1000000", "--json")
    rejected = {entry["name"]: entry["reason"] for entry in answer.json["data"]["rejected"]}
    assert rejected == {
        "train/cat/001.jpg": "truncated file",
        "train/cat/bad.jpg": "not an image, or in an unsupported format",
        "train/cat/bomb.png": "decompression bomb: 3000x2000 pixels, over max_pixels=1000000",
    }
    assert "warning: 3 rejected: " in answer.err
    assert "truncated file" in vitctl("info", "data.h5", "--rejects").out
    assert "--on-error skip" in vitctl("patchify", "pictures", "b.h5", *SMALL, "--on-error", "fail", code=3).error


def test_leaks_and_copies_are_told(vitctl: Run, folder: Folder) -> None:
    root = folder({"train/cat": 3, "val/cat": 1})
    shutil.copy(root / "train/cat/000.png", root / "val/cat/leak.png")
    shutil.copy(root / "train/cat/001.png", root / "train/cat/copy.png")
    answer = vitctl("patchify", "pictures", *SMALL, "--json")
    assert (answer.json["data"]["leaked"], answer.json["data"]["duplicates"]) == (1, 1)
    assert "1 image appears in two splits: val/cat/leak.png is train/cat/000.png" in answer.err
    assert "exact copies within a split: 1 image" in answer.err


def test_classes_are_fixed_by_train(vitctl: Run, folder: Folder) -> None:
    root = folder({"train/ant": 2, "train/cat": 2, "val/cat": 2, "val/eel": 1})
    (root / "train/bat").mkdir()
    answer = vitctl("patchify", "pictures", *SMALL, "--json")
    assert answer.json["data"]["class_names"] == ["ant", "bat", "cat"]
    assert answer.json["data"]["rejected"] == [{"name": "val/eel/000.png", "reason": "class 'eel' is not in train"}]
    assert "warning: class 'bat' has no image" in answer.err
    assert "classes that are not in train: eel" in answer.err


def test_a_list_of_classes_chooses_and_orders(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"ant": 2, "bat": 2, "cat": 2})
    (tmp_path / "names.txt").write_text("cat\nant\n")
    answer = vitctl("patchify", "pictures", *SMALL, "--classes", "names.txt", "--json")
    assert answer.json["data"]["class_names"] == ["cat", "ant"]
    assert "skipped 2 images of 1 class that names.txt does not list" in answer.err
    assert "cannot be read" in vitctl("patchify", "pictures", "b.h5", "--classes", "none.txt", code=3).error


def test_val_is_cut_out_of_every_class(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"ant": 10, "bat": 20})
    vitctl("patchify", "pictures", *SMALL, "--split", "val=0.2", "--split", "test=0.1")
    with h5py.File(tmp_path / "data.h5") as file:
        assert {name: np.bincount(file[name]["labels"]).tolist() for name in ("train", "val", "test")} == {
            "train": [7, 14], "val": [2, 4], "test": [1, 2]}  # fmt: skip


def test_a_limit_takes_of_every_class(vitctl: Run, folder: Folder) -> None:
    folder({"ant": 10, "bat": 10, "cat": 1})
    split = vitctl("patchify", "pictures", *SMALL, "--limit", "7", "--json").json["data"]["splits"]["train"]
    assert (split["pictures"], split["classes"], split["smallest_class"], split["largest_class"]) == (7, 3, 1, 3)


def test_shards_by_several_hosts_and_their_index_hold_what_one_file_holds(vitctl: Run, folder: Folder) -> None:
    folder({"train/ant": 11, "train/bat": 9, "val/ant": 3, "val/bat": 2})
    whole = vitctl("patchify", "pictures", "one.h5", *SMALL, "--json").json["data"]
    for host in ("2", "0"):
        vitctl("patchify", "pictures", "many.h5", *SMALL, "--shards", "3", "--shard", host)
    missing = vitctl("patchify", "pictures", "many.h5", *SMALL, "--shards", "3", "--shard", "index", code=3)
    assert "1 of 3 shards are missing, many-00001-of-00003.h5 first" in missing.error
    vitctl("patchify", "pictures", "many.h5", *SMALL, "--shards", "3", "--shard", "1")
    vitctl("patchify", "pictures", "many.h5", *SMALL, "--shards", "3", "--shard", "index")
    index = vitctl("info", "many.h5", "--verify", "--json").json
    assert (index["digest"], index["splits"], index["shards"], index["verified"]) == (
        whole["digest"], whole["splits"], 3, True)  # fmt: skip
    at_once = vitctl("patchify", "pictures", "same.h5", *SMALL, "--shards", "3", "--json").json["data"]
    assert at_once["digest"] == whole["digest"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nowhere"], 3, "nowhere"),
        (["pictures", "--res", "225"], 2, "nearest are 224x224 and 240x240"),
        (["pictures", "--set", "codc=zstd"], 2, "did you mean 'codec'"),
        (["pictures", "--split", "val=0.001"], 3, "no class has enough images"),
        (["pictures", "--shard", "1"], 2, "--shard needs --shards"),
        (["pictures", "pictures"], 2, "is a folder; name a file"),
        (["pictures", "notes.txt/out.h5"], 2, "cannot be created"),
        (["empty"], 3, "empty"),
        (["notes.txt"], 3, "notes.txt"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    vitctl: Run, folder: Folder, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    folder({"cat": 3})
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    answer = vitctl("patchify", *arguments, "--json", code=code)
    assert answer.out == ""
    assert message in answer.error
    assert sorted(path.name for path in tmp_path.rglob("*")) == before  # and nothing is left lying about


def test_a_manifest_may_name_any_image_of_this_machine(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    root = folder({"cat": 3})
    (tmp_path / "links").symlink_to(root / "cat")
    os.mkfifo(tmp_path / "pipe.png")
    lines = ["path,label", f"{root}/cat/000.png,cat", "../links/001.png,cat", "cat/002.png,dog", "../pipe.png,dog"]
    (root / "list.csv").write_text("\n".join(lines))
    data = vitctl("patchify", "pictures/list.csv", *SMALL, "--json").json["data"]
    assert data["splits"]["train"]["labelled"] == 3
    assert [each["reason"] for each in data["rejected"]] == ["../pipe.png is neither a file nor a folder"]


def test_a_table_of_identifiers(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"train": 4})
    (tmp_path / "train.csv").write_text(",image_id,kind\n0,000,cat\n1,001,dog\n2,002,cat\n3,009,dog\n")
    line = ("patchify", "train.csv", *SMALL, "--set", "root=pictures/train")
    missing = vitctl(*line[:-2], code=3).error
    assert "train.csv line 2: 000 does not exist, and there is no 000.jpg or similar" in missing
    answer = vitctl(*line, "--set", "label_column=kind", "--json")
    assert answer.json["data"]["class_names"] == ["cat", "dog"]
    assert answer.json["data"]["rejects"] == 1
    assert "exists already, made with other options" in vitctl(*line, "--resume", code=2).error
    vitctl(*line, "--set", "label_column=kind", "--resume")
    assert "has no column 'kin'" in vitctl(*line, "--set", "label_column=kin", "--overwrite", code=3).error


def test_an_archive_that_points_outside(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    root = folder({"cat": 2})
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("cat/000.png", "../cat/001.png", "/cat/001.png"):
            content = (root / "cat" / Path(name).name).read_bytes()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    data = vitctl("patchify", "a.tar", *SMALL, "--json").json["data"]
    assert data["splits"]["train"]["pictures"] == 1
    assert data["rejects"] == 2
    assert {path.name for path in tmp_path.iterdir()} - {"cache"} == {"a.tar", "data.h5", "pictures"}


def test_a_loop_of_links(vitctl: Run, folder: Folder) -> None:
    root = folder({"cat": 2, "dog": 2})
    (root / "cat" / "again").symlink_to(root, target_is_directory=True)
    data = vitctl("patchify", "pictures", *SMALL, "--json").json["data"]
    assert data["splits"]["train"]["pictures"] == 4
    assert "loop" in data["rejected"][0]["reason"]


def test_what_exists_stays(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"cat": 3})
    vitctl("patchify", "pictures", *SMALL)
    before = (tmp_path / "data.h5").read_bytes()
    assert "data.h5: exists already; --overwrite replaces it" in vitctl("patchify", "pictures", *SMALL, code=2).error
    answer = vitctl("patchify", "pictures", *SMALL, "--resume")
    assert "finished already" in answer.err
    vitctl("patchify", "pictures", *SMALL, "--overwrite")
    assert (tmp_path / "data.h5").read_bytes() == before


def test_a_full_disk_is_one_line_and_loses_nothing(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    folder({"cat": 60})
    vitctl("patchify", "pictures", "before.h5", *SMALL)
    limited = ("sh", "-c", 'ulimit -f 40; exec "$@"', "sh")  # no file over 20 kB: to a program, a disk that is full
    answer = vitctl("patchify", "pictures", "out.h5", *SMALL, code=4, before=limited)
    assert "out.h5: its disk is full; free some space, then add --resume" in answer.error
    assert not (tmp_path / "out.h5").exists()
    vitctl("patchify", "pictures", "out.h5", *SMALL, "--resume")
    assert (tmp_path / "out.h5").read_bytes() == (tmp_path / "before.h5").read_bytes()


def start(tmp_path: Path, *arguments: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "vitctl", "patchify", *arguments]
    return subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "NO_COLOR": "1"}, stdout=-1, stderr=-1)


def wait_for(condition: Callable[[], bool], process: "subprocess.Popen[bytes]") -> None:
    while not condition():
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)


def many(folder: Folder) -> Path:
    """Work for some seconds: links to a few images of some size."""
    root = folder({"cat": 4}, ending="jpg")
    Image.effect_noise((1500, 1500), 60).convert("RGB").save(root / "cat" / "large.jpg")
    for number in range(600):
        os.link(root / "cat" / "large.jpg", root / "cat" / f"large{number:04d}.jpg")
    return root


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_stopped_it_keeps_what_is_done_and_says_how_to_go_on(
    folder: Folder, tmp_path: Path, number: signal.Signals, code: int, workers: str
) -> None:
    many(folder)
    arguments = ("pictures", "out.h5", "--res", "32", "--workers", workers, "--set", "draft=false")
    running = start(tmp_path, *arguments)
    digests = tmp_path / ".out.h5.building" / "digests"
    wait_for(lambda: digests.exists() and any(digests.read_bytes()), running)
    running.send_signal(number)
    out, err = running.communicate()
    last = err.decode().splitlines()[-1]
    assert running.returncode == code, err
    assert out == b""
    assert last == f"stopped; finished images are saved; continue with: vitctl patchify {' '.join(arguments)} --resume"
    journal = (tmp_path / ".out.h5.building" / "journal").read_text()
    assert journal.count("\n") >= 1
    assert not (tmp_path / "out.h5").exists()


def test_killed_it_leaves_no_worker_behind(folder: Folder, tmp_path: Path) -> None:
    many(folder)
    running = start(tmp_path, "pictures", "out.h5", "--res", "32", "--workers", "2", "--set", "draft=false")
    digests = tmp_path / ".out.h5.building" / "digests"
    wait_for(lambda: digests.exists() and any(digests.read_bytes()), running)
    running.kill()
    running.communicate()
    deadline = time.monotonic() + 60
    while using(tmp_path / ".out.h5.building"):
        assert time.monotonic() < deadline, using(tmp_path / ".out.h5.building")
        time.sleep(0.05)


def using(folder: Path) -> list[str]:
    """Processes that hold a file in `folder` open."""
    found = []
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(link).startswith(str(folder)):
                found.append(str(link))
        except OSError:
            continue
    return found


def test_a_folder_may_hold_its_own_patch_file(vitctl: Run, folder: Folder, tmp_path: Path) -> None:
    root = folder({"train/cat": 2, "val/cat": 1})
    whole = vitctl("patchify", "pictures", *SMALL, "--json").json["data"]["digest"]
    for name, more in (("in.h5", []), ("in.h5", ["--overwrite"]), ("shards.h5", ["--shards", "2"])):
        answer = vitctl("patchify", root, root / name, *SMALL, *more, "--json")
        assert answer.json["data"]["digest"] == whole
    assert not [path.name for path in root.iterdir() if path.name.startswith(".")]


def test_resume_takes_no_file_that_other_options_made(vitctl: Run, folder: Folder) -> None:
    folder({"cat": 2})
    vitctl("patchify", "pictures", *SMALL)
    answer = vitctl("patchify", "pictures", "--res", "32", "--resume", code=2)
    assert "made with other options; --overwrite replaces it" in answer.error


def test_shards_that_do_not_belong_together_make_no_index(vitctl: Run, folder: Folder) -> None:
    folder({"cat": 8, "dog": 8})
    options = ("--split", "val=0.25", "--shards", "2")
    for shard in ("0", "1"):
        vitctl("patchify", "pictures", "out.h5", *SMALL, *options, "--set", f"seed={shard}", "--shard", shard)
    answer = vitctl("patchify", "pictures", "out.h5", *SMALL, *options, "--shard", "index", code=3)
    assert "its plan differs from that of out-00000-of-00002.h5" in answer.error


def test_an_index_knows_what_its_shards_know(vitctl: Run, folder: Folder) -> None:
    root = folder({"train/cat": 9, "val/cat": 2})
    (root / "train/cat/003.png").write_bytes(b"no image")
    shutil.copy(root / "train/cat/000.png", root / "val/cat/leak.png")
    shutil.copy(root / "train/cat/000.png", root / "train/cat/zcopy.png")
    one = vitctl("patchify", "pictures", "one.h5", *SMALL, "--json").json["data"]
    many = vitctl("patchify", "pictures", "many.h5", *SMALL, "--shards", "5", "--json").json["data"]
    for name in ("splits", "rejects", "rejected", "duplicates", "leaked", "class_names"):
        assert many[name] == one[name], name
    for name in ("mean", "std"):
        assert many[name] == pytest.approx(one[name]), name
    assert (one["leaked"], one["duplicates"], one["rejects"]) == (1, 1, 1)


def test_numbered_classes_are_fixed_by_train_too(vitctl: Run, tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (4, 16, 16), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pictures, y_train=[0, 1, 3, 3], x_test=pictures[:2] // 2, y_test=[0, 7])
    answer = vitctl("patchify", "a.npz", "--json")
    assert answer.json["data"]["class_names"] == ["0", "1", "2", "3"]
    assert [entry["reason"] for entry in answer.json["data"]["rejected"]] == ["class '7' is not in train"]
    assert "class '2' has no image" in answer.err


@pytest.mark.parametrize("arguments", [["--split", "val=1.2.3"], ["--shards", "3", "--shard", "²"]])
def test_numbers_that_are_none_are_one_line(vitctl: Run, arguments: list[str]) -> None:
    assert vitctl("patchify", "digits", *arguments, code=2).error


@pytest.mark.parametrize("codec", ["zstd", "lz4", "lzf"])
def test_compressed_shards_are_read_by_another_process(vitctl: Run, folder: Folder, codec: str) -> None:
    folder({"cat": 6})
    vitctl("patchify", "pictures", *SMALL, "--compress", "--set", f"codec={codec}", "--shards", "2")
    assert vitctl("info", "--verify", "--json").json["verified"] is True


def test_a_reader_of_the_story_that_goes_away_stops_nothing(folder: Folder, tmp_path: Path) -> None:
    folder({"cat": 4})
    command = f"{sys.executable} -m vitctl patchify pictures out.h5 --res 16 --patch 4 2>&1 >/dev/null | true"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, env=os.environ)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out.h5").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_names_cannot_steer_a_terminal(vitctl: Run, folder: Folder) -> None:
    root = folder({"cat": 1})
    (root / "cat" / "bad\x1b[31m\nerror: fake.png").write_bytes(b"no image")
    answer = vitctl("patchify", "pictures", *SMALL)
    assert "\x1b" not in answer.err + vitctl("info", "--rejects").out
    assert not [line for line in answer.err.splitlines() if line.startswith("error")]
