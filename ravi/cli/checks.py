"""`ravi check`, `schema`, `doctor`, `merge-driver`: is it right, and what would be right."""

import json
from typing import Any

import click

from ravi.cli.main import Face


@click.command()
@click.pass_obj
def check(face: Face, /) -> int:
    """Look for mistakes in the files as they lie; exit 1 when there are errors."""
    from ravi.porcelain import checks

    problems = checks.check(face.app)
    face.output.show(problems, lambda rows: "\n".join(_problem(row) for row in rows) or "no mistakes found")
    return 1 if any(row["severity"] == "error" for row in problems) else 0


@click.command()
@click.argument("name", required=False, default="")
@click.pass_obj
def schema(face: Face, /, name: str) -> None:
    """The JSON Schema of a document; with no NAME the names there are."""
    from ravi.porcelain import checks

    found = checks.schema(name)
    face.output.show(found, lambda value: "\n".join(value) if isinstance(value, list) else json.dumps(value, indent=2))


@click.command()
@click.pass_obj
def doctor(face: Face, /) -> int:
    """What this machine and repository can do; exit 1 when something must be mended."""
    from ravi.porcelain import checks

    rows = checks.doctor(face.workspace)
    face.output.show(
        rows, lambda found: face.output.table([(r["status"], r["check"], r["found"] + _mend(r)) for r in found])
    )
    return 1 if any(row["status"] == "bad" for row in rows) else 0


@click.command()
@click.argument("base")
@click.argument("ours")
@click.argument("theirs")
@click.argument("path", required=False, default="")
@click.pass_obj
def merge_driver(face: Face, /, base: str, ours: str, theirs: str, path: str) -> int:
    """Merge a document for git: BASE OURS THEIRS PATH, the result goes into OURS."""
    from ravi.porcelain import checks

    met = checks.merge_driver(base, ours, theirs, path)
    for words in met:
        face.output.say(words)
    return 1 if met else 0


def _mend(row: dict[str, Any]) -> str:
    return f"; {row['mend']}" if row["mend"] else ""


def _problem(row: dict[str, Any]) -> str:
    place = row["path"] + (f":{row['line']}" if row["line"] else "")
    return ": ".join(
        part
        for part in (place, row["severity"] if row["severity"] != "error" else "", row["key"], row["message"])
        if part
    )
