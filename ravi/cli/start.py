"""`ravi init`, `ravi demo`: where one begins."""

import os
import shlex
import sys
from typing import Any

import click

from ravi.cli.main import Face


@click.command()
@click.argument("folder", metavar="[DIR]", required=False, default="")
@click.option("--example", is_flag=True, help="With three small agents, a few notes and two tasks.")
@click.pass_obj
def init(face: Face, folder: str, example: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Make DIR (here, unless said) a workspace, or add what it lacks to be one."""
    from ravi.porcelain import start

    made = start.init(folder or face.workspace or ".", os.environ, example=example)
    face.output.show(made, lambda told: _made(face, told))


@click.command()
@click.option(
    "--dir", "folder", metavar="DIR", default="", help="Where to make it; a new folder of its own unless said."
)
@click.option("--keep/--no-keep", default=True, help="Keep the workspace, to look around in; kept unless said.")
@click.pass_obj
def demo(face: Face, folder: str, keep: bool) -> None:  # noqa: FBT001 - click passes flags by name
    """Watch three agents work, in a workspace made for it. It needs no key and no network."""
    from ravi.porcelain import demo as porcelain

    face.output.show(porcelain.demo(folder, os.environ, keep=keep, say=face.output.say), lambda told: _seen(face, told))


def _made(face: Face, told: dict[str, Any]) -> str:
    tops = sorted({name.partition("/")[0] + ("/" if "/" in name else "") for name in told["added"]})
    rows = [(word, ", ".join(names)) for word, names in (("added", tops), ("extended", told["extended"])) if names]
    rows += [("yours to commit", ", ".join(told["uncommitted"]))] if told["uncommitted"] else []
    rows += [("set up", "the merge driver, in this clone's git config")] if told["merge_driver"] else []
    rows += [("not published yet", told["paused"])] if told["paused"] else []
    head = f"{told['workspace']} is a workspace, main line {told['branch']}"
    if not rows:
        return f"{head}; nothing to add"
    ravi = _program()
    agent, task = (f"{ravi} agents new NAME -- PROGRAM", "who works"), (f"{ravi} tasks new TITLE -a NAME", "what to do")
    if "tasks/overview/TASK.md" in told["added"]:
        agent, task = (f"{ravi} agents", "who works"), (f"{ravi} tasks edit overview --status open", "what to do")
    steps = [agent, task, (f"{ravi} up", "watch, and run agents")]
    if told["workspace"] != os.path.realpath(os.getcwd()):
        steps.insert(0, (f"cd {shlex.quote(told['workspace'])}", ""))
    return "\n".join([head, _indented(face.output.table(rows)), "next:", _indented(face.output.table(steps))])


def _seen(face: Face, told: dict[str, Any]) -> str:
    ravi = _program()
    parts = [
        face.output.paint("What the editor wrote:", "bold"),
        _indented(told["result"].rstrip()),
        face.output.paint(f"git log --graph, as any git shows it ({told['commits']} commits):", "bold"),
        _indented(told["graph"]),
    ]
    if told["kept"]:
        steps = [
            f"cd {shlex.quote(told['workspace'])}",
            f"{ravi} tasks --all",
            f"{ravi} tree overview",
            f"{ravi} why overview",
            "git log",
        ]
        parts += [face.output.paint("Look around:", "bold"), _indented("\n".join(steps))]
    return "\n" + "\n\n".join(parts)


def _program() -> str:
    """How this program is called from here: its name, or its path when it is not on PATH."""
    import shutil

    beside = os.path.join(os.path.dirname(sys.executable), "ravi")
    return beside if not shutil.which("ravi") and os.path.exists(beside) else "ravi"


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))
