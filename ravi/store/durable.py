"""Bytes that survive a power cut: written whole, synced, renamed, and their folder synced."""

import contextlib
import errno
import os
import sys
from collections.abc import Iterator

from ravi.errors import Unavailable

_TOGETHER = 1 << 20  # bytes that are gathered for one call

if sys.platform == "darwin":
    import fcntl

    def sync(fd: int) -> None:
        """Have what was written to `fd` on the disk itself. On macOS fsync alone stops at the drive's cache."""
        try:
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
        except OSError:
            os.fsync(fd)

else:

    def sync(fd: int) -> None:
        """Have what was written to `fd` on the disk itself."""
        os.fsync(fd)


def hurry(fd: int) -> None:
    """Have the system begin to write a file that is about to be synced, while we do something else."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


@contextlib.contextmanager
def writing(place: str) -> Iterator[None]:
    """Tell in words what the disk answers with a number: it is full, broken, read-only, or not ours."""
    try:
        yield
    except OSError as fault:
        is_ours_to_read = fault.errno in (errno.EACCES, errno.EPERM, errno.EROFS)
        raise Unavailable(
            f"{fault.filename or place}: {fault.strerror or fault}; nothing was recorded",
            hint="you may only read here; get the right to write, or work in a clone of your own"
            if is_ours_to_read
            else "make room or mend the disk, then ask again",
        ) from fault


def sync_folder(path: str) -> None:
    """Have the names in a folder on the disk: without this a rename can be forgotten."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, *parts: bytes | memoryview) -> None:
    """Write every byte, or raise: a disk that fills up takes only a part of a write, without an error."""
    waiting: list[bytes | memoryview] = []
    size = 0
    for n, part in enumerate(parts, 1):
        waiting.append(part)
        size += len(part)
        if size >= _TOGETHER or n == len(parts):
            view = memoryview(waiting[0] if len(waiting) == 1 else b"".join(waiting))
            while view:
                view = view[os.write(fd, view) :]
            waiting, size = [], 0


def write_new(path: str, data: bytes, mode: int = 0o666) -> None:
    """A new file with `data`, synced; its name is not. After a fault there is no file."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        write_all(fd, data)
        sync(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(fd)


def make_folders(path: str) -> None:
    """`path` and the folders above it, each one's name synced; nothing to do when it is there.

    Somebody may remove them as fast (git does, when they are empty): then FileNotFoundError.
    """
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    make_folders(above)
    with contextlib.suppress(FileExistsError):
        os.mkdir(path)
    sync_folder(above)
