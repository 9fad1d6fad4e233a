"""The person's index: read, searched and changed by us, judged by git."""

import os
import random
import subprocess
import time
from pathlib import Path

import pytest
from workshop import PLAIN, Store, init

from ravi.errors import Unavailable
from ravi.store import gitindex
from ravi.store.gitindex import GitIndex, Update, in_tree, known
from ravi.store.objects import EXECUTABLE, FILE, TreeEntry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init(tmp_path / "w")


def fill(store: Store, names: list[str]) -> None:
    """Files with these names, staged by git."""
    for n, name in enumerate(names):
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{n}\n")
    store.git("add", "-A")


def staged(store: Store) -> dict[str, tuple[str, int]]:
    """What git says is staged."""
    lines = store.git("ls-files", "--stage", "-z").split("\0")
    found = {}
    for line in filter(None, lines):
        words, _, path = line.partition("\t")
        mode, oid, stage = words.split()
        if stage == "0":
            found[path] = (oid, int(mode, 8))
    return found


def change(store: Store, updates: dict[str, Update | None]) -> None:
    with GitIndex.read(store.dirs) as index:
        gitindex.write(store.dirs, index, updates, str(store.root / ".git/ravi-index-test"), durable=False)


def put(store: Store, path: str, text: str) -> Update:
    """A file and the entry that stands for it."""
    target = store.root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    oid = store.git("hash-object", "-w", path)
    return Update(TreeEntry(FILE, oid), os.lstat(target))


MANY = [f"tasks/2026/{n % 12:02}/task-{n}-{'x' * (n % 40)}/TASK.md" for n in range(700)] + ["a", "z/é/ü.md", "b c"]


def test_every_entry_is_found_where_git_put_it(store):
    fill(store, MANY)
    with GitIndex.read(store.dirs) as index:
        for path, (oid, mode) in staged(store).items():
            entry = index.entry(path)
            assert in_tree(entry) == TreeEntry(mode, oid)
            assert entry.known == known(os.lstat(store.root / path))
        assert {path for path, _ in index.entries()} == set(MANY)
        assert index.many(["a", "missing"]) == {"a": index.entry("a"), "missing": None}
        assert index.many(MANY)[MANY[5]] == index.entry(MANY[5])


def test_a_path_that_is_not_there_is_not_found(store):
    fill(store, MANY)
    with GitIndex.read(store.dirs) as index:
        for path in ("", "0", "zz", "tasks", "tasks/2026/03/task-3", "tasks/2026/03/task-3-xxx/TASK.mdx", "a/b"):
            assert index.entry(path) is None


def test_a_changed_index_is_one_that_git_reads(store):
    fill(store, MANY)
    store.git("commit", "-qm", "start")
    before = staged(store)
    updates = {
        MANY[17]: put(store, MANY[17], "changed\n"),
        "tasks/2026/03/new/TASK.md": put(store, "tasks/2026/03/new/TASK.md", "new\n"),
        "zzz": put(store, "zzz", "last\n"),
        "A": put(store, "A", "first\n"),
        MANY[18]: None,
        "never/there": None,
    }
    change(store, updates)
    after = staged(store)
    assert after == {p: e for p, e in before.items() if p != MANY[18]} | {
        path: (update.entry.oid, update.entry.mode) for path, update in updates.items() if update
    }
    assert store.git("diff-files", "--name-only") == ""
    gone = os.path.dirname(MANY[18])
    assert set(store.git("status", "--porcelain").splitlines()) == {
        "A  A", f"M  {MANY[17]}", f"D  {MANY[18]}", "A  tasks/2026/03/new/TASK.md", "A  zzz", f"?? {gone}/",
    }  # fmt: skip
    store.fsck()


@pytest.mark.parametrize("seed", range(6))
def test_any_changes_leave_what_git_would_have_left(store, seed):
    chance = random.Random(seed)
    names = [f"{chance.choice('abc')}/{chance.choice('xyz')}{n}" for n in range(chance.choice([1, 5, 300]))]
    fill(store, names)
    store.git("commit", "-qm", "start")
    assert store.git("hash-object", "-w", "--stdin", input=b"") == EMPTY
    for _ in range(8):
        there = staged(store)
        updates: dict[str, Update | None] = {}
        for _ in range(chance.choice([1, 3, 600])):
            path = chance.choice([*names, f"n/{chance.randrange(900)}", f"m{chance.randrange(9)}"])
            updates[path] = None if chance.random() < 0.3 else Update(TreeEntry(FILE, there.get(path, (EMPTY, 0))[0]))
        change(store, updates)
        for path, update in updates.items():
            there.pop(path, None)
            if update is not None:
                there[path] = (update.entry.oid, update.entry.mode)
        assert staged(store) == dict(sorted(there.items()))
        # a cached tree that was left and is stale would be written here
        lines = store.git("ls-tree", "-r", "-z", store.git("write-tree")).split("\0")
        assert {line.partition("\t")[2]: line.split()[2][:40] for line in lines if line} == {
            p: e[0] for p, e in there.items()
        }


EMPTY = "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


def test_the_cached_trees_of_other_folders_are_kept(store):
    fill(store, ["a/b/c", "a/d/e", "f/g", "h"])
    store.git("commit", "-qm", "start")
    change(store, {"a/b/c": put(store, "a/b/c", "x\n"), "f/new": put(store, "f/new", "y\n")})
    # git trusts a cached tree: were a stale one left, the tree written now would be the old one
    tree = store.git("write-tree")
    assert store.git("show", f"{tree}:a/b/c") == "x"
    assert store.git("show", f"{tree}:f/new") == "y"
    with GitIndex.read(store.dirs) as index:
        data = index.updated({"a/b/c": None})
    assert b"TREE" in data
    assert b"d\x001 0\n" in data  # a/d is still cached
    assert b"b\x00-1 0\n" in data


def test_a_file_and_a_folder_never_stand_in_one_place(store):
    fill(store, ["a", "b/c"])
    change(store, {"a/x": put_blob(store), "b": put_blob(store)})
    assert set(staged(store)) == {"a", "b/c"}
    change(store, {"a": None, "a/x": put_blob(store), "b": put_blob(store), "b/c": None})
    assert set(staged(store)) == {"a/x", "b"}


def put_blob(store: Store) -> Update:
    return Update(TreeEntry(EXECUTABLE, store.git("hash-object", "-w", "--stdin", input=b"#!/bin/sh\n")))


def test_versions_that_a_merge_left_are_seen_and_stay(store):
    fill(store, ["f", "g"])
    store.git("commit", "-qm", "start")
    store.git("switch", "-qc", "side")
    (store.root / "f").write_text("side\n")
    store.git("commit", "-qam", "side")
    store.git("switch", "-q", "main")
    (store.root / "f").write_text("main\n")
    store.git("commit", "-qam", "main")
    subprocess.run(
        ["git", "merge", "-q", "side"], cwd=store.root, env=os.environ | PLAIN, check=False, capture_output=True
    )
    with GitIndex.read(store.dirs) as index:
        assert index.entry("f").stage == 1
        assert index.entry("g").stage == 0
    before = store.git("ls-files", "-u")
    change(store, {"f": put_blob(store), "g": put_blob(store)})
    assert store.git("ls-files", "-u") == before


def test_a_name_added_without_content_is_told_apart(store):
    fill(store, ["f"])
    (store.root / "later").write_text("text\n")
    store.git("add", "-N", "later")
    with GitIndex.read(store.dirs) as index:
        assert index.version == 3
        assert index.entry("later").is_intended
        assert not index.entry("f").is_intended
    change(store, {"f": put_blob(store)})
    assert "later" in staged(store)


def test_a_file_that_is_not_checked_out_stays_so(store):
    fill(store, ["in/f", "out/f"])
    store.git("commit", "-qm", "start")
    store.git("sparse-checkout", "set", "--no-cone", "in")
    with GitIndex.read(store.dirs) as index:
        assert index.entry("out/f").is_skipped
    change(store, {"out/f": put_blob(store)})
    with GitIndex.read(store.dirs) as index:
        assert index.entry("out/f").is_skipped
    assert store.git("diff-files", "--name-only") == ""


@pytest.mark.parametrize("kind", ["version 4", "split", "sparse"])
def test_an_index_of_another_kind_is_changed_by_git(store, kind):
    fill(store, ["in/f", "out/f", "out/g/h"])
    store.git("commit", "-qm", "start")
    if kind == "version 4":
        store.git("update-index", "--index-version", "4")
    elif kind == "split":
        store.git("update-index", "--split-index")
        (store.root / "in/f").write_text("other\n")
        store.git("add", "in/f")
    else:
        store.git("sparse-checkout", "set", "--cone", "--sparse-index", "in")
    before = staged(store)
    with GitIndex.read(store.dirs) as index:
        assert not index.is_native
        assert in_tree(index.entry("out/g/h")) == TreeEntry(FILE, before["out/g/h"][0])
    change(store, {"in/f": put_blob(store), "in/new": put_blob(store)})
    assert set(staged(store)) == {*before, "in/new"}
    assert staged(store)["in/f"][1] == EXECUTABLE
    store.fsck()


def test_no_index_is_an_empty_one(store):
    with GitIndex.read(store.dirs) as index:
        assert index.entry("a") is None
        assert list(index.entries()) == []
    change(store, {"a": put(store, "a", "x\n")})
    assert set(staged(store)) == {"a"}


@pytest.mark.parametrize("data", [b"", b"DIRC", b"DIRC\0\0\0\2\0\0\0\5" + b"x" * 400, b"nonsense" * 99])
def test_what_is_no_index_is_told_in_words(store, data):
    (store.root / ".git/index").write_bytes(data)
    with pytest.raises(Unavailable):
        GitIndex.read(store.dirs)


def test_extensions_that_depend_on_the_order_of_entries_are_left_out(store):
    fill(store, ["a", "b"])
    store.git("update-index", "--untracked-cache")
    assert b"UNTR" in (store.root / ".git/index").read_bytes()
    change(store, {"c": put(store, "c", "x\n")})
    assert b"UNTR" not in (store.root / ".git/index").read_bytes()
    assert store.git("status", "--porcelain") == "A  a\nA  b\nA  c"


def test_touched_names_what_git_would_look_at_again(store):
    fill(store, ["tasks/a", "tasks/b", "tasks/c", "other/d"])
    while time.time_ns() <= os.stat(store.root / ".git/index").st_mtime_ns + 20_000_000:
        pass  # an index as old as its files proves nothing
    store.git("update-index", "--refresh", "--force-write-index")
    (store.root / "tasks/b").write_text("changed")
    (store.root / "tasks/c").unlink()
    (store.root / "other/d").unlink()
    with GitIndex.read(store.dirs) as index:
        assert list(index.touched(str(store.root), ["tasks", "nothing"])) == [("tasks/b", False), ("tasks/c", True)]
        assert index.count_below(["tasks"]) == 3


def test_a_large_index_is_searched_and_changed_fast(store):
    paths = [f"tasks/2026/{n % 12 + 1:02}/{n % 28 + 1:02}/some-task-{n:06}/TASK.md" for n in range(100_000)]
    lines = "".join(f"100644 {EMPTY} 0\t{path}\n" for path in paths)
    store.git("update-index", "--index-info", input=lines.encode())
    start = time.perf_counter()
    with GitIndex.read(store.dirs) as index:
        assert index.entry(paths[777]) is not None
        looked_up = time.perf_counter() - start
        index.updated(
            {paths[5]: Update(TreeEntry(FILE, EMPTY)), "tasks/2026/12/29/new/TASK.md": Update(TreeEntry(FILE, EMPTY))}
        )
        changed = time.perf_counter() - start - looked_up
        assert sum(1 for _ in index.entries()) == len(paths)
    assert looked_up < 0.05  # 1 ms on a quiet machine
    assert changed < 0.5  # 20 ms
