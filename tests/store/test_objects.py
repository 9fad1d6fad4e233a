"""Git objects: what we write git reads, what git writes we read, and packs come and go without a gap."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workshop import AUTHOR, PLAIN, TRACE, Store, init, python, times

from ravi.errors import Malformed, NotFound, Refused, Unavailable
from ravi.store import packs
from ravi.store.objects import (
    EMPTY_TREE,
    EXECUTABLE,
    FILE,
    FOLDER,
    LINK,
    SUBMODULE,
    Difference,
    Objects,
    Signature,
    TreeEntry,
    check_path,
    parse_commit,
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = init(tmp_path / "work")
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One repository for what only reads, or only adds objects."""
    made = init(tmp_path_factory.mktemp("shared") / "work")
    yield made
    made.close()


def _files(store: Store, tree: str) -> dict[str, str]:
    """Path to oid, as git lists it."""
    out = store.git("ls-tree", "-r", "-z", "--full-tree", tree)
    return {line.partition("\t")[2]: line.split()[2] for line in out.split("\0") if line}


# -- reading and writing


def test_what_is_put_is_readable_at_once_and_gits_after_flush(store: Store) -> None:
    objects = store.objects
    blob = objects.put_blob(b"hello\n")
    tree = objects.put_tree({"b": TreeEntry(FILE, blob), "a": TreeEntry(EXECUTABLE, blob)})
    commit = objects.put_commit(tree, (), AUTHOR, AUTHOR, "first\n")
    assert (objects.blob(blob), list(objects.tree(tree)), objects.commit(commit).tree) == (b"hello\n", ["a", "b"], tree)
    assert objects.kind(commit) == "commit"
    assert not list((store.root / ".git" / "objects" / "pack").iterdir())
    objects.flush()
    store.git("update-ref", "refs/heads/main", commit)
    store.fsck()
    assert store.git("ls-tree", commit).split("\n") == [f"100755 blob {blob}\ta", f"100644 blob {blob}\tb"]
    assert store.git("log", "--format=%an|%ae|%at|%ad|%s", "--date=iso") == (
        "Ada|ada@example.org|1700000000|2023-11-14 23:13:20 +0100|first"
    )
    again = store.again()
    assert again.objects.read(commit, "b") == b"hello\n"
    again.close()


def test_a_flush_with_nothing_to_write_makes_no_pack(store: Store) -> None:
    store.objects.flush()
    assert not os.listdir(store.objects.folder)


def test_the_pack_is_one_that_git_verifies(store: Store) -> None:
    for size in (0, 1, 15, 16, 17, 2047, 2048, 1 << 20):
        store.objects.put_blob(b"x" * size)
    store.objects.flush()
    (idx,) = [name for name in os.listdir(store.objects.folder) if name.endswith(".idx")]
    assert ": ok" in store.git("verify-pack", "-v", os.path.join(store.objects.folder, idx))
    assert store.git("count-objects", "-v").count("garbage: 0")


def test_a_pack_is_as_readable_as_the_repository(store: Store) -> None:
    os.chmod(store.root / ".git" / "HEAD", 0o660)
    store.write("a.md", b"a\n")
    assert {
        os.stat(os.path.join(store.objects.folder, name)).st_mode & 0o777 for name in os.listdir(store.objects.folder)
    } == {0o440}
    assert os.stat(store.root / ".git" / "refs" / "ravi" / "main").st_mode & 0o777 == 0o660


def test_an_unknown_object_is_missing_and_a_wrong_kind_is_said(shared: Store) -> None:
    objects = shared.objects
    with pytest.raises(NotFound, match="missing"):
        objects.blob("1" * 40)
    assert objects.kind("1" * 40) is None
    blob = objects.put_blob(b"text")
    with pytest.raises(Malformed, match="is a blob, not a tree"):
        objects.tree(blob)
    with pytest.raises(Malformed, match="is a blob, not a commit"):
        objects.commit(blob)


def test_many_are_read_in_order_pending_or_not(store: Store) -> None:
    oids = [store.objects.put_blob(b"%d" % n) for n in range(600)]
    store.objects.flush()
    oids += [store.objects.put_blob(b"%d" % n) for n in range(600, 700)]
    asked = oids[::-1]
    assert [data for _, data in store.objects.blobs(asked)] == [b"%d" % n for n in range(699, -1, -1)]


def test_entries_files_folders_links_and_nothing(store: Store) -> None:
    objects = store.objects
    link = TreeEntry(LINK, objects.put_blob(b"b/c.md"))
    module = TreeEntry(SUBMODULE, "2" * 40)
    tree = objects.apply(None, {"b/c.md": b"text", "link": link, "module": module})
    assert objects.entry(tree, "") == TreeEntry(FOLDER, tree)
    folder = objects.entry(tree, "b")
    assert folder is not None
    assert folder.is_folder
    assert objects.entry(tree, "b/c.md/d") is None
    assert objects.entry(tree, "x/y") is None
    assert objects.read(tree, "b/c.md") == b"text"
    assert objects.read(tree, "link") == b"b/c.md"
    assert objects.read(tree, "b") is None
    assert objects.read(tree, "module") is None
    assert [(path, entry.mode) for path, entry in objects.walk(tree, "at")] == [
        ("at/b/c.md", FILE),
        ("at/link", LINK),
        ("at/module", SUBMODULE),
    ]


def test_the_tree_of_a_commit_may_be_asked_for_by_the_commit(store: Store) -> None:
    first = store.write("a/b.md", b"1")
    second = store.write("a/b.md", b"2")
    objects = store.again().objects
    assert objects.read(first, "a/b.md") == b"1"
    assert [one.path for one in objects.diff(first, second)] == ["a/b.md"]
    assert [path for path, _ in objects.walk(second)] == ["a/b.md"]
    objects.close()


# -- names


NAMES = [
    "a",
    "a.b",
    "a-b",
    "a0",
    "ab",
    "A",
    "é",
    "e\u0301",
    "z z",
    "tab\there",
    "nl\nhere",
    "\udcff\udcfe",
    "'",
    '"',
    "...",
]


def test_git_finds_every_name_in_its_order(store: Store) -> None:
    changes = dict.fromkeys(NAMES, b"file") | {f"{name}0/{other}": b"x" for name in NAMES for other in NAMES}
    del changes["a0"]
    oid = store.objects.apply(None, changes)
    store.objects.flush()
    store.git("update-ref", "refs/ravi/main", store.git("commit-tree", oid, "-m", "names"))
    store.fsck()
    assert set(_files(store, oid)) == set(changes)
    assert dict(store.again().objects.walk(oid)).keys() == changes.keys()


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", ".", "..", "a/../b", ".git", "a/.GIT/config", ".git ", ".git.", ".gIt::$INDEX", "git~1",
     "GIT~1/x", "a\\.git\\hooks", ".g\u200cit", "\ufeff.git", "nul\0"],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_refused(shared: Store, path: str) -> None:
    with pytest.raises(Malformed, match="may not be a name"):
        shared.objects.apply(None, {path: b"x"})


@pytest.mark.parametrize("path", [".gitignore", ".gitattributes", "a.git", ".github/x", "git", "a~1", "~", "\u200c"])
def test_a_path_that_only_looks_so_is_taken(path: str) -> None:
    check_path(path)


def test_a_path_that_is_no_text_is_refused(shared: Store) -> None:
    with pytest.raises(Malformed, match="not text"):
        shared.objects.apply(None, {"a/\ud800": b"x"})


# -- changes


def test_a_file_keeps_its_mode_when_its_text_changes(shared: Store) -> None:
    objects = shared.objects
    tree = objects.apply(
        None, {"run.sh": TreeEntry(EXECUTABLE, objects.put_blob(b"1")), "to": TreeEntry(LINK, objects.put_blob(b"x"))}
    )
    tree = objects.apply(tree, {"run.sh": b"2", "to": b"text now"})
    assert {path: entry.mode for path, entry in objects.walk(tree)} == {"run.sh": EXECUTABLE, "to": FILE}


def test_a_change_to_what_is_there_already_makes_nothing(store: Store) -> None:
    objects = store.objects
    tree = objects.apply(None, {"a/b": b"1", "c": b"2"})
    objects.flush()
    assert objects.apply(tree, {"a/b": b"1", "c": b"2", "d": None, "e/f": None}) == tree
    before = set(os.listdir(objects.folder))
    objects.flush()
    assert set(os.listdir(objects.folder)) == before


def test_empty_folders_vanish_and_a_whole_folder_can_be_removed(shared: Store) -> None:
    objects = shared.objects
    tree = objects.apply(None, {"a/b/c": b"1", "a/d": b"2", "e/f/g": b"3", "e/h": b"4"})
    assert [path for path, _ in objects.walk(objects.apply(tree, {"a/b/c": None}))] == ["a/d", "e/f/g", "e/h"]
    assert [path for path, _ in objects.walk(objects.apply(tree, {"e": None, "a/b": None}))] == ["a/d"]
    assert objects.apply(tree, {"a": None, "e": None}) == EMPTY_TREE


def test_a_folder_can_be_taken_over_whole_and_changed_in_the_same_breath(shared: Store) -> None:
    objects = shared.objects
    part = objects.apply(None, {"x": b"1", "y/z": b"2"})
    tree = objects.apply(None, {"at": TreeEntry(FOLDER, part), "at/x": b"new", "other": b"o"})
    assert {path: objects.blob(entry.oid) for path, entry in objects.walk(tree)} == {
        "at/x": b"new", "at/y/z": b"2", "other": b"o",
    }  # fmt: skip
    tree = objects.apply(tree, {"at/y/w": b"3", "at": TreeEntry(FOLDER, part)})
    assert [path for path, _ in objects.walk(tree)] == ["at/x", "at/y/w", "at/y/z", "other"]


def test_file_and_folder_change_places_only_when_the_other_goes(shared: Store) -> None:
    objects = shared.objects
    tree = objects.apply(None, {"a": b"file", "d/e": b"in folder"})
    with pytest.raises(Refused, match=r"a: a file is there"):
        objects.apply(tree, {"a/b": b"x"})
    with pytest.raises(Refused, match=r"d: a folder is there"):
        objects.apply(tree, {"d": b"x"})
    with pytest.raises(Refused, match=r"n: it cannot be a file and a folder"):
        objects.apply(tree, {"n": b"x", "n/m": b"y"})
    for changes in ({"a": None, "a/b": b"x", "d/e": None, "d": b"y"}, {"a/b": b"x", "a": None, "d": b"y", "d/e": None}):
        assert [path for path, _ in objects.walk(objects.apply(tree, changes))] == ["a/b", "d"]
    assert objects.apply(tree, {"a/b": None}) == tree


def test_an_entry_that_names_nothing_or_the_wrong_kind_is_refused(shared: Store) -> None:
    blob = shared.objects.put_blob(b"x")
    with pytest.raises(NotFound, match=r"a/b: object 3{40} is missing"):
        shared.objects.apply(None, {"a/b": TreeEntry(FILE, "3" * 40)})
    with pytest.raises(Malformed, match="not a tree"):
        shared.objects.apply(None, {"a": TreeEntry(FOLDER, blob)})
    with pytest.raises(Malformed, match="not a mode"):
        shared.objects.apply(None, {"a": TreeEntry(0o777, blob)})


def test_a_tree_of_an_old_tool_is_read_and_mended_where_it_changes(store: Store) -> None:
    blob = store.objects.put_blob(b"x")
    raw = b"".join(
        mode + b" " + name + b"\0" + bytes.fromhex(blob) for mode, name in ((b"100664", b"a"), (b"100644", b"b"))
    )
    store.objects.flush()
    old = store.git("hash-object", "-t", "tree", "-w", "--stdin", "--literally", input=raw)
    assert store.objects.entry(old, "a") == TreeEntry(0o100664, blob)
    new = store.objects.apply(old, {"a": b"y", "c": b"z"})
    store.objects.flush()
    store.git("update-ref", "refs/ravi/main", store.git("commit-tree", new, "-m", "mended"))
    store.git("update-ref", "-d", "refs/heads/main")
    os.unlink(store.root / ".git" / "objects" / old[:2] / old[2:])
    store.fsck()


_names = st.sampled_from(["a", "b", "a.b", "a-", "a0", "B", "é"])
_paths = st.lists(_names, min_size=1, max_size=4).map("/".join)
_changes = st.dictionaries(_paths, st.one_of(st.none(), st.binary(max_size=3)), max_size=8)


def _model(files: Mapping[str, bytes], changes: Mapping[str, bytes | None]) -> dict[str, bytes] | None:
    """What `apply` should make of a set of files, None where it should refuse."""
    gone = [path for path, data in changes.items() if data is None]
    made = {path: data for path, data in changes.items() if data is not None}
    left = {
        path: data for path, data in files.items() if not any(path == one or path.startswith(one + "/") for one in gone)
    } | made
    is_mixed = any(other.startswith(path + "/") for path in left for other in left)
    return None if is_mixed else left


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rounds=st.lists(_changes, min_size=1, max_size=4))
def test_changes_make_what_a_plain_dictionary_would_hold(shared: Store, rounds: list[dict[str, bytes | None]]) -> None:
    objects = shared.objects
    tree, files = EMPTY_TREE, dict[str, bytes]()
    for changes in rounds:
        # a removal and a change below it, in one breath, mean: first remove, then write
        model = _model(files, changes)
        if model is None:
            with pytest.raises(Refused):
                objects.apply(tree, changes)
            continue
        before, old = files, tree
        tree, files = objects.apply(tree, changes), model
        assert {path: objects.blob(entry.oid) for path, entry in objects.walk(tree)} == files
        changed = {path for path in before.keys() | files.keys() if before.get(path) != files.get(path)}
        assert {one.path for one in objects.diff(old, tree)} == changed
        assert [*objects.diff(tree, old)] == [Difference(p, new, old) for p, old, new in objects.diff(old, tree)]
    objects.flush()
    fresh = Objects(shared.dirs.common_dir)  # nothing cached: what git has
    assert {path: fresh.blob(entry.oid) for path, entry in fresh.walk(tree)} == files
    shared.git("read-tree", "--empty")
    if tree != EMPTY_TREE:
        shared.git("update-ref", "refs/ravi/main", shared.git("commit-tree", tree, "-m", "model"))
    fresh.close()


def test_what_the_random_changes_left_is_sound(shared: Store) -> None:
    shared.fsck()


def test_a_wide_tree_is_changed_by_splicing_and_stays_sorted(store: Store) -> None:
    objects = store.objects
    tree = objects.apply(None, {f"t/{n:05}/TASK.md": b"%d" % n for n in range(3000)})
    for n in (0, 1, 1500, 2999):
        tree = objects.apply(tree, {f"t/{n:05}/TASK.md": None, f"t/{n:05}.x": b"x", f"t/{n:05}x/y": b"y"})
    objects.flush()
    store.git("update-ref", "refs/ravi/main", store.git("commit-tree", tree, "-m", "wide"))
    store.fsck()
    assert len(_files(store, tree)) == 3000 + 4


def test_an_oid_that_looks_like_an_entry_does_not_confuse_the_splice(store: Store) -> None:
    module = b"100644 a\0" + b"\x11" * 11  # twenty bytes, as a submodule's commit could be by chance
    oid = module.hex()
    tail = TreeEntry(SUBMODULE, ("11" * 9 + "20" * 11))
    tree = store.objects.put_tree(
        {"0": TreeEntry(SUBMODULE, oid), "a": TreeEntry(FILE, store.objects.put_blob(b"1")), "b": tail}
    )
    tree = store.objects.apply(tree, {"a": b"2", "00": b"3", "b": None})
    assert {name: entry.mode for name, entry in store.objects.tree(tree).items()} == {
        "0": SUBMODULE,
        "00": FILE,
        "a": FILE,
    }
    assert store.objects.tree(tree)["0"].oid == oid


# -- commits


@pytest.mark.parametrize(
    ("signature", "line"),
    [
        (Signature("Ada Lovelace", "ada@x.org", 5, -330), "Ada Lovelace <ada@x.org> 5 -0530"),
        (Signature("A<b>\nauthor x", "a b>\n@x", 5), "A b author x <ab@x> 5 +0000"),
        (Signature("", "ada@x.org", -7, 840), "ada <ada@x.org> 0 +1400"),
        (Signature(" .,;'", "", 1, 9999), "unknown <> 1 +1400"),
        (Signature("Zoë 🙂 \u202e", "z@x", 1), "Zoë 🙂 <z@x> 1 +0000"),
        (Signature("\udcff", "z@x", 1 << 70), "z <z@x> 1099511627776 +0000"),
    ],
)
def test_a_signature_cannot_break_the_line_it_is_in(signature: Signature, line: str) -> None:
    assert signature.render() == line


def test_hostile_words_make_a_sound_commit(store: Store) -> None:
    nasty = Signature("<>\0\n x", "\n>", -1, -1)
    commit = store.objects.put_commit(EMPTY_TREE, (), nasty, nasty, "a\0b\udc80\ntree 0\n")
    store.objects.put_tree({})
    store.objects.flush()
    store.git("update-ref", "refs/heads/main", commit)
    store.fsck()
    assert store.objects.commit(commit).message == "a\ufffdb?\ntree 0\n"


def test_commits_of_any_age_are_read() -> None:
    raw = (
        b"tree " + b"1" * 40 + b"\nparent " + b"2" * 40 + b"\nparent " + b"3" * 40
        + b"\nauthor J\xf6rg <j@x> 1 -0130\ncommitter C <c@x> 2 +0200\nencoding latin-1"
        + b"\ngpgsig -----BEGIN\n \n tree 9\n -----END\n\nGr\xfc\xdfe\n\nmore\n"
    )  # fmt: skip
    commit = parse_commit("0" * 40, raw)
    assert commit.parents == ("2" * 40, "3" * 40)
    assert (commit.author.offset, commit.committer) == (-90, Signature("C", "c@x", 2, 120))
    assert commit.message == "Grüße\n\nmore\n"
    odd = parse_commit("0" * 40, b"tree " + b"1" * 40 + b"\nauthor nobody\nencoding nonsense\n\nx")
    assert (odd.tree, odd.author, odd.message) == ("1" * 40, Signature("", "", 0), "x")


# -- batches, faults


def test_a_batch_that_fails_takes_back_what_only_it_has_put(store: Store) -> None:
    objects = store.objects
    mine, put = objects.put_blob(b"before"), list[str]()

    def work() -> None:
        with objects.batch():
            put.extend(objects.put_blob(data) for data in (b"before", b"both", b"lost"))
            other = threading.Thread(target=objects.put_blob, args=(b"both",))
            other.start()
            other.join()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        work()
    assert put[0] == mine
    assert [objects.kind(oid) for oid in put] == ["blob", "blob", None]
    objects.flush()
    assert store.again().objects.blob(put[1]) == b"both"


def test_a_flush_that_fails_leaves_nothing_on_disk_and_everything_pending(store: Store) -> None:
    objects = store.objects
    oid = objects.put_blob(b"x")
    folder = Path(objects.folder)
    folder.rmdir()
    with pytest.raises(Unavailable, match="nothing was recorded"):
        objects.flush()
    assert objects.blob(oid) == b"x"
    folder.mkdir()
    objects.flush()
    assert store.again().objects.blob(oid) == b"x"


def test_much_that_is_pending_goes_to_the_disk_by_itself(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ravi.store.objects._SPILL", 100_000)
    oids = [store.objects.put_blob(os.urandom(30_000)) for _ in range(10)]
    assert store.objects._pending_bytes < 100_000
    assert len([name for name in os.listdir(store.objects.folder) if name.endswith(".pack")]) >= 3
    assert all(kind == "blob" for kind, _ in store.objects.many(oids))


def test_threads_read_and_write_together(store: Store) -> None:
    objects, faults = store.objects, list[BaseException]()

    def work(n: int) -> None:
        try:
            for k in range(30):
                tree = objects.apply(None, {f"{n}/{k}/{m}": b"%d %d" % (k, m) for m in range(3)})
                if k % 5 == 0:
                    objects.flush()
                    objects.release()
                assert objects.read(tree, f"{n}/{k}/2") == b"%d 2" % k
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults


# -- many packs, few packs


def _packs(store: Store) -> list[str]:
    return sorted(name[:-5] for name in os.listdir(store.objects.folder) if name.endswith(".pack"))


def _small_packs(store: Store, count: int, start: int = 0) -> list[str]:
    oids = []
    for n in range(start, start + count):
        oids.append(store.objects.put_blob(b"blob %d" % n))
        store.objects.flush()
        store.objects.release()
    return oids


def test_many_small_packs_become_one_and_nothing_is_missing(store: Store) -> None:
    oids = _small_packs(store, packs.FOLD_ABOVE + 1)
    assert store.objects.packs() > packs.FOLD_ABOVE
    assert store.objects.fold()
    assert len(_packs(store)) == 1
    assert store.objects.packs() == 1
    assert not store.objects.fold()
    store.git("verify-pack", *(os.path.join(store.objects.folder, name) for name in _packs(store)))
    assert store.git("count-objects", "-v").count("garbage: 0")
    again = store.again()
    assert [data for _, data in again.objects.blobs(oids)] == [b"blob %d" % n for n in range(len(oids))]
    again.close()


def test_the_same_object_in_many_packs_is_kept_once(store: Store) -> None:
    for n in range(packs.FOLD_ABOVE + 1):
        store.objects.put_blob(b"always")
        store.objects.put_blob(b"%d" % n)
        store.objects.flush()
        store.objects.release()
    assert store.objects.fold()
    out = store.git("verify-pack", "-v", os.path.join(store.objects.folder, _packs(store)[0]))
    assert sum(" blob " in line for line in out.splitlines()) == packs.FOLD_ABOVE + 2


def test_folding_copies_an_object_few_times(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    copied = 0
    written = packs._written

    def counted(folder: str, pieces: list[memoryview], table: list[tuple[bytes, int, int]], mode: int) -> str:
        nonlocal copied
        copied += len(table)
        return written(folder, pieces, table, mode)

    monkeypatch.setattr(packs, "_written", counted)
    monkeypatch.setattr(packs, "sync", lambda fd: None)
    monkeypatch.setattr(packs, "sync_folder", lambda path: None)
    count = 2000
    most = 0
    for n in range(count):
        _small_packs(store, 1, n)
        if store.objects.packs() > packs.FOLD_ABOVE:
            store.objects.fold()
        most = max(most, len(_packs(store)))
    assert most <= 40
    assert copied < count * 9  # itself once, then about log2(2000 / 32) times
    assert store.objects.blob(store.objects.put_blob(b"blob 0")) == b"blob 0"


def test_packs_with_deltas_marks_or_an_index_over_many_are_left_alone(store: Store) -> None:
    text = b"".join(b"line %d\n" % n for n in range(2000))
    for n in range(3):
        store.write("big.txt", text + b"%d" % n)
    store.git("repack", "-adq")
    assert "chain length" in store.git(
        "verify-pack", "-v", *(os.path.join(store.objects.folder, name) for name in _packs(store))
    )
    deltas = _packs(store)
    _small_packs(store, 3)
    kept = [name for name in _packs(store) if name not in deltas][:2]
    for name in kept:
        Path(store.objects.folder, name + ".keep").write_text("mine")
    _small_packs(store, packs.FOLD_ABOVE + 1, 100)
    assert store.objects.fold()
    left = _packs(store)
    assert set(deltas) | set(kept) <= set(left)
    assert len(left) == 4
    store.git("multi-pack-index", "write")
    _small_packs(store, packs.FOLD_ABOVE + 1, 200)
    named = set(left)
    assert store.objects.fold()
    assert named <= set(_packs(store))
    store.git("multi-pack-index", "verify")
    store.fsck()


def test_a_pack_that_goes_while_it_is_folded_is_no_fault(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    _small_packs(store, packs.FOLD_ABOVE + 3)
    whole = packs._whole
    seen = 0

    def gone(path: str) -> object:
        nonlocal seen
        seen += 1
        if seen == 2:
            os.unlink(path + ".pack")
            os.unlink(path + ".idx")
        return whole(path)

    monkeypatch.setattr(packs, "_whole", gone)
    assert store.objects.fold()
    assert len(_packs(store)) == 1


def test_a_damaged_pack_is_not_folded_away(store: Store) -> None:
    _small_packs(store, packs.FOLD_ABOVE + 2)
    broken = os.path.join(store.objects.folder, _packs(store)[0] + ".pack")
    data = bytearray(Path(broken).read_bytes())
    data[14] ^= 1
    os.chmod(broken, 0o644)
    Path(broken).write_bytes(data)
    assert store.objects.fold()
    assert len(_packs(store)) == 2
    assert os.path.exists(broken)


def test_two_do_not_fold_at_once(store: Store) -> None:
    _small_packs(store, packs.FOLD_ABOVE + 1)
    other = store.again()
    with other.objects._folding.held():
        assert not store.objects.fold()
    assert store.objects.fold()
    other.close()


def test_only_what_is_old_and_ours_is_swept(store: Store) -> None:
    folder = Path(store.objects.folder)
    old = time.time() - 3600
    named = "pack-" + "1" * 40
    for name, text, when in (
        (".ravi-1-1.pack.tmp", "", old), (".ravi-1-2.pack.tmp", "", time.time()), ("tmp_pack_abc", "", old),
        (f"{named}.keep", "ravi 1\n", old), ("pack-x.keep", "fetch-pack 1\n", old), (f"{named}.idx", "", old),
    ):  # fmt: skip
        (folder / name).write_text(text)
        os.utime(folder / name, (when, when))
    store.objects.packs()
    assert sorted(os.listdir(folder)) == [".ravi-1-2.pack.tmp", "pack-x.keep", "tmp_pack_abc"]


_COMMIT_FOR_EVER = """
from pathlib import Path
from workshop import opened, puts
store = opened(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    print(store.writer.record(puts(f"notes/{n % 7}/{n}.md", b"%d" % n)), flush=True)
store.close()
"""


@pytest.mark.fault
@pytest.mark.parametrize(
    "work",
    [
        ["repack", "-adq"],
        ["gc", "--quiet", "--prune=now"],
        ["repack", "-dq", "--geometric=2"],
        ["prune-packed"],
        ["pack-refs", "--all", "--prune"],
        ["multi-pack-index", "write"],
    ],
    ids=" ".join,
)
def test_commits_go_on_and_are_all_there_while_git_cleans_up(store: Store, work: list[str]) -> None:
    """A person may run what git offers for cleaning, at any moment, as often as they like."""
    command = python(_COMMIT_FOR_EVER, store.root, times(120, 1500))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writing:
        rounds = 0
        while writing.poll() is None:
            done = subprocess.run(
                ["git", *work], cwd=store.root, capture_output=True, env=os.environ | PLAIN, check=False
            )
            rounds += done.returncode == 0
        assert writing.stdout is not None
        assert writing.stderr is not None
        acknowledged, words = writing.stdout.read().decode().split(), writing.stderr.read().decode()
    assert writing.returncode == 0, words
    assert rounds > 0
    acknowledged.append(store.write("last.md", b"mends an index over many packs that was written meanwhile"))
    store.fsck()
    assert set(acknowledged) == set(store.git("rev-list", "refs/ravi/main").split())


_FOLD = """
from pathlib import Path
from workshop import opened
store = opened(Path(sys.argv[1]))
store.objects.fold()
store.close()
"""


@pytest.mark.fault
@pytest.mark.parametrize("call", ["unlink", "rename", "fsync", "openat"])
def test_folding_killed_at_any_call_loses_nothing(store: Store, call: str) -> None:
    """Killed at the n-th call, for many n: every object is still there, and the next fold ends the work."""
    if not _can_trace():
        pytest.skip("strace is not installed, or not allowed here")
    oids = _small_packs(store, packs.FOLD_ABOVE + 4)
    fresh = iter(range(1000, 100_000))
    killed = 0
    for n in _spread(call, times(5, 40)):
        inject = f"inject={call}:signal=SIGKILL:when={n}"
        command = [*TRACE, "-e", f"trace={call}", "-e", inject, *python(_FOLD, store.root)]
        killed += subprocess.run(command, check=False, capture_output=True).returncode == -signal.SIGKILL
        again = store.again()
        assert len(list(again.objects.blobs(oids))) == len(oids)
        while len(_packs(store)) <= packs.FOLD_ABOVE + 2:
            oids += _small_packs(store, 1, next(fresh))
        again.close()
    assert killed > 0
    store.fsck()
    for name in os.listdir(store.objects.folder):  # much later: the marks and rubbish of the dead are old
        os.utime(os.path.join(store.objects.folder, name), (0, 0))
    assert store.again().objects.packs() > packs.FOLD_ABOVE
    assert store.objects.fold()
    store.fsck()


def _spread(call: str, count: int) -> list[int]:
    """Which calls to fail: all of the few, some of the many."""
    last = {"unlink": 70, "rename": 2, "fsync": 3, "openat": 300}[call]
    return sorted({1 + n * (last - 1) // max(count - 1, 1) for n in range(count)})


def _can_trace() -> bool:
    try:
        return subprocess.run([*TRACE, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False
