"""python-frontmatter with our reading."""

import frontmatter
import pytest

from ravi.core.posts import Posts
from ravi.errors import Malformed

TEXT = "---\nversion: 1.10\nanswer: no\non: x\ndue: 2026-11-20\n# --- x ---\n---\n\nBody\n---\nmore"


def test_the_library_sees_what_we_see() -> None:
    post = frontmatter.loads(TEXT, handler=Posts())
    assert post.metadata == {"version": "1.10", "answer": "no", "on": "x", "due": "2026-11-20"}
    assert post.content == "Body\n---\nmore"
    assert frontmatter.loads(frontmatter.dumps(post), handler=Posts()).metadata == post.metadata


def test_a_text_without_front_matter_is_text() -> None:
    assert frontmatter.loads("just text", handler=Posts()).content == "just text"


def test_hostile_text_is_refused() -> None:
    with pytest.raises(Malformed):
        frontmatter.loads("---\nx: " + "[" * 48_000 + "\n---\n", handler=Posts())
