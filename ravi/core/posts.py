"""Our reading of front matter for python-frontmatter: `frontmatter.load(path, handler=Posts())` sees what ravi sees.

Its own YAML handler turns `no` into false and `1.10` into 1.1, sorts keys on writing, and dies of hostile text. Nothing
on our way through a document needs the library, so only who asks for it pays for its import.
"""

import re
from typing import Any

from frontmatter.default_handlers import BaseHandler

from ravi.core import document


class Posts(BaseHandler):
    """Documents, as python-frontmatter calls them. Raises Malformed where its own handler would build anything."""

    FM_BOUNDARY = re.compile(r"^---[ \t]*$", re.MULTILINE)
    START_DELIMITER = END_DELIMITER = "---"

    def split(self, text: str) -> tuple[str, str]:
        front, body = (part.decode() for part in document.split(text.encode()))
        if not front:
            raise ValueError("no front matter")  # its way to hear that all of it is text
        return "\n".join(front.splitlines()[1:-1]), body

    def load(self, fm: str) -> dict[str, Any]:
        return dict(document.parse_yaml(fm.encode()))

    def export(self, metadata: dict[str, object], **_: object) -> str:
        """Front matter with its keys in the order they have, quoted where a reader of YAML would go wrong."""
        front: dict[str, Any] = metadata
        return document.render(front).decode().removeprefix("---\n").removesuffix("---\n").rstrip("\n")
