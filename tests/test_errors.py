import errno

import pytest

from vitctl import errors


def test_every_error_has_the_exit_code_of_its_family() -> None:
    codes = {"UsageError": 2, "ConfigError": 2, "OutputExists": 2, "InputError": 3, "DataError": 3, "WeightsError": 3,
             "RunError": 4, "NoSpace": 4}  # fmt: skip
    for name, code in codes.items():
        assert getattr(errors, name)("x").exit_code == code
    assert errors.Interrupted("x").exit_code == 130
    assert errors.Interrupted("x", 143).exit_code == 143


@pytest.mark.parametrize(("word", "expected"), [("vaal", "did you mean 'val'?"), ("zzz", "known: train, val, test")])
def test_did_you_mean(word: str, expected: str) -> None:
    assert errors.did_you_mean(word, ["train", "val", "test"]) == expected


def test_did_you_mean_does_not_list_hundreds() -> None:
    assert errors.did_you_mean("zzz", [str(number) for number in range(100)]) == "100 are known"


def test_no_space_is_any_refusal_to_take_more() -> None:
    assert errors.is_no_space(OSError(errno.ENOSPC, "full"))
    assert not errors.is_no_space(OSError(errno.ENOENT, "gone"))
    assert not errors.is_no_space(ValueError("x"))


def test_out_of_memory_is_told_by_any_device() -> None:
    class OutOfMemoryError(RuntimeError):  # as torch calls it
        pass

    for error in (
        MemoryError(),
        OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory: 9 bytes"),
    ):
        assert errors.is_out_of_memory(error)
    assert not errors.is_out_of_memory(RuntimeError("shapes do not fit"))
