"""Front matter of two writers: merged by key, with everybody's comments, and conflicts by their names."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravi.core import spelling
from ravi.core.document import merge_front, parse


def doc(front: str, body: str = "body\n") -> bytes:
    return f"---\n{front}---\n{body}".encode()


BASE = "# mine\nid: a\nowner: ann  # who\nstatus: open\nlabels: [x, y]\n# end\n"


@pytest.mark.parametrize(
    ("ours", "theirs", "merged"),
    [
        (BASE, BASE, BASE),
        (BASE.replace("open", "done"), BASE, BASE.replace("open", "done")),
        (BASE, BASE.replace("open", "done"), BASE.replace("open", "done")),
        # neighbouring lines, where a merge by text sees a conflict
        (BASE.replace("open", "done"), BASE.replace("ann", "bob"), BASE.replace("open", "done").replace("ann", "bob")),
        # comments of either side stay
        (BASE.replace("# who", "# the owner"), BASE.replace("# mine", "# ours"),
         BASE.replace("# who", "# the owner").replace("# mine", "# ours")),
        (BASE.replace("id: a\n", "id: a\n# why\nnew: 1  # n\n"), BASE.replace("open", "done"),
         BASE.replace("id: a\n", "id: a\n# why\nnew: 1  # n\n").replace("open", "done")),
        # removed by one, untouched by the other
        (BASE.replace("status: open\n", ""), BASE.replace("ann", "bob"),
         BASE.replace("status: open\n", "").replace("ann", "bob")),
        (BASE.replace("ann", "bob"), BASE.replace("status: open\n", ""),
         BASE.replace("status: open\n", "").replace("ann", "bob")),
        # lists are joined
        (BASE.replace("[x, y]", "[x, z]"), BASE.replace("[x, y]", "[w, x, y]"), BASE.replace("[x, y]", "[w, x, z]")),
        # the same change twice, spelled differently
        (BASE.replace("open", "done"), BASE.replace("open", "'done'"), BASE.replace("open", "'done'")),
    ],
)  # fmt: skip
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_both_sides_changes_arrive(ours: str, theirs: str, merged: str, newline: str) -> None:
    sides = [doc(BASE), doc(ours), doc(theirs, "their body").replace(b"\n", newline.encode())]
    found = merge_front(sides[0], sides[1], sides[2])
    assert found.data.decode() == doc(merged, "their body").decode().replace("\n", newline)
    assert found.conflicts == ()


@pytest.mark.parametrize(
    ("sides", "prefer", "merged", "conflicts"),
    [
        (("s: a\n", "s: b\n", "s: c\n"), None, {"s": "c"}, ("s",)),
        (("s: a\n", "s: b\n", "s: c\n"), "theirs", {"s": "c"}, ("s",)),
        (("s: a\n", "s: b\n", "s: c\n"), "ours", {"s": "b"}, ("s",)),
        (("s: a\n", "", "s: c\n"), None, {"s": "c"}, ("s",)),
        (("s: a\n", "", "s: c\n"), "ours", {}, ("s",)),
        (("s: a\n", "s: b\n", ""), None, {}, ("s",)),
        (("s: a\n", "s: b\n", ""), "ours", {"s": "b"}, ("s",)),
        (("", "s: b\n", "s: c\n"), None, {"s": "c"}, ("s",)),
        (("", "s: b\n", "t: c\n"), None, {"s": "b", "t": "c"}, ()),
        (("l: [a]\n", "l: [b]\n", "l: [c]\n"), None, {"l": ["c"]}, ("l",)),
        (("labels: [a, b]\n", "labels: [b, c]\n", "labels: [a, b, d]\n"), None, {"labels": ["b", "d", "c"]}, ()),
        (("labels: a\n", "labels: [b]\n", "labels: [c]\n"), None, {"labels": ["c", "b"]}, ()),
        (("links: {related: [a]}\n", "links: {related: [a, b]}\n", "links: {related: [a, c], duplicates: [d]}\n"), None,
         {"links": {"related": ["a", "c", "b"], "duplicates": ["d"]}}, ()),
        (("env: {a: 1, b: 1}\n", "env: {a: 2, b: 1}\n", "env: {a: 1, b: 3, c: 1}\n"), None,
         {"env": {"a": 2, "b": 3, "c": 1}}, ()),
        (("env: {a: 1}\n", "env: {a: 2}\n", "env: {a: 3}\n"), "ours", {"env": {"a": 2}}, ("env.a",)),
        (("updated: 2026-01-01\n", "updated: 2026-01-03\n", "updated: 2026-01-02\n"), None,
         {"updated": "2026-01-03"}, ()),
        (("n: 1\n", "n: true\n", "n: 1\n"), None, {"n": True}, ()),
    ],
)  # fmt: skip
def test_what_both_changed_is_decided_and_named(
    sides: tuple[str, str, str], prefer: str | None, merged: dict[str, Any], conflicts: tuple[str, ...]
) -> None:
    base, ours, theirs = map(doc, sides)
    found = merge_front(base, ours, theirs, prefer)
    assert spelling.same(dict(parse(found.data).front), merged)
    assert found.conflicts == conflicts


def test_layouts_that_do_not_fit_together_are_merged_by_value() -> None:
    found = merge_front(doc("a: 1\nb: 1\n"), doc("a: 1\nb: |-\n  x\n  y\n"), doc("  a: 2\n  b: 1\n"))
    assert parse(found.data).front == {"a": 2, "b": "x\ny"}
    assert merge_front(doc("a: 1\n"), doc("a: 2\nb: 1\n"), doc("{a: 1, c: 3}\n")).conflicts == ()


def test_a_side_without_front_matter_is_merged_too() -> None:
    assert merge_front(b"text", b"---\nid: a\n---\ntext", b"new text").data == b"---\nid: a\n---\nnew text"
    assert merge_front(b"", doc("a: 1\n"), doc("b: 1\n", "x")).data == doc("b: 1\na: 1\n", "x")
    assert merge_front(doc("a: 1\n"), doc("a: 1\nb: 2\n"), b"only text").data == b"---\nb: 2\n---\nonly text"


def test_line_ends_that_a_writer_mixed_stay_mixed() -> None:
    found = merge_front(b"---\na: 1\nb: 1\n---\n", b"---\na: 1\nb: 2\n---\n", b"---\r\na: 3\r\nb: 1\n# c\n---\n")
    assert found.data == b"---\r\na: 3\r\nb: 2\r\n# c\n---\n"


_VALUE = st.sampled_from(["1", "2", "x", "[p]", "[p, q]", "{k: v}", "|-\n  l\n  m", "'no'", "~"])
_SIDE = st.dictionaries(st.sampled_from(["id", "status", "labels", "env", "note"]), _VALUE, max_size=5)


def _written(side: dict[str, str], note: str) -> bytes:
    return doc("".join(f"# {note} {key}\n{key}: {value}\n" for key, value in side.items()))


@given(_SIDE, _SIDE, _SIDE, st.sampled_from([None, "ours", "theirs"]))
def test_no_change_of_one_side_alone_is_ever_lost(
    base: dict[str, str], ours: dict[str, str], theirs: dict[str, str], prefer: str | None
) -> None:
    found = merge_front(_written(base, "b"), _written(ours, "b"), _written(theirs, "b"), prefer)
    b, o, t, merged = (parse(data).front for data in (*(_written(s, "b") for s in (base, ours, theirs)), found.data))
    for key in {*b, *o, *t}:
        base_value, our_value, their_value = (
            side.get(key) for side in (b, o, t)
        )  # nothing said and no key are the same
        if our_value == base_value:
            assert merged.get(key) == their_value
        elif their_value in (base_value, our_value):
            assert merged.get(key) == our_value
        elif key in found.conflicts:
            assert merged.get(key) == (our_value if prefer == "ours" else their_value)
