"""Publishing: what is recorded moves into the branch, the files and the index that a person sees, together.

`refs/ravi/published` names what really lies out. That is the branch's tip; while a file is held, because somebody's
unsaved or unrecorded edit is in it, it is a commit of its own on top of the tip, with the older version of that file.
So every comparison with the person's files and commits has the right start, whatever happened in between.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

from ravi.core.ids import derive_id
from ravi.core.trailers import Message
from ravi.errors import Conflict, Deposed, NotFound, Unavailable
from ravi.store import checkout as checkouts
from ravi.store import gitindex
from ravi.store.checkout import Checkout
from ravi.store.durable import make_folders, sync_folder, write_all, write_new
from ravi.store.files import Batch, Leftover, Seen
from ravi.store.git import GitDirs, call, run
from ravi.store.gitindex import GitIndex, IndexEntry, Update, in_tree
from ravi.store.locks import Lock
from ravi.store.merge import merge_blobs, merge_trees
from ravi.store.objects import EMPTY_TREE, Difference, Objects, Signature, TreeEntry
from ravi.store.refs import EPOCH, MAIN, PUBLISHED, Refs
from ravi.store.writer import Draft, Tip, Writer

RAVI = ("ravi", "ravi@agents.invalid")
_HELD = "published: "  # how the subject of a commit begins that is not on any branch
_TRIES = 4
_PATIENCE = 0.3  # seconds to wait for git to let go of its index
_FAR = 10_000  # commits that are looked through for the recorded one below a person's

Checkpoint = Callable[[str], None]


class Published(NamedTuple):
    """What lies out now. `held` says, by path, why a file was left alone; `conflicts` are (path, where).

    When the person's commits were `absorbed`, files that were right before may be edits now: look at all of them.
    """

    commit: str | None = None
    written: tuple[str, ...] = ()
    held: Mapping[str, str] = MappingProxyType({})
    conflicts: tuple[tuple[str, str], ...] = ()
    absorbed: bool = False
    paused: str = ""


class Standing(NamedTuple):
    """Where everything stands while the publish lock is held and nothing is half done."""

    checkout: Checkout
    recorded: str | None
    published: str | None
    conflicts: tuple[tuple[str, str], ...] = ()
    absorbed: bool = False
    paused: str = ""


class _Note(NamedTuple):
    """The journal of one publishing: enough to finish it, or to undo it."""

    token: str
    branch: str
    start: str | None
    target: str
    published: str | None
    boot: str


class Publisher:
    """Moves the person's checkout along with what is recorded. One at a time, in all processes."""

    def __init__(
        self,
        dirs: GitDirs,
        objects: Objects,
        refs: Refs,
        writer: Writer,
        branch: str,
        *,
        checkpoint: Checkpoint = lambda _: None,
        durable: bool = True,
    ) -> None:
        self.dirs = dirs
        self.objects = objects
        self.refs = refs
        self.writer = writer
        self.branch = branch if branch.startswith("refs/") else f"refs/heads/{branch}"
        self._checkpoint = checkpoint
        self._durable = durable
        self._folder = os.path.join(dirs.common_dir, "ravi")
        self._lock = Lock(os.path.join(self._folder, "publish.lock"))
        self._journal = os.path.join(self._folder, "publish.json")

    def publish(self) -> Published:
        """Write out what is recorded, after taking in what the person committed. Says why when it could not."""
        with self.at_rest() as standing:
            if standing.paused:
                return Published(paused=standing.paused, conflicts=standing.conflicts)
            return self._publish(standing)

    def paused(self) -> str:
        """Why nothing would be ingested or published now; "" when it would."""
        return checkouts.read(self.dirs, self.refs).pause(self.branch)

    def absorb(self) -> Standing:
        """Take in what the person committed, reset or amended; nothing is written out."""
        with self.at_rest() as standing:
            return standing

    def finish(self) -> str:
        """Complete, or undo, a publishing that a crash cut short. Answers why it had to be left, if it had."""
        with self._lock.held(), _telling(self.dirs.work_tree):
            return self._finish(checkouts.read(self.dirs, self.refs))[0]

    @contextlib.contextmanager
    def at_rest(self) -> Iterator[Standing]:
        """Hold the publish lock, with nothing half done and the person's commits taken in, or with a pause."""
        with self._lock.held(), _telling(self.dirs.work_tree):
            yield self._settled()

    # -- what others ask while they hold the lock

    def tree(self, commit: str | None) -> str | None:
        """The tree of a commit; None of None."""
        return None if commit is None else self.objects.commit(commit).tree

    def expected(self, published: str | None) -> str | None:
        """The branch's tip as we know it: what is published, or what that stands on."""
        if published is None:
            return None
        commit = self.objects.commit(published)
        if commit.message.startswith(_HELD) and commit.committer.email == RAVI[1]:
            return commit.parents[0] if commit.parents else None
        return published

    def lay(self, published: str | None, entries: Mapping[str, TreeEntry | None]) -> str | None:
        """Make a commit which says that these files lie out like this, and all else as in `published`."""
        tree = self.objects.apply(self.tree(published), entries)
        return self._pointing(tree, self.expected(published), published)

    def saved(
        self, published: str | None, entries: Mapping[str, TreeEntry | None], author: Signature, subject: str
    ) -> str:
        """Make a commit of what a person saved, on top of what they saw. It is a merge's second parent, where their
        text could not be taken as it is: so it stays in history to the letter.
        """
        start = self.expected(published)
        tree = self.objects.apply(self.tree(start), entries)
        return self.objects.put_commit(tree, (start,) if start else (), author, self.signature(*RAVI), subject + "\n")

    def point(self, new: str | None, old: str | None) -> None:
        """Move `refs/ravi/published`, durably."""
        if new is None or new == old:
            return
        self.objects.flush()
        self.refs.swap(PUBLISHED, new, old)
        self.objects.release()

    def signature(self, name: str, mail: str) -> Signature:
        """Somebody, now."""
        now = self.writer.clock()
        offset = now.utcoffset()
        return Signature(name, mail, int(now.timestamp()), int(offset.total_seconds()) // 60 if offset else 0)

    # -- the person's commits

    def _settled(self) -> Standing:
        for _ in range(_TRIES):
            checkout = checkouts.read(self.dirs, self.refs)
            reason, conflicts = self._finish(checkout)
            if not reason and not (reason := checkout.pause(self.branch)) and not self._is_unlocked():
                reason = self._locked_by()
            if reason:
                return Standing(checkout, self.refs.read(MAIN), self.refs.read(PUBLISHED), conflicts, paused=reason)
            checkout = checkouts.read(self.dirs, self.refs)
            if checkout.is_locked or checkout.pause(self.branch):
                continue
            try:
                found = self._absorbed(checkout)
            except Conflict:  # the branch or the main line moved just now
                continue
            if found is None:
                return Standing(checkout, self.refs.read(MAIN), self.refs.read(PUBLISHED), conflicts)
            return Standing(checkout, self.refs.read(MAIN), self.refs.read(PUBLISHED), conflicts + found, absorbed=True)
        return Standing(checkouts.read(self.dirs, self.refs), None, None, paused=_BUSY)

    def _absorbed(self, checkout: Checkout) -> tuple[tuple[str, str], ...] | None:
        """The conflicts of taking in what the person committed; None when they committed nothing."""
        recorded, published, tip = self.refs.read(MAIN), self.refs.read(PUBLISHED), checkout.tip
        if tip is None or tip in (published, expected := self.expected(published)):
            return None
        if recorded is None:  # nothing was ever recorded: we start from what is checked out
            self.refs.create(MAIN, tip)
            recorded = tip
        if published is None:
            start = tip if recorded == tip else self._common(recorded, tip)
            conflicts = self._merged(recorded, tip, self.tree(start))
            self.point(tip, None)
            return conflicts
        conflicts = self._merged(recorded, tip, self._start(published, expected, tip))
        self.point(self._lying(published, expected, tip), published)
        return conflicts

    def _start(self, published: str, expected: str | None, tip: str) -> str | None:
        """The tree that a person's commit is compared with: what lies out.

        Where the commit is as the branch was, it says nothing. What lies out may be newer there: a file that they saved
        while they wrote the message is recorded, and not in the branch yet; they did not delete it.
        """
        before, now = self.tree(expected), self.tree(tip)
        unsaid = {
            path: old
            for path, old, _ in self.objects.diff(before, self.tree(published))
            if (self.objects.entry(now, path) if now else None) == old
        }
        return self.objects.apply(self.tree(published), unsaid) if unsaid else self.tree(published)

    def _merged(self, recorded: str, tip: str, start: str | None) -> tuple[tuple[str, str], ...]:
        """Have the person's commit on the main line: by moving it along, or by a merge. Theirs wins a conflict."""
        if recorded == tip:
            return ()
        theirs = self.objects.commit(tip)
        is_older = self._is_ancestor(tip, recorded)
        if not is_older and self._is_first_parent(recorded, tip):
            tried = merge_trees(self.objects, start, recorded, tip)
            if self.objects.apply(self.tree(recorded), tried.changes) == theirs.tree:
                self._forward(recorded, tip)
                return ()
        conflicts: tuple[tuple[str, str], ...] = ()
        name, mail = theirs.author.name, theirs.author.email
        if is_older:  # whoever made that commit, the person is who went back to it
            name, mail = checkouts.person(self.dirs)
            subject = f"workspace: set back to {tip[:10]} by {name}"
        else:
            subject = f"workspace: what {name} committed is in"
        event = {"Ravi-Event": derive_id("absorb", tip, start or "")}

        def propose(at: Tip) -> Draft:
            nonlocal conflicts
            merged = merge_trees(self.objects, start, at.commit, tip)
            conflicts = merged.conflicts
            body = "\n".join(f"theirs was taken: {path}: {where}" for path, where in conflicts)
            parents = () if is_older else (tip,)
            return Draft(Message(subject, body, event), merged.changes, self.signature(name, mail), parents)

        self.writer.record(propose)
        return conflicts

    def _forward(self, recorded: str, tip: str) -> None:
        """Move the main line along to a commit that was made on top of it. The writer's lock keeps others off."""
        with Lock(os.path.join(self._folder, "writer.lock")).held():
            if self.writer.epoch is not None and self.refs.read(EPOCH) != self.writer.epoch:
                raise Deposed("this workspace was taken over", hint="this process must end")
            self.refs.swap(MAIN, tip, recorded)

    def _lying(self, published: str, expected: str | None, tip: str) -> str:
        """What lies out after the person moved the branch to `tip`: their commit, but for what it did not write out."""
        differences = list(self.objects.diff(self.tree(published), self.tree(tip)))
        is_forward = expected is not None and self._is_first_parent(expected, tip)
        known = self.tree(expected)
        keep: dict[str, TreeEntry | None] = {}
        with GitIndex.read(self.dirs) as index, self._batch(differences, "") as batch:
            staged = index.many([difference.path for difference in differences])
            for difference in differences:
                path, old, new = difference
                state = batch.see(difference).state
                entry = in_tree(staged[path])
                was_held = (self.objects.entry(known, path) if known else None) != old
                if state == "new" or (entry == new and not was_held):
                    continue
                # Held: the edit in the file began with the older version. Or the branch was moved (by a push, say)
                # and neither file nor index were: then the older version is what lies there still.
                if was_held or (is_forward and state == "old" and entry == old):
                    keep[path] = old
        if not keep:
            return tip
        return self._pointing(self.objects.apply(self.tree(tip), keep), tip, published)

    # -- writing out

    def _publish(self, standing: Standing) -> Published:
        for _ in range(_TRIES):
            if standing.paused or standing.recorded is None:
                break
            done = self._write_out(standing.checkout, standing.published, standing.recorded)
            if done is not None:
                return done._replace(conflicts=standing.conflicts + done.conflicts, absorbed=standing.absorbed)
            again = self._settled()  # the person's git did something just now
            standing = again._replace(
                conflicts=standing.conflicts + again.conflicts, absorbed=standing.absorbed or again.absorbed
            )
        return Published(
            standing.recorded,
            conflicts=standing.conflicts,
            absorbed=standing.absorbed,
            paused=standing.paused or ("" if standing.recorded is None else _BUSY),
        )

    def _write_out(
        self, checkout: Checkout, published: str | None, target: str, *, resumed: bool = False
    ) -> Published | None:
        """Move branch, files, index and `published` to `target`. None when the person's git came in between.

        Everything that needs room is written first; then the branch moves; from there it can only be completed.
        """
        differences = self._differences(published, target)
        if not differences and checkout.tip == target:
            self.point(target, published)
            return Published(target)
        known = self.tree(self.expected(published))
        with GitIndex.read(self.dirs) as index, self._batch(differences, os.urandom(6).hex()) as batch:
            plan = _Plan(batch, index.many([d.path for d in differences]), known, self.objects)
            if checkout.tip == target and not plan.has_work:
                self._move_published(plan, published, target)
                return Published(target, held=plan.held)
            if checkout.tip != target and checkouts.is_composing(self.dirs, self.writer.clock().timestamp()):
                return Published(checkout.tip, paused="a commit message is being written")
            note = _Note(batch.token, self.branch, checkout.tip, target, published, _boot())
            self._write_note(note)
            self._checkpoint("journal")
            is_begun = False
            try:
                batch.prepare(plan.seen, durable=self._durable)
                self._checkpoint("prepared")
                if not self._lock_index(note):
                    return Published(checkout.tip, paused=self._locked_by())
                try:
                    self._checkpoint("locked")
                    if not self._is_still(checkout):
                        return None
                    is_begun = True  # from here on: a disk that says no may have moved the branch all the same
                    if not self._move_branch(checkout.tip, target):
                        is_begun = False
                        return None
                    self._checkpoint("branch")
                    self._put_all(plan)
                    self._checkpoint("files")
                    self._write_index(index, plan)
                    self._checkpoint("index")
                finally:
                    self._unlock_index(note)
            finally:
                if not is_begun:
                    batch.drop()
                    if not resumed:
                        self._forget_note()
            self._checkpoint("unlocked")
            if self._durable:
                batch.sync()
                sync_folder(self.dirs.git_dir)
            self._checkpoint("synced")
            self._move_published(plan, published, target)
            self._checkpoint("published")
            conflicts = self._kept(batch.sweep())
            self._checkpoint("swept")
            self._forget_note()
            return Published(target, tuple(plan.written), plan.held, conflicts)

    def _differences(self, published: str | None, target: str) -> list[Difference]:
        """What changes from what lies out to `target`; and where only the index is behind, the same before and after.

        It is behind where the person's own save was recorded: their file is right as it lies.
        """
        found = list(self.objects.diff(self.tree(published), self.tree(target)))
        if (tip := self.expected(published)) != published:
            paths = {difference.path for difference in found}
            behind = self.objects.diff(self.tree(tip), self.tree(target))
            found += [Difference(path, new, new) for path, _, new in behind if path not in paths]
        return found

    def _put_all(self, plan: "_Plan") -> None:
        for difference in plan.in_order():
            if plan.batch.put(difference, plan.seen[difference.path]):
                plan.written.append(difference.path)
            else:
                plan.held[difference.path] = "edited"
            self._checkpoint(f"file {difference.path}")

    def _write_index(self, index: GitIndex, plan: "_Plan") -> None:
        updates = plan.index_updates()
        if updates:
            temporary = self._own_file("index")
            try:
                gitindex.write(self.dirs, index, updates, temporary, durable=self._durable)
            except BaseException:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(temporary)
                raise

    def _move_branch(self, start: str | None, target: str) -> bool:
        """False when somebody else moved it."""
        if start == target:
            return True
        now = self.writer.clock()
        log = f"{RAVI[0]} <{RAVI[1]}> {int(now.timestamp())} +0000\travi: published"
        try:
            self.refs.swap(self.branch, target, start, log=log)
        except Conflict:
            return False
        return True

    def _move_published(self, plan: "_Plan", published: str | None, target: str) -> None:
        keep = {path: plan.old(path) for path in plan.held}
        tree = self.tree(target)
        self.point(self._pointing(self.objects.apply(tree, keep) if keep else tree, target, published), published)

    def _is_still(self, checkout: Checkout) -> bool:
        """True when git did nothing since `checkout` was read, but for the lock that is ours."""
        now = checkouts.read(self.dirs, self.refs)
        return (now.branch, now.tip, now.under_way, now.index) == (
            checkout.branch,
            checkout.tip,
            checkout.under_way,
            checkout.index,
        )

    # -- after a crash

    def _finish(self, checkout: Checkout) -> tuple[str, tuple[tuple[str, str], ...]]:
        for kind in ("lock", "index"):  # of a dead process of ours, or of a disk that failed
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._own_file(kind))
        note = self._read_note()
        if note is None:
            return "", ()
        self._break_index_lock(note)
        if reason := checkout.pause(self.branch):
            return reason, ()
        try:
            differences = self._differences(note.published, note.target)
        except NotFound:  # so old that git has thrown its objects away
            self._forget_note()
            return "", ()
        is_complete = self.refs.read(PUBLISHED) != note.published  # but for the sweeping
        tip = self.tree(checkout.tip)
        # the person moved the branch, or it never moved: what they have there counts
        is_theirs = not is_complete and checkout.tip != note.target

        def is_removed(path: str) -> bool:
            return not is_theirs or tip is None or self.objects.entry(tip, path) is None

        with self._batch(differences, note.token) as batch:
            conflicts = self._kept(batch.sweep_all(is_removed))
            if is_theirs and checkout.tip != note.start:
                self._undo(batch, checkout)
        if is_complete or is_theirs:
            self._forget_note()
            return "", conflicts
        done = self._write_out(checkouts.read(self.dirs, self.refs), note.published, note.target, resumed=True)
        if done is None:
            return _BUSY, conflicts
        if not done.paused:
            self._forget_note()
        return done.paused, conflicts + done.conflicts

    def _undo(self, batch: Batch, checkout: Checkout) -> None:
        """Take back what a crash cut short and the person has moved away from: their commit is merged first."""
        tip = self.tree(checkout.tip)
        back: list[Difference] = []
        for path, old, new in batch.differences:
            if old == new:
                continue
            is_theirs = (self.objects.entry(tip, path) if tip else None) == new
            if not is_theirs and batch.see(Difference(path, old, new)).state == "new":
                back.append(Difference(path, new, old))
        with self._batch(back, batch.token) as undo:
            plan = _Plan(undo, None, None, self.objects)
            undo.prepare(plan.seen, durable=self._durable)
            for difference in plan.in_order():
                undo.put(difference, plan.seen[difference.path])
            self._kept(undo.sweep())
            if self._durable:
                undo.sync()

    def _kept(self, left: Iterable[Leftover]) -> tuple[tuple[str, str], ...]:
        """Record what somebody saved that has no place any more."""
        return tuple((one.path, "saved twice at once") for one in left if self._keep(one))

    def _keep(self, one: Leftover) -> bool:
        if not one.found.entry.is_file:
            return False
        name, mail = checkouts.person(self.dirs)
        author = self.signature(name, mail)
        entry = TreeEntry(one.found.mode, self.objects.put_blob(one.found.data))
        published = self.refs.read(PUBLISHED)
        subject = f"workspace: what {name} saved to {one.path} meanwhile is kept"
        event = {"Ravi-Event": derive_id("kept", one.path, entry.oid, published or "")}

        def propose(at: Tip) -> Draft | None:
            start = self.objects.blob(one.base.oid) if one.base and one.base.is_file else None
            ours = at.read(one.path)
            data = one.found.data if ours is None else merge_blobs(one.path, start, ours, one.found.data).data
            saved = self.saved(published, {one.path: entry}, author, subject)
            return Draft(Message(subject, "", event), {one.path: data}, author, parents=(saved,))

        self.writer.record(propose)
        return True

    # -- git's lock on the index

    def _lock_index(self, note: _Note) -> bool:
        """Take git's own lock. What is in it says that it is ours; git only asks whether it is there.

        It gets its name when its content is there: a crash never leaves a lock that nobody can tell from git's own.
        """
        if not self._is_unlocked():
            return False
        path, part = checkouts.lock_path(self.dirs), self._own_file("lock")
        try:
            _write_lock(part, note, os.O_TRUNC)
            try:
                os.link(part, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without hard links
                _write_lock(path, note, os.O_EXCL)
        except FileExistsError:
            return False
        finally:
            with contextlib.suppress(OSError):  # it is in nobody's way
                os.unlink(part)
        return True

    def _own_file(self, kind: str) -> str:
        """A file beside git's index; who holds the publish lock is the only one that writes it."""
        return os.path.join(self.dirs.git_dir, f"ravi-{kind}")

    def _is_unlocked(self) -> bool:
        """True when nobody holds the lock; git does for milliseconds, and those are waited for."""
        deadline = time.monotonic() + _PATIENCE
        while os.path.lexists(checkouts.lock_path(self.dirs)):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)  # a lock file of git's tells nobody when it goes
        return True

    def _unlock_index(self, note: _Note) -> None:
        with contextlib.suppress(FileNotFoundError):
            if _content(checkouts.lock_path(self.dirs)) == _mark(note):
                os.unlink(checkouts.lock_path(self.dirs))

    def _break_index_lock(self, note: _Note) -> None:
        """Remove the lock that a dead process of ours left; holding the publish lock, we know that it is dead."""
        path = checkouts.lock_path(self.dirs)
        with contextlib.suppress(FileNotFoundError):
            content = _content(path)
            # after a power cut the file may be there without its content; whoever made it is gone
            if content == _mark(note) or (not content and note.boot != _boot() and _is_older_than_boot(path)):
                os.unlink(path)

    def _locked_by(self) -> str:
        path = checkouts.lock_path(self.dirs)
        return f"git is at work here ({path}); if none is running, remove that file"

    # -- the journal

    def _write_note(self, note: _Note) -> None:
        import json

        make_folders(self._folder)
        part = f"{self._journal}.new"  # nobody else writes one while we hold the lock
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        words = {"token": note.token, "branch": note.branch, "from": note.start, "to": note.target}
        data = json.dumps({**words, "published": note.published, "boot": note.boot}).encode()
        write_new(part, data)
        try:
            os.replace(part, self._journal)
        except BaseException:
            os.unlink(part)
            raise
        sync_folder(self._folder)

    def _read_note(self) -> _Note | None:
        import json

        try:
            with open(self._journal, "rb") as file:
                said: dict[str, Any] = json.loads(file.read())
            return _Note(said["token"], said["branch"], said["from"], said["to"], said["published"], said["boot"])
        except FileNotFoundError:
            return None
        except (
            ValueError,
            KeyError,
            TypeError,
        ):  # not ours, or written by nobody: it was synced before it had its name
            self._forget_note()
            return None

    def _forget_note(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._journal)

    # -- steps

    @contextlib.contextmanager
    def _batch(self, differences: list[Difference], token: str) -> Iterator[Batch]:
        batch = Batch(self.dirs.work_tree, self.objects, differences, token, minds_modes=lambda: self.minds_modes)
        try:
            yield batch
        finally:
            batch.close()

    def _pointing(self, tree: str | None, parent: str | None, old: str | None) -> str:
        """The commit that stands for this tree on top of `parent`: the parent itself where it is the same."""
        tree = tree or EMPTY_TREE
        if parent is not None and self.tree(parent) == tree:
            return parent
        if old is not None and self.tree(old) == tree and self.expected(old) == parent and old != parent:
            return old
        held = sum(1 for _ in self.objects.diff(self.tree(parent), tree))
        ravi = self.signature(*RAVI)
        return self.objects.put_commit(tree, (parent,) if parent else (), ravi, ravi, f"{_HELD}{held} paths held\n")

    @cached_property
    def minds_modes(self) -> bool:
        """False where the system has no x bit, and git was told so."""
        return call(["config", "--type=bool", "--get", "core.fileMode"], self.dirs.work_tree).out.strip() != b"false"

    def _common(self, one: str, other: str) -> str | None:
        """Where two lines parted; None when they have nothing in common."""
        found = run(["merge-base", one, other], self.dirs.work_tree, ok=(0, 1)).split()
        return found[0].decode() if found else None

    def _is_ancestor(self, old: str, new: str) -> bool:
        return call(["merge-base", "--is-ancestor", old, new], self.dirs.work_tree).code == 0

    def _is_first_parent(self, old: str, new: str) -> bool:
        """True when `new` was made on top of `old`, so that nobody's place on the main line is lost."""
        here: str | None = new
        for _ in range(_FAR):
            if here is None or here == old:
                break
            here = next(iter(self.objects.commit(here).parents), None)
        return here == old


class _Plan:
    """What to do about each path of a batch, and what came of it."""

    def __init__(
        self,
        batch: Batch,
        staged: Mapping[str, IndexEntry | None] | None,
        known: str | None,
        objects: Objects,
    ) -> None:
        self.batch = batch
        self.seen: dict[str, Seen] = {}
        self.held: dict[str, str] = {}
        self.written: list[str] = []
        self._ours: dict[str, bool] = {}  # whose the index entry is: ours to change, or staged by the person
        self._old: dict[str, TreeEntry | None] = {}
        for difference in batch.differences:
            path, old, new = difference
            seen = batch.see(difference)
            if staged is not None:
                entry = staged[path]
                if entry and entry.is_skipped and seen.stat is None:  # not checked out, and that is meant so
                    seen = Seen("new")
                tip = objects.entry(known, path) if known else None
                self._ours[path] = in_tree(entry) in (old, tip, new) and not (entry and entry.is_intended)
                if not self._ours[path]:
                    self.held[path] = "staged"
            if seen.state in ("edited", "blocked") and old != new:
                self.held.setdefault(path, seen.state)
            self.seen[path] = seen
            self._old[path] = old
        self._staged = staged or {}

    @property
    def has_work(self) -> bool:
        """True when a file has to be written, or an entry of the index."""
        return any(path not in self.held for path in self.seen) or any(
            self._ours[path] and in_tree(self._staged[path]) != new for path, _, new in self.batch.differences
        )

    def old(self, path: str) -> TreeEntry | None:
        """What was published at a path before."""
        return self._old[path]

    def in_order(self) -> Iterator[Difference]:
        """What has to be written: removals first, deepest first, because they make room."""
        todo = [d for d in self.batch.differences if d.path not in self.held and self.seen[d.path].state == "old"]
        yield from sorted((d for d in todo if d.new is None), key=lambda d: d.path, reverse=True)
        yield from (d for d in todo if d.new is not None)

    def index_updates(self) -> dict[str, Update | None]:
        """The entries that move along. That of a held file does too: the person's next commit starts from it."""
        updates: dict[str, Update | None] = {}
        for path, _, new in self.batch.differences:
            if self._ours[path]:
                seen = self.seen[path]
                # where it lay there already: as it was before it was read
                said = seen.stat if seen.state == "new" and path not in self.held else self.batch.stat(path)
                updates[path] = Update(new, said) if new else None
        return updates


_BUSY = "git keeps changing things here; try again"


@contextlib.contextmanager
def _telling(place: str) -> Iterator[None]:
    """Say in words what the disk answers with a number."""
    try:
        yield
    except OSError as fault:
        raise Unavailable(
            f"{fault.filename or place}: {fault.strerror or fault}; what is recorded is safe, and not all written out",
            hint="make room or mend the disk; the next command goes on from here",
        ) from fault


def _mark(note: _Note) -> bytes:
    return f"ravi {note.token}\n".encode()


def _write_lock(path: str, note: _Note, flag: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | flag, 0o666)
    try:
        write_all(fd, _mark(note))
    finally:
        os.close(fd)


def _content(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(64)


def _boot() -> str:
    """This boot of the machine; "" where it has no name."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _is_older_than_boot(path: str) -> bool:
    try:
        with open("/proc/stat", encoding="ascii") as file:
            booted = next(int(line.split()[1]) for line in file if line.startswith("btime "))
    except (OSError, StopIteration):
        return False
    return os.stat(path).st_mtime < booted
