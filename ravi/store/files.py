"""One batch of files on its way into the checkout: written beside their places, exchanged, looked over, swept.

Whatever a crash leaves behind can be told: by its name when it is half written, else by its content, which is the old
version, the new one, or somebody's own.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from ravi.errors import Malformed
from ravi.store import exchange
from ravi.store.exchange import ASIDE, Folders, Lying
from ravi.store.objects import FOLDER, SUBMODULE, Difference, Objects, TreeEntry, check_path

PREFIX = ".ravi-"  # how every temporary name of ours begins
PART = ".part"  # how the name of one that is not whole yet ends
_DISK = frozenset({errno.EIO, errno.ENOSPC, errno.EROFS, errno.EDQUOT})  # what a failing disk says
_FEW = 8  # files up to which each is synced by itself; more, and the whole file system is asked once

State = Literal["old", "new", "edited", "blocked"]


class Seen(NamedTuple):
    """How a path stands: the `old` version lies there, the `new` one already, somebody's own, or nothing can."""

    state: State
    stat: os.stat_result | None = None


class Leftover(NamedTuple):
    """A text that somebody saved and that has no place any more."""

    path: str
    base: TreeEntry | None
    found: Lying


class Batch:
    """The files in which two trees differ, by the numbers that their temporary names bear."""

    def __init__(
        self,
        root: str,
        objects: Objects,
        differences: Sequence[Difference],
        token: str,
        *,
        minds_modes: Callable[[], bool],
    ) -> None:
        self.folders = Folders(root)
        self.differences = differences
        self._objects = objects
        self.token = token
        self._minds_modes = minds_modes
        self._numbers = {difference.path: n for n, difference in enumerate(differences)}
        self._going = {path for path, _, new in differences if new is None}
        self._begun: set[str] = set()
        self._prepared: set[str] = set()
        self._made: dict[str, os.stat_result] = {}
        self._done: set[str] = set()
        self._left: dict[str, str] = {}

    def close(self) -> None:
        """Let go of the folders."""
        self.folders.close()

    def see(self, difference: Difference) -> Seen:
        """What lies at the path of one difference."""
        path, old, new = difference
        try:
            check_path(path)
        except Malformed:
            return Seen("blocked")
        if SUBMODULE in (new.mode if new else 0, old.mode if old and not new else 0):
            return Seen("new")  # git alone sees to what is in there
        try:
            found = exchange.look(*self.folders.at(path))
        except FileNotFoundError:
            found = None
        except NotADirectoryError:  # a file or a link is where a folder should be; perhaps it goes with this batch
            if new is None:
                return Seen("new")
            return Seen("old" if old is None and self._is_going(path) else "blocked")
        except PermissionError:
            return Seen("blocked")
        if self.is_same(found, new):
            return Seen("new", found.stat if found else None)
        if self.is_same(found, old):
            return Seen("old", found.stat if found else None)
        if found and found.mode == FOLDER and old is None:
            return Seen("old")  # it may be empty by the time its place is wanted
        return Seen("edited")

    def prepare(self, seen: Mapping[str, Seen], *, durable: bool) -> None:
        """Write the new versions under names of ours. Nothing that anybody looks at has changed yet."""
        wanted = [d for d in self.differences if d.new and seen[d.path].state == "old"]
        alone = durable and (len(wanted) <= _FEW or not _can_sync_all())
        texts = self._objects.blobs(d.new.oid for d in wanted if d.new)
        for difference, (_, data) in zip(wanted, texts, strict=True):
            with contextlib.suppress(NotADirectoryError):  # the file in the way goes first
                self._write(difference, data, seen[difference.path].stat, durable=alone)
        if durable and not alone:
            _sync_all(self.folders.root)
        for path in sorted(self._begun):
            self._name(path)

    def put(self, difference: Difference, seen: Seen) -> bool:
        """Exchange one file; False when its path has to be held, because somebody else was there."""
        path, old, new = difference
        if new is None and old is None:
            return True
        try:
            if new is not None and path not in self._prepared:
                self._write(difference, self._objects.blob(new.oid), seen.stat, durable=True)
                self._name(path)
            folder, name = self.folders.at(path)
        except (FileNotFoundError, NotADirectoryError):
            return new is None
        temporary = self._temporary(path)

        def is_old(found: Lying) -> bool:
            return self.is_same(found, old)

        def is_new(found: Lying) -> bool:
            return self.is_same(found, new)

        if new is None:
            outcome = exchange.remove(folder, name, temporary, is_old)
            if outcome.left == "old":  # at once: something may be waiting for its folder
                os.unlink(temporary, dir_fd=folder)
                outcome = outcome._replace(left="")
            if outcome.done:
                self.folders.prune(path)
        elif old is None:
            outcome = exchange.create(folder, name, temporary, is_new)
        else:
            outcome = exchange.replace(folder, name, temporary, is_new, is_old)
        self._prepared.discard(path)
        if outcome.left:
            self._left[path] = outcome.left
        if outcome.done:
            self._done.add(path)
        return outcome.done

    def sync(self) -> None:
        """Have the exchanged names on the disk."""
        paths = [difference.path for difference in self.differences]
        if len(paths) <= _FEW or not _can_sync_all():
            self.folders.sync(paths)
        else:
            _sync_all(self.folders.root)

    def sweep(self) -> Iterator[Leftover]:
        """Clear away what `put` left under our names. A text that somebody saved goes back to its place, if that is
        free or has ours in it; else it is handed out, and goes when the caller comes back for the next.
        """
        for difference in self.differences:
            left = self._left.get(difference.path)
            if left == "unknown":
                yield from self._cleared(difference, is_removed=difference.path in self._done)
            elif left == "old":
                try:
                    folder, _ = self.folders.at(difference.path)
                    os.unlink(self._temporary(difference.path), dir_fd=folder)
                except OSError as fault:
                    if fault.errno in _DISK:  # the journal stays, and it is swept when the disk is well again
                        raise

    def sweep_all(self, is_removed: Callable[[str], bool]) -> Iterator[Leftover]:
        """The same after a crash, when nobody remembers what was left. A file that was on its way out is gone for
        good only if `is_removed` says so; else it goes back.
        """
        for difference in self.differences:
            yield from self._cleared(difference, is_removed=is_removed(difference.path))

    def drop(self) -> None:
        """Take back what `prepare` wrote, when it comes to nothing."""
        for paths, suffix in ((self._begun, PART), (self._prepared, "")):
            for path in sorted(paths):
                with contextlib.suppress(OSError):
                    folder, _ = self.folders.at(path)
                    os.unlink(self._temporary(path) + suffix, dir_fd=folder)
                    self.folders.prune(path)
            paths.clear()

    def stat(self, path: str) -> os.stat_result | None:
        """The system's word on a file that we put there; None when somebody has touched it since.

        An index that had the numbers of their file beside the content of ours would hide their edit from git.
        """
        made = self._made.get(path)
        try:
            folder, name = self.folders.at(path)
            said = os.stat(name, dir_fd=folder, follow_symlinks=False)
        except OSError:
            return None
        if made is None or (said.st_ino, said.st_mtime_ns, said.st_size) != (
            made.st_ino,
            made.st_mtime_ns,
            made.st_size,
        ):
            return None
        return said

    def is_same(self, found: Lying | None, entry: TreeEntry | None) -> bool:
        """True when what lies there is what a tree says. Where the system has no x bit it does not count."""
        if found is None or entry is None:
            return found is None and entry is None
        if found.mode != entry.mode and not (found.entry.is_file and entry.is_file):
            return False
        return found.entry.oid == entry.oid and (found.mode == entry.mode or not self._minds_modes())

    # -- steps

    def _temporary(self, path: str) -> str:
        return f"{PREFIX}{self.token}-{self._numbers[path]:x}"

    def _is_going(self, path: str) -> bool:
        return any(path[:at] in self._going for at, letter in enumerate(path) if letter == "/")

    def _write(self, difference: Difference, data: bytes, like: os.stat_result | None, *, durable: bool) -> None:
        assert difference.new is not None
        folder, _ = self.folders.at(difference.path, make=True)
        self._begun.add(difference.path)  # before it is there: half a file is taken back too
        name = self._temporary(difference.path) + PART
        made = exchange.write_temporary(folder, name, difference.new.mode, data, like, durable=durable)
        self._made[difference.path] = made

    def _name(self, path: str) -> None:
        """Give what `_write` has written its name, from which it is exchanged: what has it is whole."""
        folder, _ = self.folders.at(path)
        exchange.move(folder, self._temporary(path) + PART, self._temporary(path))
        self._begun.discard(path)
        self._prepared.add(path)

    def _cleared(self, difference: Difference, *, is_removed: bool) -> Iterator[Leftover]:
        path, old, new = difference
        temporary = self._temporary(path)
        with contextlib.suppress(OSError):
            os.unlink(temporary + PART, dir_fd=self.folders.at(path)[0])
        for name in (temporary + ASIDE, temporary):
            try:
                folder, target = self.folders.at(path)
                found = exchange.look(folder, name)
            except OSError:
                return
            if found is None:
                continue
            # between two steps of a removal, or of an exchange without the system's help, nothing lies at the path
            is_cut_short = not is_removed if new is None else name != temporary
            if self.is_same(found, new) or self.is_same(found, old):
                if not (is_cut_short and self.is_same(found, old) and _moved(folder, name, target)):
                    os.unlink(name, dir_fd=folder)
                    self.folders.prune(path)
            elif not self._is_back(folder, target, name, found, new):
                yield Leftover(path, old, found)
                self._discard(folder, name, found)

    def _is_back(self, folder: int, target: str, name: str, found: Lying, new: TreeEntry | None) -> bool:
        """True when a person's text is at its place again."""
        if _moved(folder, name, target):
            return True
        if new is None:
            return False
        outcome = exchange.replace(
            folder, target, name, lambda there: there.entry == found.entry, lambda there: self.is_same(there, new)
        )
        if outcome.left == "old":
            os.unlink(name, dir_fd=folder)
        return outcome.done

    def _discard(self, folder: int, name: str, found: Lying) -> None:
        """Remove a text that is kept elsewhere by now, unless somebody goes on writing to it."""
        with contextlib.suppress(OSError):
            now = exchange.look(folder, name)
            if now and now.entry == found.entry:
                os.unlink(name, dir_fd=folder)


def _moved(folder: int, name: str, target: str) -> bool:
    try:
        exchange.move(folder, name, target)
    except FileExistsError:
        return False
    return True


def _can_sync_all() -> bool:
    return sys.platform == "linux"


def _sync_all(path: str) -> None:
    """One call for a whole file system: with many files ten times faster than one call for each."""
    import ctypes

    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(fd):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)
