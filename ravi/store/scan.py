"""What in the person's files differs from what was published, in the places ravi knows. It changes nothing."""

import contextlib
import fnmatch
import os
import re
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from ravi.errors import Malformed, Unavailable
from ravi.store import exchange
from ravi.store.exchange import Folders, Lying
from ravi.store.git import Finished, GitDirs, call
from ravi.store.gitindex import GitIndex, in_tree
from ravi.store.objects import EMPTY_TREE, FOLDER, LINK, SUBMODULE, Objects, TreeEntry, check_path

FILES = ("permissions.yaml", "ravi.yaml", "routes.yaml")
FOLDERS = ("agents", "automations", "contacts", "profiles", "sessions", "tasks")
LIMIT = 5_000_000  # bytes of one file
# what editors and systems leave behind for a moment, and what ravi itself writes beside a file
_LEFTOVERS = re.compile(
    "|".join(
        fnmatch.translate(pattern)
        for pattern in (
            "*.sw[a-z]", "*~", ".#*", "#*#", "4913", "*.tmp", ".DS_Store", "Thumbs.db", "*.problem",
            ".ravi-*", ".nfs*", ".goutputstream-*", ".*.kate-swp", "*.crswap",
        )
    )
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A file that differs. `entry` is None when it is gone; with a `problem` it cannot be taken as it lies."""

    path: str
    entry: TreeEntry | None
    base: TreeEntry | None  # what was published
    touched: float = 0.0  # when it was changed last, by the wall clock; 0.0 when nobody can say
    is_staged: bool = False  # the person has staged it, so it is theirs to commit
    is_open: bool = False  # somebody is writing to it
    problem: str = ""
    data: bytes | None = field(default=None, repr=False, compare=False)  # only where it was asked for


def is_known(path: str) -> bool:
    """True for a path in a place that ravi reads."""
    return path in FILES or path.partition("/")[0] in FOLDERS


def is_leftover(path: str) -> bool:
    """True for what an editor leaves behind; such a file is ours only once somebody has committed it."""
    return _LEFTOVERS.match(path.rpartition("/")[2]) is not None


class Scan:
    """One look at the files of a workspace. A context, because it holds folders and the index open."""

    def __init__(
        self, dirs: GitDirs, objects: Objects, published: str | None, tip: str | None, *, minds_modes: bool
    ) -> None:
        """`published` and `tip` are trees: what lies out, and what the branch has."""
        self._dirs = dirs
        self._objects = objects
        self._published = published
        self._tip = tip
        self._minds_modes = minds_modes
        self._folders = Folders(dirs.work_tree)
        self._index: GitIndex | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._folders.close()
        if self._index is not None:
            self._index.close()

    @property
    def index(self) -> GitIndex:
        """The person's index, read when first asked for."""
        if self._index is None:
            self._index = GitIndex.read(self._dirs)
        return self._index

    def everything(self) -> Iterator[Found]:
        """All that differs. Files that are as git last saw them are not read."""
        names = (*FILES, *FOLDERS)
        untracked = _Asked(["ls-files", "-z", "--others", "--exclude-standard", "--", *names], self._dirs)
        differs = [
            "diff-index",
            "--cached",
            "--name-only",
            "-z",
            "--no-renames",
            self._published or EMPTY_TREE,
            "--",
            *names,
        ]
        staged = _Asked(differs, self._dirs)
        paths = {path for path, _ in self.index.touched(self._dirs.work_tree, names)}
        paths.update(untracked.paths(), staged.paths())
        for path in sorted({_document(path) for path in paths}):
            if path.endswith("/"):
                yield Found(path[:-1], None, None, problem="is a git repository of its own; its files are not taken")
            elif found := self.at(path):
                yield found

    def below(self, paths: Iterable[str]) -> Iterator[Found]:
        """What differs at these files and below these folders. Neither tree nor index is read for more than that."""
        seen: dict[str, Found] = {}
        for path in paths:
            path = path.strip("/")
            for one in self._at_or_below(path):
                if found := self.at(one):
                    seen[one] = found
        ignored = self._ignored([path for path, found in seen.items() if found.base is None and found.entry])
        yield from (found for path, found in sorted(seen.items()) if path not in ignored)

    def files(self) -> Iterator[tuple[str, bytes | str]]:
        """Every file in the known places as it lies: its bytes, or why it cannot be read."""
        for name in (*FILES, *FOLDERS):
            for path in self._on_disk(name):
                if not is_leftover(path):
                    found = self._lying(path)
                    if isinstance(found, Lying):
                        yield path, found.data
                    elif found:
                        yield path, found

    def at(self, path: str, *, with_data: bool = False) -> Found | None:
        """What differs at one path."""
        base = self._entry(self._published, path)
        if not is_known(path) or (base is None and is_leftover(path)) or (base and base.mode in (FOLDER, SUBMODULE)):
            return None
        lying = self._lying(path, asks_who_writes=with_data)
        if isinstance(lying, str):
            if lying == "" or (base and base.mode == LINK and self._is_same_link(path, base)):
                return None
            return Found(path, None, base, problem=lying)
        if lying is None:
            return self._gone(path, base) if base else None
        entry = lying.entry
        if base and entry.oid == base.oid and (entry.mode == base.mode or not self._minds_modes):
            return None
        said = lying.stat
        touched = max(said.st_mtime_ns, said.st_ctime_ns) / 1e9
        data = lying.data if with_data else None
        return self._judged(Found(path, entry, base, touched, is_open=lying.is_open, data=data))

    def missing(self, folder: str) -> tuple[int, int]:
        """How many of the files below a known folder are missing, and how many git knows of."""
        gone = sum(is_gone for _, is_gone in self.index.touched(self._dirs.work_tree, [folder]))
        return gone, self.index.count_below([folder])

    # -- steps

    def _entry(self, tree: str | None, path: str) -> TreeEntry | None:
        return self._objects.entry(tree, path) if tree else None

    def _lying(self, path: str, *, asks_who_writes: bool = False) -> Lying | str | None:
        """The file at `path`; None when there is none, "" for a folder, or why it cannot be taken."""
        try:
            check_path(path)
            path.encode()
        except (Malformed, UnicodeEncodeError):
            return "its name cannot be in a commit; rename it"
        try:
            found = exchange.look(*self._folders.at(path), LIMIT, asks_who_writes=asks_who_writes)
        except FileNotFoundError:
            return None
        except NotADirectoryError:
            return "a file or a link lies where its folder should be"
        except OSError as fault:
            return f"cannot be read: {fault.strerror}"
        if found is None:
            return None
        if found.mode == FOLDER:
            return "is a folder, and should be a file" if path.endswith("/TASK.md") else ""
        if found.mode == LINK:
            return "is a link; links are not taken, because they may lead anywhere"
        if not found.mode:
            return "is not a regular file"
        if found.stat.st_size > LIMIT:
            return f"has {found.stat.st_size} bytes, more than {LIMIT}; commit it with git, or put it elsewhere"
        return found

    def _is_same_link(self, path: str, base: TreeEntry) -> bool:
        with contextlib.suppress(OSError):
            found = exchange.look(*self._folders.at(path))
            return found is not None and found.entry == base
        return False

    def _gone(self, path: str, base: TreeEntry) -> Found | None:
        entry = self.index.entry(path)
        if entry is not None and entry.is_skipped:  # not checked out, and that is meant so
            return None
        folder, touched = path, 0.0
        while not touched and folder:
            folder = folder.rpartition("/")[0]
            with contextlib.suppress(OSError):
                touched = os.stat(os.path.join(self._dirs.work_tree, folder)).st_mtime
        return self._judged(Found(path, None, base, touched))

    def _judged(self, found: Found) -> Found:
        """The same, with a note when the person has staged this path."""
        entry = self.index.entry(found.path)
        if entry is not None and entry.stage:
            problem = "git left a merge conflict here; resolve it, then `git add` it"
            return replace(found, is_staged=True, problem=problem)
        ours = (found.base, self._entry(self._tip, found.path))
        if in_tree(entry) in ours and not (entry and entry.is_intended):
            return found
        return replace(found, is_staged=True)

    def _at_or_below(self, path: str) -> Iterator[str]:
        """The paths on disk and in the published tree at or below `path`."""
        if path:
            names: Iterable[str] = (path,) if is_known(path) else ()
        else:
            names = (*FILES, *FOLDERS)
        for name in names:
            base = self._entry(self._published, name)
            yield from self._on_disk(name)
            if base and base.mode == FOLDER:
                yield from (below for below, _ in self._objects.walk(base.oid, name))
            elif base:
                yield name

    def _on_disk(self, path: str) -> Iterator[str]:
        """Files at or below `path`, without going through links or into repositories."""
        try:
            folder, name = self._folders.at(path)
            found = exchange.look(folder, name, limit=0)
        except OSError:
            return
        if found is None:
            return
        if found.mode != FOLDER or name == "TASK.md":
            yield path
            return
        todo = [path]
        while todo:
            here = todo.pop()
            with contextlib.suppress(OSError), os.scandir(os.path.join(self._dirs.work_tree, here)) as entries:
                below = sorted(entries, key=lambda entry: entry.name)
                if any(entry.name == ".git" for entry in below):
                    continue
                for entry in below:
                    if entry.is_dir(follow_symlinks=False) and entry.name != "TASK.md":
                        todo.append(f"{here}/{entry.name}")
                    else:
                        yield f"{here}/{entry.name}"

    def _ignored(self, paths: list[str]) -> set[str]:
        """Those of new files that .gitignore leaves out."""
        if not paths:
            return set()
        asked = "".join(f"{path}\0" for path in paths).encode("utf-8", "surrogateescape")
        done = call(["check-ignore", "-z", "--stdin"], self._dirs.work_tree, asked)
        return set(done.out.decode("utf-8", "surrogateescape").split("\0"))


def _document(path: str) -> str:
    """The path itself; of what lies in a folder that is called TASK.md, that folder."""
    at = path.find("/TASK.md/")
    return path if at < 0 else path[: at + 8]


class _Asked:
    """A question to git that is answered while we look at files ourselves."""

    def __init__(self, args: list[str], dirs: GitDirs) -> None:
        self._done: Finished | None = None
        self._args, self._dirs = args, dirs
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self._thread.start()

    def paths(self) -> list[str]:
        self._thread.join()
        if self._done is None or self._done.code:
            words = self._done.err.decode("utf-8", "replace").strip() if self._done else "it did not run"
            raise Unavailable(f"{self._dirs.work_tree}: git {self._args[0]}: {words}")
        return [path for path in self._done.out.decode("utf-8", "surrogateescape").split("\0") if path]

    def _ask(self) -> None:
        self._done = call(self._args, self._dirs.work_tree)
