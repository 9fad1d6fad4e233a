"""Documents: what is read, what is refused and with which words, and that an edit touches nothing it does not mean."""

import contextlib
import string
import subprocess
import sys
import textwrap
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ravi.core import document, front, spelling, yaml_guard
from ravi.core.document import Conflicted, Document, edit, parse, render, sides, split
from ravi.errors import Malformed


def doc(front_text: str, body: str = "") -> bytes:
    return f"---\n{front_text}---\n{body}".encode()


# -- reading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Document({})),
        (b"just text\n", Document({}, "just text\n")),
        (b"\xef\xbb\xbfjust text", Document({}, "just text")),
        (b"---\n---\n", Document({}, "", {}, 3)),
        (b"---\n---", Document({}, "", {}, 2)),
        (b"---\n# only a comment\n\n---\nx", Document({}, "x", {}, 5)),
        (b"---\nid: a\n---\nbody", Document({"id": "a"}, "body", {"id": 2}, 4)),
        (b"\xef\xbb\xbf---\nid: a\n---\nbody", Document({"id": "a"}, "body", {"id": 2}, 4)),
        (b"---  \t\r\nid: a\r\n---\t\r\nbody\r\n", Document({"id": "a"}, "body\r\n", {"id": 2}, 4)),
        (b"---\nid: a\n# --- x ---\n---\n---\nb\n---\n", Document({"id": "a"}, "---\nb\n---\n", {"id": 2}, 5)),
        (b"----\nid: a\n----\n", Document({}, "----\nid: a\n----\n")),
        (b" ---\nid: a\n---\n", Document({}, " ---\nid: a\n---\n")),
        (b"---\nt: |\n  a\n  ---\n  b\n---\n", Document({"t": "a\n---\nb\n"}, "", {"t": 2}, 7)),
    ],
)
def test_front_matter_lies_between_fences_and_all_the_rest_is_body(data: bytes, expected: Document) -> None:
    assert parse(data) == expected
    assert b"".join(split(data)) == data


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"), ("no", "no"), ("yes", "yes"), ("off", "off"), ("y", "y"), ("No", "No"),
        ("1.10", "1.10"), ("12:30", "12:30"), ("1:30:00", "1:30:00"), ("2026-11-20", "2026-11-20"),
        ("2026-11-20T10:22:33Z", "2026-11-20T10:22:33Z"), ("2026-11-20 10:22:33", "2026-11-20 10:22:33"),
        ("007", "007"), ("0x1f", "0x1f"), ("0o17", "0o17"), ("1_000", "1_000"), ("+1", "+1"), ("-0", "-0"),
        ("1e3", "1e3"), (".5", ".5"), (".inf", ".inf"), ("True", "True"), ("NULL", "NULL"), ("=", "="),
        ("9" * 40, "9" * 40),
        ("true", True), ("false", False), ("null", None), ("~", None), ("", None), ("0", 0), ("42", 42), ("-7", -7),
        ("'true'", "true"), ('"42"', "42"), ("''", ""), ("a # b", "a"), ("a#b", "a#b"), ("it's", "it's"),
        ("[a, 1, 1.10, no, true, null, 'x, y']", ["a", 1, "1.10", "no", True, None, "x, y"]),
        ("{a: 1.10, b: {c: [on]}}", {"a": "1.10", "b": {"c": ["on"]}}),
        ("&x [a]", ["a"]),
        ("Fix: later", Malformed),
    ],
)  # fmt: skip
def test_a_bare_word_is_never_turned_into_something_else(written: str, value: Any) -> None:
    data = doc(f"k: {written}\n")
    if value is Malformed:
        with pytest.raises(Malformed):
            parse(data)
    else:
        found = parse(data).front["k"]
        assert found == value
        assert type(found) is type(value)


_MANY = "".join(f"k{n}: v\n" for n in range(9_000))
_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)
_DEEP_BOMB = "a: &a0 [[[[[[[[x]]]]]]]]\n" + "".join(f"k{n}: &a{n} [[[[[[[[*a{n - 1}]]]]]]]]\n" for n in range(1, 10))


@pytest.mark.parametrize(
    ("data", "line", "key", "words"),
    [
        (b"---\nid: a\n", 1, "", "no end"),
        (b"---", 1, "", "no end"),
        (b"---\rid: a\r---\r", 1, "", "carriage returns"),
        (doc("id: a\ntitle: caf\xe9\n").decode().encode("latin-1"), 3, "", "not UTF-8: byte 0xE9"),
        (b"---\nid: a\n---\n\nol\xe9\n", 5, "", "not UTF-8: byte 0xE9"),
        (b"---\nid: a\n---\n\n\0\n", 5, "", "NUL"),
        (doc('id: "a\\0b"\n'), 2, "id", "NUL"),
        (doc("id: a\nx: b\x07c\n"), 3, "x", "control character U+0007"),
        (doc("id: a\n" + "x: " + "[" * 48_000 + "\n"), 3, "x", "nested more than 32 deep"),
        (doc("id: a\n" + "x: " + "{a: " * 12_000 + "\n"), 3, "x", "nested more than 32 deep"),
        (doc("x: " + "- " * 40 + "a\n"), 2, "x", ""),
        (doc("".join(f"{' ' * n}k:\n" for n in range(40))), 34, "k", "nested more than 32 deep"),
        (doc("a: &a b\nc: [" + "*a, " * 65 + "]\n"), 3, "c", "more than 64 aliases"),
        (doc(_BOMB), 6, "e", "more than 20000 values"),
        (doc(_DEEP_BOMB), 5, "k3", "nested more than 32 deep"),
        (doc("a: &a [*a]\n"), 2, "a", "stands for nothing"),
        (doc("a: *b\n"), 2, "a", "stands for nothing"),
        (doc("a: &a {x: 1}\nb:\n  <<: *a\n"), 4, "", "merge keys"),
        (doc("x: [" + "a," * 20_001 + "]\n"), 2, "x", "more than 20000 values"),
        (doc(_MANY), 2, "", "bytes; 65536 are allowed"),
        (doc("a: " + "x" * 33_000 + "\n"), 2, "a", "33000 letters"),
        (doc("a: 1\nx: !!python/object/apply:os.system [id]\n"), 3, "x", "tag"),
        (doc("x: !!str 1\n"), 2, "x", "tag"),
        (doc("x: ! a\n"), 2, "x", "tag"),
        (doc("id: a\nb: 1\nid: b\n"), 4, "id", "twice"),
        (doc("a: {b: 1, b: 2}\n"), 2, "b", "twice"),
        (doc("id: a\ntrue: x\n"), 3, "", "key true is not text; put it in quotes"),
        (doc("True: x\n"), 2, "", "key True is not text; put it in quotes"),
        (doc("null: x\n"), 2, "", "key null is not text"),
        (doc("~: x\n"), 2, "", "key ~ is not text"),
        (doc("1: x\n"), 2, "", "key 1 is not text"),
        (doc("1.5: x\n"), 2, "", "key 1.5 is not text"),
        (doc("env:\n  2026: x\n"), 3, "", "key 2026 is not text"),
        (doc(": x\n"), 2, "", "not YAML"),
        (doc("? [a]\n: x\n"), 2, "", "a key is text"),
        (doc("? {a: b}\n: x\n"), 2, "", "a key is text"),
        (doc("a: &a b\n*a : c\n"), 3, "", "a key is text, not an alias"),
        (doc('"a\\nb": c\n'), 2, "", "cannot be printed"),
        (doc("- a\n- b\n"), 2, "", "not a mapping"),
        (doc("just words\n"), 2, "", "not a mapping"),
        (doc("[a]\n"), 2, "", "not a mapping"),
        (doc("*a\n"), 2, "", "stands for nothing"),
        (doc("a: 1\n...\n"), 3, "", "`...` ends the document"),
        (doc("a: 1\n--- \nb: 2\n").replace(b"--- ", b"--- b"), 3, "", "second document"),
        (doc("--- {a: 1}\n"), 2, "", "second document"),
        (doc("%YAML 1.1\na: 1\n"), 3, "a", "not YAML"),
        (doc("title: Fix: the thing\n"), 2, "title", "not YAML"),
        (doc("a: 1\n  b: 2\n"), 3, "b", "not YAML"),
        (doc("a: [1, 2\nb: 3\n"), 3, "b", "not YAML"),
        (doc("a: 'x\n"), 2, "a", "not YAML"),
        (doc("a:\tb\n\tc: d\n"), 3, "c", "not YAML"),
        (doc("a: @x\n"), 2, "a", "not YAML"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_with_its_line_and_key(data: bytes, line: int, key: str, words: str) -> None:
    with pytest.raises(Malformed) as fault:
        parse(data, "tasks/a/TASK.md")
    assert words in fault.value.message
    assert (fault.value.path, fault.value.line, fault.value.key) == ("tasks/a/TASK.md", line, key)


def test_a_message_has_the_place_first() -> None:
    with pytest.raises(Malformed) as fault:
        parse(doc("true: x\n"), "tasks/login.md")
    assert str(fault.value) == "tasks/login.md:2: key true is not text; put it in quotes"


def test_bounded_aliases_are_read() -> None:
    assert parse(doc("a: &a {x: [1]}\nb: *a\nc: [*a, *a]\n")).front["c"] == [{"x": [1]}, {"x": [1]}]


def test_brackets_that_kill_a_yaml_composer_do_not_kill_a_process_with_a_small_stack() -> None:
    program = """
        import resource
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 18, 1 << 18))
        from ravi.core import document
        from ravi.errors import Malformed
        for text in ("[" * 48_000, "{a: " * 12_000, "- " * 24_000, "? " * 24_000, "[{" * 20_000, "!a " * 9000):
            for data in (f"---\\nx: {text}\\n---\\n", f"---\\n{text}\\n---\\n"):
                try:
                    document.parse(data.encode())
                except Malformed as fault:
                    print(fault.line)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == 12


def test_a_plain_document_is_read_and_edited_without_importing_yaml() -> None:
    program = """
        import sys
        from ravi.core import document, task, run, agent
        data = b'''---
        id: a  # mine
        title: "Fix: it"
        labels: [a, b]
        depends_on:
          - x
        summary: |
          one

          two
        ---
        body
        '''
        data = document.edit(data, {"status": "done", "labels": ["c"], "summary": "a\\nb", "depends_on": ["x", "y"]})
        assert task.read("t/TASK.md", document.parse(data).front, "").summary == "a\\nb"
        print(*sorted({"yaml", "frontmatter", "pathlib", "json", "difflib", "shlex"} & set(sys.modules)))
    """
    program = "\n".join(line[8:] for line in program.splitlines())
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, check=False, env=_env()
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "\n")


def _env() -> dict[str, str]:
    return {"PYTHONPATH": ":".join(path for path in sys.path if path)}


_FRAGMENTS = (
    *(
        "key",
        "a",
        "b",
        "id",
        "true",
        "null",
        "on",
        "-",
        "- ",
        "- x",
        "- x: y",
        "-5",
        ": ",
        ":",
        "#",
        " # c",
        "# c",
        "[",
        "]",
    ),
    *("[a, b]", "[a,b ]", "[]", "[a, [b]]", "[- a]", "{", "}", "{a: b}", "'", '"', "'q'", '"q"', "'a''b'", '"a\\n"'),
    *(
        "|",
        "|-",
        "|+",
        ">",
        "|2",
        "\n",
        "\n  ",
        "\n ",
        "\r\n",
        "\r",
        "\t",
        "é",
        "日本",
        "\x85",
        "\u2028",
        "\xa0",
        "😀",
        "~",
    ),
    *("1", "007", "1.10", "?", "? ", "!", "!!str x", "&a", "*a", "@", "`", "%", "...", "---", "<<", "=", "a b", "x:y"),
    *("http://x/y", "  ", ",", "\n- x", "\n  - y", "\n  - z", "\nkey2: v", "\nkey3:", "\nb: |", "\nb: |-", "\n  line"),
    *("\n\n", "\n  # c", "\u200b", "\ufeff", "\x7f", "_"),
)
_LINES = st.one_of(
    st.builds("{}: {}\n".format, st.sampled_from(["id", "title", "x-y", "a_1", "on", "Null"]), st.text(max_size=12)),
    st.builds("{}:\n  - {}\n  - {}\n".format, st.sampled_from("pqr"), st.text(max_size=5), st.sampled_from("ab1~")),
    st.builds("{}: |-\n  {}\n\n  {}\n".format, st.sampled_from("uvw"), st.text(max_size=9), st.text(max_size=9)),
    st.sampled_from(["# note\n", "\n", "  \n", "\r\n", "k: [a, b c]\n", "l: 'x'\n", 'm: "y" # z\n']),
)
_JOINED = st.lists(st.sampled_from(_FRAGMENTS), max_size=9).map("".join)
_FRONTS = st.one_of(
    st.builds("{}{}".format, st.sampled_from(["", "key: ", "a:", "k: v\n"]), _JOINED),
    st.lists(_LINES, max_size=6).map("".join),
)  # fmt: skip


@given(_FRONTS, st.sampled_from(["", "\n"]))
def test_the_quick_reader_says_exactly_what_the_yaml_parser_says(text: str, end: str) -> None:
    found = front.quick(text + end, 2)
    assume(found is not None)
    slow, is_flow = yaml_guard.entries(text + end, 2)
    assert (found, is_flow) == (slow, False)
    assert [type(entry.value) for entry in found or ()] == [type(entry.value) for entry in slow]


@given(st.binary(max_size=60) | _FRONTS.map(lambda text: f"---\n{text}\n---\n".encode("utf-8", "surrogatepass")))
def test_any_bytes_are_read_or_refused_and_never_crash(data: bytes) -> None:
    read = Document({})
    with contextlib.suppress(Malformed):
        read = parse(data)
    assert all(isinstance(key, str) and read.lines[key] >= 2 for key in read.front)


# -- conflicts -------------------------------------------------------------------------------------------------------

_IN_FRONT = b"---\nid: a\n<<<<<<< HEAD\nstatus: open\n=======\nstatus: done\n>>>>>>> theirs\n---\nbody\n"
_WHOLE = b"<<<<<<< HEAD\n---\nid: a\n---\none\n||||||| base\nzero\n=======\n---\nid: b\n---\ntwo\n>>>>>>> theirs\n"


@pytest.mark.parametrize(("data", "line"), [(_IN_FRONT, 3), (_WHOLE, 1), (b"---\nid: a\n" + _WHOLE, 3)])
def test_conflict_markers_are_called_by_their_name(data: bytes, line: int) -> None:
    with pytest.raises(Conflicted, match="has conflict markers") as fault:
        parse(data, "t/TASK.md")
    assert (fault.value.line, fault.value.code) == (line, "conflicted")


def test_a_conflicted_file_gives_both_its_sides() -> None:
    assert sides(_IN_FRONT) == (doc("id: a\nstatus: open\n", "body\n"), doc("id: a\nstatus: done\n", "body\n"))
    assert sides(_WHOLE) == (doc("id: a\n", "one\n"), doc("id: b\n", "two\n"))
    assert sides(b"plain\n=======\n") == (b"plain\n=======\n",) * 2


def test_a_text_of_nothing_but_markers_costs_no_more_than_its_length() -> None:
    assert document.conflict_line(b"<<<<<<< a\n" * 200_000) == 0
    assert document.conflict_line(b"<<<<<<< a\n=======\n" * 100_000) == 0
    assert sides(b"<<<<<<< a\n" * 1000) == (b"<<<<<<< a\n" * 1000,) * 2


def test_a_body_that_speaks_of_conflict_markers_is_no_conflict() -> None:
    assert parse(doc("id: a\n", "Git writes\n=======\nthere.\n")).front == {"id": "a"}
    assert document.conflict_line(_IN_FRONT) == 3
    assert document.conflict_line(b"=======\n>>>>>>> a\n<<<<<<< b\n") == 0


# -- editing ---------------------------------------------------------------------------------------------------------

_RICH = """\
# who
id: a   # never changes
title:    'Fix it'     # one line

status: open
labels:   # what it is about
  - auth  # the module
  # the screen
  - ui
weird_key: {b: 1, a: [x,   y]}   # unknown, kept
due: 2026-11-20
note: |  # long
  one
    two

"quoted key": "a\\tb"
nested:
    deep: yes   # yes
    list:
    - 1
version: 1.10
empty:
last: x
# --- the end ---
"""


_LABELS = "labels:   # what it is about\n  - auth  # the module\n  # the screen\n  - ui\n"


@pytest.mark.parametrize(
    ("changes", "old", "new"),
    [
        ({"status": "done"}, "status: open", "status: done"),
        ({"title": "Don't"}, "'Fix it'     #", "Don't     #"),
        ({"title": "Mend it"}, "'Fix it'", "'Mend it'"),
        ({"id": "b"}, "id: a   #", "id: b   #"),
        ({"empty": "no"}, "empty:\n", 'empty: "no"\n'),
        ({"empty": True}, "empty:\n", "empty: true\n"),
        ({"due": "2026-12-01"}, "2026-11-20", "2026-12-01"),
        ({"version": "1.20"}, "1.10", '"1.20"'),
        ({"weird_key": {"b": 2}}, "{b: 1, a: [x,   y]}   #", "{b: 2}   #"),
        ({"labels": ["auth", "ui", "new one"]}, "  - ui\n", "  - ui\n  - new one\n"),
        ({"labels": ["ui", "auth"]}, _LABELS.partition("\n")[2], "  - ui\n  - auth  # the module\n  # the screen\n"),
        ({"labels": ["ui"]}, "  - auth  # the module\n  # the screen\n", ""),
        ({"labels": []}, _LABELS, "labels: []   # what it is about\n"),
        ({"labels": "auth"}, _LABELS, "labels: auth   # what it is about\n"),
        ({"labels": None}, _LABELS, ""),
        ({"note": "short"}, "note: |  # long\n  one\n    two\n", "note: short  # long\n"),
        ({"note": "a\nb\n"}, "  one\n    two\n", "  a\n  b\n"),
        ({"note": "a\nb"}, "note: |  # long\n  one\n    two\n", "note: |-  # long\n  a\n  b\n"),
        ({"note": None}, "note: |  # long\n  one\n    two\n", ""),
        ({"status": "a\nb"}, "status: open\n", "status: |-\n  a\n  b\n"),
        ({"title": "a\nb"}, "'Fix it'", '"a\\nb"'),
        ({"quoted key": "c"}, '"a\\tb"', '"c"'),
        ({"nested": {"deep": "no", "list": [1, 2]}},
         "    deep: yes   # yes\n    list:\n    - 1\n", '  deep: "no"\n  list: [1, 2]\n'),
        ({"status": ["a", "b"]}, "status: open", "status: [a, b]"),
        ({"status": {"a": 1}}, "status: open\n", "status:\n  a: 1\n"),
        ({"status": None, "due": None}, "status: open\n", ""),
        ({"last": None}, "last: x\n", ""),
        ({"more": "x: y"}, "# --- the end ---\n", '# --- the end ---\nmore: "x: y"\n'),
        ({"more": ["a", "b"]}, "# --- the end ---\n", "# --- the end ---\nmore: [a, b]\n"),
        ({"more": None}, "", ""),
        ({"status": "open", "version": "1.10"}, "", ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("around", ["---\n{}---\n\n# Body\n---\nstatus: open\nno line end", "\ufeff---\n{}---"])
def test_an_edit_changes_the_lines_it_means_and_no_others(
    changes: dict[str, Any], old: str, new: str, newline: str, around: str
) -> None:
    assert not old or _RICH.count(old) == 1
    wanted = _RICH.replace(old, new) if old else _RICH
    if changes.get("due", "") is None:
        wanted = wanted.replace("due: 2026-11-20\n", "")
    before, after = (around.replace("{}", text).replace("\n", newline).encode() for text in (_RICH, wanted))
    assert edit(before, changes).decode() == after.decode()


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (b"", {"id": "a"}, b"---\nid: a\n---\n"),
        (b"# Title\n", {"id": "a"}, b"---\nid: a\n---\n# Title\n"),
        (b"# Title\r\nx", {"id": "a"}, b"---\r\nid: a\r\n---\r\n# Title\r\nx"),
        (b"\xef\xbb\xbfx", {"id": "a"}, b"\xef\xbb\xbf---\nid: a\n---\nx"),
        (b"x", {"id": None}, b"x"),
        (b"---\n---", {"id": "a"}, b"---\nid: a\n---"),
        (b"---\n  id: a\n  b: 1\n---\n", {"c": 2, "b": 3}, b"---\n  id: a\n  b: 3\n  c: 2\n---\n"),
        (b"---\n{id: a, n: 1.10}\n---\nx", {"id": "b"}, b'---\nid: b\nn: "1.10"\n---\nx'),
        (b"---\n{id: a}\n---\nx", {"id": "a"}, b"---\n{id: a}\n---\nx"),
        (b"---\na: [x,\n  y]  # z\nb: 1\n---\n", {"a": ["q"]}, b"---\na: [q]  # z\nb: 1\n---\n"),
        (b"---\na: one\n  two  # z\nb: 1\n---\n", {"a": "q"}, b"---\na: q  # z\nb: 1\n---\n"),
        (b"---\na:\n  b\nc: 1\n---\n", {"a": "q"}, b"---\na: q\nc: 1\n---\n"),
        (b"---\na:\n- x\n- y\nc: 1\n---\n", {"a": ["y", "z"]}, b"---\na:\n- y\n- z\nc: 1\n---\n"),
        (b"---\na:\n- {x: 1}\n- - y\nc: 1\n---\n", {"a": [{"x": 1}, "z"]}, b"---\na:\n- {x: 1}\n- z\nc: 1\n---\n"),
        (b"---\na: >+\n  x\n\n\nb: 1\n---\n", {"a": "q"}, b"---\na: q\n\n\nb: 1\n---\n"),
        (b"---\na: &k x\nb: 1\n---\n", {"a": "q"}, b"---\na: q\nb: 1\n---\n"),
        (b"---\na: &k x\nb: *k\n---\n", {"b": "q"}, b"---\na: &k x\nb: q\n---\n"),
    ],
)  # fmt: skip
def test_other_ways_to_lay_out_front_matter_are_edited_too(
    before: bytes, changes: dict[str, Any], after: bytes
) -> None:
    assert edit(before, changes) == after


@pytest.mark.parametrize(
    ("before", "changes", "after"),
    [
        (b"", {"quiet": "2s"}, b"quiet: 2s\n"),
        (b"name: home\n", {"quiet": "2s"}, b"name: home\nquiet: 2s\n"),
        (b"name: home", {"quiet": "2s"}, b"name: home\nquiet: 2s"),
        (b"name: home", {"name": ["a\nb", "c" * 100]}, b'name:\n  - "a\\nb"\n  - ' + b"c" * 100),
        (b"a:\n  - x", {"a": ["x", "z"]}, b"a:\n  - x\n  - z"),
        (b"a: 1\nb:\n  - c", {"b": None}, b"a: 1"),
        (b"a: |-\n  x", {"a": "p"}, b"a: p"),
        (b"a: |-\n  x", {"a": "p\nq"}, b"a: |-\n  p\n  q"),
        (
            b"\xef\xbb\xbfname: home\r\n# x\r\n",
            {"a": "p\nq"},
            b"\xef\xbb\xbfname: home\r\n# x\r\na: |-\r\n  p\r\n  q\r\n",
        ),
    ],
)
def test_a_yaml_file_is_front_matter_from_end_to_end(before: bytes, changes: dict[str, Any], after: bytes) -> None:
    assert edit(before, changes, path="ravi.yaml") == after
    assert document.parse_yaml(after, "ravi.yaml") == {
        key: value for key, value in {**document.parse_yaml(before), **changes}.items() if value is not None
    }


_NESTED: list[Any] = []
for _ in range(500):
    _NESTED = [_NESTED]


@pytest.mark.parametrize(
    ("data", "changes", "words"),
    [
        (doc("a: &k x\nb: *k\n"), {"a": "q"}, "stands for nothing"),
        (doc("? a\n: b\n"), {"a": "q"}, "cannot be edited"),
        (doc("{a: 1, # note\n b: 2}\n"), {"a": 2}, "braces"),
        (doc("a: 1\n"), {"a": "x" * 40_000}, "40000 letters"),
        (doc("a: 1\n"), {"true\n": "x"}, "cannot be printed"),
        (doc("a: [\n"), {"a": 2}, "not YAML"),
        (doc("a: 1\n"), {"a": _NESTED}, "nested more than 32 deep"),
    ],
)
def test_what_cannot_be_edited_without_harm_is_not_edited(data: bytes, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(Malformed, match=words):
        edit(data, changes)


def test_a_body_is_replaced_in_the_line_ends_of_its_file() -> None:
    assert edit(b"---\na: 1\n---\nold", {}, body="new\n") == b"---\na: 1\n---\nnew\n"
    assert edit(b"---\r\na: 1\r\n---\r\nold", {}, body="\nx\n") == b"---\r\na: 1\r\n---\r\n\r\nx\r\n"
    assert edit(b"---\na: 1\n---", {}, body="x") == b"---\na: 1\n---\nx"
    assert edit(b"\xef\xbb\xbfold", {}, body="new") == b"\xef\xbb\xbfnew"


def test_an_edit_never_fails_for_what_an_agent_said() -> None:
    said = "half \ud800 a letter, \0, \x1b[31m, \u202e and \u2028"
    after = parse(edit(doc("a: 1\n"), {"summary": said})).front["summary"]
    assert after == said.replace("\ud800", "\ufffd").replace("\0", "\ufffd")


_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(
    [
        "no",
        "1.10",
        "~",
        "- a",
        "a: b",
        "a # b",
        "'",
        '"',
        "\\",
        "|",
        "a\nb",
        "a\n",
        "\na",
        " a",
        "a\n b",
        "a\n\n\nb\n",
        "!x",
        "%",
    ]
)
_SCALARS = _TEXTS | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)
_NAMES = st.text(string.printable.strip() + "é ", min_size=1, max_size=8).map(str.strip)
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner | st.none(), max_size=4) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=6,
)
_KEYS = st.sampled_from(["id", "status", "labels", "note", "nested", "weird_key", "fresh", "due", "title", "empty"])


@given(_KEYS, _VALUES, st.sampled_from(["\n", "\r\n"]))
def test_an_edited_key_has_its_value_and_every_other_line_is_as_it_was(key: str, value: Any, newline: str) -> None:
    before = f"---\n{_RICH}---\nbody\n".replace("\n", newline).encode()
    after = edit(before, {key: value})
    assert spelling.same(parse(after).front[key], spelling.model(value))
    removed = edit(before, {key: None}).splitlines(keepends=True)
    kept = iter(after.splitlines(keepends=True))
    assert all(line in kept for line in removed)  # in their order
    assert edit(after, {key: value}) == after


@given(st.dictionaries(st.sampled_from(["a", "b-c", "x y", "ü", "1"]), _VALUES), st.text())
def test_what_is_rendered_is_read_again(values: dict[str, Any], body: str) -> None:
    data = render(values, body)
    assert spelling.same(dict(parse(data).front), {key: spelling.model(value) for key, value in values.items()})
    assert list(parse(data).front) == list(values)
    assert spelling.clean(body) in data.decode()


def test_a_rendered_document_is_fit_for_people() -> None:
    said = {
        "id": "a",
        "title": "Fix: it",
        "gone": None,
        "labels": ["x", "z"],
        "at": "2026-11-20T10:00:00Z",
        "log": "a\nb",
    }
    assert render(said, "Do it.").decode() == (
        '---\nid: a\ntitle: "Fix: it"\nlabels: [x, z]\nat: 2026-11-20T10:00:00Z\nlog: |-\n  a\n  b\n---\n\nDo it.\n'
    )
