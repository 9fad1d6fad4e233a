"""Agents, as people ask for them."""

from typing import Any

from ravi.app import App
from ravi.core import agent as agents
from ravi.core import document
from ravi.core.agent import Agent
from ravi.core.ids import derive_id, is_valid
from ravi.core.times import stamp
from ravi.core.trailers import Message
from ravi.errors import Conflict, NotFound, UsageError
from ravi.porcelain.shipped import template
from ravi.store.writer import Draft, Tip


def listing(app: App) -> list[dict[str, Any]]:
    """Every agent, with how many of its tasks are open and which runs are live."""
    with app.view() as view:
        app.permit("agents.list", None, view)
        return [_json(agent, view) for agent in view.agents()]


def show(app: App, name: str) -> dict[str, Any]:
    """One agent with its instructions."""
    with app.view() as view:
        app.permit("agents.show", None, view)
        agent = view.agent(name)
        if agent is None:
            raise NotFound(f"no agent `{name}` in this workspace", hint=app.near(name, [a.name for a in view.agents()]))
        return {**_json(agent, view), "instructions": agent.instructions}


def new(app: App, name: str, *, runner: str, command: tuple[str, ...], instructions: str) -> dict[str, Any]:
    """Write agents/NAME/AGENT.md."""
    if not is_valid(name):
        raise UsageError(f"`{name}` is not a name", hint="names are a-z, 0-9, `.`, `_` and `-`, at most 64 letters")
    path = f"agents/{name}/AGENT.md"
    keys = {"runner": runner, "command": list(command) or None}
    body = f"\n{instructions.rstrip()}\n" if instructions.strip() else None
    data = document.edit(template("AGENT.md"), keys, body, path=path)
    parsed = document.parse(data, path)
    agent = agents.read(path, parsed.front, parsed.body)
    with app.view() as view:
        app.permit("agents.new", None, view)

        def propose(tip: Tip) -> Draft:
            if tip.read(path) is not None:
                raise Conflict(f"there is an agent `{name}` already", hint=f"edit {path}")
            event = derive_id("agent.created", name, stamp(app.now()))
            message = Message(
                f"agent {name}: created by {app.actor.name}", "", {"Ravi-Event": event, "Ravi-Agent": name}
            )
            return Draft(message, {path: data}, app.signature())

        app.repository.writer.record(propose)
        app.publish()
        return _json(agent, view)


def _json(agent: Agent, view: Any) -> dict[str, Any]:
    return {
        "name": agent.name,
        "runner": agent.runner,
        "command": list(agent.command),
        "model": agent.model,
        "concurrency": agent.concurrency,
        "sandbox": agent.sandbox,
        "path": agent.path,
        "problem": agent.problem,
        "open": [task.id for task in view.assigned(agent.name)],
        "running": [run.id for run in view.live_runs() if run.agent == agent.name],
    }
