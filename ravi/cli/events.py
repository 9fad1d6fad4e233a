"""`ravi events`: what happened, as a stream for programs and people."""

from typing import Any

import click

from ravi.cli.main import Face, Noun
from ravi.porcelain import events as porcelain

_KIND = click.option("--type", "-t", "kinds", multiple=True, metavar="TYPE", help="Only these: `task.*`, `run.>`.")
_ABOUT = click.option("--subject", "-s", default="", help="Only about this task, run or agent.")


@click.group(cls=Noun)
def events() -> None:
    """What happened, event by event; the bare noun lists."""


@events.command("list")
@_KIND
@_ABOUT
@click.option("--limit", "-n", type=click.IntRange(min=1), default=50, help="At most so many; 50 unless said.")
@click.pass_obj
def list_(face: Face, /, kinds: tuple[str, ...], subject: str, limit: int) -> None:
    """The last events of the main line, the newest last."""
    rows = porcelain.listing(face.app, porcelain.fitting(kinds, subject), limit=limit)
    face.output.show(rows, lambda rows: face.output.table([_row(row) for row in rows]))


@events.command()
@_KIND
@_ABOUT
@click.option("--since", default="", metavar="COMMIT", help="Begin after a commit, not now.")
@click.pass_obj
def tail(face: Face, /, kinds: tuple[str, ...], subject: str, since: str) -> None:
    """Events as they are recorded, until Ctrl-C; NATS is not needed."""
    for event in porcelain.tail(face.app, porcelain.fitting(kinds, subject), since=since):
        face.output.line(event, "  ".join(_row(event)))


@events.command()
@click.argument("pattern", default="event.>")
@click.pass_obj
def stream(face: Face, /, pattern: str) -> None:
    """What is said on this workspace's subjects on NATS, until Ctrl-C; PATTERN is `event.>` unless said."""
    for said in porcelain.stream(face.app, pattern):
        face.output.line(said, f"{said['on']}  {said.get('subject', '')}  {said.get('data', '')}")


@events.command()
@_KIND
@_ABOUT
@click.option("--since", required=True, metavar="COMMIT", help="Those after this commit.")
@click.option("--limit", "-n", type=click.IntRange(min=1), help="At most so many.")
@click.pass_obj
def replay(face: Face, /, kinds: tuple[str, ...], subject: str, since: str, limit: int | None) -> None:
    """Tell past events on NATS again."""
    told = porcelain.replay(face.app, porcelain.fitting(kinds, subject), since=since, limit=limit)
    face.output.show(told, lambda told: f"{told['replayed']} told again")


@events.command()
@click.pass_obj
def dead(face: Face, /) -> None:
    """What came in at a door and could not be taken, and why."""
    rows = porcelain.dead(face.app)
    face.output.show(rows, lambda rows: face.output.table([(r["id"], r["door"], r["reason"], r["data"]) for r in rows]))


@events.command()
@click.argument("subject")
@click.option("--data", required=True, metavar="JSON", help="What is said.")
@click.option("--id", "id_", default="", help="Who says the same again under this id has said it once.")
@click.pass_obj
def publish(face: Face, /, subject: str, data: str, id_: str) -> None:
    """Say something on SUBJECT: `in.task`, `in.comment` and `in.event` are doors, and are answered."""
    told = porcelain.publish(face.app, subject, data, id=id_)
    face.output.show(told, lambda told: "  ".join(str(value) for value in told.values()))


def _row(event: dict[str, Any]) -> tuple[str, str, str, str]:
    said = event["data"].get("status") or event["data"].get("message") or ""
    return (event.get("time", "")[:19].replace("T", " "), event["type"], event["subject"], str(said))
