"""Models and their samples, for the commands that draw molecules."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from graphcnf.errors import UserError

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF, PackedGraphs
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

BLOCK = 512
"""Records that are drawn at a time."""

FIRST_BLOCK = 128
"""The first block is smaller: few molecules come sooner."""


def load_model(name: str, device: str = "cpu") -> GraphCNF:
    """Load shipped weights by name, or a folder, and check that its graphs are molecules.

    Raises:
        UserError: There is no such model or device, or the model does not fit.
    """
    import torch

    from graphcnf.graphs import GraphCNF

    try:
        torch.zeros(1, device=device).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).strip().splitlines() or ["not available"]
        raise UserError(f"device {device!r}: {reason[0]}") from None
    model = GraphCNF.from_pretrained(name, device)
    vocabulary_of(model, name)
    return model


def vocabulary_of(model: GraphCNF, name: str = "model") -> MoleculeVocabulary:
    """Meaning of the model's categories.

    Raises:
        UserError: The model's metadata do not say it.
    """
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    sizes = model.config["steps"]
    try:
        vocabulary = MoleculeVocabulary.from_dict(model.metadata["vocabulary"])
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{name}: config.json names no vocabulary of atoms and bonds") from None
    found = (len(vocabulary.atoms), len(vocabulary.bonds))
    if found != (sizes["node_categories"], sizes["bond_categories"]):
        raise UserError(f"{name}: the vocabulary in config.json does not fit the model")
    return vocabulary


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


def check_temperature(temperature: float) -> None:
    """Raise `typer.BadParameter` where it is no positive finite number."""
    if not 0 < temperature < float("inf"):
        raise typer.BadParameter(
            f"{temperature} is not greater than 0 and finite", param_hint="'--temperature'"
        )


def record_blocks(
    model: GraphCNF,
    *,
    seed: int,
    temperature: float = 1.0,
    sizes: tuple[int, int] | None = None,
    batch_size: int = 128,
) -> Iterator[tuple[int, PackedGraphs]]:
    """Endless stream of samples, as (number of the first record, graphs).

    Where a block begins and ends depends on nothing but `batch_size`, so that not even rounding
    errors of padded batches tell how many records somebody wanted.
    """
    first = 0
    while True:
        count = max(batch_size, min(BLOCK, max(FIRST_BLOCK, first)))
        yield (
            first,
            model.sample_records(
                first, count, seed=seed, temperature=temperature, sizes=sizes,
                batch_size=batch_size,
            ),
        )  # fmt: skip
        first += count
