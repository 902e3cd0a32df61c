"""Models and their samples, for the commands that draw molecules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import typer

from graphcnf.errors import UserError

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF


def load_model(name: str, device: str = "cpu", *, support: bool = True) -> GraphCNF:
    """Load shipped weights by name, or a folder, and check that its graphs are molecules.

    Without `support`, an atom may get more bonds than its category has in the training data.

    Raises:
        UserError: There is no such model or device, or the model does not fit.
    """
    import torch

    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.vocabulary import MoleculeVocabulary
    from graphcnf.scripts._images import is_image_model

    if is_image_model(name):
        raise UserError(f"{name} is a model of images: its commands are graphcnf images ...")
    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or ["not available"]
        raise UserError(f"device {device!r}: {reason[0]}") from None
    model = GraphCNF.from_pretrained(name, device)
    MoleculeVocabulary.of_model(model, name)
    return model if support else model.without_support()


def parse_sizes(text: str | None) -> tuple[int, int] | None:
    """Lowest and highest number of atoms of "20-30" or "25".

    Raises:
        typer.BadParameter: Another text.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text.strip())
    if not found:
        raise typer.BadParameter(
            f"{text!r} is no number of atoms: write 25 or 20-30", param_hint="'--size'"
        )
    low, high = int(found[1]), int(found[2] or found[1])
    if not 1 <= low <= high:
        raise typer.BadParameter(
            f"{text!r}: write the smaller number first, from 1 on", param_hint="'--size'"
        )
    return low, high


def parse_selection(
    properties: str | None, require: list[str], smarts: list[str]
) -> dict[str, tuple[str, ...]]:
    """`properties`, `requirements` and `patterns` of a recipe, each in the one form that it has.

    Args:
        properties: Names with commas between them.
        require: See `Requirement.parse`.
        smarts: Patterns.

    Raises:
        typer.BadParameter: It cannot be read.
    """
    from graphcnf.molecules.selection import Requirement, Selection, parse_names

    found: dict[str, tuple[str, ...]] = {}
    readers = {
        "properties": (lambda: parse_names(properties) if properties else (), "--properties"),
        "requirements": (lambda: tuple(str(Requirement.parse(r)) for r in require), "--require"),
        "patterns": (lambda: Selection(patterns=smarts) and tuple(smarts), "--smarts"),
    }
    for name, (read, option) in readers.items():
        try:
            found[name] = read()
        except UserError as error:
            raise typer.BadParameter(str(error), param_hint=f"'{option}'") from None
    return found


def check_temperature(temperature: float) -> None:
    """Raise `typer.BadParameter` where it is no positive finite number."""
    if not 0 < temperature < float("inf"):
        raise typer.BadParameter(
            f"{temperature} is not greater than 0 and finite", param_hint="'--temperature'"
        )
