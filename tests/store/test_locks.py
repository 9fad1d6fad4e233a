"""Locks: one holder, whoever dies, and whoever deletes the file."""

import fcntl
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import python

from ravi.errors import Refused, Unavailable
from ravi.store.locks import Holder, Leader, Lock

_HOLD = """
from ravi.store.locks import Lock
lock = Lock(sys.argv[1])
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
_LEAD = """
from ravi.store.locks import Leader
leader = Leader(sys.argv[1])
leader.acquire("2026-11-20T10:22:33.000Z")
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "ravi" / "writer.lock")


def _started(code: str, *args: object) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(python(code, *args), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


@pytest.fixture
def holder(path: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = _started(_HOLD, path)
    with process:
        yield process
        process.kill()


def test_a_lock_is_held_by_one_thread_at_a_time(path: str) -> None:
    lock, inside, most = Lock(path), 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(200):
            with lock.held():
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    lock.close()


def test_two_locks_on_one_file_exclude_each_other(path: str) -> None:
    one, two = Lock(path), Lock(path)
    with one.held():
        assert not two.try_acquire()
        with pytest.raises(Unavailable, match=r"writer\.lock: another ravi"):
            two.acquire(timeout=0.02)
        assert not one.try_acquire()
        with pytest.raises(Unavailable):
            one.acquire(timeout=0.02)  # not reentrant
    assert two.try_acquire()
    two.release()


def test_another_process_is_kept_out_until_the_holder_dies(path: str, holder: "subprocess.Popen[bytes]") -> None:
    lock = Lock(path)
    assert not lock.try_acquire()
    holder.send_signal(signal.SIGKILL)
    lock.acquire(timeout=5)
    lock.release()


def test_a_deleted_lock_file_lets_nobody_share_the_lock(path: str, holder: "subprocess.Popen[bytes]") -> None:
    lock = Lock(path)
    assert not lock.try_acquire()
    os.unlink(path)
    assert lock.try_acquire()  # the holder has a lock without a name now; ours is the one that counts
    with pytest.raises(Unavailable):
        Lock(path).acquire(timeout=0.02)
    lock.release()
    os.unlink(path)
    with lock.held():
        assert not Lock(path).try_acquire()


def test_a_fault_inside_frees_the_lock(path: str) -> None:
    lock = Lock(path)
    with pytest.raises(RuntimeError), lock.held():
        raise RuntimeError
    assert lock.try_acquire()
    lock.release()


# -- the one daemon


def test_the_second_leader_is_told_who_leads(tmp_path: Path) -> None:
    with _started(_LEAD, tmp_path) as process:
        late = Leader(str(tmp_path))
        with pytest.raises(Refused, match=f"led by process {process.pid} on .* since 2026-11-20T10:22:33.000Z") as told:
            late.acquire("2026-11-20T11:00:00.000Z")
        assert f"kill -INT {process.pid}" in told.value.hint
        assert not late.is_held()
        assert late.holder() == Holder(process.pid, os.uname().nodename, "2026-11-20T10:22:33.000Z")
        process.kill()
        process.wait()
        assert late.holder() is None, "what a dead one wrote down is no claim"
        late.acquire("2026-11-20T11:00:00.000Z")
        assert late.holder() == Holder(os.getpid(), os.uname().nodename, "2026-11-20T11:00:00.000Z")
        assert late.is_held()
        late.release()
    assert not late.is_held()
    assert late.holder() is None
    late.release()


def test_a_leader_notices_that_its_lock_file_was_deleted(tmp_path: Path) -> None:
    first, second = Leader(str(tmp_path)), Leader(str(tmp_path))
    first.acquire("then")
    with pytest.raises(Refused):
        second.acquire("now")
    os.unlink(first.path)
    assert not first.is_held()
    second.acquire("now")
    assert second.is_held()
    first.release()
    assert second.is_held()
    holder = second.holder()
    assert holder is not None
    assert holder.since == "now"
    second.release()


def test_a_holders_note_that_is_torn_is_no_fault(tmp_path: Path) -> None:
    leader = Leader(str(tmp_path))
    leader.acquire("then")
    (tmp_path / "ravi" / "leader").write_text("half")
    with pytest.raises(Refused, match="led by another process"):
        Leader(str(tmp_path)).acquire("now")
    leader.release()


def test_where_locks_do_not_lock_nobody_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda fd, how: None)  # as some network file systems do
    with pytest.raises(Unavailable, match="does not lock"):
        Leader(str(tmp_path)).acquire("now")
