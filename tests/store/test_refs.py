"""Refs: read and written beside git, in git's own way."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from workshop import AUTHOR, PLAIN, Store, init, python, times

from ravi.errors import Conflict, Malformed, Unavailable
from ravi.store import git, refs
from ravi.store.objects import EMPTY_TREE
from ravi.store.refs import Head, Refs, check_name


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = init(tmp_path / "work")
    yield made
    made.close()


@pytest.fixture
def oids(store: Store) -> list[str]:
    """A few commits that no ref names."""
    store.objects.put_tree({})
    made = [store.objects.put_commit(EMPTY_TREE, (), AUTHOR, AUTHOR, f"{n}") for n in range(4)]
    store.objects.flush()
    return made


# -- reading


def test_loose_packed_and_both(store: Store, oids: list[str]) -> None:
    store.git("update-ref", "refs/ravi/main", oids[0])
    assert store.refs.read("refs/ravi/main") == oids[0]
    store.git("pack-refs", "--all", "--prune")
    assert store.refs.read("refs/ravi/main") == oids[0]
    store.git("update-ref", "refs/ravi/main", oids[1])
    assert store.refs.read("refs/ravi/main") == oids[1]
    assert store.refs.read("refs/ravi/none") is None
    assert store.refs.read("refs/ravi") is None
    assert store.refs.read("refs/ravi/main/below") is None


def test_packed_refs_are_read_again_when_they_changed(store: Store, oids: list[str]) -> None:
    for oid in oids:
        store.git("update-ref", "refs/ravi/main", oid)
        store.git("pack-refs", "--all", "--prune")
        assert store.refs.read("refs/ravi/main") == oid
    store.git("update-ref", "-d", "refs/ravi/main")
    assert store.refs.read("refs/ravi/main") is None


def test_reading_a_ref_is_one_open(store: Store, oids: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    store.refs.create("refs/ravi/main", oids[0])
    opened: list[str] = []
    real = os.open

    def noted(path: str, flags: int) -> int:
        opened.append(path)
        return real(path, flags)

    monkeypatch.setattr(os, "open", noted)
    assert store.refs.read("refs/ravi/main") == oids[0]
    assert opened == [os.path.join(store.dirs.common_dir, "refs/ravi/main")]


def test_head_on_a_branch_unborn_and_detached(store: Store, oids: list[str]) -> None:
    assert store.refs.head() == Head("refs/heads/main", None)
    store.git("update-ref", "refs/heads/main", oids[0])
    assert store.refs.head() == Head("refs/heads/main", oids[0])
    store.git("symbolic-ref", "refs/heads/alias", "refs/heads/main")
    store.git("symbolic-ref", "HEAD", "refs/heads/alias")
    assert store.refs.head() == Head("refs/heads/main", oids[0])
    store.git("checkout", "--quiet", "--detach")
    assert store.refs.head() == Head(None, oids[0])
    (store.root / ".git" / "HEAD").unlink()
    with pytest.raises(Unavailable, match="HEAD is missing"):
        store.refs.head()


def test_a_linked_worktree_has_its_own_head_and_shares_the_refs(store: Store, oids: list[str], tmp_path: Path) -> None:
    store.git("update-ref", "refs/heads/main", oids[0])
    store.git("worktree", "add", "--quiet", "-b", "side", str(tmp_path / "side"), oids[1])
    dirs = git.find(str(tmp_path / "side"))
    side = Refs(dirs.git_dir, dirs.common_dir)
    assert side.head() == Head("refs/heads/side", oids[1])
    assert store.refs.head() == Head("refs/heads/main", oids[0])
    side.create("refs/ravi/main", oids[2])
    assert store.refs.read("refs/ravi/main") == oids[2]
    side.create("refs/worktree/mine", oids[3])
    assert store.refs.read("refs/worktree/mine") is None
    assert side.read("refs/worktree/mine") == oids[3]


def test_refs_are_listed_loose_and_packed(store: Store, oids: list[str]) -> None:
    for name in ("refs/ravi/runs/a.1", "refs/ravi/runs/b.1", "refs/ravi/main"):
        store.refs.create(name, oids[0])
    store.git("pack-refs", "--all", "--prune")
    store.refs.create("refs/ravi/runs/c/d.1", oids[1])
    store.refs.swap("refs/ravi/runs/b.1", oids[2], oids[0])
    (store.root / ".git" / "refs" / "ravi" / "runs" / "broken").write_text("nonsense")
    (store.root / ".git" / "refs" / "ravi" / "runs" / "e.1.lock").write_text(oids[0])
    found = {"refs/ravi/runs/a.1": oids[0], "refs/ravi/runs/b.1": oids[2], "refs/ravi/runs/c/d.1": oids[1]}
    assert store.refs.list("refs/ravi/runs/") == found
    assert store.refs.list("refs/ravi/runs/b") == {"refs/ravi/runs/b.1": oids[2]}
    assert store.refs.list("refs/nothing/") == {}


def test_a_ref_that_holds_nonsense_is_told_with_its_file(store: Store) -> None:
    path = store.root / ".git" / "refs" / "heads" / "odd"
    for text in ("nonsense", "", "ref: refs/heads/odd"):
        path.write_text(text)
        with pytest.raises(Unavailable, match=r"refs/heads/odd"):
            store.refs.read("refs/heads/odd")


# -- writing


def test_what_is_written_git_reads(store: Store, oids: list[str]) -> None:
    store.refs.create("refs/ravi/runs/a.1", oids[0])
    store.refs.swap("refs/ravi/runs/a.1", oids[1], oids[0])
    store.refs.swap("refs/heads/main", oids[2], None)
    assert store.git("for-each-ref", "--format=%(refname) %(objectname)").split("\n") == [
        f"refs/heads/main {oids[2]}",
        f"refs/ravi/runs/a.1 {oids[1]}",
    ]
    store.fsck()


def test_whoever_is_late_gets_a_conflict(store: Store, oids: list[str]) -> None:
    store.refs.create("refs/ravi/main", oids[0])
    with pytest.raises(Conflict, match="exists already"):
        store.refs.create("refs/ravi/main", oids[0])
    with pytest.raises(Conflict, match=f"it is at {oids[0]}, not at {oids[1]}"):
        store.refs.swap("refs/ravi/main", oids[2], oids[1])
    with pytest.raises(Conflict, match="at nothing"):
        store.refs.swap("refs/ravi/other", oids[2], oids[1])
    with pytest.raises(Conflict, match="not at"):
        store.refs.delete("refs/ravi/main", oids[1])
    store.git("pack-refs", "--all", "--prune")
    with pytest.raises(Conflict, match="exists already"):
        store.refs.create("refs/ravi/main", oids[1])
    assert store.refs.read("refs/ravi/main") == oids[0]
    assert not list((store.root / ".git").rglob("*.lock"))


@pytest.mark.parametrize("is_packed", [False, True], ids=["loose", "packed"])
def test_a_ref_is_taken_away_and_stays_away(store: Store, oids: list[str], is_packed: bool) -> None:
    for name in ("refs/ravi/runs/a.1", "refs/ravi/runs/b.1"):
        store.refs.create(name, oids[0])
    if is_packed:
        store.git("pack-refs", "--all", "--prune")
        store.refs.swap("refs/ravi/runs/a.1", oids[1], oids[0])
    at = store.refs.read("refs/ravi/runs/a.1")
    assert at is not None
    store.refs.delete("refs/ravi/runs/a.1", at)
    assert store.refs.read("refs/ravi/runs/a.1") is None
    assert store.refs.list("refs/ravi/runs/") == {"refs/ravi/runs/b.1": oids[0]}
    store.refs.create("refs/ravi/runs/a.1", oids[2])
    assert store.git("rev-parse", "refs/ravi/runs/a.1") == oids[2]


def test_the_other_packed_refs_and_what_their_tags_point_to_stay_when_one_goes(store: Store, oids: list[str]) -> None:
    for n, oid in enumerate(oids):
        store.git("tag", "-a", "-m", "x", f"t{n}", oid)
        store.git("update-ref", f"refs/ravi/runs/{n}", oid)
    store.git("pack-refs", "--all", "--prune")
    before = (store.root / ".git" / "packed-refs").read_text().split("\n")
    tag = store.git("rev-parse", "refs/tags/t1")
    store.refs.delete("refs/ravi/runs/2", oids[2])
    store.refs.delete("refs/tags/t1", tag)
    after = (store.root / ".git" / "packed-refs").read_text().split("\n")
    assert [line for line in before if line not in after] == [
        f"{oids[2]} refs/ravi/runs/2",
        f"{tag} refs/tags/t1",
        f"^{oids[1]}",
    ]
    assert store.git("rev-parse", "t0^{commit}", "t2^{commit}").split() == [oids[0], oids[2]]
    store.git("pack-refs", "--all", "--prune")
    store.fsck()


def test_locks_of_the_dead_are_swept_and_those_of_the_living_stay(store: Store) -> None:
    places = [store.root / ".git" / name for name in ("packed-refs.lock", "refs/ravi/x.lock", "refs/heads/y.lock")]
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch(mode=0o744)
    held = refs._LockFile(str(store.root / ".git" / "refs" / "ravi" / "held"), is_ours=True)
    gits = store.root / ".git" / "refs" / "heads" / "main.lock"
    gits.touch(mode=0o644)
    os.utime(gits, (1, 1))
    store.refs.sweep()
    assert not any(place.exists() for place in places)
    assert gits.exists()
    held.move()
    held.close()


@pytest.mark.parametrize("is_packed", [False, True], ids=["loose", "packed"])
def test_a_ref_and_a_folder_of_refs_cannot_share_a_name(store: Store, oids: list[str], is_packed: bool) -> None:
    store.refs.create("refs/ravi/a/b", oids[0])
    if is_packed:
        store.git("pack-refs", "--all", "--prune")
    for name in ("refs/ravi/a", "refs/ravi/a/b/c", "refs/ravi/a/b/c/d"):
        with pytest.raises(Conflict):
            store.refs.create(name, oids[1])
    assert store.git("for-each-ref", "--format=%(refname)") == "refs/ravi/a/b"
    store.refs.delete("refs/ravi/a/b", oids[0])
    store.refs.create("refs/ravi/a", oids[1])  # the folder that was left is empty: it gives way
    assert store.git("rev-parse", "refs/ravi/a") == oids[1]


def test_a_symbolic_ref_is_followed_when_written(store: Store, oids: list[str]) -> None:
    store.refs.swap("HEAD", oids[0], None)
    assert store.refs.read("refs/heads/main") == oids[0]
    store.refs.swap("HEAD", oids[1], oids[0])
    assert store.refs.head() == Head("refs/heads/main", oids[1])
    assert (store.root / ".git" / "HEAD").read_text() == "ref: refs/heads/main\n"


def test_a_reflog_that_is_kept_gets_its_line(store: Store, oids: list[str]) -> None:
    store.git("commit", "--quiet", "--allow-empty", "-m", "first")
    old = store.refs.read("refs/heads/main")
    store.refs.swap(
        "refs/heads/main", oids[0], old, log="ravi <ravi@agents.invalid> 1700000000 +0000\tpublish: two\nlines"
    )
    for name in ("main", "HEAD"):
        assert store.git("reflog", "-1", "--format=%gs %H", name) == f"publish: two lines {oids[0]}"
    assert store.git("rev-parse", "main@{1}") == old
    store.refs.swap("refs/ravi/x", oids[1], None, log="ravi <r@x> 1 +0000\tno log is kept here")
    assert not (store.root / ".git" / "logs" / "refs" / "ravi").exists()


@pytest.mark.parametrize(
    "name",
    ["", "main", "refs/", "refs/a..b", "refs/a b", "refs/.a", "refs/a/.b", "refs/a.lock", "refs/a.lock/b", "refs/a/",
     "refs//a", "/refs/a", "refs/a~1", "refs/a^", "refs/a:b", "refs/a?", "refs/*", "refs/[", "refs/a\\b", "refs/@{",
     "refs/a.", "refs/a\n", "refs/\x7f", "../HEAD", "config", "objects/aa", "HEAD/x"],
)  # fmt: skip
def test_what_git_would_not_take_for_a_ref_is_refused(store: Store, oids: list[str], name: str) -> None:
    with pytest.raises(Malformed, match="not the name of a ref"):
        check_name(name)
    with pytest.raises(Malformed):
        store.refs.create(name, oids[0])


def test_only_an_oid_can_be_written(store: Store) -> None:
    with pytest.raises(Malformed, match="not the name of an object"):
        store.refs.create("refs/ravi/main", "ref: refs/heads/main")


# -- locks that others hold, or left


def test_the_lock_of_a_dead_ravi_is_broken_at_once(store: Store, oids: list[str]) -> None:
    store.refs.create("refs/ravi/main", oids[0])
    code = """
import os, signal
from workshop import opened
from pathlib import Path
from ravi.store import refs
refs.sync = lambda fd: os.kill(os.getpid(), signal.SIGKILL)
opened(Path(sys.argv[1])).refs.swap("refs/ravi/main", sys.argv[3], sys.argv[2])
"""
    done = subprocess.run(python(code, store.root, oids[0], oids[1]), check=False)
    assert done.returncode == -signal.SIGKILL
    assert (store.root / ".git" / "refs" / "ravi" / "main.lock").exists()
    assert store.refs.read("refs/ravi/main") == oids[0]
    started = time.monotonic()
    store.refs.swap("refs/ravi/main", oids[2], oids[0])
    assert time.monotonic() - started < 1
    assert not (store.root / ".git" / "refs" / "ravi" / "main.lock").exists()


def test_the_lock_of_a_living_git_is_waited_for(store: Store, oids: list[str]) -> None:
    store.refs.create("refs/ravi/main", oids[0])
    lock = store.root / ".git" / "refs" / "ravi" / "main.lock"
    lock.touch()
    gone = threading.Timer(0.05, lock.unlink)
    gone.start()
    store.refs.swap("refs/ravi/main", oids[1], oids[0])
    gone.join()
    assert store.refs.read("refs/ravi/main") == oids[1]


def test_a_lock_that_stays_is_told_with_the_way_out(
    store: Store, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refs, "_PATIENCE", 0.05)
    for name in ("refs/ravi/main", "refs/heads/main"):
        lock = store.root / ".git" / (name + ".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
        with pytest.raises(Unavailable, match=r"main\.lock: another git process") as told:
            store.refs.create(name, oids[0])
        assert "remove that file" in told.value.hint
        os.utime(lock, (1, 1))
    store.refs.create("refs/ravi/main", oids[0])  # a minute old, and on a ref of ours: whoever made it is dead
    with pytest.raises(Unavailable):
        store.refs.create("refs/heads/main", oids[0])  # on the person's branch it is theirs to remove


def test_a_lock_that_was_broken_under_its_holder_moves_nothing(store: Store, oids: list[str]) -> None:
    lock = refs._LockFile(os.path.join(store.dirs.common_dir, "refs", "ravi", "x"), is_ours=True)
    path = lock.path + ".lock"
    os.unlink(path)
    Path(path).write_text("another's")
    with pytest.raises(Conflict, match="broke this lock"):
        lock.move()
    lock.close()
    assert Path(path).read_text() == "another's"


def test_a_failing_disk_leaves_the_old_ref_and_no_lock(
    store: Store, oids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    store.refs.create("refs/ravi/main", oids[0])
    monkeypatch.setattr(refs, "sync", broken)
    with pytest.raises(Unavailable, match="Input/output error"):
        store.refs.swap("refs/ravi/main", oids[1], oids[0])
    assert store.refs.read("refs/ravi/main") == oids[0]
    assert not list((store.root / ".git").rglob("*.lock"))


# -- at the same time


_COUNT = """
from pathlib import Path
from ravi.errors import Conflict
from workshop import opened
refs = opened(Path(sys.argv[1])).refs
oids, done = sys.argv[2:], 0
while done < 25:
    now = refs.read("refs/ravi/main")
    try:
        refs.swap("refs/ravi/main", oids[(oids.index(now) + 1) % len(oids)], now)
        done += 1
    except Conflict:
        pass
"""


@pytest.mark.fault
def test_of_many_processes_each_swap_is_won_by_one_while_git_packs_refs(store: Store, oids: list[str]) -> None:
    """Counting round in a ring of commits: a lost or doubled step would end elsewhere."""
    store.refs.create("refs/ravi/main", oids[0])
    counting = [subprocess.Popen(python(_COUNT, store.root, *oids[:3])) for _ in range(4)]
    while any(one.poll() is None for one in counting):
        subprocess.run(["git", "pack-refs", "--all", "--prune"], cwd=store.root, capture_output=True, check=False)
    assert [one.returncode for one in counting] == [0] * 4
    assert store.refs.read("refs/ravi/main") == oids[100 % 3]


@pytest.mark.fault
def test_refs_come_and_go_while_git_removes_empty_folders(store: Store) -> None:
    count, done = times(60, 1000), threading.Event()
    store.objects.put_tree({})
    # new commits each time: git's pruning takes a ref that came back with the value it packed for the one it packed
    oids = [store.objects.put_commit(EMPTY_TREE, (), AUTHOR, AUTHOR, str(n)) for n in range(2 * count)]
    store.objects.flush()

    def pack() -> None:
        while not done.is_set():
            for args in (["pack-refs", "--all", "--prune"], ["update-ref", "-d", "refs/ravi/deep/er/other"]):
                subprocess.run(["git", *args], cwd=store.root, capture_output=True, env=os.environ | PLAIN, check=False)

    packing = threading.Thread(target=pack)
    packing.start()
    try:
        for first, second in zip(oids[::2], oids[1::2], strict=True):
            store.refs.create("refs/ravi/deep/er/x", first)
            store.refs.swap("refs/ravi/deep/er/x", second, first)
            assert store.refs.read("refs/ravi/deep/er/x") == second
            store.refs.delete("refs/ravi/deep/er/x", second)
            assert store.refs.read("refs/ravi/deep/er/x") is None
    finally:
        done.set()
        packing.join()
    assert store.git("for-each-ref") == ""
