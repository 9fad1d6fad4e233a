"""Ids: safe in paths and refs, alike for the same cause, never alike for different ones."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravi.core.ids import derive_id, is_run, is_valid, new_id, run_id, slug, task_of


@pytest.mark.parametrize("text", ["a", "0", "login-7f3k2a", "a.b_c-d", "x" * 64, "console"])
def test_ids_are_small_letters_figures_and_three_signs(text: str) -> None:
    assert is_valid(text)


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "../x", "a/b", "a\\b", "-a", "_a", ".a", "A", "é", "😀", "a b", "a\n", "a\0", "x" * 65, "a..b",
        "a.", "a.lock", "con", "nul.txt", "com1", "lpt9.x", "~", "a@{b", "a:b", "\u0456d", None, 7, b"a",
    ],
)  # fmt: skip
def test_what_could_leave_its_folder_or_hide_is_no_id(text: object) -> None:
    assert not is_valid(text)


@given(st.text())
def test_whatever_is_an_id_git_takes_for_a_ref(text: str) -> None:
    if is_valid(text):
        assert set(text) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")


@given(st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True).filter(is_valid))
def test_the_run_of_any_task_has_an_id(text: str) -> None:
    assert is_run(run_id(text, 12))
    assert task_of(run_id(text, 12)) == text
    assert not is_run(text + ".")


def test_git_agrees(tmp_path: Path) -> None:
    for text in ("a", "a.b_c-d", "x" * 64, "a.1"):
        subprocess.run(["git", "check-ref-format", f"refs/ravi/runs/{run_id(text, 1)}"], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("Fix the log-in!", "fix-the-log-in"),
        ("  ", "task"),
        ("日本語", "task"),
        ("Überprüfung läuft", "uberprufung-lauft"),
        ("a" * 50, "a" * 32),
        ("one two three four five six seven eight", "one-two-three-four-five-six"),
        ("../../etc/passwd", "etc-passwd"),
    ],
)
def test_a_slug_is_the_words_of_a_title(title: str, words: str) -> None:
    assert slug(title) == words


@given(st.text(), st.binary(min_size=4, max_size=8))
def test_a_new_id_is_valid_whatever_the_title(title: str, entropy: bytes) -> None:
    assert is_valid(new_id(title, entropy))


def test_entropy_makes_ids_differ() -> None:
    assert new_id("Same", b"\0\0\0\1") != new_id("Same", b"\0\0\0\2")
    assert new_id("Fix", b"\xff\xff\xff\xff") == "fix-zzzzzz"


def test_the_same_cause_gives_the_same_id_and_no_other_does() -> None:
    assert derive_id("a", "b") == derive_id("a", "b")
    parts = [("a", "b"), ("ab",), ("a\0b",), ("", "ab"), ("ab", ""), ("a", "", "b"), ("1:a1:b",), ("a", "\ud800")]
    assert len({derive_id(*part) for part in parts}) == len(parts)
    assert len(derive_id()) == 16
