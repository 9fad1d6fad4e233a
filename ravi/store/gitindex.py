"""git's index as the person left it: found by path without reading all of it, changed in a few entries, the others
kept byte for byte.

Versions 2 and 3 are read and written here. Version 4, a split index and a sparse one are turned into version 2 by
git itself to be read, and git itself changes them.
"""

import contextlib
import functools
import hashlib
import mmap
import os
import re
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import NamedTuple, Self

from ravi.errors import Unavailable
from ravi.store.durable import sync, write_all
from ravi.store.git import GIT_SAFE, GitDirs, environment
from ravi.store.objects import EXECUTABLE, FILE, LINK, SUBMODULE, TreeEntry

_FIXED = struct.Struct(">10I20sH")  # ctime mtime (seconds, nanoseconds), dev ino mode uid gid size, oid, flags
_HEADER = struct.Struct(">4sII")
_START = 12
_NAME = 62
_HASH = 20
_EXTENDED, _STAGE, _LENGTH = 0x4000, 0x3000, 0x0FFF
_SKIP_WORKTREE, _INTENT_TO_ADD = 0x4000, 0x2000  # in the second word of flags
_MODE = re.compile(rb"\x00\x00(?:\x81[\xa4\xed]|[\xa0\xe0]\x00)")
_MODES = frozenset({FILE, EXECUTABLE, LINK, SUBMODULE})
_NODE = re.compile(rb"([^\0]*)\0(-?\d+) (\d+)\n")  # of a cache-tree; an oid follows, unless the count is -1
_PLENTY = 100  # entries that are read in the time in which one is found
_NEAR = 4096  # bytes in which a path is looked for entry by entry


class IndexEntry(NamedTuple):
    """One entry: what is staged at a path, and what the file was like when git last compared it."""

    mode: int
    oid: str
    stage: int
    known: tuple[int, ...]  # ctime, mtime (seconds and nanoseconds each), dev, ino, uid, gid, size; all 32 bits wide
    is_skipped: bool = False  # not checked out on purpose (sparse checkout)
    is_intended: bool = False  # `git add -N`: a name without content


class Update(NamedTuple):
    """What an entry becomes. Without `stat` git looks at the file itself the next time."""

    entry: TreeEntry
    stat: os.stat_result | None = None


class _UnreadableError(Exception):
    """The bytes are not an index of a kind that is read here."""


def known(said: os.stat_result) -> tuple[int, ...]:
    """The numbers that an index keeps of a file; when they are the same, git takes the file for unchanged."""
    return (
        said.st_ctime_ns // 1_000_000_000 & 0xFFFFFFFF,
        said.st_ctime_ns % 1_000_000_000,
        said.st_mtime_ns // 1_000_000_000 & 0xFFFFFFFF,
        said.st_mtime_ns % 1_000_000_000,
        said.st_dev & 0xFFFFFFFF,
        said.st_ino & 0xFFFFFFFF,
        said.st_uid & 0xFFFFFFFF,
        said.st_gid & 0xFFFFFFFF,
        said.st_size & 0xFFFFFFFF,
    )


def in_tree(entry: IndexEntry | None) -> TreeEntry | None:
    """An index entry as a tree would have it; one of a conflict is like none in any tree."""
    if entry is None:
        return None
    return TreeEntry(-entry.stage if entry.stage else entry.mode, entry.oid)


class GitIndex:
    """One reading of an index file. A context, because it holds the file open."""

    def __init__(self, data: bytes | mmap.mmap, written_ns: int, rights: int | None, *, is_native: bool = True) -> None:
        self.written_ns = written_ns  # a file touched at this moment or later may differ although it looks as known
        self.rights = rights
        self.is_native = is_native  # False: git has to write it
        self._data = data
        self._placed: dict[bytes, tuple[int, bool]] = {}  # the last answer: what was looked up is then changed
        magic, self.version, self.count = _HEADER.unpack(data[:_START])
        if magic != b"DIRC" or self.version not in (2, 3):
            raise _UnreadableError
        self._end, self._extensions = self._laid_out()

    @classmethod
    def read(cls, dirs: GitDirs) -> Self:
        """The index as it lies; an empty one when there is none. Raises Unavailable when it cannot be read."""
        path = os.path.join(dirs.git_dir, "index")
        try:
            return cls._opened(path)
        except FileNotFoundError:
            return cls(b"".join(_sealed([_HEADER.pack(b"DIRC", 2, 0)])), 0, None)
        except (_UnreadableError, struct.error, ValueError):
            return cls._converted(dirs, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let the file go."""
        if isinstance(self._data, mmap.mmap):
            self._data.close()

    def entry(self, path: str) -> IndexEntry | None:
        """What is staged at `path`, None when nothing is. Where a merge left several versions: one, with its stage."""
        at, is_there = self._find(os.fsencode(path))
        return self._entry(at) if is_there else None

    def many(self, paths: Collection[str]) -> dict[str, IndexEntry | None]:
        """`entry` for every one of `paths`."""
        names = {os.fsencode(path): path for path in paths}
        places = self._places(names)
        return {names[name]: self._entry(at) if is_there else None for name, (at, is_there) in places.items()}

    def entries(self) -> Iterator[tuple[str, IndexEntry]]:
        """Every entry, in order; a path in conflict comes once for each version."""
        data = self._data
        for at in self._offsets():
            begin, length = self._name_at(at)
            yield os.fsdecode(data[begin : begin + length]), self._entry(at)

    def touched(self, root: str, names: Iterable[str]) -> Iterator[tuple[str, bool]]:
        """Paths at or below `names` whose file is not as git last saw it, and whether it is missing."""
        data, numbers = self._data, struct.Struct(">10I").unpack_from
        base = os.path.join(os.fsencode(root), b"")
        for at in self._below(names):
            begin, length = self._name_at(at)
            path = data[begin : begin + length]
            try:
                said = os.lstat(base + path)
            except (FileNotFoundError, NotADirectoryError):
                yield os.fsdecode(path), True
                continue
            changed, changed_part, modified, modified_part, _, inode, _, _, _, size = numbers(data, at)
            touched = modified * 1_000_000_000 + modified_part
            if (
                said.st_mtime_ns != touched
                or said.st_size & 0xFFFFFFFF != size
                or said.st_ctime_ns != changed * 1_000_000_000 + changed_part
                or said.st_ino & 0xFFFFFFFF != inode
                or touched >= self.written_ns  # changed in the tick in which git looked: it may look the same
            ):
                yield os.fsdecode(path), False

    def count_below(self, names: Iterable[str]) -> int:
        """How many entries there are at or below `names`."""
        return sum(1 for _ in self._below(names))

    def updated(self, updates: Mapping[str, Update | None]) -> bytes:
        """The bytes of this index with some entries changed (None removes one).

        What a merge left in several versions stays, and so does what would become a file and a folder at once.
        """
        return b"".join(self.pieces(updates))

    def pieces(self, updates: Mapping[str, Update | None]) -> list[bytes]:
        """`updated`, not yet joined: a large index is copied once less."""
        names = {os.fsencode(path): update for path, update in updates.items()}
        places = self._places(names)
        edits: list[tuple[int, int, bytes, bytes]] = []  # from, to, name, new bytes
        count = self.count
        for name, update in names.items():
            at, is_there = places[name]
            if is_there and self._entry(at).stage:
                continue
            end = at + self._size(at) if is_there else at
            if update is None:
                count -= is_there
                edits.append((at, end, name, b""))
            elif is_there or not self._is_in_the_way(name, names):
                count += not is_there
                edits.append((at, end, name, self._written(name, update, at if is_there else None)))
        pieces = [b""]
        done = _START
        # several new names at one place come in their own order, and before what is changed there
        for start, end, _, text in sorted(edits, key=lambda edit: (edit[0], edit[1] > edit[0], edit[2])):
            pieces += (self._data[done:start], text)
            done = end
        pieces.append(self._data[done : self._end])
        pieces += self._kept_extensions([name for _, _, name, _ in edits])
        pieces[0] = _HEADER.pack(b"DIRC", self.version, count)
        return _sealed(pieces)

    # -- where things are

    @classmethod
    def _opened(cls, path: str, *, is_native: bool = True) -> Self:
        with open(path, "rb") as file:
            said = os.fstat(file.fileno())
            # git replaces its index by renaming, so what is mapped never changes under us
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            return cls(data, said.st_mtime_ns, said.st_mode & 0o777, is_native=is_native)
        except BaseException:
            data.close()
            raise

    @classmethod
    def _converted(cls, dirs: GitDirs, path: str) -> Self:
        copy = os.path.join(dirs.git_dir, f"ravi-index-copy-{os.getpid()}")
        try:
            with open(path, "rb") as source, open(copy, "wb") as target:
                said = os.fstat(source.fileno())
                target.write(source.read())
            _git(["-c", "index.sparse=false", "update-index", "--no-split-index", "--index-version", "2"], dirs, copy)
            index = cls._opened(copy, is_native=False)
        except (_UnreadableError, struct.error, ValueError) as fault:
            raise Unavailable(f"{path}: not an index that can be read", hint="look with `git status`") from fault
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(copy)
        index.written_ns = said.st_mtime_ns
        return index

    def _laid_out(self) -> tuple[int, dict[bytes, tuple[int, int]]]:
        """Where the entries end, and the extensions behind them."""
        for find_end in (self._end_from_behind, self._end_from_the_front):
            end = find_end()
            found = None if end is None else self._extensions_from(end)
            if end is not None and found is not None:
                if found.keys() & {b"link", b"sdir"}:  # split, sparse
                    raise _UnreadableError
                return end, found
        raise _UnreadableError

    def _end_from_behind(self) -> int | None:
        if not self.count:
            return _START
        data, at = self._data, len(self._data)
        for _ in range(64):
            at = data.rfind(b"\0\0\x81\xa4", _START, at)
            if at < 0:
                return None
            start = at - 24
            if start >= _START and (start - _START) % 8 == 0 and self._is_entry(start):
                while self._is_entry(start):
                    start += self._size(start)
                return start
        return None

    def _end_from_the_front(self) -> int | None:
        at = _START
        for _ in range(self.count):
            if at + _NAME >= len(self._data):
                return None
            at += self._size(at)
        return at

    def _extensions_from(self, at: int) -> dict[bytes, tuple[int, int]] | None:
        """Where each extension begins and ends; None unless they fill the rest of the file."""
        data, end = self._data, len(self._data) - _HASH
        found: dict[bytes, tuple[int, int]] = {}
        while at < end:
            name, size = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "big")
            if not name.isalpha() or at + 8 + size > end:
                return None
            found[name] = at + 8, at + 8 + size
            at += 8 + size
        return found if at == end else None

    def _is_entry(self, at: int) -> bool:
        """True when an entry begins here, as far as its bytes can tell."""
        data, limit = self._data, len(self._data) - _HASH
        if at + _NAME + 2 > limit or int.from_bytes(data[at + 24 : at + 28], "big") not in _MODES:
            return False
        begin, length = self._name_at(at)
        end = at + (begin - at + length + 8 & ~7)
        if length <= 0 or end > limit:
            return False
        return b"\0" not in data[begin : begin + length] and not data[begin + length : end].strip(b"\0")

    def _name_at(self, at: int) -> tuple[int, int]:
        data = self._data
        high = data[at + 60]
        begin = at + (_NAME + 2 if high & _EXTENDED >> 8 else _NAME)
        length = (high & _LENGTH >> 8) << 8 | data[at + 61]
        if length == _LENGTH:
            length = data.find(b"\0", begin) - begin
        return begin, length

    def _size(self, at: int) -> int:
        begin, length = self._name_at(at)
        return begin - at + length + 8 & ~7

    def _find(self, name: bytes) -> tuple[int, bool]:
        """Where the first entry of this name begins, or would, and whether it is there. Touches a few pages only."""
        low, high = _START, self._end
        while high - low > _NEAR:
            middle = low + (high - low) // 2
            at = self._entry_from(middle, high)
            if at is not None and self._name(at) < name:
                low = at
            else:
                high = middle
        while low < self._end and self._name(low) < name:
            low += self._size(low)
        return low, low < self._end and self._name(low) == name

    def _entry_from(self, at: int, high: int) -> int | None:
        """The first entry that begins at `at` or later: found by its mode, and believed when others follow it."""
        for match in _MODE.finditer(self._data, at + 24, min(high + 28, self._end)):
            start = match.start() - 24
            if (start - _START) % 8:
                continue
            here, believed = start, 0
            while believed < 3 and here != self._end and self._is_entry(here):
                here += self._size(here)
                believed += 1
            if believed == 3 or (believed and here == self._end):
                return start if start < high else None
        return None

    def _name(self, at: int) -> bytes:
        begin, length = self._name_at(at)
        return self._data[begin : begin + length]

    def _offsets(self) -> Iterator[int]:
        data, at, end = self._data, _START, self._end
        while at < end:
            yield at
            high = data[at + 60]
            length = (high & 0x0F) << 8 | data[at + 61]
            if length == _LENGTH:
                at += self._size(at)
            else:
                at += (_NAME + 2 if high & 0x40 else _NAME) + length + 8 & ~7

    def _below(self, names: Iterable[str]) -> Iterator[int]:
        for name in map(os.fsencode, names):
            at, is_there = self._find(name)
            if is_there:
                yield at
            at, _ = self._find(name + b"/")
            while at < self._end and self._name(at).startswith(name + b"/"):
                yield at
                at += self._size(at)

    def _places(self, names: Collection[bytes]) -> dict[bytes, tuple[int, bool]]:
        """What `_find` answers, for many names."""
        if names == self._placed.keys():
            return self._placed
        if len(names) * _PLENTY < self.count:
            self._placed = {name: self._find(name) for name in names}
        else:
            self._placed = self._places_in_one_pass(names)
        return self._placed

    def _places_in_one_pass(self, names: Collection[bytes]) -> dict[bytes, tuple[int, bool]]:
        wanted = iter(sorted(names))
        found: dict[bytes, tuple[int, bool]] = {}
        name = next(wanted, None)
        for at in self._offsets():
            if name is None:
                break
            here = self._name(at)
            while name is not None and name <= here:
                found[name] = at, name == here
                name = next(wanted, None)
        while name is not None:
            found[name] = self._end, False
            name = next(wanted, None)
        return found

    def _entry(self, at: int) -> IndexEntry:
        *numbers, oid, flags = _FIXED.unpack_from(self._data, at)
        more = int.from_bytes(self._data[at + _NAME : at + _NAME + 2], "big") if flags & _EXTENDED else 0
        return IndexEntry(
            numbers[6],
            oid.hex(),
            (flags & _STAGE) >> 12,
            (*numbers[:6], *numbers[7:]),
            bool(more & _SKIP_WORKTREE),
            bool(more & _INTENT_TO_ADD),
        )

    # -- what is written

    def _is_in_the_way(self, name: bytes, names: Mapping[bytes, Update | None]) -> bool:
        """True when `name` cannot be added: a file is staged where it needs a folder, or a folder in its place."""
        above = name.rpartition(b"/")[0]
        while above:
            if names.get(above, _ABSENT) is not None and self._find(above)[1]:
                return True
            above = above.rpartition(b"/")[0]
        at, _ = self._find(name + b"/")
        while at < self._end and (below := self._name(at)).startswith(name + b"/"):
            if names.get(below, _ABSENT) is not None:
                return True
            at += self._size(at)
        return False

    def _written(self, name: bytes, update: Update, at: int | None) -> bytes:
        flags, more = min(len(name), _LENGTH), b""
        if at is not None and self._entry(at).is_skipped:
            flags |= _EXTENDED
            more = _SKIP_WORKTREE.to_bytes(2, "big")
        numbers = known(update.stat) if update.stat is not None else (0,) * 9
        fixed = _FIXED.pack(*numbers[:6], update.entry.mode, *numbers[6:], bytes.fromhex(update.entry.oid), flags)
        length = len(fixed) + len(more) + len(name)
        return fixed + more + name + bytes((length + 8 & ~7) - length)

    def _kept_extensions(self, names: Iterable[bytes]) -> Iterator[bytes]:
        """The cached trees, without those of changed folders, and the record of resolved conflicts.

        The others are caches tied to the order of entries; git makes them anew.
        """
        for name in (b"TREE", b"REUC"):
            start, end = self._extensions.get(name, (0, 0))
            body = self._data[start:end]
            if body and name == b"TREE":
                body = _invalidated(body, names)
            if body:
                yield name + len(body).to_bytes(4, "big") + body


def write(
    dirs: GitDirs, index: GitIndex, updates: Mapping[str, Update | None], temporary: str, *, durable: bool
) -> None:
    """Put a changed index in the place of the one that lies there. The caller holds git's `index.lock`."""
    if index.is_native:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        try:
            for piece in index.pieces(updates):
                write_all(fd, piece)
            if index.rights is not None:
                os.fchmod(fd, index.rights)
            if durable:
                sync(fd)
        finally:
            os.close(fd)
    else:
        _write_by_git(dirs, updates, temporary)
    os.rename(temporary, os.path.join(dirs.git_dir, "index"))


_ABSENT = Update(TreeEntry(0, ""))


def _write_by_git(dirs: GitDirs, updates: Mapping[str, Update | None], temporary: str) -> None:
    with open(os.path.join(dirs.git_dir, "index"), "rb") as source, open(temporary, "wb") as target:
        target.write(source.read())
    lines = [
        b"0 %b\t%b\0" % (b"0" * 40, os.fsencode(path))
        if update is None
        else b"%o %b\t%b\0" % (update.entry.mode, update.entry.oid.encode(), os.fsencode(path))
        for path, update in updates.items()
    ]
    _git(["update-index", "-z", "--index-info"], dirs, temporary, b"".join(lines))


def _git(args: list[str], dirs: GitDirs, index: str, fed: bytes = b"") -> None:
    """Run git on an index of our choice; `git.run` lets no variable of git's through."""
    import subprocess

    done = subprocess.run(
        ["git", *GIT_SAFE, f"--git-dir={dirs.git_dir}", f"--work-tree={dirs.work_tree}", *args],
        cwd=dirs.work_tree,
        input=fed,
        capture_output=True,
        env={**environment(), "GIT_INDEX_FILE": index},
        check=False,
    )
    if done.returncode:
        raise Unavailable(f"{dirs.git_dir}: git update-index: {done.stderr.decode('utf-8', 'replace').strip()}")


def _invalidated(body: bytes, names: Iterable[bytes]) -> bytes:
    """A cache-tree in which the folders of `names` are marked as changed; empty when it cannot be understood."""
    stale = {b""}
    for name in names:
        folder = name.rpartition(b"/")[0]
        while folder not in stale:
            stale.add(folder)
            folder = folder.rpartition(b"/")[0]
    parents = {folder.rpartition(b"/")[0] for folder in stale if folder}
    pieces: list[bytes] = []
    done = 0
    # The nodes stand in the order of a walk: each says how many folders are below it. A stack holds, for every
    # folder we are in, its path and how many of those are still to come; outside of what is stale we only count.
    inside: list[tuple[bytes, int]] = []
    skipped = 0
    at = 0
    while at < len(body):
        match = _NODE.match(body, at)
        if match is None:
            return b""
        is_valid = match[2][:1] != b"-"
        at = match.end() + (_HASH if is_valid else 0)
        below = int(match[3])
        if skipped:
            skipped -= 1
            at, more = _past(body, at, below)
            skipped += more
            continue
        while inside and not inside[-1][1]:
            inside.pop()
        if inside:
            above, left = inside[-1]
            inside[-1] = (above, left - 1)
            path = above + b"/" + match[1] if above else match[1]
        else:
            path = b""  # the root, whose name is empty
        if path in stale and is_valid:
            pieces += (body[done : match.start()], match[1] + b"\0-1 " + match[3] + b"\n")
            done = at
        if path in parents:
            inside.append((path, below))
        else:
            at, skipped = _past(body, at, below)
    pieces.append(body[done:])
    return b"".join(pieces)


def _past(body: bytes, at: int, below: int) -> tuple[int, int]:
    """Go past so many folders of a cache-tree in one step, if none of them has folders in it; how many remain."""
    if not below:
        return at, 0
    leaves = _leaves(below).match(body, at)
    return (leaves.end(), 0) if leaves else (at, below)


@functools.lru_cache(1024)
def _leaves(count: int) -> re.Pattern[bytes]:
    return re.compile(rb"(?:[^\0]*\0(?:-1 0\n|\d+ 0\n[\s\S]{20})){%d}" % count)


def _sealed(pieces: Iterable[bytes]) -> list[bytes]:
    """The same, with their checksum at the end."""
    check = hashlib.sha1(usedforsecurity=False)
    sealed = []
    for piece in pieces:
        check.update(piece)
        sealed.append(piece)
    return [*sealed, check.digest()]
