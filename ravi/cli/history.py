"""`ravi log`, `ravi tree`, `ravi why`: what happened, who spawned whom, and why."""

from typing import Any

import click

from ravi.cli.main import Face
from ravi.porcelain import history as porcelain


@click.command()
@click.argument("about", required=False, default="")
@click.option("--limit", "-n", type=click.IntRange(min=1), default=20, help="At most so many; 20 unless said.")
@click.pass_obj
def log(face: Face, /, about: str, limit: int) -> None:
    """What happened, newest first; ABOUT is a task, a run or an agent."""
    face.output.show(porcelain.log(face.app, about, limit=limit), lambda rows: _rows(face, rows))


@click.command()
@click.argument("id_", metavar="[ID]", required=False, default="")
@click.pass_obj
def tree(face: Face, /, id_: str) -> None:
    """Tasks, their children and the runs of each."""
    from ravi.porcelain import tasks

    face.output.show(tasks.tree(face.app, id_), lambda roots: drawn(face, roots))


@click.command()
@click.argument("id_", metavar="ID")
@click.pass_obj
def why(face: Face, /, id_: str) -> None:
    """Why a task, a run or a commit came to be, back to the person who began it."""
    face.output.show(porcelain.why(face.app, id_), lambda told: _why(face, told))


def drawn(face: Face, roots: list[dict[str, Any]]) -> str:
    """Tasks as a tree, each with its runs."""
    lines: list[str] = []
    for root in roots:
        _draw(face, root, "", "", lines)
    return "\n".join(lines)


def _draw(face: Face, task: dict[str, Any], first: str, rest: str, lines: list[str]) -> None:
    lines.append(
        f"{first}{task['id']}  {face.output.status(task['status'])}  {task['assignee'] or '-'}  {task['title']}"
    )
    below: list[tuple[str, dict[str, Any]]] = [("run", run) for run in task["run_list"]]
    below += [("task", child) for child in task["children"]]
    for number, (kind, item) in enumerate(below):
        is_last = number == len(below) - 1
        mark, follow = ("└─ ", "   ") if is_last else ("├─ ", "│  ")
        if kind == "task":
            _draw(face, item, rest + mark, rest + follow, lines)
        else:
            said = item["reason"] or item["summary"] or ""
            lines.append(
                f"{rest}{mark}run {item['id']}  {face.output.status(item['status'])}  {item['agent']}  {said}".rstrip()
            )


def _rows(face: Face, rows: list[dict[str, Any]]) -> str:
    return face.output.table(
        [(r["commit"][:9], r["time"][:19].replace("T", " "), r["author"], r["subject"]) for r in rows]
    )


def _why(face: Face, told: dict[str, Any]) -> str:
    head = f"{told['kind']} {told['id']}" + (f" is {told['status']}" if told["status"] else "")
    lines = [face.output.paint(head, "bold") + (f": {told['explanation']}" if told["explanation"] else "")]
    for number, link in enumerate(told["causes"]):
        lead = "because " if number else ""
        by = face.output.paint(f"({link['author']}, {link['commit'][:9]})", "dim")
        lines.append(f"  {'  ' * number}{lead}{link['subject']}  {by}")
    return "\n".join(lines)
