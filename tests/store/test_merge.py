"""Merging what a person and ravi did at once: by key, by line, by file; nobody's text is lost."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from workshop import Store, init

from ravi.core import document
from ravi.store.merge import merge_blobs, merge_trees
from ravi.store.objects import EXECUTABLE, FILE, LINK, Change, TreeEntry

BASE = b"""---
# who
id: a
status: open # now
labels: [x]
updated: 2026-01-01T00:00:00.000Z
---

One.

Two.

Three.
"""


def doc(*changes: tuple[bytes, bytes]) -> bytes:
    data = BASE
    for old, new in changes:
        assert old in data
        data = data.replace(old, new)
    return data


@pytest.mark.parametrize(
    ("ours", "theirs", "merged", "conflicts"),
    [
        # one side only
        ([], [(b"Two", b"2")], [(b"Two", b"2")], ()),
        ([(b"Two", b"2")], [], [(b"Two", b"2")], ()),
        # neighbouring keys, which by line would be a conflict
        (
            [(b"open # now", b"done # now")],
            [(b"[x]", b"[x, y]")],
            [(b"open # now", b"done # now"), (b"[x]", b"[x, y]")],
            (),
        ),
        # front matter and body
        ([(b"open # now", b"done # now")], [(b"Two", b"2")], [(b"open # now", b"done # now"), (b"Two", b"2")], ()),
        # the same on both sides
        ([(b"Two", b"2")], [(b"Two", b"2")], [(b"Two", b"2")], ()),
        # two places in the body
        ([(b"One", b"1")], [(b"Three", b"3")], [(b"One", b"1"), (b"Three", b"3")], ()),
        # labels are joined, the later stamp stays
        (
            [(b"[x]", b"[x, o]"), (b"2026-01-01", b"2026-01-03")],
            [(b"[x]", b"[x, t]"), (b"2026-01-01", b"2026-01-02")],
            [(b"[x]", b"[x, t, o]"), (b"2026-01-01", b"2026-01-03")],
            (),
        ),
        # one key, two values
        ([(b"open", b"done")], [(b"open", b"failed")], [(b"open", b"failed")], ("status",)),
        # one line, two texts
        ([(b"Two", b"ours")], [(b"Two", b"theirs")], [(b"Two", b"theirs")], ("body",)),
        (
            [(b"Two", b"ours"), (b"id: a", b"id: b")],
            [(b"Two", b"theirs")],
            [(b"Two", b"theirs"), (b"id: a", b"id: b")],
            ("body",),
        ),
    ],
)
def test_a_document_is_merged_by_key_and_by_line(ours, theirs, merged, conflicts):
    result = merge_blobs("tasks/a/TASK.md", BASE, doc(*ours), doc(*theirs))
    assert result.data == doc(*merged)
    assert result.conflicts == conflicts


def test_who_is_preferred_wins_a_conflict():
    ours, theirs = doc((b"Two", b"ours"), (b"open", b"done")), doc((b"Two", b"theirs"), (b"open", b"failed"))
    result = merge_blobs("tasks/a/TASK.md", BASE, ours, theirs, "ours")
    assert result.data == ours
    assert set(result.conflicts) == {"status", "body"}


def test_line_ends_that_one_side_changed_are_no_conflict():
    theirs = doc((b"Three", b"3")).replace(b"\n", b"\r\n")
    result = merge_blobs("tasks/a/TASK.md", BASE, doc((b"One", b"1"), (b"open # now", b"done # now")), theirs)
    assert result.data == doc((b"One", b"1"), (b"Three", b"3"), (b"open # now", b"done # now")).replace(b"\n", b"\r\n")
    assert result.conflicts == ()
    plain = merge_blobs("n.txt", b"a\nb\nc\n", b"a\r\nb\r\nc\r\n", b"a\nb\nC\n")
    assert plain.data == b"a\r\nb\r\nC\r\n"


def test_a_document_that_cannot_be_read_is_merged_as_text():
    broken = doc((b"id: a", b"id: [a"))
    result = merge_blobs("tasks/a/TASK.md", BASE, doc((b"Three", b"3")), broken)
    assert result.data == broken.replace(b"Three", b"3")


def test_two_new_files_and_two_binaries_go_to_the_preferred_side():
    assert merge_blobs("n.txt", None, b"ours\n", b"theirs\n").data == b"theirs\n"
    assert merge_blobs("n.bin", b"\0a", b"\0b", b"\0c") == merge_blobs("n.bin", b"\0x", b"\0b", b"\0c")
    assert merge_blobs("n.bin", b"\0a", b"\0b", b"\0c").data == b"\0c"
    assert merge_blobs("n.bin", b"\0a", b"\0b", b"\0c", "ours").data == b"\0b"


def test_logs_keep_what_both_added():
    result = merge_blobs("sessions/s/log/2026-01-01.md", b"a\n", b"a\nours\n", b"a\ntheirs\n")
    assert result.conflicts == ()
    assert set(result.data.split()) == {b"a", b"ours", b"theirs"}


LINES = st.lists(st.sampled_from([b"a", b"b", b"c", b"", b"# d"]), max_size=6).map(
    lambda x: b"".join(i + b"\n" for i in x)
)
FRONTS = st.dictionaries(
    st.sampled_from(["status", "title", "labels", "due"]), st.sampled_from(["x", "y", "z"]), max_size=3
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.tuples(FRONTS, LINES), st.tuples(FRONTS, LINES), st.tuples(FRONTS, LINES))
def test_any_merge_can_be_read_and_keeps_what_only_one_side_changed(base, ours, theirs):
    was, mine, yours = (document.render(front, body.decode()) for front, body in (base, ours, theirs))
    result = merge_blobs("tasks/a/TASK.md", was, mine, yours)
    front = document.parse(result.data).front
    for key in {*base[0], *ours[0], *theirs[0]}:
        if ours[0].get(key) == base[0].get(key):
            assert front.get(key) == theirs[0].get(key)
        elif theirs[0].get(key) == base[0].get(key):
            assert front.get(key) == ours[0].get(key)


# -- trees


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return init(tmp_path / "w")


def tree(store: Store, files: dict[str, Change]) -> str:
    return store.objects.apply(None, files)


def merged(store: Store, base: dict[str, Change], ours: dict[str, Change], theirs: dict[str, Change], prefer="theirs"):
    """The files that come of it, and the conflicts."""
    mine = tree(store, ours)
    result = merge_trees(store.objects, tree(store, base), mine, tree(store, theirs), prefer)
    after = store.objects.apply(mine, result.changes)
    return {path: store.objects.blob(entry.oid) for path, entry in store.objects.walk(after)}, set(result.conflicts)


def test_trees_are_merged_file_by_file(store):
    base = {"a": b"1\n", "b": b"1\n", "c": b"1\n", "d": b"1\n"}
    ours = {"a": b"2\n", "b": b"1\n", "c": b"1\n", "new": b"o\n"}
    theirs = {"a": b"1\n", "b": b"2\n", "d": b"1\n", "newer": b"t\n"}
    assert merged(store, base, ours, theirs) == ({"a": b"2\n", "b": b"2\n", "new": b"o\n", "newer": b"t\n"}, set())


def test_a_file_that_one_deleted_and_the_other_changed_is_a_conflict(store):
    base = {"a": b"1\n", "b": b"1\n", "z": b"\n"}
    ours = {"a": b"2\n", "z": b"\n"}
    theirs = {"b": b"2\n", "z": b"\n"}
    told = {("a", "deleted"), ("b", "deleted by ravi")}
    assert merged(store, base, ours, theirs) == ({"b": b"2\n", "z": b"\n"}, told)
    assert merged(store, base, ours, theirs, "ours") == ({"a": b"2\n", "z": b"\n"}, told)


def test_a_moved_file_takes_our_change_along(store):
    task = doc()
    base = {"tasks/a/TASK.md": task, "tasks/a/x": b"1\n"}
    ours = {"tasks/a/TASK.md": doc((b"open", b"done")), "tasks/a/x": b"2\n"}
    theirs = {"tasks/b/TASK.md": doc((b"Two", b"2")), "tasks/b/x": b"1\n"}
    expected = {"tasks/b/TASK.md": doc((b"open", b"done"), (b"Two", b"2")), "tasks/b/x": b"2\n"}
    assert merged(store, base, ours, theirs) == (expected, set())


def test_what_we_added_to_a_task_goes_where_they_moved_it(store):
    base = {"tasks/a/TASK.md": doc(), "tasks/a/b/TASK.md": doc((b"id: a", b"id: b"))}
    ours = {**base, "tasks/a/runs/1/RUN.md": b"1\n", "tasks/a/b/outputs/o": b"o\n", "tasks/c": b"c\n"}
    theirs = {path.replace("/a/", "/2027/x/", 1): data for path, data in base.items()}
    added = {"tasks/2027/x/runs/1/RUN.md": b"1\n", "tasks/2027/x/b/outputs/o": b"o\n", "tasks/c": b"c\n"}
    assert merged(store, base, ours, theirs) == ({**theirs, **added}, set())


def test_what_belongs_to_a_task_follows_it_and_nothing_else_does(store):
    base = {"tasks/a/TASK.md": doc(), "tasks/a/runs/1/RUN.md": b"1\n", "tasks/a/outputs/o": b"o\n", "tasks/a/x": b"\n"}
    theirs = {
        "tasks/z/TASK.md": doc(),
        "tasks/a/runs/1/RUN.md": b"1\n",
        "tasks/z/outputs/o": b"2\n",
        "tasks/a/x": b"\n",
    }
    ours = {**base, "tasks/a/TASK.md": doc((b"open", b"done"))}
    followed = {
        "tasks/z/TASK.md": doc((b"open", b"done")),
        "tasks/z/runs/1/RUN.md": b"1\n",
        "tasks/z/outputs/o": b"2\n",
    }
    assert merged(store, base, ours, theirs) == ({**followed, "tasks/a/x": b"\n"}, set())


def test_a_file_and_a_folder_in_one_place_are_a_conflict(store):
    base = {"z": b"\n"}
    assert merged(store, base, {**base, "a": b"o"}, {**base, "a/b": b"t"}) == (
        {"a/b": b"t", "z": b"\n"},
        {("a", "replaced")},
    )
    assert merged(store, base, {**base, "a/b": b"o"}, {**base, "a": b"t"}) == (
        {"a": b"t", "z": b"\n"},
        {("a", "replaced"), ("a/b", "replaced")},
    )
    assert merged(store, base, {**base, "a": b"o"}, {**base, "a/b": b"t"}, "ours")[0] == {**base, "a": b"o"}


def test_the_x_bit_and_links_go_with_who_changed_them(store):
    blob = store.objects.put_blob(b"x\n")
    base = {"a": TreeEntry(FILE, blob), "b": TreeEntry(FILE, blob)}
    ours = {"a": b"y\n", "b": TreeEntry(EXECUTABLE, blob)}
    theirs = {"a": TreeEntry(EXECUTABLE, blob), "b": b"y\n"}
    mine = tree(store, ours)
    result = merge_trees(store.objects, tree(store, base), mine, tree(store, theirs))
    after = store.objects.apply(mine, result.changes)
    assert {path: entry.mode for path, entry in store.objects.walk(after)} == {"a": EXECUTABLE, "b": EXECUTABLE}
    assert store.objects.read(after, "a") == store.objects.read(after, "b") == b"y\n"
    linked = {"a": TreeEntry(LINK, blob), "b": TreeEntry(FILE, blob)}
    result = merge_trees(store.objects, tree(store, base), mine, tree(store, linked))
    assert result.changes["a"] == TreeEntry(LINK, blob)


def test_nothing_is_the_start_of_everything(store):
    files: dict[str, Change] = {"a": b"1\n"}
    result = merge_trees(store.objects, None, None, tree(store, files))
    assert store.objects.apply(None, result.changes) == tree(store, files)
    assert merge_trees(store.objects, tree(store, files), tree(store, files), tree(store, files)).changes == {}
