"""Ids: short enough to type, made so that two clones never make the same one, safe as names of files and refs."""

import re

_VALID = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}\Z")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}\Z")
_RESERVED = frozenset({"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))})
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u


def is_valid(text: object) -> bool:
    """True when `text` may be an id: `[a-z0-9][a-z0-9._-]{0,63}`, safe as a file name and inside a git ref name."""
    return (
        isinstance(text, str)
        and _VALID.match(text) is not None
        and ".." not in text
        and not text.endswith((".", ".lock"))
        and text.split(".", 1)[0] not in _RESERVED
    )


def is_run(text: object) -> bool:
    """True when `text` may be a run's id: a task's id, a dot, a number."""
    if not isinstance(text, str):
        return False
    task, _, number = text.rpartition(".")
    return is_valid(task) and _NUMBER.match(number) is not None


def slug(title: str, limit: int = 32) -> str:
    """The words of `title` as id letters: `"Fix the log-in!"` -> `fix-the-log-in`; `task` when nothing remains."""
    from unicodedata import normalize  # a library of its own, for new tasks only

    plain = normalize("NFKD", title[:256]).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    cut = words[: limit + 1]
    if len(words) > limit:
        cut = cut.rsplit("-", 1)[0] if "-" in cut else words[:limit]
    return cut.strip("-") or "task"


def new_id(title: str, entropy: bytes) -> str:
    """`<slug>-<suffix>`: 30 bits of `entropy` (at least 4 bytes) make the suffix, six letters."""
    number = int.from_bytes(entropy[:4], "big")
    return f"{slug(title)}-{''.join(_ALPHABET[number >> shift & 31] for shift in range(25, -1, -5))}"


def derive_id(*parts: str) -> str:
    """The same parts always give the same id: 16 hex letters of SHA-256, so that redelivery is harmless."""
    from hashlib import sha256  # 4 ms, which reading can do without

    told = "".join(f"{len(part)}:{part}" for part in parts)  # parts come from strangers and may hold any separator
    return sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def run_id(task: str, attempt: int) -> str:
    """The id of a task's n-th run, `<task>.<n>`: `login-7f3k2a.1`."""
    return f"{task}.{attempt}"


def task_of(run: str) -> str:
    """The task that a run id belongs to."""
    return run.rpartition(".")[0]
