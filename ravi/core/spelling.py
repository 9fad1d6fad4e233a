"""How values are written into front matter: plain where every reader of YAML agrees, quoted where one would not."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from ravi.core.front import DEPTH, is_plain, is_text, resolve
from ravi.core.times import stamp
from ravi.errors import Malformed

WIDTH = 100  # a list or mapping that is longer than this on one line is written over several

# Words and figures that readers of YAML 1.1 take for something else. Ours does not; the author's other tools may.
_AMBIGUOUS = (
    r"(?i:y|yes|n|no|on|off|true|false|null|[-+]?\.(?:inf|nan))"
    r"|[-+]?[0-9.][0-9_.,:]*(?:[eE][-+]?[0-9]+)?|[-+]?0[xob][0-9a-fA-F_]+|[=<].*"
)
_SPECIAL = '[\\\\"\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]'
_HALF = "[\ud800-\udfff]"
_SHORT = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_KEY = r"[A-Za-z_][A-Za-z0-9_.-]*"


def model(value: Any, depth: int = 1) -> Any:
    """What a reading gives back when `value` was written: text, whole numbers, flags, nothing, lists, mappings."""
    if depth > DEPTH:
        raise Malformed(f"nested more than {DEPTH} deep")
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return clean(value)
    if isinstance(value, int):
        return resolve(str(int(value)))
    if isinstance(value, float):
        return resolve(repr(value))
    if isinstance(value, datetime):
        return stamp(value)
    if isinstance(value, Mapping):
        return {clean(str(key)): model(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes | bytearray):
        return [model(inner, depth + 1) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)]
    raise TypeError(f"{type(value).__name__} cannot be written into front matter")


def clean(text: str) -> str:
    """Text as a file can hold it: no NUL, no half of a letter."""
    if not text.isascii():
        text = re.sub(_HALF, "\ufffd", text)
    return text.replace("\0", "\ufffd")


def same(one: Any, other: Any) -> bool:
    """Equal, and of one kind all the way down: `1` is not `true`."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(inner, other[key]) for key, inner in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def scalar(value: Any, *, style: str = "", flow: bool = False) -> str:
    """One scalar on one line; text keeps the quotes (`style`) that were there before."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        return str(value)
    quotable = value.isprintable() and "'" not in value
    if style == "'" and quotable:
        return f"'{value}'"
    if style != '"' and _stands_plain(value, flow=flow):
        return value
    if style != '"' and quotable and ('"' in value or "\\" in value):
        return f"'{value}'"
    return f'"{re.sub(_SPECIAL, _escape, value)}"'


def key(text: str) -> str:
    """A key as it is written before its colon."""
    return text if re.fullmatch(_KEY, text) and is_text(text) else f'"{re.sub(_SPECIAL, _escape, text)}"'


def flow(value: Any) -> str:
    """Anything on one line: `[a, b]`, `{a: 1}`."""
    if isinstance(value, list):
        return f"[{', '.join(map(flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key(name)}: {flow(inner)}' for name, inner in value.items())}}}"
    return scalar(value, flow=True)


def one_line(value: Any, *, style: str = "") -> str:
    """A value on the line of its key or dash: `a`, `{a: 1}`."""
    return flow(value) if isinstance(value, list | dict) else scalar(value, style=style)


def spell(value: Any, *, indent: int, style: str = "", on_one_line: bool = False) -> tuple[str, list[str]]:
    """A value after its key: what stands on the key's line, and the lines below it (without line ends).

    `style` is that of the value it replaces (see `front.Entry`), which is kept where it can be.
    """
    if on_one_line:
        return one_line(value, style=style), []
    if isinstance(value, str) and style not in ("'", '"') and _is_block(value):
        pad = " " * (indent + 2)
        lines = value.removesuffix("\n").split("\n")
        return "|" if value.endswith("\n") else "|-", [pad + line if line else "" for line in lines]
    if not isinstance(value, list | dict):
        return scalar(value, style=style), []
    if not value:
        return flow(value), []
    if isinstance(value, list):
        line = flow(value)
        simple = not any(isinstance(inner, list | dict) for inner in value)
        if style in ("[", "{") or (style != "-" and simple and len(line) <= WIDTH):
            return line, []
        pad = " " * (indent + 2)
        return "", [f"{pad}- {one_line(inner)}" for inner in value]
    if style in ("[", "{") and len(line := flow(value)) <= WIDTH:
        return line, []
    below: list[str] = []
    for name, inner in value.items():
        head, rest = spell(inner, indent=indent + 2)
        below.append(f"{' ' * (indent + 2)}{key(name)}:{head and ' ' + head}")
        below += rest
    return "", below


def _stands_plain(text: str, *, flow: bool) -> bool:
    if (
        not text
        or not text.isprintable()
        or text != text.strip()
        or not is_plain(text)
        or re.fullmatch(_AMBIGUOUS, text)
    ):
        return False
    return resolve(text) == text and is_text(text) and not (flow and re.search(r"[,\[\]{}]|:", text))


def _is_block(text: str) -> bool:
    """True when `|` or `|-` says `text` exactly and stays readable for people."""
    lines = text.removesuffix("\n").split("\n")
    return (
        len(lines) > 1
        and lines[0][:1] not in ("", " ")
        and lines[-1] != ""
        and all(line.isprintable() and (not line or not line.isspace()) for line in lines)
    )


def _escape(match: re.Match[str]) -> str:
    letter = match[0]
    return _SHORT.get(letter) or (f"\\x{ord(letter):02x}" if ord(letter) < 256 else f"\\u{ord(letter):04x}")
