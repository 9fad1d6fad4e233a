"""`ravi agents`: who takes turns."""

from typing import Any

import click

from ravi.cli.main import Face, Noun
from ravi.porcelain import agents as porcelain


@click.group(cls=Noun)
def agents() -> None:
    """Who takes turns; the bare noun lists."""


@agents.command("list")
@click.pass_obj
def list_(face: Face, /) -> None:
    """Every agent."""
    face.output.show(porcelain.listing(face.app), lambda rows: _rows(face, rows))


@agents.command()
@click.argument("name")
@click.pass_obj
def show(face: Face, /, name: str) -> None:
    """One agent with its instructions."""
    face.output.show(porcelain.show(face.app, name), lambda a: _page(face, a))


@agents.command(context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option("--runner", default="command", help="How it takes a turn; `command` runs any program.")
@click.option("--instructions", "-i", default="", help="What it is told first, every time.")
@click.pass_obj
def new(face: Face, /, name: str, command: tuple[str, ...], runner: str, instructions: str) -> None:
    """Write an agent: `ravi agents new NAME -- PROGRAM [ARG...]`."""
    made = porcelain.new(face.app, name, runner=runner, command=command, instructions=instructions)
    face.output.show(made, lambda a: f"{a['name']}  {a['path']}")


def _rows(face: Face, rows: list[dict[str, Any]]) -> str:
    return face.output.table(
        [(a["name"], a["runner"], f"{len(a['open'])} open", " ".join(a["command"]) or a["model"]) for a in rows]
    )


def _page(face: Face, agent: dict[str, Any]) -> str:
    keys = ("runner", "model", "concurrency", "problem", "path")
    head = [(key, str(agent[key])) for key in keys if agent[key]]
    head.append(("sandbox", f"{agent['sandbox']}; its programs run with your rights"))
    head += [(key, " ".join(agent[key])) for key in ("command", "open", "running") if agent[key]]
    return "\n\n".join(part for part in (face.output.table(head), agent["instructions"].strip()) if part)
