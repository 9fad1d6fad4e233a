"""The commit grammar: how ravi says what happened in a commit message, and how it reads it back.

Subject `<noun> <id>: <what is now true>`, a body for people, then trailers, each at most once but `Ravi-Callback`.
"""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

NAMES = (
    "Ravi-Event", "Ravi-Cause", "Ravi-Task", "Ravi-Run", "Ravi-Session", "Ravi-Agent", "Ravi-Automation",
    "Ravi-Parent", "Ravi-Callback", "Ravi-Depth", "Ravi-Epoch", "Ravi-Cost",
)  # fmt: skip
_LINE = re.compile(r"(Ravi-[A-Z][a-z]+): (.*)\Z")
_ANY_LINE = re.compile(r"[A-Za-z0-9-]+: |\(cherry picked from commit ")
# What git, or a tool that reads trailers, could take for one of ours: any case, any of its separators. And `---`, which
# ends the message for some of them.
_FORGED = re.compile(r"ravi-[\w-]*\s*[:=#]|---", re.IGNORECASE)
_KEPT = "\t\u200c\u200d"  # joiners hold letters and emoji together


class Message(NamedTuple):
    """One commit message. `trailers` maps names to values in NAMES order; `callbacks` is the repeatable one."""

    subject: str
    body: str = ""
    trailers: Mapping[str, str] = MappingProxyType({})
    callbacks: tuple[str, ...] = ()

    def render(self) -> str:
        """The text of the commit message. Line breaks in values are folded, so that no value can forge a trailer."""
        parts = [_one_line(self.subject)[:200] or "(nothing said)"]
        if body := _plain(self.body):
            parts.append(body)
        lines = [f"{n}: {value}" for n in NAMES if (value := _one_line(self.trailers.get(n) or ""))]
        lines += [f"Ravi-Callback: {value}" for callback in self.callbacks if (value := _one_line(callback))]
        if lines:
            parts.append("\n".join(lines))
        return "\n\n".join(parts) + "\n"

    def with_trailers(self, extra: Mapping[str, str]) -> "Message":
        """The same message with `extra` trailers added; what is there already stays."""
        return Message(self.subject, self.body, {**extra, **self.trailers}, self.callbacks)


def parse(text: str) -> Message:
    """Read a commit message back. Only a last paragraph of nothing but trailers holds ours, and ours are in it.

    Others may have signed below (`Signed-off-by`, `cherry picked from`); that takes nothing away.
    """
    paragraphs = text.strip("\n").split("\n\n")
    subject, rest = paragraphs[0].replace("\n", " "), paragraphs[1:]
    found: dict[str, str] = {}
    callbacks: list[str] = []
    lines = rest[-1].split("\n") if rest else []
    matches = [match for line in lines if (match := _LINE.match(line))]
    if matches and all(map(_ANY_LINE.match, lines)):
        for match in matches:
            if match[1] == "Ravi-Callback":
                callbacks.append(match[2])
            else:
                found.setdefault(match[1], match[2])
        rest = rest[:-1]
    return Message(subject, "\n\n".join(rest), found, tuple(callbacks))


def _one_line(text: str) -> str:
    return " ".join(_printable(text).split())


def _plain(text: str) -> str:
    """Body text with nothing in it that git or our own `parse` would take for a trailer."""
    lines = [_printable(line).rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return "\n".join(f"  {line}" if _FORGED.match(line) else line for line in lines).strip("\n")


def _printable(text: str) -> str:
    """Text without what moves a cursor, hides letters or turns lines around."""
    if text.isprintable():
        return text
    return "".join(
        letter if letter.isprintable() or letter in _KEPT else " " if letter.isspace() else "\ufffd" for letter in text
    )
