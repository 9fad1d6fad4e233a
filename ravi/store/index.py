"""The index: what the documents at one commit say, in SQLite, so that a list costs milliseconds. It is disposable.

Nothing is true because it is written here. Whatever is wrong with the file, it is thrown away and made from git again.
"""

import contextlib
import errno
import fcntl
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from ravi.errors import Unavailable
from ravi.store.index_tables import FORMAT, INDEXES, TABLES
from ravi.store.index_view import CAME_BACK, IndexView, run_json, task_json

if TYPE_CHECKING:
    from ravi.core.run import Run
    from ravi.store.objects import Objects
    from ravi.store.refs import Refs

__all__ = ["FORMAT", "Index", "IndexView", "run_json", "task_json"]

_WAIT = 60.0  # seconds for another process, which may be building the whole index
_KEPT = 4  # idle connections, for the next views
_TRIES = 50
_ROOM = 256 * 1024  # bytes of a disk that has less are nothing to work with
# Not faults of the file: busy, locked, out of memory, read-only, interrupted, full, not to be opened, misused.
_NOT_DAMAGE = frozenset({5, 6, 7, 8, 9, 13, 14, 21})
_MOVED = 1032  # read-only because the file was removed or replaced under us

_T = TypeVar("_T")
File = tuple[int, int]  # device and inode


class Index:
    """One workspace's index at `path`. Thread-safe; other processes may use the same file at the same time."""

    def __init__(self, path: str, objects: "Callable[[], Objects]") -> None:
        """`objects` is asked when the index has to move, or a run is looked up: a list does without git."""
        self.path = path
        self._objects = objects
        self._lock = threading.RLock()
        self._db: sqlite3.Connection | None = None
        self._file: File | None = None  # what we opened
        self._idle: list[sqlite3.Connection] = []
        self._at = ""  # the commit we last asked for
        self._live: dict[str, tuple[str, Run | None]] = {}  # run id -> tip of its ref, and what RUN.md says there

    @property
    def objects(self) -> "Objects":
        """The objects of the repository that this is the index of."""
        return self._objects()

    def close(self) -> None:
        """Let go of the file. It is opened again when it is needed."""
        with self._lock:
            for db in self._idle:
                db.close()
            if self._db is not None:
                self._db.close()
            self._idle, self._db, self._file = [], None, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def catch_up(self, commit: str) -> None:
        """Bring the index to `commit`. Only what differs is read; nothing is done when it stands there already."""
        self._at = commit
        self._safely(lambda db: self._catch_up(db, commit))

    def at(self) -> str:
        """The commit that the index stands at; "" for an empty one."""
        return self._safely(lambda db: str(db.execute("SELECT at FROM state").fetchone()[0]))

    def view(self, live: "Mapping[str, Run] | None" = None, *, commit: str = "", now: str = "") -> IndexView:
        """A reading that does not change while others catch up: at `commit`, else where the index stands now.

        `live` are the runs that have a ref (see `live`). `now` decides which retries are still to come; without it
        all are. Close the view, or use it in a `with`.
        """
        if commit:
            self._at = commit
        for _ in range(_TRIES):
            db, at, tree = self._safely(lambda db: self._pinned(db, commit))
            if at == commit or not commit:
                return IndexView(self, db, self._file, at, tree, live or {}, now)
            self.give_back(db, self._file)  # another process moved it between our catching up and our reading
        raise Unavailable(f"{self.path}: other processes keep moving it to other commits", hint="try again")

    def live(self, refs: "Refs") -> "dict[str, Run]":
        """What the refs of runs say, by run id, leaving out the runs that came back to the main line."""
        from ravi.store.refs import RUNS

        tips = {name.removeprefix(RUNS): oid for name, oid in refs.list(RUNS).items()}
        with self._lock:
            for id in self._safely(lambda db: [run for run in tips if db.execute(CAME_BACK, (run, run)).fetchone()]):
                del tips[id]
            self._live = {id: known for id, known in self._live.items() if tips.get(id) == known[0]}
            for id, oid in tips.items():
                if id not in self._live:
                    self._live[id] = (oid, self._run_at(id, oid))
            return {id: run for id, (_, run) in self._live.items() if run is not None}

    # -- short readings of what is there now

    def task_path(self, id: str) -> str | None:
        """Where the task with this id lies."""
        row = self._safely(lambda db: db.execute("SELECT path FROM tasks WHERE id = ? AND owner", (id,)).fetchone())
        return None if row is None else str(row[0])

    def seen(self, event: str) -> bool:
        """True when a commit of the main line records this event id."""
        return (
            self._safely(lambda db: db.execute("SELECT 1 FROM commits WHERE event = ?", (event,)).fetchone())
            is not None
        )

    def list_tasks(self, live: "Collection[str]" = (), **wanted: Any) -> list[dict[str, Any]]:
        """`IndexView.list_tasks` of what is there now; `live` are the ids of runs that have a ref."""
        with self.view() as view:
            return view.list_tasks(live=live, **wanted)

    def resolve(self, text: str, noun: str = "task") -> str:
        """`IndexView.resolve` of what is there now."""
        with self.view() as view:
            return view.resolve(text, noun)

    # -- what views call

    def give_back(self, db: sqlite3.Connection, file: File | None) -> None:
        """Take the connection of a view that is closed."""
        with self._lock, contextlib.suppress(sqlite3.Error):
            if db.in_transaction:
                db.execute("ROLLBACK")
            if self._db is not None and file == self._file and len(self._idle) < _KEPT:
                self._idle.append(db)
                return
        db.close()

    def again(self, db: sqlite3.Connection, commit: str, fault: sqlite3.Error) -> sqlite3.Connection:
        """A connection for a view that found its file damaged: the same commit, from a file made anew."""
        if not is_damage(fault):
            raise self._unavailable(fault) from fault
        db.close()
        with self._lock:
            self._discard()
            if not commit:
                return self._safely(lambda db: self._pinned(db, ""))[0]
            view = self.view(commit=commit)
            return view.taken()

    # -- steps

    def _safely(self, do: Callable[[sqlite3.Connection], _T]) -> _T:
        """What `do` reads or writes; when the file is damaged or was taken away, once more on one made anew."""
        with self._lock:
            try:
                return do(self._opened())
            except sqlite3.Error as fault:
                if not is_damage(fault) and self._file == _identity(self.path):
                    raise self._unavailable(fault) from fault
            try:
                self._discard()
                if self._at:
                    self._catch_up(self._opened(), self._at)
                return do(self._opened())
            except sqlite3.Error as fault:
                raise self._unavailable(fault) from fault

    def _catch_up(self, db: sqlite3.Connection, commit: str) -> None:
        if db.execute("SELECT at FROM state").fetchone()[0] == commit:
            return
        from ravi.store.index_update import update

        db.execute("BEGIN IMMEDIATE")  # whoever comes second waits here, then finds the work done
        try:
            update(db, self.objects, commit)
            db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def _pinned(self, db: sqlite3.Connection, commit: str) -> tuple[sqlite3.Connection, str, str]:
        """A connection whose reading stands still, the commit it stands at, and its tree."""
        if commit:
            self._catch_up(db, commit)
        reader = self._idle.pop() if self._idle else self._connected()
        try:
            reader.execute("BEGIN")
            at, tree = reader.execute("SELECT at, tree FROM state").fetchone()
        except BaseException:
            reader.close()
            raise
        return reader, at, tree

    def _run_at(self, id: str, oid: str) -> "Run | None":
        """What RUN.md says at the tip of a run's ref; None when there is none that can be read."""
        from ravi.core import run as runs
        from ravi.core.ids import task_of
        from ravi.errors import Malformed, NotFound

        try:
            task = self.task_path(task_of(id))
            path = runs.place(task.rpartition("/")[0], id) if task else ""
            data = self.objects.read(oid, path) if path else None
            if data is None:  # its task moved, or is gone, since the run was claimed
                path, data = self._found_run(id, oid)
            return runs.parse(path, data) if data is not None else None
        except (Malformed, NotFound):
            return None

    def _found_run(self, id: str, oid: str) -> tuple[str, bytes | None]:
        ending = f"/{id.rpartition('.')[0]}/runs/{id.rpartition('.')[2]}/RUN.md"
        tasks = self.objects.entry(oid, "tasks")
        for path, entry in self.objects.walk(tasks.oid, "tasks") if tasks is not None and tasks.is_folder else ():
            if path.endswith(ending):
                return path, self.objects.blob(entry.oid)
        return "", None

    def _opened(self) -> sqlite3.Connection:
        """The connection that writes, on the file that lies at `path` now."""
        now = _identity(self.path)
        if self._db is not None and self._file == now:
            return self._db
        self.close()  # it was removed, or made anew by another process
        if now is None:
            self._create()
        self._file = _identity(self.path)
        self._db = self._connected()
        if self._db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
            self._discard()
            self._file = _identity(self.path)
            self._db = self._connected()
        return self._db

    def _connected(self) -> sqlite3.Connection:
        name = self.path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
        db = sqlite3.connect(
            f"file:{name}?mode=rw", uri=True, timeout=_WAIT, isolation_level=None, check_same_thread=False
        )
        # With a write-ahead log this syncs at checkpoints only; after a power cut the index is older, never wrong.
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA journal_size_limit = 8388608")
        db.execute("PRAGMA temp_store = MEMORY")
        return db

    def _create(self) -> None:
        """Make an empty index beside, and move it into place: nobody ever opens half of one."""
        with self._kept_here():
            with contextlib.suppress(FileNotFoundError):
                _make_in(self.path)
                return
            _make_in(self.path)  # its folder went away again meanwhile

    def _discard(self) -> None:
        """Throw away the file that we opened, unless somebody did so already, and make an empty one."""
        broken = self._file
        self.close()
        with self._kept_here(), contextlib.suppress(FileNotFoundError), _only_one(os.path.dirname(self.path)):
            if broken is None or _identity(self.path) == broken:
                _remove(self.path)
        self._create()

    @contextlib.contextmanager
    def _kept_here(self) -> Iterator[None]:
        try:
            yield
        except OSError as fault:
            raise Unavailable(f"{self.path}: {fault.strerror}", hint="ravi keeps its index there") from fault

    def _unavailable(self, fault: sqlite3.Error) -> Unavailable:
        if _is_full(os.path.dirname(self.path)):  # it says all kinds of things then, and none about room
            return Unavailable(f"{self.path}: {os.strerror(errno.ENOSPC)}", hint="make room, then ask again")
        return Unavailable(f"{self.path}: {fault}", hint="it may be removed at any time; ravi makes it anew")


def is_damage(fault: sqlite3.Error) -> bool:
    """True when the file itself is to blame, so that making it anew helps."""
    if isinstance(fault, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return False
    code = getattr(fault, "sqlite_errorcode", None)
    return code is None or code == _MOVED or code & 0xFF not in _NOT_DAMAGE


def _is_full(folder: str) -> bool:
    """True when the disk has no room for what SQLite needs to open a file, or for no more files."""
    try:
        space = os.statvfs(folder)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < _ROOM or (space.f_files > 0 and space.f_favail < 4)


def _identity(path: str) -> File | None:
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return stat.st_dev, stat.st_ino


def _make_in(path: str) -> None:
    folder = os.path.dirname(path)
    os.makedirs(folder, exist_ok=True)
    with _only_one(folder):
        if _identity(path) is None:
            _make(path)


def _make(path: str) -> None:
    new = f"{path}.new"
    for old in (path, new):
        _remove(old)  # a log left by an older file would be played into this one
    db = sqlite3.connect(new, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(f"BEGIN; {TABLES} {INDEXES} PRAGMA user_version = {FORMAT}; COMMIT;")
    finally:
        db.close()
    os.rename(new, path)


def _remove(path: str) -> None:
    for name in (path, f"{path}-wal", f"{path}-shm"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


@contextlib.contextmanager
def _only_one(folder: str) -> Iterator[None]:
    """Be the only process that makes or removes the file in `folder`."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
