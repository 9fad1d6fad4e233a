"""Refs: names for commits, read with one open and written durably, in git's own way, beside git.

A lock file of ours is told from one of git's by an x bit, and is flocked: when its maker died, whoever comes next
sees at once that nobody holds it.
"""

import contextlib
import fcntl
import os
import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from ravi.errors import Conflict, Malformed, Unavailable
from ravi.store.durable import make_folders, sync, sync_folder, write_all, write_new, writing

MAIN, PUBLISHED, EPOCH = "refs/ravi/main", "refs/ravi/published", "refs/ravi/epoch"
RUNS = "refs/ravi/runs/"

_OID = re.compile(r"[0-9a-f]{40}\Z")
_PATIENCE = 3.0  # seconds to wait for somebody's lock file; git holds one for milliseconds
_STALE = 10.0  # seconds after which a lock file of a dead git on one of our own refs is broken
_DEPTH = 5  # symbolic refs that git follows
_OWN_HEAD = ("refs/bisect/", "refs/worktree/", "refs/rewritten/")  # these belong to one worktree, as HEAD does


class Head(NamedTuple):
    """What is checked out. `branch` is a full ref name, also when it has no commit yet; None when detached."""

    branch: str | None
    oid: str | None


class Refs:
    """The refs of one repository. Stateless but for a reading of packed-refs, which is checked against the file."""

    def __init__(self, git_dir: str, common_dir: str) -> None:
        self.git_dir = git_dir
        self.common_dir = common_dir
        self._packed: dict[str, str] = {}
        self._packed_stat: tuple[int, int, int] | None = None

    # -- reading

    def read(self, name: str) -> str | None:
        """The oid that a ref names, through symbolic refs; None when there is no such ref."""
        return self._resolved(name)[1]

    def list(self, prefix: str) -> dict[str, str]:
        """Every ref whose name begins with `prefix` (`refs/ravi/runs/`), with its oid, by name."""
        check_name(prefix.rstrip("/"))
        found = {name: oid for name, oid in self._read_packed().items() if name.startswith(prefix)}
        for name in self._loose(prefix.rpartition("/")[0]):
            if name.startswith(prefix):
                with contextlib.suppress(Unavailable):  # it went, or somebody broke it: git skips such a ref too
                    oid = self.read(name)
                    if oid is not None:
                        found[name] = oid
        return dict(sorted(found.items()))

    def sweep(self) -> None:
        """Remove the lock files that dead writers of ours left; nobody may ever ask for those refs again."""
        places = [os.path.join(self.common_dir, "packed-refs.lock")]
        for above, _, names in os.walk(os.path.join(self.common_dir, "refs")):
            places += [os.path.join(above, name) for name in names if name.endswith(".lock")]
        ours = os.path.join(self.common_dir, "refs", "ravi", "")
        for place in places:
            _broken(place, is_ours=place.startswith(ours))

    def head(self) -> Head:
        """What is checked out in this worktree."""
        text = self._text("HEAD")
        if text is None:
            raise Unavailable(f"{self.git_dir}: HEAD is missing", hint="look with `git status`")
        branch, oid = self._resolved("HEAD")
        return Head(None if branch == "HEAD" else branch, oid)

    # -- writing

    def create(self, name: str, oid: str) -> None:
        """Make a ref that must not exist. Raises Conflict when it does."""
        self._write(name, oid, None)

    def swap(self, name: str, new: str, old: str | None, *, log: str = "") -> None:
        """Move a ref from `old` to `new`, durably; `old` None means that it must not exist. Raises Conflict.

        A symbolic ref is followed. `log` is a line for the ref's reflog, where it keeps one: `NAME <MAIL> SECONDS
        ZONE<tab>MESSAGE`, as git writes it.
        """
        self._write(name, new, old, log)

    def delete(self, name: str, old: str) -> None:
        """Take a ref away. Raises Conflict when it is not at `old`."""
        check_name(name)
        with writing(self._path(name)), self._locked(name) as lock:
            self._expect(name, old)
            with self._packed_locked():  # else `git pack-refs` could pack it just now, and it would come back
                self._drop_packed(name)  # first: a loose ref hides a packed one
                if not os.path.isdir(lock.path):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(lock.path)
            self._sync_name(lock.path)

    # -- steps

    def _write(self, name: str, new: str, old: str | None, log: str = "") -> None:
        check_name(name)
        if not _OID.match(new):
            raise Malformed(f"{new!r} is not the name of an object", key=name)
        name = self._resolved(name)[0]
        with writing(self._path(name)), self._locked(name) as lock:
            self._expect(name, old)
            if old is None:
                self._check_room(name)
            write_all(lock.fd, new.encode() + b"\n")
            sync(lock.fd)
            lock.move()
            os.fchmod(lock.fd, os.stat(os.path.join(self.git_dir, "HEAD")).st_mode & 0o666)  # the mark goes last
            try:
                self._sync_name(lock.path)
            except OSError as fault:  # who asks again must know that it is there
                raise Unavailable(
                    f"{lock.path}: {fault.strerror}; it is written, but a power cut may take it back",
                    hint="mend the disk, then look what is there",
                ) from fault
        if log:
            self._append_log(name, old, new, log)

    def _sync_name(self, path: str) -> None:
        try:
            sync_folder(os.path.dirname(path))
        except FileNotFoundError:  # `git pack-refs` has moved it on already; what git wrote it may not have synced
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(os.path.join(self.common_dir, "packed-refs"), os.O_RDONLY)
                try:
                    sync(fd)
                finally:
                    os.close(fd)
            sync_folder(self.common_dir)

    def _expect(self, name: str, old: str | None) -> None:
        now = self.read(name)
        if now == old:
            return
        if old is None:
            raise Conflict(f"{name}: it exists already, at {now}")
        raise Conflict(f"{name}: it is at {now or 'nothing'}, not at {old}")

    def _check_room(self, name: str) -> None:
        """A packed ref may stand where a new one needs a folder, or the other way round."""
        packed = self._read_packed()
        parts = name.split("/")
        for end in range(1, len(parts)):
            if (above := "/".join(parts[:end])) in packed:
                raise Conflict(f"{name}: {above} is a ref, so nothing can lie below it")
        below = name + "/"
        for other in packed:
            if other.startswith(below):
                raise Conflict(f"{name}: refs lie below this name, {other} for one")

    def _resolved(self, name: str) -> tuple[str, str | None]:
        """The name at the end of a chain of symbolic refs, and its oid."""
        for _ in range(_DEPTH):
            text = self._text(name)
            if text is None:
                return name, self._read_packed().get(name)
            if _OID.match(text):
                return name, text
            if not text.startswith("ref:"):
                raise Unavailable(f"{self._path(name)}: it holds neither an object nor a ref: {text[:60]!r}")
            name = text[4:].strip()
            check_name(name)
        raise Unavailable(f"{name}: too many symbolic refs, one behind the other")

    def _text(self, name: str) -> str | None:
        try:
            fd = os.open(self._path(name), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        try:
            return os.read(fd, 4096).decode("utf-8", "surrogateescape").strip()
        except IsADirectoryError:
            return None
        finally:
            os.close(fd)

    def _path(self, name: str) -> str:
        is_own = not name.startswith("refs/") or name.startswith(_OWN_HEAD)
        return f"{self.git_dir if is_own else self.common_dir}/{name}"

    def _loose(self, folder: str) -> Iterator[str]:
        try:
            with os.scandir(self._path(folder)) as there:
                entries = list(there)
        except (FileNotFoundError, NotADirectoryError):
            return
        for entry in entries:
            name = f"{folder}/{entry.name}"
            if entry.is_dir(follow_symlinks=False):
                yield from self._loose(name)
            elif not entry.name.endswith(".lock"):
                yield name

    def _read_packed(self) -> dict[str, str]:
        path = os.path.join(self.common_dir, "packed-refs")
        while True:
            try:
                stat = os.stat(path)
            except FileNotFoundError:
                self._packed, self._packed_stat = {}, None
                return self._packed
            key = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
            if key == self._packed_stat:
                return self._packed
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                stat = os.fstat(file.fileno())
                lines = file.read().split("\n")
            self._packed = {line[41:]: line[:40] for line in lines if line[:1] not in ("#", "^", "")}
            # a file as young as the clock's tick may be replaced by one that looks the same: read it again then
            is_settled = time.time() - stat.st_mtime > 0.05
            self._packed_stat = (stat.st_ino, stat.st_size, stat.st_mtime_ns) if is_settled else None
            return self._packed

    @contextlib.contextmanager
    def _locked(self, name: str) -> Iterator["_LockFile"]:
        lock = _LockFile(self._path(name), is_ours=name.startswith("refs/ravi/"))
        try:
            yield lock
        finally:
            lock.close()

    @contextlib.contextmanager
    def _packed_locked(self) -> Iterator[None]:
        """Keep everybody from writing packed-refs."""
        lock = _LockFile(os.path.join(self.common_dir, "packed-refs"), is_ours=False)
        try:
            yield
        finally:
            lock.close()

    def _drop_packed(self, name: str) -> None:
        """Take a name out of packed-refs, as git does: all of it is written anew."""
        if name not in self._read_packed():
            return
        path = os.path.join(self.common_dir, "packed-refs")
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777
            lines = file.read().split(b"\n")
        kept, drops = list[bytes](), False
        for line in lines:
            # a line that begins with ^ says what the tag above it points to
            drops = line[41:] == os.fsencode(name) if not line.startswith(b"^") else drops
            if not drops:
                kept.append(line)
        temporary = f"{path}.ravi"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)  # of one that was killed here
        write_new(temporary, b"\n".join(kept), mode)
        os.rename(temporary, path)
        sync_folder(self.common_dir)

    def _append_log(self, name: str, old: str | None, new: str, log: str) -> None:
        names = [name]
        with contextlib.suppress(Unavailable):
            if name != "HEAD" and self.head().branch == name:
                names.append("HEAD")
        line = f"{old or '0' * 40} {new} {' '.join(log.split(chr(10)))}\n".encode("utf-8", "surrogateescape")
        for one in names:
            folder = self.git_dir if one == "HEAD" else self.common_dir
            with contextlib.suppress(OSError):  # a reflog is a convenience; the ref has moved
                fd = os.open(f"{folder}/logs/{one}", os.O_WRONLY | os.O_APPEND)
                try:
                    os.write(fd, line)
                finally:
                    os.close(fd)


class _LockFile:
    """`PATH.lock` as git makes it, held from construction to `move` or `close`."""

    def __init__(self, path: str, *, is_ours: bool) -> None:
        self.path = path
        self._lock = path + ".lock"
        self._is_ours = is_ours
        self.fd = self._made()

    def move(self) -> None:
        """Let what was written take the place of the ref. Folders left empty by deleted refs give way."""
        if not _is_same(self.fd, self._lock):
            raise Conflict(f"{self._lock}: somebody broke this lock; look again")
        try:
            os.rename(self._lock, self.path)
        except (IsADirectoryError, FileExistsError, OSError) as fault:
            if not os.path.isdir(self.path):
                raise
            if not _remove_empty(self.path):
                raise Conflict(f"{self.path}: refs lie below this name") from fault
            os.rename(self._lock, self.path)

    def close(self) -> None:
        """Give the lock up; harmless after `move`."""
        if self.fd < 0:
            return
        with contextlib.suppress(OSError):
            if _is_same(self.fd, self._lock):
                os.unlink(self._lock)
        os.close(self.fd)
        self.fd = -1

    def _made(self) -> int:
        deadline = time.monotonic() + _PATIENCE
        wait = 0.0005
        while True:
            try:
                fd = os.open(self._lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o744)
            except FileNotFoundError:  # git removes folders that deleted refs leave empty
                with contextlib.suppress(FileNotFoundError):  # as fast as we make them
                    make_folders(os.path.dirname(self._lock))
                continue
            except NotADirectoryError as fault:
                raise Conflict(f"{self.path}: a ref lies where a folder is needed") from fault
            except FileExistsError as fault:
                if _broken(self._lock, is_ours=self._is_ours):
                    continue
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{self._lock}: another git process has held it for {_PATIENCE:g}s",
                        hint="if none is running, remove that file",
                    ) from fault
                time.sleep(wait)  # a lock file of git's tells nobody when it goes
                wait = min(wait * 2, 0.02)
                continue
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:  # taken for a dead one's, just now
                os.close(fd)
                continue
            if _is_same(fd, self._lock):
                return fd
            os.close(fd)


def _broken(lock: str, *, is_ours: bool) -> bool:
    """Remove the lock file of somebody dead; True when it is worth trying again at once."""
    try:
        fd = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return True
    try:
        stat = os.fstat(fd)
        age = time.time() - stat.st_mtime
        if not stat.st_mode & 0o100 and not (is_ours and age > _STALE):
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # its maker lives
        if _is_same(fd, lock):
            os.unlink(lock)
        return True
    finally:
        os.close(fd)


_BAD = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|/\.|^\.|\.lock(/|\Z)|[./]\Z|^/")


def check_name(name: str) -> None:
    """Raise Malformed for a name that git would not take for a ref."""
    if not name or _BAD.search(name) or (not name.startswith("refs/") and not re.fullmatch("[A-Z_]+|refs", name)):
        raise Malformed(f"{name!r} is not the name of a ref")


def _remove_empty(folder: str) -> bool:
    """Remove a folder that holds nothing but empty folders."""
    for _ in range(2):
        for here, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(here)
    return not os.path.lexists(folder)


def _is_same(fd: int, path: str) -> bool:
    ours = os.fstat(fd)
    try:
        theirs = os.stat(path)
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
