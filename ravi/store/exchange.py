"""Putting files in their place without ever writing over what somebody else put there.

Names are exchanged, not replaced: what lay at a path comes out under a name of ours, and is looked at before it goes.
Nobody who saves a file at the same moment loses a letter; who reads it sees one whole version or the other.
"""

import contextlib
import errno
import functools
import os
import stat
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Literal, NamedTuple, Protocol, Self

from ravi.store.durable import sync, write_all
from ravi.store.objects import EXECUTABLE, FILE, FOLDER, LINK, TreeEntry, hash_object

ASIDE = "~"  # added to a temporary name where names cannot be exchanged and have to move in three steps
_NO_EXCHANGE = frozenset({errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP})
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a FIFO must not make us wait
_FOLDERS_OPEN = 64


class Lying(NamedTuple):
    """What lies at a name: its mode as git has it (0 for a socket and the like), its bytes, the system's word on it."""

    mode: int
    data: bytes
    stat: os.stat_result
    is_open: bool = False  # somebody has it open to write; only where that was asked, and the system can say

    @property
    def entry(self) -> TreeEntry:
        """The same as a tree would name it."""
        return TreeEntry(self.mode, hash_object("blob", self.data))


class Outcome(NamedTuple):
    """How putting a file in place went.

    `done`: it lies there. Else whoever was there first stays. `left` is what the temporary name stands for now: the
    `old` version, which may go; or something `unknown`, which must be looked at before it goes.
    """

    done: bool
    left: Literal["", "old", "unknown"] = ""


Expected = Callable[[Lying], bool]


class Folders:
    """Open folders below one root, reached name by name and never through a link."""

    def __init__(self, root: str) -> None:
        self.root = root
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._open: OrderedDict[str, int] = OrderedDict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def at(self, path: str, *, make: bool = False) -> tuple[int, str]:
        """The open folder that holds `path`, and the name in it.

        Raises FileNotFoundError where a folder is missing (`make` makes it) and NotADirectoryError where a file or a
        link is in its place. The descriptor stays ours and is good until some dozens of other folders were asked for.
        """
        folder, _, name = path.rpartition("/")
        return self._folder(folder, make=make), name

    def prune(self, path: str) -> None:
        """Remove the folder of `path`, and those above it, as long as they are empty."""
        folder = path.rpartition("/")[0]
        while folder:
            above, _, name = folder.rpartition("/")
            try:
                os.rmdir(name, dir_fd=self._folder(above, make=False))
            except OSError:  # somebody has something in there, or it is gone
                return
            if (fd := self._open.pop(folder, None)) is not None:
                os.close(fd)
            folder = above

    def sync(self, paths: Iterable[str]) -> None:
        """Have the names in the folders of `paths` on the disk."""
        for folder in {path.rpartition("/")[0] for path in paths}:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                sync(self._folder(folder, make=False))

    def close(self) -> None:
        """Close them all."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1

    def _folder(self, path: str, *, make: bool) -> int:
        if not path:
            return self._root
        fd = self._open.get(path)
        if fd is not None:
            self._open.move_to_end(path)
            return fd
        above, _, name = path.rpartition("/")
        parent = self._folder(above, make=make)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, dir_fd=parent)
        try:
            fd = os.open(name, _OPEN_FOLDER, dir_fd=parent)
        except OSError as fault:
            if fault.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from fault
            raise
        self._open[path] = fd
        if len(self._open) > _FOLDERS_OPEN:
            os.close(self._open.popitem(last=False)[1])
        return fd


def look(folder: int, name: str, limit: int | None = None, *, asks_who_writes: bool = False) -> Lying | None:
    """What lies at `name` in an open folder; None when nothing does. Links are read, not followed.

    A file of more than `limit` bytes comes without its bytes. A file that cannot be read raises PermissionError.
    """
    try:
        said = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if stat.S_ISLNK(said.st_mode):
            return Lying(LINK, os.fsencode(os.readlink(name, dir_fd=folder)), said)
        if stat.S_ISDIR(said.st_mode):
            return Lying(FOLDER, b"", said)
        if not stat.S_ISREG(said.st_mode):
            return Lying(0, b"", said)
        fd = os.open(name, _OPEN_FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as fault:
        if fault.errno in (errno.ELOOP, errno.ENXIO):  # it became a link, or a socket, between the two calls
            return Lying(0, b"", said)
        raise
    try:
        is_open = asks_who_writes and is_being_written(fd) is True
        return _read(fd, limit)._replace(is_open=is_open)
    finally:
        os.close(fd)


def write_temporary(
    folder: int, name: str, mode: int, data: bytes, like: os.stat_result | None, *, durable: bool
) -> os.stat_result:
    """A new file (or link) under a name of ours, with the rights and owner of `like`."""
    if mode == LINK:
        os.symlink(os.fsdecode(data), name, dir_fd=folder)
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(name, flags, 0o777 if mode == EXECUTABLE else 0o666, dir_fd=folder)
    try:
        write_all(fd, data)
        if like is not None and stat.S_ISREG(like.st_mode):
            _resemble(fd, os.fstat(fd), like, mode)
        if durable:
            sync(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def replace(folder: int, name: str, temporary: str, is_ours: Expected, expected: Expected) -> Outcome:
    """Exchange `temporary` with what lies at `name`, if that is what is `expected`; else leave things as they were.

    `is_ours` knows what `temporary` holds.
    """
    try:
        _swap(folder, temporary, name)
    except FileNotFoundError:  # deleted meanwhile
        return Outcome(done=False, left=_discarded(folder, temporary, is_ours))
    except FileExistsError:  # only where names move in steps: somebody made a new file in between
        return Outcome(done=False, left="unknown")
    if (found := _looked_over(folder, temporary)) and expected(found[0]):
        return Outcome(done=True, left="old" if found[1] else "unknown")
    # Somebody saved just now, or is about to: what came out goes back.
    try:
        _swap(folder, temporary, name)
    except FileNotFoundError:  # and then deleted it; a text is worth more than its deletion
        with contextlib.suppress(FileExistsError):
            move(folder, temporary, name)
            return Outcome(done=False)
        return Outcome(done=False, left="unknown")
    except FileExistsError:
        return Outcome(done=False, left="unknown")
    if (found := _looked_over(folder, temporary)) and is_ours(found[0]):
        return Outcome(done=False, left="old" if found[1] else "unknown")
    # They saved a second time, over ours. That is the newer one and has the place; the first is left to be kept.
    with contextlib.suppress(FileNotFoundError, FileExistsError):
        _swap(folder, temporary, name)
    return Outcome(done=False, left="unknown")


def remove(folder: int, name: str, temporary: str, expected: Expected) -> Outcome:
    """Take away what lies at `name`, if that is what is `expected`."""
    try:
        move(folder, name, temporary)
    except FileNotFoundError:
        return Outcome(done=True)
    if (found := _looked_over(folder, temporary)) and expected(found[0]):
        return Outcome(done=True, left="old" if found[1] else "unknown")
    with contextlib.suppress(FileExistsError):
        move(folder, temporary, name)
        return Outcome(done=False)
    return Outcome(done=False, left="unknown")


def create(folder: int, name: str, temporary: str, is_ours: Expected) -> Outcome:
    """Give `temporary` its name, if nothing has it."""
    try:
        move(folder, temporary, name)
    except FileExistsError:
        return Outcome(done=False, left=_discarded(folder, temporary, is_ours))
    return Outcome(done=True)


def move(folder: int, old: str, new: str) -> None:
    """Rename within a folder. Raises FileExistsError when the new name is taken."""
    try:
        _system().move(folder, os.fsencode(old), folder, os.fsencode(new))
    except OSError as fault:
        if fault.errno not in _NO_EXCHANGE:
            raise
        _move_by_link(folder, old, new)


def is_being_written(fd: int) -> bool | None:
    """True while somebody has the open file open for writing; None when this system cannot say."""
    if sys.platform != "linux":
        return None
    import fcntl
    import signal

    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default; without it a broken lease kills us
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)  # granted only when nobody writes
    except OSError as fault:
        return True if fault.errno == errno.EAGAIN else None
    with contextlib.suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def can_exchange(path: str) -> bool:
    """True when the file system at `path` exchanges two names in one step."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix=".ravi-", dir=path) as place, Folders(place) as folders:
        folder, _ = folders.at("one")
        for name in ("one", "other"):
            write_temporary(folder, name, FILE, b"", None, durable=False)
        try:
            _system().swap(folder, b"one", folder, b"other")
        except OSError:
            return False
        return True


# -- steps


def _read(fd: int, limit: int | None) -> Lying:
    said = os.fstat(fd)
    if not stat.S_ISREG(said.st_mode):
        return Lying(0, b"", said)
    mode = EXECUTABLE if said.st_mode & 0o100 else FILE
    if limit is not None and said.st_size > limit:
        return Lying(mode, b"", said)
    parts: list[bytes] = []
    while part := os.read(fd, max(said.st_size + 1, 1 << 16)):
        parts.append(part)
    return Lying(mode, b"".join(parts), said)


def _looked_over(folder: int, name: str) -> tuple[Lying, bool] | None:
    """What lies under a name only we know, and whether nobody can write to it any more; None while somebody does."""
    try:
        fd = os.open(name, _OPEN_FILE, dir_fd=folder)
    except OSError:  # a link, say; or a file we may exchange but not read
        try:
            found = look(folder, name)
        except OSError:
            return None
        return (found, True) if found and found.mode == LINK else None
    try:
        is_written = is_being_written(fd)
        if is_written:
            return None
        return _read(fd, None), is_written is False
    finally:
        os.close(fd)


def _discarded(folder: int, temporary: str, is_ours: Expected) -> Literal["", "unknown"]:
    found = look(folder, temporary)
    if found is not None and is_ours(found):
        os.unlink(temporary, dir_fd=folder)
        return ""
    return "unknown" if found is not None else ""


def _resemble(fd: int, made: os.stat_result, like: os.stat_result, mode: int) -> None:
    if (like.st_uid, like.st_gid) != (made.st_uid, made.st_gid):
        with contextlib.suppress(OSError):  # only root may give files away; the text matters more
            os.fchown(fd, like.st_uid, like.st_gid)
    rights = stat.S_IMODE(like.st_mode) & 0o777
    rights = rights | (rights & 0o444) >> 2 if mode == EXECUTABLE else rights & ~0o111
    if rights != stat.S_IMODE(made.st_mode):
        os.fchmod(fd, rights)


def _swap(folder: int, temporary: str, name: str) -> None:
    try:
        _system().swap(folder, os.fsencode(temporary), folder, os.fsencode(name))
    except OSError as fault:
        if fault.errno not in _NO_EXCHANGE:
            raise
        _swap_in_steps(folder, temporary, name)


def _swap_in_steps(folder: int, temporary: str, name: str) -> None:
    """For file systems that cannot exchange: for a moment nothing lies at `name`, but nothing is lost either."""
    aside = temporary + ASIDE
    os.rename(name, aside, src_dir_fd=folder, dst_dir_fd=folder)
    _move_by_link(folder, temporary, name)  # FileExistsError leaves both under our names
    os.rename(aside, temporary, src_dir_fd=folder, dst_dir_fd=folder)


def _move_by_link(folder: int, old: str, new: str) -> None:
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError as fault:
        if fault.errno not in (*_NO_EXCHANGE, errno.EPERM, errno.EMLINK):
            raise
        # No links either (FAT, some network folders): look, then rename.
        with contextlib.suppress(FileNotFoundError):
            os.stat(new, dir_fd=folder, follow_symlinks=False)
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new) from fault
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    else:
        os.unlink(old, dir_fd=folder)


class _System(Protocol):
    """The two renames that the standard library lacks."""

    def swap(self, old_folder: int, old: bytes, new_folder: int, new: bytes) -> None: ...

    def move(self, old_folder: int, old: bytes, new_folder: int, new: bytes) -> None: ...


class _Renames:
    def __init__(self, call: Callable[[int, bytes, int, bytes, int], int], noreplace: int, exchange: int) -> None:
        self._call, self._noreplace, self._exchange = call, noreplace, exchange

    def swap(self, old_folder: int, old: bytes, new_folder: int, new: bytes) -> None:
        self._rename(old_folder, old, new_folder, new, self._exchange)

    def move(self, old_folder: int, old: bytes, new_folder: int, new: bytes) -> None:
        self._rename(old_folder, old, new_folder, new, self._noreplace)

    def _rename(self, old_folder: int, old: bytes, new_folder: int, new: bytes, flag: int) -> None:
        import ctypes

        if self._call(old_folder, old, new_folder, new, flag):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), os.fsdecode(old), None, os.fsdecode(new))


class _Unsupported:
    def swap(self, old_folder: int, old: bytes, new_folder: int, new: bytes) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    move = swap


@functools.cache
def _system() -> _System:
    import ctypes  # 5 ms, and only who publishes needs it

    library = ctypes.CDLL(None, use_errno=True)
    name, noreplace, exchange = ("renameatx_np", 4, 2) if sys.platform == "darwin" else ("renameat2", 1, 2)
    call = getattr(library, name, None)
    if call is None:
        return _Unsupported()
    call.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    call.restype = ctypes.c_int
    return _Renames(call, noreplace, exchange)
