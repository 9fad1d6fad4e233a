"""`ravi runs` and `ravi dead`: one agent asked to do one thing."""

import sys
from typing import Any

import click

from ravi.cli.main import Face, Noun
from ravi.cli.output import plain
from ravi.porcelain import runs as porcelain


@click.group(cls=Noun)
def runs() -> None:
    """One agent asked to do one thing; the bare noun lists."""


@runs.command("list")
@click.option("--task", "-t", default="", help="Only the runs of a task.")
@click.option("--agent", "-a", default="", help="Only an agent's.")
@click.option("--status", "-s", default="", help="Only with this status, or these: `a,b`.")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=50, help="At most so many; 50 unless said.")
@click.pass_obj
def list_(face: Face, /, **wanted: Any) -> None:
    """Runs, newest first."""
    face.output.show(porcelain.listing(face.app, **wanted), lambda rows: _rows(face, rows))


@runs.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def show(face: Face, /, id_: str) -> None:
    """One run: ID is a run's, or a task's for its last run."""
    face.output.show(porcelain.show(face.app, id_), lambda r: _page(face, r))


@runs.command()
@click.argument("id_", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Go on until the run has ended.")
@click.pass_obj
def logs(face: Face, /, id_: str, follow: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """What a run printed."""
    for chunk in porcelain.logs(face.app, id_, follow=follow):
        if face.output.as_json:
            face.output.line({"run": id_, "text": chunk.decode(errors="replace")}, "")
        elif face.output.out.isatty():
            face.output.out.write(plain(chunk.decode(errors="replace")))
            face.output.out.flush()
        else:
            sys.stdout.buffer.write(chunk)
            sys.stdout.buffer.flush()


@runs.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def stop(face: Face, /, id_: str) -> None:
    """Ask a live run to end; its task is blocked then."""
    face.output.show(porcelain.stop(face.app, id_), lambda r: f"{r['id']}  is asked to stop")


@click.group(cls=Noun)
def dead() -> None:
    """Runs with no attempts left; the bare noun lists."""


@dead.command("list")
@click.pass_obj
def dead_list(face: Face, /) -> None:
    """Dead runs whose task has not been opened again."""
    face.output.show(porcelain.dead(face.app), lambda rows: _rows(face, rows))


@dead.command("retry")
@click.argument("id_", metavar="ID")
@click.pass_obj
def dead_retry(face: Face, /, id_: str) -> None:
    """Open the task of a dead run again."""
    face.output.show(porcelain.retry_dead(face.app, id_), lambda t: f"{t['id']}  {t['status']}")


def _rows(face: Face, rows: list[dict[str, Any]]) -> str:
    return face.output.table(
        [(r["id"], r["status"], r["agent"], r["started"], r["reason"] or r["summary"] or "") for r in rows]
    )


def _page(face: Face, run: dict[str, Any]) -> str:
    keys = (
        "task",
        "agent",
        "worker",
        "attempt",
        "status",
        "reason",
        "started",
        "ended",
        "exit",
        "base",
        "merge",
        "branch",
        "retry_at",
        "summary",
    )
    head = [(key.replace("_", " "), str(run[key])) for key in keys if run.get(key) not in (None, "")]
    head += [("not taken back", line) for line in run.get("refused", ())]
    return "\n\n".join(
        part for part in (face.output.paint(run["id"], "bold"), face.output.table(head), run["text"].strip()) if part
    )
