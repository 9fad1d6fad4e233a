"""What an agent prints, kept within bounds."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravi.runners.log import Log, Words


def written(path: Path, limit: int, *chunks: bytes) -> bytes:
    log = Log(path, limit)
    for chunk in chunks:
        log.write(chunk)
    log.close()
    assert log.fault == "closed"
    return path.read_bytes()


def test_a_log_within_its_limit_is_whole(tmp_path: Path) -> None:
    assert written(tmp_path / "new/folder/log", 1024, b"a\n", b"", b"\xff\0b\n") == b"a\n\xff\0b\n"


@pytest.mark.parametrize("size", [1023, 1024, 1025, 1100, 1535, 1536, 1537, 2048, 5000, 100_000])
@pytest.mark.parametrize("chunk", [1, 7, 512, 5000, 100_000])
def test_the_middle_is_left_out_and_it_is_said(tmp_path: Path, size: int, chunk: int) -> None:
    data = bytes(n % 251 for n in range(size))
    kept = written(tmp_path / "log", 1024, *(data[at : at + chunk] for at in range(0, size, chunk)))
    if size <= 1024:
        assert kept == data
        return
    assert len(kept) <= 1024 + 64
    head, line, tail = kept[:512], kept[512:576], kept[576:]
    said = int(line.split(b" bytes")[0].removeprefix(b"\n[ravi: ").replace(b",", b""))
    assert head == data[:512]
    assert data.endswith(tail)
    assert len(tail) >= 512 - 64
    assert said == size - len(head) - len(tail)
    assert line.startswith(b"\n[ravi: ")
    assert line.endswith(b"\n")


def test_a_log_is_readable_and_bounded_while_it_grows(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 1024)
    for n in range(1000):
        log.write(b"line %04d\n" % n)
        kept = (tmp_path / "log").read_bytes()
        assert kept.startswith(b"line 0000\n")
        assert kept.endswith(b"line %04d\n" % n)
        assert len(kept) <= 1024 * 1.5 + 64
    log.close()


def test_a_log_is_for_its_owner_only_and_follows_no_link(tmp_path: Path) -> None:
    written(tmp_path / "log", 1024, b"x")
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "log")
    log = Log(tmp_path / "link", 1024)
    assert log.fault == "no log: Too many levels of symbolic links"
    log.write(b"lost")
    log.close()
    assert (tmp_path / "log").read_bytes() == b"x"


def test_a_full_disk_ends_the_log_and_not_the_run(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    log = Log("/dev/full", 1024)
    log.write(b"x" * 10)
    assert log.fault == "the log is not complete: No space left on device"
    log.write(b"more")
    log.close()


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(8, 32))
def test_last_words_are_the_end_of_what_was_said(chunks: list[bytes], limit: int) -> None:
    words = Words(limit)
    for chunk in chunks:
        words.add(chunk)
    said = words.text()
    assert len(said.removeprefix("…").encode()) <= 3 * limit  # a byte that is no text is shown as three
    assert "\0" not in said
    said.encode()


def test_last_words_are_never_cut_inside_a_character() -> None:
    words = Words(8)
    words.add("äöüäöü".encode()[:-1])
    words.add("ü\n".encode()[1:])
    assert words.text() == "…äöü"
    words = Words(7)
    words.add("x\0äöüß".encode())
    assert words.text() == "…öüß"


def test_bytes_that_are_no_text_are_shown_as_such() -> None:
    words = Words()
    words.add(b"  a\xff\0b\n\n")
    assert words.text() == "a\ufffd\ufffdb"
