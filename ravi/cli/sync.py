"""`ravi sync`: one workspace in several clones."""

from typing import Any

import click

from ravi.cli.main import Face


@click.command()
@click.option("--remote", metavar="NAME", default="", help="The git remote; else `remote` in ravi.yaml, else origin.")
@click.option("--lead", is_flag=True, help="From now on this clone runs the agents, whichever did before.")
@click.pass_obj
def sync(face: Face, /, remote: str, lead: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Bring this clone and the shared remote to one main line."""
    from ravi.porcelain import sync as porcelain

    face.output.show(porcelain.sync(face.app, remote=remote, lead=lead), _synced)


def _synced(told: dict[str, Any]) -> str:
    leader = told["leader"]
    who = "this clone leads" if leader["here"] else f"clone {leader['clone']} on {leader['host']} leads"
    counts = [f"{told[word]} {_commits(told[word])} {word}" for word in ("received", "sent") if told[word]]
    head = (
        f"{told['branch']} and {told['remote']}: {', '.join(counts) or 'nothing new'}; {who}, epoch {leader['epoch']}"
    )
    return "\n".join([head, *told["said"]])


def _commits(count: int) -> str:
    return "commit" if count == 1 else "commits"
