"""The `graphcnf push` command: uploads a model to the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from graphcnf.errors import UserError
from graphcnf.file_reading import read_json
from graphcnf.messages import say
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option


def push(
    model: Annotated[
        str, typer.Argument(metavar="NAME|DIR", help="Folder of a model or run."), Role.MODEL
    ],
    repository: Annotated[str, typer.Argument(metavar="ORG/NAME", help="Repository on the hub.")],
    licence: Annotated[
        str, option('Licence of the weights, such as "mit" or "cc-by-4.0".', "--licence")
    ],
    private: Annotated[bool, option("A new repository is private.", "--private")] = False,
    intended: Annotated[
        str | None, option("What the model is meant for.", show_default="a general sentence")
    ] = None,
    limits: Annotated[
        str | None, option("What the model does not do.", show_default="limits of all models")
    ] = None,
    figures: Annotated[
        Path | None,
        option("What evaluate --json has written of a sample of the model.", metavar="FILE"),
        Role.FILE,
    ] = None,
    card: Annotated[bool, option("Print the model card, and send nothing.", "--card")] = False,
) -> None:
    """Upload a model with a model card to the Hugging Face hub, and print its pinned name.

    The token is the one of `hf auth login` or HF_TOKEN. Needs 'graphcnf[hub]'.
    """
    from graphcnf.hub.repository import CARD, packed
    from graphcnf.hub.repository import push as upload

    text: dict[str, Any] = {"licence": licence, "intended": intended, "limits": limits}
    text["figures"] = None if figures is None else _figures(figures)
    if card:
        print(packed(model, repository, **text)[CARD].decode(), end="")
    else:
        say(f"pushed as {upload(model, repository, private=private, **text)}")


def _figures(path: Path) -> dict[str, Any]:
    """Read the figures that `evaluate --json` has written."""
    try:
        found = read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: unreadable ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: must hold the figures of one sample, a JSON object")
    return found
