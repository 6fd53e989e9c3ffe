import multiprocessing
import pickle
import shutil
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from vitctl.data.sources import Declared, FoundImage, open_source
from vitctl.data.sources.contract import several_readings
from vitctl.errors import DataError
from vitctl.reporting import SilentReporter


def test_scans_are_alike_and_names_can_be_stored(any_source, look):
    scan = look(any_source)
    again = list(scan.source.scan())
    assert [each for each in again if isinstance(each, FoundImage)] == scan.found
    assert [each for each in again if isinstance(each, Declared)] == scan.declared
    for each in scan.found:
        assert each.name.encode()
        assert each.split in (None, "train", "val", "test")
        assert max(each.file, each.offset, each.size) < 1 << 63


def test_classes_are_declared_before_their_images(any_source, look):
    known = set()
    for each in look(any_source).source.scan():
        if isinstance(each, Declared):
            known.add((each.label, each.split))
        elif known and each.label is not None:
            assert (each.label, each.split) in known


def test_images_are_bytes_or_arrays_of_bytes(any_source, look):
    scan = look(any_source)
    for content in scan.read().values():
        if isinstance(content, bytes):
            assert content
        else:
            assert content.dtype == np.uint8
            assert (*content.shape, 1)[:3] == scan.source.native
            content[...] = 0  # a copy of its own, not a view into a file


def test_a_pickled_source_reads_the_same(any_source, look):
    scan = look(any_source)
    before = scan.read()
    scan.source = pickle.loads(pickle.dumps(scan.source))
    after = scan.read()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_other_processes_read_the_same(look, make, tmp_path):
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        for name in ("zip", "class-tars", "idx", "arrays", "cifar"):
            scan = look(make.MAKERS[name](tmp_path / name))
            read = [pool.submit(scan.source.read, each.name, each.file, each.offset, each.size) for each in scan.found]
            for each, content in zip(read, scan.read().values(), strict=True):
                assert np.array_equal(each.result(), content)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # numpy's threads are idle here
def test_a_source_survives_a_fork_after_it_was_read(look, make, tmp_path):
    scan = look(make.MAKERS["tar"](tmp_path))
    expected = scan.read()
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("fork")) as pool:
        for each in scan.found * 10:
            assert (
                pool.submit(scan.source.read, each.name, each.file, each.offset, each.size).result()
                == expected[each.name]
            )


def test_preparing_again_uses_what_is_there(any_source, look, spool):
    scan = look(any_source)
    made = {path.name: path.stat().st_mtime_ns for path in spool.iterdir()}
    again = open_source(str(any_source))
    again.prepare(spool, SilentReporter())
    assert {path.name: path.stat().st_mtime_ns for path in spool.iterdir()} == made
    first = scan.found[0]
    assert np.array_equal(
        again.read(first.name, first.file, first.offset, first.size),
        scan.source.read(first.name, first.file, first.offset, first.size),
    )


def test_preparing_for_another_shard_leaves_the_first_folder_alone(any_source, look, spool, tmp_path):
    scan = look(any_source)
    before = scan.read()
    shutil.rmtree(spool)
    (tmp_path / "another").mkdir()
    scan.source.prepare(tmp_path / "another", SilentReporter())
    assert [each for each in scan.source.scan() if isinstance(each, FoundImage)] == scan.found
    after = scan.read()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_no_image_is_an_error_that_names_a_reject(look, make, tmp_path):
    make.write_folder(tmp_path / "set", {"a.csv": "path\n../x.jpg\n"})
    with pytest.raises(DataError, match=r"^a.csv line 2: ../x.jpg does not exist"):
        look(tmp_path / "set" / "a.csv")


def test_several_readings_name_the_way_out():
    message = str(several_readings("x", {"flat": "one", "classes": "two"}))
    assert message == "x: can be read as one (--set kind=flat) or two (--set kind=classes); choose one"
