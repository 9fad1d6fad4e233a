"""Locks between processes. `Lock` is held for milliseconds; `Leader` for as long as a daemon lives.

Both are freed by the kernel the moment their holder dies, and both notice that their file was deleted under them,
which would otherwise let a second holder in.
"""

import contextlib
import fcntl
import os
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ravi.errors import Refused, Unavailable
from ravi.store.durable import write_all, writing

if TYPE_CHECKING:
    import filelock

_GLANCE = 0.2  # seconds: who only looks whether the lock is held has it for a moment


class Lock:
    """An exclusive lock on a file: among processes by flock, among the threads that share this object by itself.

    It is not reentrant. (The filelock library does the same and takes 40 ms to import.)
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1
        self._threads = threading.Lock()

    @contextlib.contextmanager
    def held(self, timeout: float = 30.0) -> Iterator[None]:
        """Hold it for the length of a `with`. Raises Unavailable when somebody else held it all the time."""
        self.acquire(timeout)
        try:
            yield
        finally:
            self.release()

    def acquire(self, timeout: float = 30.0) -> None:
        """Wait for it, and hold it."""
        deadline = time.monotonic() + timeout
        if not self._threads.acquire(timeout=timeout):
            raise self._timed_out(timeout)
        try:
            wait, is_ours = 0.0002, False
            while not (is_ours := self._locked()) and time.monotonic() < deadline:
                # a blocking flock could not be given up: a stopped holder would stop us too
                time.sleep(wait)
                wait = min(wait * 1.5, 0.01)
        except BaseException:
            self._threads.release()
            raise
        if not is_ours:
            self._threads.release()
            raise self._timed_out(timeout)

    def try_acquire(self) -> bool:
        """Hold it if nobody does; never waits."""
        if not self._threads.acquire(blocking=False):
            return False
        try:
            if self._locked():
                return True
        except BaseException:
            self._threads.release()
            raise
        self._threads.release()
        return False

    def release(self) -> None:
        """Let it go."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        except OSError:
            self.close()  # that frees it as well
        self._threads.release()

    def close(self) -> None:
        """Give up the file; the next acquire opens it anew."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __del__(self) -> None:
        self.close()

    def _locked(self) -> bool:
        with writing(self.path):
            while True:
                if self._fd < 0:
                    self._fd = _open(self.path)
                is_ours = _flocked(self._fd)
                if _is_same(self._fd, self.path):
                    return is_ours
                self.close()  # what we hold, or wait for, is not the lock any more: somebody deleted the file

    def _timed_out(self, timeout: float) -> Unavailable:
        return Unavailable(
            f"{self.path}: another ravi has held this lock for {timeout:g}s",
            hint=f"see which one with `fuser {self.path}`; a stopped process holds it until it goes on or ends",
        )


class Holder(NamedTuple):
    """Who leads a workspace, as the leader wrote it down."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} since {self.since}"


class Leader:
    """The lock of the one daemon of a workspace. The loser learns who holds it."""

    def __init__(self, common_dir: str) -> None:
        self.path = os.path.join(common_dir, "ravi", "leader.lock")
        self._note = os.path.join(common_dir, "ravi", "leader")
        self._lock: filelock.BaseFileLock | None = None
        self._inode = (0, 0)

    def acquire(self, since: str) -> None:
        """Become the leader, and write down who we are. Raises Refused with the holder's name."""
        import filelock

        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        while True:
            lock = filelock.FileLock(self.path, timeout=_GLANCE, thread_local=False)
            try:
                lock.acquire()
            except filelock.Timeout:
                who = self._told()
                raise Refused(
                    f"this workspace is led by {who or 'another process'}",
                    hint=f"end it with `kill -INT {who.pid}`" if who else "end that one first",
                ) from None
            if os.path.exists(self.path):
                break
            lock.release()  # deleted between opening and locking: what we hold is no lock
        try:
            self._inode = _inode(self.path)
            _check_flock(self.path)
        except BaseException:
            lock.release()
            raise
        self._lock = lock
        text = f"{os.getpid()}\n{os.uname().nodename}\n{since}\n"
        temporary = f"{self._note}.{os.getpid()}"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            write_all(fd, text.encode())
        finally:
            os.close(fd)
        os.replace(temporary, self._note)

    def holder(self) -> Holder | None:
        """Who leads this workspace now; None when nobody does, whatever a dead one left behind."""
        try:
            fd = os.open(self.path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return self._told() or Holder(0, "", "")
        finally:
            os.close(fd)
        return None

    def _told(self) -> Holder | None:
        """Who led it last, as they wrote down."""
        try:
            with open(self._note, encoding="utf-8") as file:
                pid, host, since = file.read().splitlines()
            return Holder(int(pid), host, since)
        except (FileNotFoundError, ValueError):
            return None

    def is_held(self) -> bool:
        """True while we lead: locked, and the file is still the one we locked."""
        if self._lock is None or not self._lock.is_locked:
            return False
        try:
            return _inode(self.path) == self._inode
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Stop leading. Harmless when we do not."""
        if self._lock is None:
            return
        with contextlib.suppress(FileNotFoundError):
            if self.is_held():
                os.unlink(self._note)
        self._lock.release()
        self._lock = None


def _check_flock(path: str) -> None:
    """Raise Unavailable where a lock that is held does not keep others out, as on some network file systems."""
    fd = _open(path)
    try:
        if _flocked(fd):
            raise Unavailable(f"{path}: this file system does not lock", hint="put the workspace on a local disk")
    finally:
        os.close(fd)


def _flocked(fd: int) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open(path: str) -> int:
    while True:
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(path), exist_ok=True)


def _inode(path: str) -> tuple[int, int]:
    stat = os.stat(path)
    return stat.st_dev, stat.st_ino


def _is_same(fd: int, path: str) -> bool:
    ours = os.fstat(fd)
    try:
        return (ours.st_dev, ours.st_ino) == _inode(path)
    except FileNotFoundError:
        return False
