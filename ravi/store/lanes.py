"""Lanes: a run's own place to work, exported from a commit; and what may come back from there."""

import contextlib
import errno
import hashlib
import os
import re
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ravi.errors import Malformed, NotFound, Unavailable
from ravi.store import packs
from ravi.store.durable import write_all, writing
from ravi.store.git import GitDirs
from ravi.store.gitindex import GitIndex, Update
from ravi.store.objects import (
    EXECUTABLE,
    FILE,
    FOLDER,
    Change,
    Objects,
    Signature,
    TreeEntry,
    check_path,
    hash_object,
)

FILE_LIMIT = 50 * 1000 * 1000  # bytes of one file that comes back
TOTAL_LIMIT = 200 * 1000 * 1000
COUNT_LIMIT = 10_000  # files that come back
LOOK_LIMIT = 200_000  # names that are looked at
DEPTH_LIMIT = 64  # folders in folders
WORDS_LIMIT = 50  # refusals that are said one by one

_LARGE = 1 << 20  # bytes from which on a file is handed on as an object and not held in memory
_RUN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_LEASH = frozenset({"ravi.yaml", "routes.yaml", "permissions.yaml"})  # they say what an agent may do
_CONFIG = """\
[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = false
\tautocrlf = false
[user]
\tname = agent
\temail = agent@agents.invalid
[commit]
\tgpgSign = false
[gc]
\tauto = 0
[maintenance]
\tauto = false
"""


class Exported(NamedTuple):
    """A file of the lane as it was made. `stamp` tells it is untouched; None when only its bytes can tell that."""

    entry: TreeEntry
    stamp: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Lane:
    """One run's place to work."""

    run: str
    path: str  # absolute
    task: str  # the task's folder, from the root of the workspace
    manifest: Mapping[str, Exported] = field(repr=False)
    root: tuple[int, int] = field(repr=False)  # device and inode of the folder at `path`

    @property
    def task_dir(self) -> str:
        """The task's folder in the lane."""
        return os.path.join(self.path, self.task)


@dataclass(frozen=True, slots=True)
class Collected:
    """What a run did to its lane. `changes` is as `Objects.apply` takes it: text, an entry, or None for a deletion."""

    changes: Mapping[str, Change]
    refused: tuple[str, ...]  # `path: why it is not taken`


class Lanes:
    """The lanes of one workspace, each a folder in `root`."""

    def __init__(self, dirs: GitDirs, objects: Objects, root: str = ".ravi/lanes") -> None:
        self._objects = objects
        self._borrowed = os.path.join(dirs.common_dir, "objects")
        self._root = os.path.join(dirs.work_tree, root)

    def make(self, run: str, commit: str, paths: Sequence[str]) -> Lane:
        """Export what lies at `paths` in `commit`, the task's folder first; what is not there is passed over.

        The lane is a git repository of its own with one commit, which borrows the workspace's objects. Links and
        submodules stay behind. A lane that a crash left behind under the same name is replaced.
        """
        place = self._place(run)
        self.remove(run)
        tree = self._objects.commit(commit).tree
        task = _clean(paths[0])
        files, root = self._chosen(tree, paths)
        os.makedirs(self._root, exist_ok=True)
        os.mkdir(place)
        try:
            stats = self._write_files(place, files)
            os.makedirs(os.path.join(place, task, "outputs"), exist_ok=True)
            made = self._write_git(place, run, commit, root, {p: Update(files[p], said) for p, said in stats.items()})
            said = os.stat(place)
        except BaseException:  # half a lane is none
            self.remove(run)
            raise
        # A file written in the clock's last tick could change once more and look the same.
        manifest = {p: Exported(files[p], _stamp(at) if at.st_mtime_ns < made else None) for p, at in stats.items()}
        return Lane(run, place, task, manifest, _identity(said))

    def collect(self, lane: Lane, allowed: Callable[[str], bool]) -> Collected:
        """What changed below the task's `outputs/` and wherever `allowed` says so; the rest is refused, in words.

        Nothing is followed out of the lane, and nothing but plain files is read. Raises NotFound when the lane was
        deleted or replaced, also when that came to pass while it was read: what is missing then was not deleted by who
        worked in it.
        """
        survey = self._surveyed(lane, allowed, is_patient=False)
        try:
            is_still = _identity(os.lstat(lane.path)) == lane.root
        except OSError:
            is_still = False
        if not is_still:
            raise _lost(lane)
        return survey.collected()

    def _surveyed(self, lane: Lane, allowed: Callable[[str], bool], *, is_patient: bool) -> "_Survey":
        survey = _Survey(self._objects, lane, allowed, is_patient=is_patient)
        try:
            with writing(lane.path):
                fd = os.open(lane.path, _OPEN_FOLDER)
        except Unavailable as fault:
            if isinstance(fault.__cause__, (FileNotFoundError, NotADirectoryError)):
                raise _lost(lane) from None
            raise
        try:
            if _identity(os.fstat(fd)) != lane.root:
                raise _lost(lane)
            with writing(lane.path):
                survey.look(fd, "", 0)
        except Unavailable:
            if is_patient:
                raise
            return self._surveyed(lane, allowed, is_patient=True)  # a disk may answer at the second time
        finally:
            os.close(fd)
        return survey

    def remove(self, lane: Lane | str) -> bool:
        """Delete a lane, whatever lies in it. False when something resists; what is left is a `leftover`."""
        name = lane.run if isinstance(lane, Lane) else lane
        self._place(name)
        try:
            root = os.open(self._root, _OPEN_FOLDER & ~os.O_NOFOLLOW)
        except FileNotFoundError:
            return True
        try:
            return _removed(root, name)
        finally:
            os.close(root)

    def leftover(self) -> tuple[str, ...]:
        """The runs that have a lane on disk."""
        try:
            return tuple(sorted(name for name in os.listdir(self._root) if _RUN.match(name)))
        except FileNotFoundError:
            return ()

    def _place(self, run: str) -> str:
        if not _RUN.match(run):
            raise Malformed(f"{run!r} cannot be the name of a lane")
        return os.path.join(self._root, run)

    def _chosen(self, tree: str, paths: Sequence[str]) -> tuple[dict[str, TreeEntry], "_Node"]:
        """The files at `paths`, and the folders that hold them; a folder that comes whole is known by its oid."""
        files: dict[str, TreeEntry] = {}
        root: _Node = {}
        for path in sorted({_clean(path) for path in paths}, key=len):
            entry = self._objects.entry(tree, path)
            if entry is None:
                continue
            below = dict(self._objects.walk(entry.oid, path)) if entry.is_folder else {path: entry}
            plain = {path: entry for path, entry in below.items() if entry.is_file}
            files |= plain
            if len(plain) == len(below):
                for name, each in {path: entry}.items() if path else self._objects.tree(tree).items():
                    _put(root, name, each)
            else:  # without its links the folder is another one
                for file, each in plain.items():
                    _put(root, file, each)
        return files, root

    def _write_files(self, place: str, files: Mapping[str, TreeEntry]) -> dict[str, os.stat_result]:
        stats = {}
        folder = ""
        for (path, entry), (_, data) in zip(
            files.items(), self._objects.blobs(entry.oid for entry in files.values()), strict=True
        ):
            check_path(path)
            if path.rpartition("/")[0] != folder:
                folder = path.rpartition("/")[0]
                os.makedirs(os.path.join(place, folder), exist_ok=True)
            stats[path] = _write_new(os.path.join(place, path), data, 0o777 if entry.mode & 0o100 else 0o666)
        return stats

    def _write_git(self, place: str, run: str, commit: str, root: "_Node", index: Mapping[str, Update]) -> int:
        """The lane's own `.git`. Gives the moment it was written, as the file system's clock has it."""
        git = os.path.join(place, ".git")
        for folder in ("", "refs", "objects", "objects/info", "objects/pack"):
            os.mkdir(os.path.join(git, folder))
        when = self._objects.commit(commit).committer.when
        who = Signature("ravi", "ravi@agents.invalid", when).render()
        own: dict[str, tuple[str, bytes]] = {}
        text = f"tree {_tree(root, own)}\nauthor {who}\ncommitter {who}\n\nlane of run {run}, made from {commit}\n"
        tip = _add(own, "commit", text.encode())
        _write_pack(os.path.join(git, "objects/pack"), own)
        borrowed = self._borrowed
        if "\n" in borrowed:  # git unquotes a line that is quoted, and an absolute path never is by itself
            borrowed = '"' + borrowed.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
        for name, line in (
            ("HEAD", "ref: refs/heads/lane\n"),
            ("config", _CONFIG),
            ("packed-refs", f"# pack-refs with: peeled fully-peeled sorted \n{tip} refs/heads/lane\n"),
            ("objects/info/alternates", f"{borrowed}\n"),
        ):
            _write_new(os.path.join(git, name), os.fsencode(line))
        with GitIndex.read(GitDirs(place, git, git)) as empty:
            return _write_new(os.path.join(git, "index"), empty.updated(index)).st_mtime_ns


class _Survey:
    """One look at a lane after its run."""

    def __init__(self, objects: Objects, lane: Lane, allowed: Callable[[str], bool], *, is_patient: bool) -> None:
        """A file that the disk does not give is refused if `is_patient`, else raised as OSError."""
        self.objects, self.lane, self.allowed = objects, lane, allowed
        self.is_patient = is_patient
        self.outputs = f"{lane.task}/outputs/" if lane.task else "outputs/"
        self.changes: dict[str, Change] = {}
        self.seen: set[str] = set()
        self.unseen: list[str] = []  # places that hide whether what lay below them is gone
        self.refused: dict[tuple[str, str], list[str]] = {}  # by the folder they are told under, and the reason
        self.folders = {""} | {above for path in lane.manifest for above in _above(path)} | set(_above(self.outputs))
        self.total = 0
        self.looked = 0

    def look(self, folder: int, prefix: str, depth: int) -> None:
        """Survey one open folder and those in it."""
        with os.scandir(folder) as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            path = prefix + name
            if path == ".git":
                continue
            self.looked += 1
            if self.looked > LOOK_LIMIT:
                self.unseen.append("")
                self.refuse(path, f"there are more than {LOOK_LIMIT:,} files; nothing from here on was looked at")
                return
            try:
                said = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if stat.S_ISDIR(said.st_mode):
                    self.enter(folder, name, path, depth)
                elif stat.S_ISREG(said.st_mode):
                    self.seen.add(path)
                    self.compare(folder, name, path, said)
                else:
                    self.unseen += (path, path + "/")
                    self.refuse(path, f"{_KINDS.get(stat.S_IFMT(said.st_mode), 'no file')}; only plain files come back")
            except OSError as fault:
                if fault.errno in _SHORT or (fault.errno == errno.EIO and not self.is_patient):
                    raise
                self.unseen += (path, path + "/")
                self.refuse(path, f"it cannot be read: {fault.strerror}")

    def enter(self, folder: int, name: str, path: str, depth: int) -> None:
        reason = _unnameable(path) or ("folders are nested too deep" if depth >= DEPTH_LIMIT else "")
        if reason:
            self.unseen.append(path + "/")
            self.refuse(path + "/", reason)
            return
        fd = os.open(name, _OPEN_FOLDER, dir_fd=folder)
        try:
            self.look(fd, path + "/", depth + 1)
        finally:
            os.close(fd)

    def compare(self, folder: int, name: str, path: str, said: os.stat_result) -> None:
        was = self.lane.manifest.get(path)
        if was is not None and was.stamp == _stamp(said):
            return
        reason = self.reason_against(path)
        if reason and was is None:
            self.refuse(path, reason)
            return
        if not reason and said.st_size > FILE_LIMIT:
            reason = f"it has {said.st_size / 1e6:,.1f} MB; a file may have {FILE_LIMIT / 1e6:.0f} MB"
        data = None if said.st_size > FILE_LIMIT else _read(folder, name)
        if data is None:
            self.refuse(path, reason or "it grew while it was read")
            return
        mode = EXECUTABLE if said.st_mode & 0o100 else FILE
        entry = TreeEntry(mode, hash_object("blob", data))
        if was is not None and (was.entry.oid, was.entry.mode & 0o100) == (entry.oid, mode & 0o100):
            return
        if not reason and len(self.changes) >= COUNT_LIMIT:
            reason = f"more than {COUNT_LIMIT:,} files changed"
        if not reason and self.total + len(data) > TOTAL_LIMIT:
            reason = f"with it there would be more than {TOTAL_LIMIT / 1e6:.0f} MB in all"
        if reason:
            self.refuse(path, reason)
            return
        self.total += len(data)
        if mode == FILE and (was is None or was.entry.mode == FILE) and len(data) < _LARGE:
            self.changes[path] = data
        else:
            self.changes[path] = TreeEntry(mode, self.objects.put_blob(data))

    def reason_against(self, path: str) -> str:
        """Why a change of `path` is not taken; "" when it is."""
        if reason := _unnameable(path):
            return reason
        if path.startswith(self.outputs):
            return ""
        task = f"{self.lane.task}/"
        reason = _protected(path) or (_protected("tasks/" + path.removeprefix(task)) if path.startswith(task) else "")
        if not reason and not self.allowed(path):
            reason = "only outputs/ and what `permissions.write` grants come back"
        return reason

    def refuse(self, path: str, reason: str) -> None:
        """Note a refusal. What is new in one new folder is told as one."""
        folder = next((above for above in _above(path) if above not in self.folders), path)
        self.refused.setdefault((folder, reason), []).append(path)

    def collected(self) -> Collected:
        hidden = tuple(place for place in self.unseen if place.endswith("/") or not place)
        for path in self.lane.manifest:
            if path in self.seen or path in self.unseen or path.startswith(hidden):
                continue
            if reason := self.reason_against(path):
                self.refuse(path, f"it was deleted, and stays: {reason}")
            else:
                self.changes[path] = None
        lines = [
            f"{_shown(paths[0])}: {reason}" if len(paths) == 1 else f"{_shown(folder)}/: {len(paths):,} files: {reason}"
            for (folder, reason), paths in sorted(self.refused.items())
        ]
        more = len(lines) - WORDS_LIMIT
        if more > 0:
            lines[WORDS_LIMIT:] = [f"and {more:,} more"]
        return Collected(self.changes, tuple(lines))


_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})  # the system has no more to give; it will have again
_Node = dict[str, "TreeEntry | _Node"]
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def _unnameable(path: str) -> str:
    name = path.rpartition("/")[2]
    try:
        check_path(path)
        name.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    except Malformed:
        return "a commit cannot have this name"
    return "what begins with .git is not taken from a lane" if name.casefold().startswith(".git") else ""


def _protected(path: str) -> str:
    """Why no grant covers `path`: names are compared as a file system that ignores case would."""
    first, *rest = path.casefold().split("/")
    if first == "agents":
        return "agents/ is changed by people only"
    if first == ".ravi" or (first in _LEASH and not rest):
        return "what decides about agents is changed by people only"
    for name in rest if first == "tasks" else ():
        if name == "outputs":
            break
        if name in ("comments", "runs", "task.md"):
            return "TASK.md, comments/ and runs/ are changed by asking `ravi`"
    return ""


def _above(path: str) -> Iterator[str]:
    """`a`, `a/b` of `a/b/c`."""
    at = path.find("/")
    while at >= 0:
        yield path[:at]
        at = path.find("/", at + 1)


def _clean(path: str) -> str:
    return path.strip("/")


def _put(root: _Node, path: str, entry: TreeEntry) -> None:
    """Place an entry under its path. (The root itself is never placed: its folders are.)"""
    node = root
    *above, name = path.split("/")
    for folder in above:
        below = node.setdefault(folder, {})
        if isinstance(below, TreeEntry):  # it comes whole already
            return
        node = below
    node[name] = entry


def _tree(node: "_Node", own: dict[str, tuple[str, bytes]]) -> str:
    """The oid of a tree of these entries. Folders that come whole are borrowed, the others are added to `own`."""
    lines = []
    for name, below in node.items():
        entry = below if isinstance(below, TreeEntry) else TreeEntry(FOLDER, _tree(below, own))
        key = os.fsencode(name)
        lines.append((key + b"/" * entry.is_folder, b"%o %b\0%b" % (entry.mode, key, bytes.fromhex(entry.oid))))
    return _add(own, "tree", b"".join(line for _, line in sorted(lines)))


def _add(own: dict[str, tuple[str, bytes]], kind: str, data: bytes) -> str:
    oid = hash_object(kind, data)
    own[oid] = (kind, data)
    return oid


def _write_pack(folder: str, own: Mapping[str, tuple[str, bytes]]) -> None:
    """A pack and its index: two files, where loose objects are two names each. Nobody minds if a crash loses it."""
    offset, chunks, rows = 12, [struct.pack(">4sII", b"PACK", 2, len(own))], []
    for oid, (kind, data) in sorted(own.items()):
        chunk = packs.entry(kind, data)
        rows.append((bytes.fromhex(oid), zlib.crc32(chunk), offset))
        chunks.append(chunk)
        offset += len(chunk)
    pack = _sealed(chunks)
    fanout = [sum(oid[0] <= first for oid, _, _ in rows) for first in range(256)]
    table = [struct.pack(">4sI256I", b"\xfftOc", 2, *fanout), *(oid for oid, _, _ in rows)]
    table += [struct.pack(f">{len(rows)}I", *(row[column] for row in rows)) for column in (1, 2)]
    name = os.path.join(folder, f"pack-{pack[-20:].hex()}")
    _write_new(f"{name}.pack", pack, 0o444)
    _write_new(f"{name}.idx", _sealed([*table, pack[-20:]]), 0o444)


def _sealed(chunks: Sequence[bytes]) -> bytes:
    data = b"".join(chunks)
    return data + hashlib.sha1(data, usedforsecurity=False).digest()


def _write_new(path: str, data: bytes, mode: int = 0o666) -> os.stat_result:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        write_all(fd, data)
        return os.fstat(fd)
    finally:
        os.close(fd)


def _read(folder: int, name: str) -> bytes | None:
    """The bytes of a plain file; None when it became something else, or too large, since it was looked at."""
    fd = os.open(name, _OPEN_FILE, dir_fd=folder)
    with open(fd, "rb", closefd=True) as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(FILE_LIMIT + 1)
    return data if len(data) <= FILE_LIMIT else None


def _lost(lane: Lane) -> NotFound:
    return NotFound(f"{lane.path}: the lane of run {lane.run} was deleted or replaced")


def _identity(said: os.stat_result) -> tuple[int, int]:
    return said.st_dev, said.st_ino


def _stamp(said: os.stat_result) -> tuple[int, ...]:
    """What changes with every change of a file: its ctime cannot be set."""
    return (said.st_ino, said.st_size, said.st_mode, said.st_mtime_ns, said.st_ctime_ns)


def _removed(root: int, name: str) -> bool:
    """Delete `name` in the open folder `root` with all that is in it. Nothing is followed."""
    try:
        if not stat.S_ISDIR(os.stat(name, dir_fd=root, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=root)
            return True
        top = _open_folder(root, name)
        try:
            while _empty(top, top, 0):
                pass
        finally:
            os.close(top)
        os.rmdir(name, dir_fd=root)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _empty(folder: int, top: int, depth: int) -> bool:
    """Empty an open folder. What lies very deep is moved to the `top` instead: True when something was."""
    os.fchmod(folder, 0o700)
    moved = False
    with os.scandir(folder) as found:
        entries = list(found)
    for entry in entries:
        with contextlib.suppress(OSError):  # what resists is seen by who removes the folder
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.name, dir_fd=folder)
                continue
            below = _open_folder(folder, entry.name)
            try:
                if depth >= DEPTH_LIMIT:
                    os.fchmod(below, 0o700)
                    os.rename(entry.name, f"deep-{entry.inode()}", src_dir_fd=folder, dst_dir_fd=top)
                    moved = True
                    continue
                moved |= _empty(below, top, depth + 1)
            finally:
                os.close(below)
            os.rmdir(entry.name, dir_fd=folder)
    return moved


def _open_folder(folder: int, name: str) -> int:
    try:
        return os.open(name, _OPEN_FOLDER, dir_fd=folder)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=folder)
        return os.open(name, _OPEN_FOLDER, dir_fd=folder)


def _shown(path: str) -> str:
    """`path` without what a terminal would obey."""
    return "".join(c if c.isprintable() else "\ufffd" for c in path)
