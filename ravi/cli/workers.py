"""`ravi worker`, `ravi workers`: runs carried out on other machines."""

import os
from typing import Any

import click

from ravi.cli.main import Face, Noun


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, default="")
@click.option("--slots", type=click.IntRange(min=1), default=4, help="Runs at one time; 4 unless said.")
@click.option("--name", default="", help="What it is called; this machine's name unless said.")
@click.option("--remote", metavar="URL", default="", help="The shared git remote, to make the clone of in DIR.")
@click.option("--nats", "urls", metavar="URL", multiple=True, help="Where NATS is, unless ravi.yaml or NATS_URL say.")
@click.pass_obj
def worker(face: Face, /, folder: str, slots: int, name: str, remote: str, urls: tuple[str, ...]) -> None:
    """Carry out runs for the clone that leads. DIR (here, unless said) is a clone of its own; an empty one is made."""
    from ravi.porcelain import worker as porcelain

    app = porcelain.opened(folder or face.workspace or ".", remote, dict(os.environ))
    try:
        told = porcelain.work(app, name=name, slots=slots, urls=urls, say=face.output.say)
    finally:
        app.close()
    face.output.show(told, lambda end: f"{end['name']}: {end['done']} runs, {end['said']}")


@click.group(cls=Noun)
def workers() -> None:
    """Who carries out runs for this workspace; the bare noun lists."""


@workers.command("list")
@click.pass_obj
def list_(face: Face, /) -> None:
    """Those that live, and what they have."""
    from ravi.porcelain import crew

    face.output.show(crew.listing(face.app), lambda rows: face.output.table([_row(row) for row in rows]))


@workers.command()
@click.argument("name")
@click.pass_obj
def drain(face: Face, /, name: str) -> None:
    """Have NAME take no more runs, finish those that it has, and end."""
    from ravi.porcelain import crew

    face.output.show(crew.drain(face.app, name), lambda told: f"{told['name']}  drains")


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    state = "draining" if row["draining"] else "takes runs"
    return (row["name"], row["host"], f"{row['busy']}/{row['slots']}", state, row["seen"], ", ".join(row["runs"]))
