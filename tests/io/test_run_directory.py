import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitctl.errors import DataError, OutputExists
from vitctl.io.run_directory import create_run, new_folder, open_run


def test_a_run_records_how_it_was_made(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs" / "one", "bench", {"rounds": 3}, "0.1.0")
    config = json.loads((run.path / "config.json").read_text())
    assert (config["command"], config["version"], config["config"]) == ("bench", "0.1.0", {"rounds": 3})
    assert {"torch", "numpy", "h5py"} <= set(config["libraries"])
    assert open_run(run.path).config == config


def test_a_result_means_finished(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", "bench", {}, "0.1.0")
    assert run.result is None
    run.finish({"top1": 0.5})
    assert open_run(run.path).result == {"top1": 0.5}


def test_the_folder_of_runs_means_the_newest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create_run(tmp_path / "runs" / name, "bench", {"name": name}, "0.1.0")
    assert open_run(tmp_path / "runs").config["config"] == {"name": "b"}


def test_a_run_is_replaced_only_with_overwrite(tmp_path: Path) -> None:
    create_run(tmp_path / "one", "bench", {"first": True}, "0.1.0").finish({})
    with pytest.raises(OutputExists, match=r"one: is not empty; use --overwrite to replace a run, or another --out$"):
        create_run(tmp_path / "one", "bench", {}, "0.1.0")
    again = create_run(tmp_path / "one", "bench", {}, "0.1.0", overwrite=True)
    assert again.result is None


def test_overwrite_deletes_only_runs(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(OutputExists, match="not empty"):
        create_run(tmp_path / "photos", "bench", {}, "0.1.0", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_truncated_line_of_metrics_is_ignored(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", "bench", {}, "0.1.0")
    run.log(step=1, loss=2.0)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1, "loss": 2.0}]


def test_another_folder_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        open_run(tmp_path)


def test_no_two_callers_get_the_same_new_folder(tmp_path: Path) -> None:
    """Even at the same moment."""
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: new_folder(tmp_path / "runs" / "one"), range(40)))
    assert len(set(folders)) == 40
    assert all(path.is_dir() for path in folders)
    assert folders.count(tmp_path / "runs" / "one") == 1


def test_a_part_knows_its_whole_run(tmp_path: Path) -> None:
    run = create_run(tmp_path / "trials" / "a", "finetune", {}, "0.1.0")
    assert run.root == run.part("trials/lr-0.1").root == run.part("trials").part("x").root == tmp_path / "trials" / "a"
