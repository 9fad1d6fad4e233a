"""Globs over workspace paths."""

import pytest

from ravi.core.globs import matches


@pytest.mark.parametrize(
    ("glob", "path", "is_named"),
    [
        ("notes/*.md", "notes/a.md", True),
        ("notes/*.md", "notes/a/b.md", False),
        ("notes/**", "notes/a/b.md", True),
        ("notes/**/b.md", "notes/b.md", True),
        ("notes/**/b.md", "notes/x/y/b.md", True),
        ("notes/", "notes/a/b.md", True),
        ("notes", "notes/a", False),
        ("./notes/?", "notes/a", True),
        ("**", "any/thing", True),
        ("*", "any/thing", False),
        ("a.c", "abc", False),
        ("[ab]", "a", True),
        ("[!ab]", "a", False),
        ("**/**/x", "x", True),
        ("docs/**", "docs", False),
        ("*a" * 30 + "b", "a" * 3000, False),
        ("**/a/" * 20 + "b", "a/" * 200 + "c", False),
        ("notes/*", "notes/a\n", True),
        ("", "a", False),
        ("/", "a", False),
        ("../*", "a", False),
    ],
)
def test_a_star_stays_in_its_folder_and_two_go_below(glob: str, path: str, is_named: bool) -> None:
    assert matches(path, glob) is is_named
