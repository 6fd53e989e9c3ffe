"""The patchifier: the same bytes whoever does the work, and however often it is killed."""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vitctl.config.patchify import PatchifyConfig
from vitctl.config.res import Res
from vitctl.data.patchifier import build as building
from vitctl.data.patchifier import worker as working
from vitctl.data.patchifier.build import build_patch_file
from vitctl.data.patchifier.finish import final_orders
from vitctl.data.patchifier.merge import merge_copies
from vitctl.data.patchifier.plan import RowPlan
from vitctl.data.patchifier.scan import Scan
from vitctl.data.patchifier.worker import RowLayout, Worker
from vitctl.data.patchifier.workspace import BlockResult, Build, Existing, Journal, Workspace
from vitctl.data.sources import Hints, open_source
from vitctl.errors import DataError, NoSpace, OutputExists, RunError, UsageError
from vitctl.io.patch_file import PatchFile
from vitctl.io.patch_format import Extent, Geometry, image_digest
from vitctl.reporting import SilentReporter

Folder = Callable[..., Path]
RES = Res(16)


@pytest.fixture
def photos(folder: Folder) -> Path:
    """Two splits, with unreadable images at the begin, in the middle and at the end of them."""
    root = folder({"train/cat": 30, "train/dog": 30, "val/cat": 9, "val/dog": 8})
    for name in ("train/cat/000.png", "train/cat/017.png", "train/dog/029.png", "val/cat/003.png", "val/dog/007.png"):
        path = root / name
        path.write_bytes(path.read_bytes()[:100])
    shutil.copy(root / "train/cat/001.png", root / "val/dog/same.png")
    return root


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks from few images, and a journal that is written after each."""
    monkeypatch.setattr(building, "BLOCK_BYTES", 16 * 768)
    monkeypatch.setattr(building, "SYNC_SECONDS", 0.0)


@pytest.fixture
def tagged(photos: Path) -> Path:
    """The photos in a manifest with sets of classes: the unreadable ones too, and one set is unknown, one empty."""
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    tags = (["abcdef"[bit] for bit in range(6) if row % 37 >> bit & 1] for row in range(len(names)))
    cells = ["|".join(each) or "|" for each in tags]
    cells[5] = ""
    lines = [f"{name},{cell},{name.split('/')[0]}\n" for name, cell in zip(names, cells, strict=True)]
    (photos / "list.csv").write_text("path,label,split\n" + "".join(lines))
    return photos / "list.csv"


def order(source: Path, out: Path, **options: Any) -> Build:
    config = PatchifyConfig(source=str(source), out=str(out), **{"res": RES, "patch": 4, "workers": 1, **options})
    return Build(open_source(config.source, hints=Hints.of(config)), config, out)


def make(source: Path, out: Path, existing: Existing = "refuse", shard: int = 0, **options: Any) -> bytes:
    build_patch_file(replace(order(source, out, **options), existing=existing, shard=shard), SilentReporter())
    return out.read_bytes()


@pytest.mark.parametrize(("fit", "box"), [("crop", (4, 0, 44, 40)), ("whole", None)])
def test_images_names_labels_and_rejects_are_right(photos: Path, tmp_path: Path, fit: Any, box: Any) -> None:
    make(photos, tmp_path / "a.h5", fit=fit)
    file = PatchFile(tmp_path / "a.h5")
    assert {name: split.rows for name, split in file.splits.items()} == {"train": 57, "val": 16}
    assert file.class_names == ("cat", "dog")
    rejected = ["train/cat/000.png", "train/cat/017.png", "train/dog/029.png", "val/cat/003.png", "val/dog/007.png"]
    assert [name for name, _ in file.rejects()] == rejected
    assert {reason for _, reason in file.rejects()} == {"truncated file"}
    for split in file.splits.values():
        every = np.arange(split.rows)
        names = split.names(every)
        assert len(set(names)) == split.rows
        for name, label, image in zip(names, split.labels(), split.images(every), strict=True):
            assert file.class_names[label] == Path(name).parent.name
            original = Image.open(photos / name)
            expected = original.crop(box or (0, 0, *original.size)).resize((16, 16), Image.Resampling.BICUBIC)
            assert np.abs(image.astype(int) - np.asarray(expected).astype(int)).max() <= 1
        assert split.sizes().tolist() == [[40, 48] if fit == "whole" else [16, 16]] * split.rows
    assert file.leaks() == [("val", "val/dog/same.png", "train", "train/cat/001.png")]
    assert file.header.leaked == 1


def test_mean_and_std_are_those_of_the_train_images(photos: Path, tmp_path: Path) -> None:
    make(photos, tmp_path / "a.h5")
    file = PatchFile(tmp_path / "a.h5")
    pixels = file.split("train").images(np.arange(57)).reshape(-1, 3) / 255
    assert np.allclose(file.header.mean, pixels.mean(0))
    assert np.allclose(file.header.std, pixels.std(0))


def test_workers_do_not_change_a_byte(photos: Path, tmp_path: Path) -> None:
    alone = make(photos, tmp_path / "a.h5")
    assert make(photos, tmp_path / "b.h5", workers=2) == alone
    assert make(photos, tmp_path / "c.h5", workers=3) == alone


@pytest.mark.parametrize("shards", [None, 3])
def test_sets_stay_with_their_images_when_some_are_rejected(tagged: Path, tmp_path: Path, shards: int | None) -> None:
    expected = {name: cell for name, cell, _ in (line.split(",") for line in tagged.read_text().split()[1:])}
    seen = 0
    for shard in range(shards or 1):
        make(tagged, tmp_path / f"{shard}.h5", shard=shard, shards=shards)
        file = PatchFile(tmp_path / f"{shard}.h5")
        assert (file.header.task, file.class_names) == ("sets", tuple("abcdef"))
        assert file.compute_digest() == file.digest
        for split in file.splits.values():
            names = split.names(np.arange(split.rows))
            for name, label, members in zip(names, split.labels(), split.label_sets(), strict=True):
                cell = expected[name]
                assert "|".join(np.array(list("abcdef"))[members == 1]) == cell.strip("|")
                assert label == (-1 if cell == "" else -2 if cell == "|" else "abcdef".index(cell[0]))
                seen += 1
    assert seen == len(expected) - 5


def test_numbers_stay_with_their_images_when_some_are_rejected(photos: Path, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    drawn = np.random.default_rng(0).normal(size=len(names)).tolist()
    values = dict(zip(names, drawn, strict=True))
    (photos / "list.csv").write_text("path,age\n" + "".join(f"{name},{value!r}\n" for name, value in values.items()))
    make(photos / "list.csv", tmp_path / "a.h5", target_column="age", split=("val=0.2",))
    file = PatchFile(tmp_path / "a.h5")
    assert (file.header.task, file.class_names) == ("numbers", ())
    for split in file.splits.values():
        assert split.targets().tolist() == [values[name] for name in split.names(np.arange(split.rows))]
        assert (split.labels() == -1).all()


def test_equal_files_become_one_image_of_all_their_classes(folder: Folder, tmp_path: Path) -> None:
    root = folder({"train/cat": 4, "train/dog": 3, "train/owl": 1, "val/cat": 2})
    shutil.copy(root / "train/cat/001.png", root / "train/dog/copy.png")
    shutil.copy(root / "train/cat/001.png", root / "train/owl/copy.png")
    shutil.copy(root / "train/cat/002.png", root / "train/cat/again.png")
    shutil.copy(root / "train/cat/003.png", root / "val/cat/leak.png")
    build = order(root, tmp_path / "a.h5", merge_copies=True)
    assert build_patch_file(build, SilentReporter()).notes[0] == "merged 3 equal files: 1 image of several classes"
    file = PatchFile(tmp_path / "a.h5")
    split = file.split("train")
    names = split.names(np.arange(split.rows))
    assert len(names) == 8
    assert not [name for name in names if "copy" in name or "again" in name]
    members = dict(zip(names, split.label_sets().tolist(), strict=True))
    assert (file.class_names, members["train/cat/001.png"]) == (("cat", "dog", "owl"), [1, 1, 1])
    assert sum(map(sum, members.values())) == 10
    assert file.split("val").rows == 3  # a copy in another split is a leak, and stays
    assert (file.header.duplicates, file.header.leaked) == (0, 1)


def test_files_that_cannot_be_read_are_not_equal(folder: Folder, tmp_path: Path) -> None:
    """A place in an archive that is damaged: both are rejected by name, and neither takes the label of the other."""
    root = folder({"cat": 2, "dog": 2})
    build = order(root, tmp_path / "a.h5", merge_copies=True)
    scan = Scan(tmp_path / "scan")
    scan.run(build.source, SilentReporter())
    for name in ("cat/001.png", "dog/001.png"):
        (root / name).unlink()
    assert merge_copies(scan, build.source, SilentReporter()).startswith("merged 0 equal files")
    assert (scan.column("split") >= 0).all()


@pytest.mark.parametrize("codec", ["gzip", "lzf", "zstd", "lz4"])
def test_compressing_changes_no_content(photos: Path, tmp_path: Path, codec: str) -> None:
    make(photos, tmp_path / "plain.h5")
    one = make(photos, tmp_path / "a.h5", compress=True, codec=codec)
    assert make(photos, tmp_path / "b.h5", compress=True, codec=codec, workers=2) == one
    plain, packed = PatchFile(tmp_path / "plain.h5"), PatchFile(tmp_path / "a.h5")
    assert plain.digest == packed.digest
    rows = np.arange(57)
    assert np.array_equal(plain.split("train").patches(rows), packed.split("train").patches(rows))


@pytest.mark.parametrize("fit", ["whole", "crop"])
def test_a_file_of_jpegs_is_the_same_whatever_makes_it(photos: Path, tmp_path: Path, fit: str) -> None:
    one = make(photos, tmp_path / "a.h5", codec="jpeg", fit=fit)
    assert make(photos, tmp_path / "b.h5", codec="jpeg", fit=fit, workers=2) == one
    make(photos, tmp_path / "raw.h5", fit=fit)
    raw, packed = PatchFile(tmp_path / "raw.h5"), PatchFile(tmp_path / "a.h5")
    assert (raw.codec, packed.codec) == ("raw", "jpeg")
    assert packed.digest == packed.compute_digest() != raw.digest
    for name, split in raw.splits.items():
        rows, other = np.arange(split.rows), packed.split(name)
        assert split.names(rows) == other.names(rows)
        assert np.array_equal(split.sizes(), other.sizes())
        assert [image_digest(np.frombuffer(each, np.uint8)) for each in other.read_jpegs(rows)] == [
            each.tobytes() for each in other.digests()
        ]
        assert np.abs(split.images(rows).astype(int) - other.images(rows)).mean() < 8  # the images are noise


def test_a_jpeg_of_the_stored_size_is_kept_as_it_is(folder: Folder, tmp_path: Path) -> None:
    source = folder({"cat": 4}, ending="jpg")  # 48x40
    Image.open(source / "cat/000.jpg").convert("L").save(source / "cat/gray.jpg")
    make(source, tmp_path / "a.h5", codec="jpeg", res=Res(40, 48), patch=8)
    split = PatchFile(tmp_path / "a.h5").split("train")
    rows = np.arange(split.rows)
    for name, content in zip(split.names(rows), split.read_jpegs(rows), strict=True):
        assert (bytes(content) == (source / name).read_bytes()) == (name != "cat/gray.jpg")


# --------------------------------------------------------------------------------------------------- killed anywhere

TOUCHING = (
    "pwrite",
    "replace",
    "truncate",
    "ftruncate",
    "fsync",
    "mkdir",
    "unlink",
)  # calls of os that change the disk


@contextmanager
def killed_at(fatal: int) -> Iterator[list[int]]:
    """SIGKILL to this process at the `fatal`-th call that changes the disk, after a part of what it writes."""
    count = [0]

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            count[0] += 1
            if count[0] == fatal:
                if real is real_calls["pwrite"]:
                    real(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2], arguments[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)

        return call

    real_calls = {name: getattr(os, name) for name in TOUCHING}
    try:
        for name, real in real_calls.items():
            setattr(os, name, deadly(real))
        yield count
    finally:
        for name, real in real_calls.items():
            setattr(os, name, real)


def in_a_fork(work: Callable[[], None]) -> int:
    """Runs `work` in a copy of this process; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def calls_of(work: Callable[[], None]) -> int:
    with killed_at(-1) as count:
        work()
    return count[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Python's warning that a forked child has only this thread
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compress": True},
        {"shards": 2},
        {"codec": "jpeg"},
        pytest.param({"codec": "jpeg", "shards": 2, "fit": "crop"}, marks=pytest.mark.slow),
    ],
    ids=["raw", "compressed", "sharded", "jpeg", "sharded jpeg"],
)
@pytest.mark.parametrize("stride", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_any_write_and_resumed_it_is_the_same_file(
    photos: Path, tmp_path: Path, options: dict[str, Any], stride: int
) -> None:
    resume_after_kills(photos, tmp_path, options, stride)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"merge_copies": True},
        pytest.param({"shards": 2}, marks=pytest.mark.slow),
    ],
    ids=["plain", "merged", "sharded"],
)
def test_killed_with_sets_it_is_the_same_file(tagged: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    resume_after_kills(tagged, tmp_path, options, 7)


def resume_after_kills(photos: Path, tmp_path: Path, options: dict[str, Any], stride: int) -> None:
    shard = 1 if "shards" in options else 0
    whole = make(photos, tmp_path / "whole.h5", shard=shard, **options)
    out = tmp_path / "out.h5"
    total = calls_of(lambda: make(photos, out, shard=shard, **options))  # type: ignore[arg-type, return-value]
    out.unlink()
    assert total > 40

    def killed(fatal: int) -> None:
        with killed_at(fatal):
            make(photos, out, existing="resume", shard=shard, **options)

    for fatal in range(1, total + 1, stride):
        code = in_a_fork(lambda fatal=fatal: killed(fatal))  # type: ignore[misc]
        assert code == -signal.SIGKILL, f"call {fatal} of {total}: exit code {code}"
        if out.exists():  # it was in its place already, and whole
            assert out.read_bytes() == whole
            if not Workspace(out).folder.exists():
                out.unlink()
                continue
        again = random.Random(fatal).randint(1, total)
        in_a_fork(lambda again=again: killed(again))  # type: ignore[misc]
        if not out.exists() or Workspace(out).folder.exists():
            make(photos, out, existing="resume", shard=shard, **options)
        assert out.read_bytes() == whole, f"killed at call {fatal} of {total}"
        assert not Workspace(out).folder.exists()
        out.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("options", ["", "--shards 3", "--fit crop"])
@pytest.mark.parametrize("codec", ["raw", "jpeg", "gzip"])
def test_fifty_kills_of_the_real_command(
    folder: Folder, tmp_path: Path, workers: int, options: str, codec: str
) -> None:
    """SIGKILL to `vitctl patchify` at random moments, each followed by --resume, until it is through."""
    source = folder({f"train/{name}": 150 for name in "abcd"}, ending="jpg")
    (source / "train/a/000.jpg").write_bytes(b"\xff\xd8\xff no image")
    command = [sys.executable, "-m", "vitctl", "patchify", str(source), "out.h5", "--res", "96"]
    command += ["--workers", str(workers), "--codec", codec, *options.split()]

    def digests() -> list[str]:
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(tmp_path.glob("out*.h5"))]

    started = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    lasts = time.monotonic() - started
    expected, moments, kills = digests(), random.Random(workers), 0
    while kills < 50:
        for path in [*tmp_path.glob("out*"), *tmp_path.glob(".out*")]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        for _ in range(5):
            running = subprocess.Popen(
                [*command, "--resume"], cwd=tmp_path, stdout=-3, stderr=-3, start_new_session=True
            )
            try:
                running.wait(moments.uniform(0.3, 1.1) * lasts)
            except subprocess.TimeoutExpired:
                running.kill()
                kills += 1
            running.wait()
        subprocess.run([*command, "--resume"], cwd=tmp_path, check=True, capture_output=True)
        assert digests() == expected
        assert not list(tmp_path.glob(".*.building"))


# ------------------------------------------------------------------------------------------------------------ parts


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 30), st.sets(st.integers(0, 29))), min_size=1, max_size=3), st.data())
def test_gaps_are_filled_from_the_end_and_every_good_row_stays(
    splits: list[tuple[int, set[int]]], data: st.DataObject
) -> None:
    names = ("train", "val", "test")
    counts = {name: count for name, (count, _) in zip(names, splits, strict=False)}
    extents = {name: Extent(0, count) for name, count in counts.items()}
    layout = RowLayout(RowPlan(Path(), Geometry(1, 1, 1, 1), "crop", "raw", counts, (), (), (), (), ""), extents, 1)
    begins = layout.split_starts()
    bad = {
        name: {row for row in rejected if row < count} for name, (count, rejected) in zip(names, splits, strict=False)
    }
    orders = final_orders(layout, sorted(begins[name] + row for name in counts for row in bad[name]))
    for name, count in counts.items():
        order = (orders[name][:] - begins[name]).tolist()
        assert sorted(order) == [row for row in range(count) if row not in bad[name]]
        assert all(order[row] == row for row in order if row < len(order))
        start, stop = sorted(data.draw(st.tuples(st.integers(0, 30), st.integers(0, 30))))
        assert (orders[name][start:stop] - begins[name]).tolist() == order[start:stop]


def test_a_line_that_a_kill_cut_short_costs_one_block(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in range(3):
        journal.add(BlockResult(number, [(number, "bad")], 5, [1], [2]))
    journal.write()
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        resumed = Journal(path)
        assert list(resumed.done) == list(range(whole[:length].count(b"\n")))
        resumed.add(BlockResult(9))
        resumed.write()
        assert list(Journal(path).done) == [*range(whole[:length].count(b"\n")), 9]


def unfinished(photos: Path, out: Path, **options: Any) -> Workspace:
    """A build that was stopped before its first block."""
    build = order(photos, out, **options)
    build.space.begin(building.build_inputs(build), build.existing)
    return build.space


def test_other_options_cannot_resume_a_build(photos: Path, tmp_path: Path) -> None:
    unfinished(photos, tmp_path / "a.h5")
    with pytest.raises(UsageError, match="fit was 'auto' and is 'pad'"):
        make(photos, tmp_path / "a.h5", existing="resume", fit="pad")


def test_another_source_cannot_resume_a_build(photos: Path, tmp_path: Path) -> None:
    """The plan holds places in an archive: in one that was packed again they are other images."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(photos, "photos")
    unfinished(archive, tmp_path / "a.h5")
    with tarfile.open(archive, "w") as tar:
        for name in ("train/dog", "train/cat", "val/dog"):
            tar.add(photos / name, f"photos/{name}")
    with pytest.raises(UsageError, match="cannot resume, because files was"):
        make(archive, tmp_path / "a.h5", existing="resume")


def test_an_existing_file_is_kept_by_default(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    whole = make(photos, out)
    with pytest.raises(OutputExists, match=r"a\.h5: exists already; --overwrite replaces it"):
        make(photos, out)
    Workspace(out).folder.mkdir()
    with pytest.raises(OutputExists, match="is unfinished; continue with --resume"):
        make(photos, out)
    assert out.read_bytes() == whole


def test_a_second_build_of_one_file_is_refused_and_does_not_harm_the_first(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    space = unfinished(photos, out)
    before = sorted(path.name for path in space.folder.iterdir())
    with space.hold(SilentReporter()):
        for existing in ("resume", "overwrite"):
            with pytest.raises(OutputExists, match="another process is building it"):
                make(photos, out, existing)
            assert sorted(path.name for path in space.folder.iterdir()) == before


def test_a_split_of_which_nothing_can_be_read_is_empty(folder: Folder, tmp_path: Path) -> None:
    root = folder({"train/cat": 2, "val/cat": 3})
    for path in (root / "train").rglob("*.png"):
        path.write_bytes(b"no image")
    make(root, tmp_path / "a.h5")
    file = PatchFile(tmp_path / "a.h5")
    assert {name: split.rows for name, split in file.splits.items()} == {"train": 0, "val": 3}
    assert file.split("val").digests().tobytes() == b"".join(map(image_digest, file.split("val").patches(np.arange(3))))


def test_a_source_that_goes_away_does_not_reject_every_image(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    whole = make(photos, tmp_path / "whole.h5")
    real = Worker.block

    def unmounted(worker: Worker, number: int) -> BlockResult:
        if number == 2:
            photos.rename(tmp_path / "elsewhere")
        return real(worker, number)

    monkeypatch.setattr(Worker, "block", unmounted)
    with pytest.raises(RunError, match="cannot be read"):
        make(photos, tmp_path / "a.h5")
    (tmp_path / "elsewhere").rename(photos)
    monkeypatch.setattr(Worker, "block", real)
    assert make(photos, tmp_path / "a.h5", existing="resume") == whole


def test_mean_and_std_look_at_evenly_spaced_images(photos: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(working, "SAMPLES", 20)  # of the 60 that are planned: every third
    make(photos, tmp_path / "a.h5")
    train = PatchFile(tmp_path / "a.h5").split("train")
    sampled = [f"train/{name}/{number:03d}.png" for name in ("cat", "dog") for number in range(0, 30, 3)]
    rows = [row for row, name in enumerate(train.names(np.arange(57))) if name in sampled]
    assert len(rows) == 19  # cat/000 is a reject
    pixels = train.images(np.array(rows)).reshape(-1, 3) / 255
    assert np.allclose(PatchFile(tmp_path / "a.h5").header.mean, pixels.mean(0))


def test_a_first_reject_stops_it_when_asked(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train/cat/000\.png: truncated file; --on-error skip"):
        make(photos, tmp_path / "a.h5", on_error="fail")


def test_nothing_readable_is_an_error_that_names_the_first(folder: Folder, tmp_path: Path) -> None:
    root = folder({"cat": 3})
    for path in root.rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"none of the 3 images could be read; the first is cat/000\.png: not an image"):
        make(root, tmp_path / "a.h5")


def test_no_room_stops_before_the_first_image(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6 - 10, 10))  # type: ignore[attr-defined]
    with pytest.raises(NoSpace, match=r"needs .* kB, but its disk has 10 B free"):
        make(photos, tmp_path / "a.h5")


def test_it_is_no_hdf5_file_until_it_is_whole(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    build, space = order(photos, out), unfinished(photos, out)
    layout = building.prepare_layout(build, building.load_or_make_plan(build, SilentReporter()))
    building.decode_blocks(build, layout, Journal(space.journal), SilentReporter())
    assert not out.exists()
    assert not h5py.is_hdf5(space.rows)


def test_a_journal_that_a_power_cut_garbled_counts_up_to_there(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    journal = Journal(path)
    for number in range(3):
        journal.add(BlockResult(number))
    journal.write()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + bytes(40) + b"\n" + lines[2])
    assert list(Journal(path).done) == [0]
    assert path.read_bytes() == lines[0]


def test_a_journal_without_its_rows_is_not_believed(photos: Path, tmp_path: Path) -> None:
    space = unfinished(photos, tmp_path / "a.h5")
    journal = Journal(space.journal)
    journal.add(BlockResult(0))
    journal.write()
    with pytest.raises(DataError, match="digests is missing; start over with --overwrite"):
        make(photos, tmp_path / "a.h5", existing="resume")
