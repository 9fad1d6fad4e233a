"""The log of a daemon in the background: written by the daemon itself, kept small by itself, read by `daemon logs`."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime

from ravi.core.times import stamp

SIZE, FILES = 5 << 20, 5  # bytes in one file, and files
_TIMED = re.compile(r"\d\d:\d\d:\d\d ")  # how the loop begins a line
_LOOK = 0.2  # seconds between looks for more: a log has no doorbell


class DaemonLog:
    """`daemon.log`, older words in `daemon.log.1` and on. Safe in any thread; a fault of the disk loses words, no more.

    Where stdout or stderr are the same file, they stay so when it is rotated or deleted.
    """

    def __init__(self, path: str, now: Callable[[], datetime], *, size: int = SIZE, files: int = FILES) -> None:
        self.path = path
        self._now = now
        self._size, self._files = size, files
        self._lock = threading.Lock()
        self._fd = open_log(path)

    def say(self, text: str) -> None:
        """Write a line, or several, with the moment before each."""
        moment = stamp(self._now())
        lines = (
            f"{moment[:11]}{line[:8]}Z {line[9:]}\n" if _TIMED.match(line) else f"{moment[:19]}Z {line}\n"
            for line in text.splitlines() or [""]
        )
        with self._lock, contextlib.suppress(OSError):
            self._have_room()
            os.write(self._fd, "".join(lines).encode("utf-8", "backslashreplace"))

    def is_stderr(self) -> bool:
        """True when what is written to stderr lands here too."""
        return _same(2, self._fd)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            os.close(self._fd)

    def _have_room(self) -> None:
        """Rotate a full file; open a new one where the old one was deleted."""
        ours = os.fstat(self._fd)
        try:
            there = os.stat(self.path)
        except FileNotFoundError:
            self._open_again()
            return
        if (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino):
            self._open_again()
        elif ours.st_size >= self._size:
            for number in range(self._files - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(_rotated(self.path, number - 1), _rotated(self.path, number))
            self._open_again()

    def _open_again(self) -> None:
        new = open_log(self.path)
        for stream in (1, 2):
            if _same(stream, self._fd):
                os.dup2(new, stream)
        os.close(self._fd)
        self._fd = new


def open_log(path: str) -> int:
    """The file, to be written at its end; its folder is made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def last_lines(path: str, count: int, files: int = FILES) -> list[str]:
    """The last lines, older files too where the newest does not hold as many."""
    return _last(path, count, files)[0]


def lines(path: str, count: int, *, follow: bool, files: int = FILES) -> Iterator[str]:
    """The last lines; with `follow` what comes after them too, across rotations, until the caller has enough."""
    last, opened = _last(path, count, files)
    yield from last
    if not follow:
        if opened is not None:
            os.close(opened)
        return
    waiting, following = b"", None
    while True:
        while opened is not None and (chunk := os.read(opened, 1 << 16)):
            *whole, waiting = (waiting + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if following is not None:  # it was there before the last look into the older one, which is complete therefore
            if opened is not None:
                os.close(opened)
            opened, following = following, None
        elif (following := _next(path, opened, files)) is None:
            time.sleep(_LOOK)


def _last(path: str, count: int, files: int) -> tuple[list[str], int | None]:
    """The last lines, and the newest file, read as far as they go."""
    found: list[str] = []
    newest: int | None = None
    for number in range(files):
        try:
            fd = os.open(_rotated(path, number), os.O_RDONLY)
        except FileNotFoundError:
            if newest is not None:
                break
            continue
        text, end = _tail(fd, count - len(found))
        found = [*text, *found]
        if newest is None:
            newest = fd
            os.lseek(fd, end, os.SEEK_SET)
        else:
            os.close(fd)
        if len(found) >= count:
            break
    return found, newest


def _tail(fd: int, count: int) -> tuple[list[str], int]:
    """The last whole lines of a file, and where they end."""
    position = size = os.fstat(fd).st_size
    data = b""
    while position > 0 and data.count(b"\n") <= count:
        step = min(1 << 16, position)
        position -= step
        data = os.pread(fd, step, position) + data
    whole, newline, half = data.rpartition(b"\n")
    text = whole.decode(errors="replace").split("\n") if newline else []
    return text[len(text) - count :] if count < len(text) else text, size - len(half)


def _next(path: str, opened: int | None, files: int) -> int | None:
    """The file that was begun after the one that is open, from its beginning; None when there is none yet."""
    older: int | None = None
    for number in range(files):
        try:
            fd = os.open(_rotated(path, number), os.O_RDONLY)
        except FileNotFoundError:
            continue
        if opened is not None and _same(fd, opened):
            os.close(fd)
            return older
        if older is not None:
            os.close(older)
        older = fd
    return older


def _rotated(path: str, number: int) -> str:
    return f"{path}.{number}" if number else path


def _same(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
