"""What ships with ravi: the templates that new documents start from, and the example workspace."""

import os
from typing import Literal

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def shipped(folder: Literal["templates", "workspace.example"]) -> str:
    """Where a folder that ships with ravi lies: inside the installed package, else in the checkout ravi runs from."""
    installed = os.path.join(_PACKAGE, "_" + folder.replace(".", "_"))
    return installed if os.path.isdir(installed) else os.path.join(os.path.dirname(_PACKAGE), folder)


def template(name: str) -> bytes:
    """The text that a new document or a file of settings starts from."""
    with open(os.path.join(shipped("templates"), name), "rb") as file:
        return file.read()


def write_schemas(private: str) -> None:
    """Write the JSON Schema of each document where the templates tell editors to look; nothing depends on them."""
    import json

    from ravi.core import schema

    folder = os.path.join(private, "schemas")
    os.makedirs(folder, exist_ok=True)
    for kind in schema.KINDS:
        with open(os.path.join(folder, f"{kind}.json"), "w", encoding="utf-8") as file:
            json.dump(schema.json_schema(kind), file, indent=2)
