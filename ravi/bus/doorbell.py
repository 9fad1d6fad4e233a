"""The doorbell: says "look here" when a file in a watched folder was written. It carries no truth; files do.

On Linux one inotify descriptor holds one watch a folder; elsewhere the system watches the whole tree.
"""

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

from ravi.errors import Unavailable

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent
    from watchdog.observers.inotify_c import InotifyEvent, WatchDescriptor

log = logging.getLogger(__name__)

OVERFLOW: Final = frozenset({""})  # the root itself: something was lost, look everywhere, and watch everything again
_LIMIT = "/proc/sys/fs/inotify/max_user_watches"

Ring = Callable[[frozenset[str]], None]


class _Ear(Protocol):
    def watch(self, folders: Iterable[str]) -> int: ...

    def unwatch(self, folders: Iterable[str]) -> None: ...

    def coverage(self) -> tuple[int, int, int]: ...

    def close(self) -> None: ...


class Doorbell:
    """Calls `on_ring` with paths of files and folders to look at, from a thread of its own.

    Paths are from `root`, with `/`. Reading never rings. A ring may come without a change, and one change may ring
    twice. `on_ring` must be quick: while it works, the kernel's queue fills, and then it is called with OVERFLOW.
    `follows` says which new folders below a watched one are watched without being asked for.
    """

    def __init__(
        self,
        root: str,
        on_ring: Ring,
        *,
        follows: Callable[[str], bool] | None = None,
        limit: int | None = None,
        inotify: bool = sys.platform.startswith("linux"),
    ) -> None:
        ears = _Inotify if inotify else _Tree
        self._ear: _Ear = ears(os.path.realpath(root), on_ring, follows or _is_plain, limit)

    def watch(self, folders: Iterable[str]) -> int:
        """Watch these folders too (not what is below them). Returns how many of them are not watched: see `coverage`.

        What is written from now on rings; what was written before does not, so look after this call, not before.
        """
        return self._ear.watch(folders)

    def unwatch(self, folders: Iterable[str]) -> None:
        """Watch these folders no longer. Room that becomes free goes to folders that were refused."""
        self._ear.unwatch(folders)

    def coverage(self) -> tuple[int, int, int]:
        """(folders watched, folders wanted, most that may be watched; 0 = no limit)."""
        return self._ear.coverage()

    def close(self) -> None:
        """Stop; no ring comes after this, and no thread or descriptor stays behind."""
        self._ear.close()


class _Inotify:
    """One descriptor, one watch for each folder: watchdog's own observer takes one thread and descriptor for each."""

    def __init__(self, root: str, on_ring: Ring, follows: Callable[[str], bool], limit: int | None) -> None:
        from watchdog.observers.inotify_c import CallbackId, InotifyFD, Mask
        from watchdog.observers.inotify_c import InotifyConstants as In

        self._root = root
        self._on_ring = on_ring
        self._follows = follows
        self._most = half_of_the_system() if limit is None else limit
        self._limit = self._most  # less, when the system has no more for us
        self._id = CallbackId(1)
        self._mask = Mask(
            In.IN_CLOSE_WRITE | In.IN_MOVED_TO | In.IN_MOVED_FROM | In.IN_CREATE | In.IN_DELETE
            | In.IN_ATTRIB | In.IN_DELETE_SELF | In.IN_MOVE_SELF | In.IN_ONLYDIR | In.IN_DONT_FOLLOW | In.IN_EXCL_UNLINK
        )  # fmt: skip
        self._lock = threading.RLock()
        self._path_of: dict[WatchDescriptor, str] = {}
        self._watch_of: dict[str, WatchDescriptor] = {}
        self._refused: dict[str, None] = {}  # wanted, and no room; in the order they were asked for
        self._heard: set[str] = set()
        self._overflow = False
        self._closed = threading.Event()
        try:
            self._fd = InotifyFD()  # never started: its thread rings once for each event, ours once for each reading
        except OSError as fault:
            raise Unavailable(
                f"the system gives no more inotify descriptors ({fault.strerror})",
                hint="raise fs.inotify.max_user_instances; until then files are scanned",
            ) from fault
        self._thread = threading.Thread(target=self._listen, name="ravi-doorbell", daemon=True)
        self._thread.start()

    def watch(self, folders: Iterable[str]) -> int:
        with self._lock:
            self._limit = self._most
            return sum(not self._add(folder.strip("/")) for folder in folders)

    def unwatch(self, folders: Iterable[str]) -> None:
        with self._lock:
            for folder in folders:
                self._refused.pop(folder.strip("/"), None)
                self._drop(folder.strip("/"))
            self._retry_refused()

    def coverage(self) -> tuple[int, int, int]:
        with self._lock:
            return len(self._watch_of), len(self._watch_of) + len(self._refused), self._limit

    def close(self) -> None:
        self._closed.set()
        self._fd.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    # What the descriptor calls, in our thread, while it reads.

    def on_event(self, event: "InotifyEvent") -> None:
        with self._lock:
            folder = self._path_of.get(event.wd)
            if folder is None:
                return
            if event.is_move_self or event.is_delete_self:
                self._heard.add(folder)  # its parent may not be watched
                if event.is_move_self:
                    self._forget(folder)
                    self._explore(folder)  # nothing, unless another one lies in its place already
                return
            path = _join(folder, os.fsdecode(event.name))
            self._heard.add(path)
            if not event.is_directory:
                return
            if event.is_moved_from:
                self._forget(path)
            elif event.is_delete:
                self._drop(path)  # while somebody stands in it, the kernel keeps its watch, which would hide a new one
                self._refused.pop(path, None)
                self._retry_refused()
            elif self._follows(path):
                self._explore(path)

    def on_watch_deleted(self, wd: "WatchDescriptor") -> None:
        with self._lock:
            path = self._path_of.pop(wd, None)
            if path is not None and self._watch_of.get(path) == wd:
                del self._watch_of[path]
                self._retry_refused()

    def on_queue_overflow(self) -> None:
        self._overflow = True

    # Steps.

    def _listen(self) -> None:
        while not self._closed.is_set():
            for event in self._fd.read_events():
                self._fd.handle_event(event)
            with self._lock:
                heard = OVERFLOW if self._overflow else frozenset(self._heard)
                self._overflow = False
                self._heard.clear()
            if heard and not self._closed.is_set():
                _ring(self._on_ring, heard)

    def _add(self, folder: str) -> bool:
        """Watch one folder; False when it is wanted but has no room, or may not be read."""
        if folder in self._watch_of:
            return True
        if len(self._watch_of) >= self._limit:
            self._refused[folder] = None
            return False
        try:
            # The lock is held: an event of this watch cannot be looked up before its path is known.
            wd = self._fd.add_callback(os.fsencode(_join(self._root, folder)), self._mask, self, self._id)
        except OSError as fault:
            if fault.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                self._refused.pop(folder, None)
                return True  # there is no such folder, so nothing is missed
            if fault.errno == errno.ENOSPC:
                self._limit = len(self._watch_of)  # others use up what the system allows
            self._refused[folder] = None
            return False
        if wd == -1:  # may not be read: watchdog says nothing and books a watch that is none
            self._fd.remove_callbacks([(wd, self._id)])
            self._refused[folder] = None
            return False
        if (before := self._path_of.get(wd)) is not None:  # the same folder under its former name
            self._watch_of.pop(before, None)
        self._path_of[wd] = folder
        self._watch_of[folder] = wd
        self._refused.pop(folder, None)
        return True

    def _drop(self, folder: str) -> None:
        wd = self._watch_of.pop(folder, None)
        if wd is not None:
            self._path_of.pop(wd, None)
            self._fd.remove_callbacks([(wd, self._id)])

    def _forget(self, folder: str) -> None:
        """A folder went away: neither it nor what was below it is wanted any more."""
        for path in [p for p in self._watch_of if _is_within(p, folder)]:
            self._drop(path)
        for path in [p for p in self._refused if _is_within(p, folder)]:
            del self._refused[path]
        self._retry_refused()

    def _retry_refused(self) -> None:
        while self._refused and len(self._watch_of) < self._limit:
            folder = next(iter(self._refused))
            del self._refused[folder]
            if not self._add(folder):
                return

    def _explore(self, folder: str) -> None:
        """Watch a new folder and tell what is in it: first the watch, then the look, so that nothing falls between."""
        todo = [folder]
        while todo:
            here = todo.pop()
            self._add(here)
            try:
                with os.scandir(_join(self._root, here)) as entries:
                    for entry in entries:
                        path = _join(here, entry.name)
                        if not entry.is_dir(follow_symlinks=False):
                            self._heard.add(path)
                        elif self._follows(path):
                            self._heard.add(path)
                            todo.append(path)
            except OSError:
                self._heard.add(here)  # gone again, or not readable: who looks will see


class _Tree:
    """One recursive watch over the root, for systems that have it (FSEvents) or have nothing better."""

    def __init__(self, root: str, on_ring: Ring, follows: Callable[[str], bool], _limit: int | None) -> None:
        from watchdog.events import FileSystemEventHandler
        from watchdog.observers import Observer

        class _Heard(FileSystemEventHandler):
            def on_any_event(self, event: "FileSystemEvent") -> None:
                heard(event)

        heard = self._heard
        self._root = root
        self._on_ring = on_ring
        self._follows = follows
        self._wanted: set[str] = set()
        self._observer = Observer()
        self._observer.schedule(_Heard(), root, recursive=True)
        self._observer.start()

    def watch(self, folders: Iterable[str]) -> int:
        self._wanted.update(folder.strip("/") for folder in folders)
        return 0

    def unwatch(self, folders: Iterable[str]) -> None:
        self._wanted.difference_update(folder.strip("/") for folder in folders)

    def coverage(self) -> tuple[int, int, int]:
        deaf = not all(emitter.is_alive() for emitter in self._observer.emitters)  # watchdog does not say when one dies
        return 0 if deaf else len(self._wanted), len(self._wanted), 0

    def close(self) -> None:
        self._observer.stop()
        if threading.current_thread() is not self._observer:
            self._observer.join()

    def _heard(self, event: "FileSystemEvent") -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return
        paths = (self._relative(p) for p in (event.src_path, event.dest_path) if p)
        if told := frozenset(path for path in paths if path is not None and self._is_wanted(path)):
            _ring(self._on_ring, told)

    def _is_wanted(self, path: str) -> bool:
        """True when its folder was asked for, or is a followed one somewhere below such a folder."""
        folder = path.rpartition("/")[0]
        while folder not in self._wanted:
            if not folder or not self._follows(folder):
                return False
            folder = folder.rpartition("/")[0]
        return True

    def _relative(self, path: str | bytes) -> str | None:
        text = os.fsdecode(path)
        return text[len(self._root) + 1 :] if text.startswith(self._root + "/") else None


def _ring(on_ring: Ring, paths: frozenset[str]) -> None:
    try:
        on_ring(paths)
    except Exception:
        log.exception("the doorbell rang and nobody could answer")


def half_of_the_system() -> int:
    """At most half of what the system allows a user: editors and other programs need watches too."""
    try:
        with open(_LIMIT, encoding="ascii") as file:
            return int(file.read()) // 2
    except (OSError, ValueError):
        return 4096


def _is_plain(path: str) -> bool:
    """The folders that are followed by default: none that is hidden, or below a hidden one."""
    return not any(part.startswith(".") for part in path.split("/"))


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder and name else folder or name
