"""exit_code: what a person can mend is a message and 2; the rest is raised."""

import errno
import os
import sys

import pytest

from depth_distill.errors import ConfigError, DataError
from depth_distill.exit_codes import exit_code


def test_success_is_zero():
    assert exit_code(lambda: None) == 0


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_what_a_person_can_mend_is_a_message_and_two(kind, capsys):
    def work():
        raise kind("depth/0001.png: [bold] is missing")

    assert exit_code(work) == 2
    assert capsys.readouterr().err == "error: depth/0001.png: [bold] is missing\n"


def test_behind_other_errors_it_is_found_too(capsys):
    def work():
        try:
            raise ConfigError("the cause")
        except ConfigError as error:
            raise ValueError("what jsonargparse makes of it") from error

    assert exit_code(work) == 2
    assert capsys.readouterr().err == "error: the cause\n"


def test_a_message_from_a_loader_worker_comes_without_its_traceback(capsys):
    def work():
        raise DataError(
            "Caught DataError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
            '  File "reading.py"\ndepth_distill.errors.DataError: rgb/0001.png is missing\n'
        )

    assert exit_code(work) == 2
    assert capsys.readouterr().err == "error: rgb/0001.png is missing\n"


def test_ctrl_c_is_130_also_inside_of_a_trainer_that_exits_with_1():
    def work():
        raise KeyboardInterrupt

    def train():
        try:
            work()
        except KeyboardInterrupt:
            sys.exit(1)

    assert exit_code(work) == exit_code(train) == 130


@pytest.mark.parametrize("code", [0, 1, 143])
def test_other_exits_keep_their_code(code):
    with pytest.raises(SystemExit) as caught:
        exit_code(lambda: sys.exit(code))
    assert caught.value.code == code


@pytest.mark.parametrize("error", [ValueError("ours"), RuntimeError("torch's")])
def test_what_is_our_fault_is_raised(error):
    def work():
        raise error

    with pytest.raises(type(error), match=str(error)):
        exit_code(work)


def test_a_file_that_cannot_be_written_is_named(tmp_path, capsys):
    def work():
        (tmp_path / "a.txt").mkdir()
        (tmp_path / "a.txt").write_text("")

    assert exit_code(work) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'a.txt'}: Is a directory; check the path")


def test_a_full_disk_is_one_line(capsys):
    def work():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert exit_code(work) == 2
    assert capsys.readouterr().err.startswith("error: No space left on device; check")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 22.9 TiB"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0.\nDefaultCPUAllocator: can't allocate memory: 3 bytes"
        ),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    ],
)
def test_too_little_memory_is_one_line_with_the_options_to_lower(error, capsys):
    def work():
        raise error

    assert exit_code(work) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: there is not enough memory (")
    assert "lower data.batch_size" in printed
    assert printed.count("\n") == 1
