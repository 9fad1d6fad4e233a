"""How results leave: data to stdout, talk to stderr, as text for people or JSON for programs; chosen once."""

import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TextIO

from ravi.errors import RaviError

_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "dim": 2, "bold": 1}
_STATUS_COLOURS = {
    "running": "cyan", "done": "green", "succeeded": "green", "failed": "red", "dead": "red", "blocked": "yellow",
    "review": "yellow", "waiting": "blue", "cancelled": "dim", "draft": "dim", "interrupted": "yellow",
}  # fmt: skip


class Output:
    """One command's way out. `as_json` makes stdout JSON and an error one object on stderr."""

    def __init__(self, *, as_json: bool, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.as_json = as_json
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self.warnings: list[str] = []
        self.coloured = self.out.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def show(self, value: Any, text: Callable[[Any], str] | None = None) -> None:
        """Print a result: JSON as it is, or what `text` makes of it."""
        if self.as_json:
            self.write(json.dumps(value, ensure_ascii=False))
        elif self.coloured:
            value = _clean(value)  # before anything is painted
            self.write(text(value) if text else str(value))
        else:
            self.write(plain(text(value) if text else str(value)))

    def write(self, text: str) -> None:
        """Print what is JSON or text already. It has left when this returns."""
        if text:
            self.out.write(text + "\n")
            self.out.flush()

    def line(self, value: Mapping[str, Any], text: str) -> None:
        """Print one line of something that goes on: a JSON line, or text. It is seen at once."""
        self.out.write((json.dumps(value, ensure_ascii=False) if self.as_json else text) + "\n")
        self.out.flush()

    def say(self, text: str) -> None:
        """Talk to a person on stderr; silent for programs."""
        if not self.as_json:
            self.err.write(plain(text) + "\n")
            self.err.flush()

    def warn(self, text: str) -> None:
        """Something worth knowing that is not an error."""
        self.warnings.append(text)
        self.say(f"warning: {text}")

    def fail(self, error: RaviError) -> int:
        """Tell a fault and give its exit code."""
        if self.as_json:
            told = {"error": str(error), "code": error.code, "hint": error.hint, "warnings": self.warnings}
            self.err.write(json.dumps(told, ensure_ascii=False) + "\n")
        else:
            self.err.write(f"ravi: {plain(str(error))}\n")
            if error.hint:
                self.err.write(f"  {plain(error.hint)}\n")
        return error.exit_code

    def paint(self, text: str, colour: str) -> str:
        """`text` in a colour, on a terminal that shows them."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.coloured else text

    def status(self, word: str, width: int = 0) -> str:
        """A status word in its colour."""
        padded = word.ljust(width)
        return self.paint(padded, _STATUS_COLOURS[word]) if word in _STATUS_COLOURS else padded

    def table(self, rows: Iterable[Sequence[str]], headings: Sequence[str] = ()) -> str:
        """Columns as wide as they need to be; the last one is left as long as it is."""
        cells = list(rows)
        if not cells:
            return ""
        head = [headings] if headings else []
        columns = list(zip(*head, *cells, strict=True))
        widths = [max(map(len, column)) for column in columns[:-1]]
        if not self.coloured:
            line = "  ".join([*(f"{{:{width}}}" for width in widths), "{}"]).format
            return "\n".join(map(str.rstrip, map(line, *columns)))
        lines = [self.paint("  ".join(map(str.ljust, row, [*widths, 0])), "dim") for row in head]
        for *first, last in cells:
            lines.append("  ".join([*map(self.status, first, widths), last]).rstrip())
        return "\n".join(lines)


def _clean(value: Any) -> Any:
    """A result whose texts are plain: what is stored must not drive the terminal."""
    if isinstance(value, str):
        return plain(value)
    if isinstance(value, dict):
        return {key: _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def plain(text: str) -> str:
    """Text with no control characters, so that what is stored cannot drive the terminal."""
    if text.replace("\n", "").isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
