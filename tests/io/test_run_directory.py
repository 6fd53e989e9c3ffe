import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vitctl.errors import DataError, OutputExists
from vitctl.io.run_directory import create_run, new_folder, open_run


def test_a_run_says_what_made_it(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs" / "one", "bench", {"rounds": 3}, "0.1.0")
    found = json.loads((run.path / "config.json").read_text())
    assert (found["command"], found["version"], found["config"]) == ("bench", "0.1.0", {"rounds": 3})
    assert {"torch", "numpy", "h5py"} <= set(found["libraries"])
    assert open_run(run.path).config == found


def test_a_result_means_finished(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", "bench", {}, "0.1.0")
    assert run.result is None
    run.finish({"top1": 0.5})
    assert open_run(run.path).result == {"top1": 0.5}


def test_the_folder_of_runs_means_the_newest(tmp_path: Path) -> None:
    for name in ("a", "b"):
        create_run(tmp_path / "runs" / name, "bench", {"name": name}, "0.1.0")
    assert open_run(tmp_path / "runs").config["config"] == {"name": "b"}


def test_what_is_there_is_not_overwritten_unless_told(tmp_path: Path) -> None:
    create_run(tmp_path / "one", "bench", {"first": True}, "0.1.0").finish({})
    with pytest.raises(OutputExists, match="not empty"):
        create_run(tmp_path / "one", "bench", {}, "0.1.0")
    again = create_run(tmp_path / "one", "bench", {}, "0.1.0", overwrite=True)
    assert again.result is None


def test_overwrite_destroys_only_runs(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"x")
    with pytest.raises(OutputExists, match="not empty"):
        create_run(tmp_path / "photos", "bench", {}, "0.1.0", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_metrics_line_that_a_kill_cut_short_does_not_count(tmp_path: Path) -> None:
    run = create_run(tmp_path / "one", "bench", {}, "0.1.0")
    run.log(step=1, loss=2.0)
    with open(run.path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1, "loss": 2.0}]


def test_something_else_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run directory"):
        open_run(tmp_path)


def test_a_new_folder_is_nobody_elses(tmp_path: Path) -> None:
    """Many who ask at the same moment get one each."""
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: new_folder(tmp_path / "runs" / "one"), range(40)))
    assert len(set(found)) == 40
    assert all(path.is_dir() for path in found)
    assert found.count(tmp_path / "runs" / "one") == 1


def test_a_part_knows_its_whole(tmp_path: Path) -> None:
    run = create_run(tmp_path / "trials" / "a", "finetune", {}, "0.1.0")
    assert run.root == run.part("trials/lr-0.1").root == run.part("trials").part("x").root == tmp_path / "trials" / "a"
