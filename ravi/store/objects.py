"""Git objects, fast: blobs, trees and commits are read from the files or through one git process, and written as
small packs.
"""

import contextlib
import os
import re
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, NamedTuple, TypeVar

from ravi.errors import Malformed, NotFound, Refused, Unavailable
from ravi.store import packs
from ravi.store.durable import writing
from ravi.store.git import CatFile
from ravi.store.locks import Lock
from ravi.store.stored import Stored
from ravi.store.trees import (
    EMPTY_TREE,
    EXECUTABLE,
    FILE,
    FOLDER,
    LINK,
    SUBMODULE,
    Tree,
    TreeEntry,
    check_path,
    render_tree,
)

__all__ = [
    "EMPTY_TREE",
    "EXECUTABLE",
    "FILE",
    "FOLDER",
    "LINK",
    "SUBMODULE",
    "Change",
    "Commit",
    "Difference",
    "Objects",
    "Signature",
    "TreeEntry",
    "check_path",
    "hash_object",
    "parse_commit",
]

_SMALL = 1 << 16  # a blob up to this size is worth remembering
_SPILL = 64 << 20  # bytes of unwritten objects after which they go to the disk without waiting for `flush`
_MARKED = 60.0  # seconds after which a pack whose flusher did not say `release` is released all the same
_FEW = 8  # more objects than these are asked of git, which reads a heap of them faster
_CHUNK = 256  # trees asked for at once


class Difference(NamedTuple):
    """One file that two trees do not have in common."""

    path: str
    old: TreeEntry | None
    new: TreeEntry | None


class Signature(NamedTuple):
    """Who and when. `when` is in seconds since 1970, `offset` in minutes east of UTC."""

    name: str
    email: str
    when: int
    offset: int = 0

    def render(self) -> str:
        """`Name <mail> 1700000000 +0100`, with nothing in it that could end the line or forge a field."""
        name, email = _plain(self.name), _plain(self.email).replace(" ", "")
        hours, minutes = divmod(min(abs(self.offset), 14 * 60), 60)
        sign = "-" if self.offset < 0 else "+"
        when = min(max(self.when, 0), 1 << 40)
        return f"{name or email.partition('@')[0] or 'unknown'} <{email}> {when} {sign}{hours:02d}{minutes:02d}"


class Commit(NamedTuple):
    """A commit as read."""

    oid: str
    tree: str
    parents: tuple[str, ...]
    author: Signature
    committer: Signature
    message: str


Change = bytes | TreeEntry | None
_Node = dict[str, "Change | _Node"]
_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")


class _Pending(NamedTuple):
    kind: str
    data: bytes
    packed: bytes
    batch: "Batch | None"  # the one that made it and may drop it; None when it is anybody's
    threads: frozenset[int]  # those that put it, and are about to have a ref name it


class Objects:
    """The objects of one repository. Thread-safe: one lock, held while git is asked.

    What is put is readable at once and durable after `flush`. Trees are cached by oid and must not be changed.
    """

    def __init__(self, common_dir: str) -> None:
        self.common_dir = common_dir
        self.folder = os.path.join(common_dir, "objects", "pack")
        self._git = CatFile(common_dir)
        self._stored = Stored(common_dir)
        self._lock = threading.RLock()
        self._flushing = threading.Lock()
        self._folding = Lock(os.path.join(common_dir, "ravi", "fold.lock"))
        self._pending: dict[str, _Pending] = {}
        self._pending_bytes = 0
        self._batches: dict[int, Batch] = {}
        self._unnamed: set[int] = set()  # threads for which `release` has to wait
        self._kept: dict[str, tuple[frozenset[int], float]] = {}
        self._unfoldable: set[str] = set()
        self._folds = 0
        self._is_swept = False
        self._trees: _Cache[str, Tree] = _Cache(8192, 16 << 20)
        self._commits: _Cache[str, Commit] = _Cache(4096, 4 << 20)
        self._blobs: _Cache[str, bytes] = _Cache(4096, 8 << 20)
        weakref.finalize(self, _close, self._git, self._kept)

    # -- reading

    def start(self) -> None:
        """Have git started already when the first object is asked for."""
        with self._lock:
            self._git.start()

    def close(self) -> None:
        """End the git process; the next question starts another. What is pending stays pending."""
        with self._lock:
            _close(self._git, self._kept)
            self._stored.close()

    def kind_and_data(self, oid: str) -> tuple[str, bytes]:
        """`commit`, `tree`, `blob` or `tag`, and the bytes. Raises NotFound."""
        return self.many([oid])[0]

    def many(self, oids: Sequence[str]) -> list[tuple[str, bytes]]:
        """Kind and bytes of every one of `oids`, asked for together: many times faster than one by one."""
        with self._lock:
            found: dict[str, tuple[str, bytes] | None] = {}
            for oid in oids:
                if oid in self._pending:
                    found[oid] = self._pending[oid][:2]
                else:
                    found[oid] = self._stored.read(oid) if len(oids) <= _FEW else None
            asked = [oid for oid, answer in found.items() if answer is None]
            found |= zip(asked, self._git.contents(asked), strict=True)
            answers: list[tuple[str, bytes]] = []
            for oid in oids:
                answer = found[oid]
                if answer is None:
                    raise NotFound(f"{self.common_dir}: object {oid} is missing", hint="look with `git fsck`")
                answers.append(answer)
            return answers

    def kind(self, oid: str) -> str | None:
        """`commit`, `tree`, `blob` or `tag`; None when there is no such object, pending or stored."""
        return self._kinds([oid])[0]

    def blob(self, oid: str) -> bytes:
        """The bytes of a file. Raises NotFound."""
        with self._lock:
            data = self._blobs.get(oid)
        if data is None:
            data = self._expect(oid, "blob")
            if len(data) <= _SMALL:
                with self._lock:
                    self._blobs.put(oid, data, len(data) + 200)
        return data

    def blobs(self, oids: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """(oid, bytes) of many files, in order, read in bulk and kept out of the cache."""
        rest = iter(oids)
        while chunk := [oid for _, oid in zip(range(_CHUNK), rest, strict=False)]:
            for oid, (kind, data) in zip(chunk, self.many(chunk), strict=True):
                if kind != "blob":
                    raise _unexpected(oid, kind, "blob")
                yield oid, data

    def commit(self, oid: str) -> Commit:
        """A commit, parsed. Raises NotFound."""
        with self._lock:
            commit = self._commits.get(oid)
        if commit is None:
            data = self._expect(oid, "commit")
            commit = parse_commit(oid, data)
            with self._lock:
                self._commits.put(oid, commit, len(data) + 1000)
        return commit

    def tree(self, oid: str) -> Mapping[str, TreeEntry]:
        """The entries of a tree by name, in git's order; `oid` may name a commit. Raises NotFound."""
        return self._tree(oid).entries()

    def entry(self, tree: str, path: str) -> TreeEntry | None:
        """What lies at `path`; the tree itself at the empty path."""
        here = TreeEntry(FOLDER, tree)
        for name in path.split("/") if path else ():
            if here.mode != FOLDER:
                return None
            below = self._tree(here.oid).get(name)
            if below is None:
                return None
            here = below
        return here

    def read(self, tree: str, path: str) -> bytes | None:
        """The bytes of the file (or the target of the link) at `path` in a tree or commit; None if there is none."""
        entry = self.entry(tree, path)
        if entry is None or entry.mode in (FOLDER, SUBMODULE):
            return None
        return self.blob(entry.oid)

    def walk(self, tree: str, prefix: str = "") -> Iterator[tuple[str, TreeEntry]]:
        """Every file below a tree, with `prefix` before its path. Links and submodules are files here."""
        start = f"{prefix.rstrip('/')}/" if prefix else ""
        for path, _, new in self._differences([(start, None, tree)]):
            assert new is not None
            yield path, new

    def diff(self, old: str | None, new: str | None, prefix: str = "") -> Iterator[Difference]:
        """The files that differ between two trees (or commits); only folders that differ are read."""
        if old != new:
            start = f"{prefix.rstrip('/')}/" if prefix else ""
            yield from self._differences([(start, old, new)])

    # -- writing

    def put_blob(self, data: bytes) -> str:
        """A file's bytes become an object, durable at the next flush."""
        oid = self._put("blob", data)
        if len(data) <= _SMALL:
            with self._lock:
                self._blobs.put(oid, data, len(data) + 200)
        return oid

    def put_tree(self, entries: Mapping[str, TreeEntry]) -> str:
        """A tree of these entries, which may be in any order."""
        return self._put_tree(Tree(render_tree(entries.items())))

    def put_commit(
        self, tree: str, parents: Sequence[str], author: Signature, committer: Signature, message: str
    ) -> str:
        """A commit object. Nothing points at it yet."""
        lines = [f"tree {tree}", *(f"parent {oid}" for oid in parents)]
        lines += [f"author {author.render()}", f"committer {committer.render()}"]
        text = message.replace("\0", "\ufffd")
        data = ("\n".join(lines) + "\n\n" + text + ("" if text.endswith("\n") else "\n")).encode("utf-8", "replace")
        oid = self._put("commit", data)
        with self._lock:
            self._commits.put(oid, parse_commit(oid, data), len(data) + 1000)
        return oid

    def apply(self, tree: str | None, changes: Mapping[str, Change]) -> str:
        """The tree that `changes` make of `tree`, and its oid.

        Bytes are a file's new text (its mode stays), a TreeEntry is taken as it is (a folder too), None removes a
        file or a whole folder. Empty folders vanish. Raises Malformed for a path that must not be in a tree, and
        Refused where a file is to take the place of a folder, or the other way round, that still has something in it.
        """
        root: _Node = {}
        for path, change in changes.items():
            check_path(path)
            *above, name = path.split("/")
            node = root
            for folder in above:
                below = node.setdefault(folder, {})
                if not isinstance(below, dict):  # the file in the folder's place was named first
                    below = node[folder] = {"": below}
                node = below
            already = node.get(name)
            if isinstance(already, dict):
                already[""] = change
            else:
                node[name] = change
        self._check_entries({p: c for p, c in changes.items() if isinstance(c, TreeEntry) and c.mode != SUBMODULE})
        return self._applied(tree, root, "") or self._put_tree(Tree(b""))

    def flush(self) -> None:
        """Make everything that was put durable, as one pack. After a fault nothing is half there, and nothing lost."""
        with self._flushing:
            with self._lock:
                batch = dict(self._pending)
            if not batch:
                return
            rows = [(bytes.fromhex(oid), one.packed) for oid, one in batch.items()]
            with writing(self.folder):
                path = packs.write(self.folder, rows, mode=self._mode())
            with self._lock:
                threads = frozenset().union(*(self._pending.get(oid, one).threads for oid, one in batch.items()))
                self._kept[path] = (threads, time.monotonic())
                for oid in batch:
                    self._drop(oid)

    def release(self) -> None:
        """Say that refs name by now what this thread put; git may repack it when all who put some of it have said so.

        (A flush takes along what other threads have put.) At the end of the process all is released.
        """
        mine, before = threading.get_ident(), time.monotonic() - _MARKED
        with self._lock:
            if mine in self._unnamed:
                return
            for path, (threads, when) in self._kept.items():
                self._kept[path] = (threads - {mine}, when)
            done = [path for path, (threads, when) in self._kept.items() if not threads or when < before]
            for path in done:
                del self._kept[path]
        for path in done:
            packs.release(path)

    @contextlib.contextmanager
    def unnamed(self) -> Iterator[None]:
        """Inside the `with`, the next ref does not name all that this thread has put: `release` waits for its end."""
        mine = threading.get_ident()
        with self._lock:
            self._unnamed.add(mine)
        try:
            yield
        finally:
            with self._lock:
                self._unnamed.discard(mine)
            self.release()

    @contextlib.contextmanager
    def batch(self) -> Iterator["Batch"]:
        """What this thread puts inside the `with` belongs together; an exception drops it, as `drop` does."""
        mine = self._batches[threading.get_ident()] = Batch()
        try:
            yield mine
        except BaseException:
            self.drop(mine)
            raise
        finally:
            del self._batches[threading.get_ident()]

    def drop(self, batch: "Batch") -> None:
        """Forget what a batch put and is not flushed; what somebody else has put as well stays."""
        with self._lock:
            for oid in [oid for oid, one in self._pending.items() if one.batch is batch]:
                self._drop(oid)

    def packs(self) -> int:
        """How many packs there are. One listing; the first one sweeps what killed processes left."""
        present = packs.names(self.folder)
        if not self._is_swept:
            self._is_swept = True
            packs.sweep(self.folder, present)
        packs.mend(self.folder, present)
        with self._lock:
            self._stored.keep(set(present))
        return packs.count(present)

    def fold(self) -> bool:
        """Make one pack of the many small ones, beside anything else that goes on. True when it was done."""
        with contextlib.suppress(OSError):  # no room to fold: the small packs stay
            if packs.fold(self.folder, self._folding, self._unfoldable, mode=self._mode()):
                self._folds += 1
                if self._folds % 8 == 0:  # the git process still maps the packs that went
                    with self._lock:
                        self._git.close()
                return True
        return False

    # -- steps

    def _expect(self, oid: str, wanted: str) -> bytes:
        kind, data = self.kind_and_data(oid)
        if kind != wanted:
            raise _unexpected(oid, kind, wanted)
        return data

    def _tree(self, oid: str) -> Tree:
        with self._lock:
            tree = self._trees.get(oid)
        if tree is not None:
            return tree
        if oid == EMPTY_TREE:
            return Tree(b"", EMPTY_TREE)
        with self._lock:
            commit = self._commits.get(oid)
        if commit is not None:
            return self._tree(commit.tree)
        kind, data = self.kind_and_data(oid)
        if kind == "commit":
            return self._tree(parse_commit(oid, data).tree)
        if kind != "tree":
            raise _unexpected(oid, kind, "tree")
        return self._remember(Tree(data, oid))

    def _remember(self, tree: Tree) -> Tree:
        with self._lock:
            self._trees.put(tree.oid, tree, len(tree.raw) * (8 if len(tree.raw) < 4096 else 1) + 300)
        return tree

    def _fetch_trees(self, oids: Iterable[str | None]) -> None:
        """Read trees that are about to be needed in one go."""
        with self._lock:
            wanted = [oid for oid in dict.fromkeys(oids) if oid and oid not in self._trees and oid != EMPTY_TREE]
        if len(wanted) > 1:
            for oid, (kind, data) in zip(wanted, self.many(wanted), strict=True):
                if kind == "tree":
                    self._remember(Tree(data, oid))

    def _differences(self, pairs: list[tuple[str, str | None, str | None]]) -> Iterator[Difference]:
        for start in range(0, len(pairs), _CHUNK):
            chunk = pairs[start : start + _CHUNK]
            self._fetch_trees(oid for _, old, new in chunk for oid in (old, new))
            for prefix, old, new in chunk:
                yield from self._one_folder(prefix, old, new)

    def _one_folder(self, prefix: str, old: str | None, new: str | None) -> Iterator[Difference]:
        before = self._tree(old).entries() if old else {}
        after = self._tree(new).entries() if new else {}
        if not before or not after:
            names: Iterable[str] = after or before
        else:
            changed = [name for name, entry in after.items() if before.get(name) != entry]
            changed += [name for name in before if name not in after]
            names = sorted(changed, key=lambda name: _slashed(name, before.get(name), after.get(name)))
        below: list[tuple[str, str | None, str | None]] = []
        for name in names:
            was, now = before.get(name), after.get(name)
            path = prefix + name
            old_tree = was.oid if was and was.mode == FOLDER else None
            new_tree = now.oid if now and now.mode == FOLDER else None
            if (was and not old_tree) or (now and not new_tree):
                if below:  # keep the order of paths
                    yield from self._differences(below)
                    below = []
                yield Difference(path, None if old_tree else was, None if new_tree else now)
            if old_tree or new_tree:
                below.append((path + "/", old_tree, new_tree))
        yield from self._differences(below)

    def _applied(self, oid: str | None, node: _Node, prefix: str) -> str | None:
        """The oid of the changed tree, None when nothing is left in it."""
        tree = self._tree(oid) if oid else Tree(b"", EMPTY_TREE)
        for name, change in node.items():
            was = tree.get(name)
            now = self._changed(was, change, prefix + name)
            if now != was:
                tree = tree.changed(name, now)
        if not tree.raw:
            return None
        return tree.oid or self._put_tree(tree)

    def _changed(self, was: TreeEntry | None, change: "Change | _Node", path: str) -> TreeEntry | None:
        if change is None:
            return None
        if isinstance(change, TreeEntry):
            return change
        if isinstance(change, bytes):
            if was is not None and was.mode == FOLDER:
                raise Refused(f"{path}: a folder is there; a file cannot take its place")
            mode = was.mode if was is not None and was.is_file else FILE
            if was is not None and was.oid == hash_object("blob", change):
                return TreeEntry(mode, was.oid)
            return TreeEntry(mode, self.put_blob(change))
        return self._folder_changed(was, change, path)

    def _folder_changed(self, was: TreeEntry | None, node: _Node, path: str) -> TreeEntry | None:
        file = node.get("", _ABSENT)
        node = {name: change for name, change in node.items() if name}
        if isinstance(file, TreeEntry) and file.is_folder:  # a whole folder, and changes in it
            was, file = file, _ABSENT
        is_folder = was is not None and was.mode == FOLDER
        if was is not None and not is_folder and file is not None:
            if _removes_all(node):  # nothing is to lie below this file
                return self._changed(was, file, path) if file is not _ABSENT else was
            raise Refused(f"{path}: a file is there; a folder cannot take its place")
        # removed and written below in one breath: first removed, then written
        start = was.oid if was is not None and is_folder and file is not None else None
        below = self._applied(start, node, path + "/")
        if file is _ABSENT or file is None:
            return TreeEntry(FOLDER, below) if below else None
        if below:
            raise Refused(f"{path}: it cannot be a file and a folder")
        return self._changed(None, file, path)

    def _check_entries(self, entries: Mapping[str, TreeEntry]) -> None:
        """Entries that came from outside must name objects that are here. (What caches hold may be gone.)"""
        for (path, entry), kind in zip(
            entries.items(), self._kinds([one.oid for one in entries.values()]), strict=True
        ):
            wanted = "tree" if entry.is_folder else "blob"
            if kind is None:
                raise NotFound(f"{path}: object {entry.oid} is missing")
            if kind != wanted:
                raise _unexpected(entry.oid, kind, wanted)

    def _kinds(self, oids: Sequence[str]) -> list[str | None]:
        with self._lock:
            found: dict[str, str | None] = {}
            for oid in oids:
                if oid in self._pending:
                    found[oid] = self._pending[oid].kind
                else:
                    found[oid] = self._stored.kind(oid) if len(oids) <= _FEW else None
            asked = [oid for oid, kind in found.items() if kind is None]
            found |= {oid: size and size[0] for oid, size in zip(asked, self._git.sizes(asked), strict=True)}
            return [found[oid] for oid in oids]

    def _put_tree(self, tree: Tree) -> str:
        tree.oid = self._put("tree", tree.raw)
        return self._remember(tree).oid

    def _put(self, kind: str, data: bytes) -> str:
        oid = hash_object(kind, data)
        mine = frozenset({threading.get_ident()})
        batch = self._batches.get(threading.get_ident())
        with self._lock:
            there = self._pending.get(oid)
            if there is not None:
                owner = batch if there.batch is batch else None
                self._pending[oid] = there._replace(batch=owner, threads=there.threads | mine)
                return oid
        one = _Pending(kind, data, packs.entry(kind, data), batch, mine)
        with self._lock:
            if (there := self._pending.get(oid)) is not None:
                self._pending[oid] = there._replace(batch=None, threads=there.threads | mine)
                return oid
            self._pending[oid] = one
            self._pending_bytes += len(data) + len(one.packed)
            is_full = self._pending_bytes > _SPILL
        if is_full:
            self.flush()
        return oid

    def _drop(self, oid: str) -> None:
        one = self._pending.pop(oid, None)
        if one is not None:
            self._pending_bytes -= len(one.data) + len(one.packed)

    def _mode(self) -> int:
        """Packs are as readable as the repository is."""
        try:
            return os.stat(os.path.join(self.common_dir, "HEAD")).st_mode & 0o444
        except FileNotFoundError as fault:
            raise Unavailable(f"{self.common_dir}: the repository went away") from fault


class Batch:
    """Objects that one piece of work put: see `Objects.batch`."""


class _Cache(Generic[_K, _V]):
    """The last used values, bounded by number and by bytes."""

    def __init__(self, count: int, size: int) -> None:
        self._count = count
        self._room = size
        self._values: OrderedDict[_K, tuple[_V, int]] = OrderedDict()

    def __contains__(self, key: _K) -> bool:
        return key in self._values

    def get(self, key: _K) -> _V | None:
        found = self._values.get(key)
        if found is None:
            return None
        self._values.move_to_end(key)
        return found[0]

    def put(self, key: _K, value: _V, size: int) -> None:
        if key in self._values:
            return
        self._values[key] = (value, size)
        self._room -= size
        while (self._room < 0 or len(self._values) > self._count) and len(self._values) > 1:
            self._room += self._values.popitem(last=False)[1][1]


_ABSENT: Change = TreeEntry(0, "")
_IDENT = re.compile(r"(.*?) ?<([^>]*)>(?: (-?\d+) ([+-])(\d\d)(\d\d))?")
_CRUD = " .,:;<>\"\\'"


def parse_commit(oid: str, data: bytes) -> Commit:
    """A raw commit object, however old or odd: what is missing is empty."""
    head, _, body = data.partition(b"\n\n")
    fields: dict[bytes, bytes] = {}
    parents: list[str] = []
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"parent":
            parents.append(value.decode())
        elif key:  # a continued line, of a signature say, begins with a space
            fields.setdefault(key, value)
    encoding = fields.get(b"encoding", b"utf-8").decode("ascii", "replace")
    try:
        message = body.decode(encoding, "replace")
    except LookupError:
        message = body.decode("utf-8", "replace")
    author = _signature(fields.get(b"author", b""))
    committer = _signature(fields.get(b"committer", b""))
    return Commit(oid, fields.get(b"tree", b"").decode(), tuple(parents), author, committer, message)


def _signature(line: bytes) -> Signature:
    match = _IDENT.match(line.decode("utf-8", "replace"))
    if match is None:
        return Signature("", "", 0)
    offset = int(match[5] or 0) * 60 + int(match[6] or 0)
    return Signature(match[1], match[2], int(match[3] or 0), -offset if match[4] == "-" else offset)


def _plain(text: str) -> str:
    if not text.isprintable() or "<" in text or ">" in text:
        text = "".join(c if c.isprintable() and c not in "<>" else " " for c in text)
    return " ".join(text.split()).strip(_CRUD)


def _slashed(name: str, *entries: TreeEntry | None) -> str:
    return name + "/" if any(entry and entry.mode == FOLDER for entry in entries) else name


def _removes_all(node: _Node) -> bool:
    return all(_removes_all(change) if isinstance(change, dict) else change is None for change in node.values())


def hash_object(kind: str, data: bytes) -> str:
    """The oid that `data` has as an object of this kind, whether or not it is one here."""
    import hashlib  # with OpenSSL, 3 ms: whoever only reads does without

    return hashlib.sha1(b"%b %d\0%b" % (kind.encode(), len(data), data), usedforsecurity=False).hexdigest()


def _unexpected(oid: str, kind: str, wanted: str) -> Malformed:
    return Malformed(f"object {oid} is a {kind}, not a {wanted}")


def _close(git: CatFile, kept: dict[str, tuple[frozenset[int], float]]) -> None:
    git.close()
    for path in kept:
        packs.release(path)
    kept.clear()
