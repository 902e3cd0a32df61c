"""`generate` with a fragment that every molecule has to hold."""

from __future__ import annotations

import sys
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.generation.records import Recipe

KINDS = ("smi", "csv", "sdf", "jsonl")


def chosen_way(
    ways: dict[str, str | None], kind: str, others: dict[str, object]
) -> tuple[str, str] | None:
    """The one option that names a fragment, and its text; None without any.

    Args:
        ways: By the names of the tasks.
        kind: Format to write.
        others: Options that do not go together with a fragment.

    Raises:
        typer.BadParameter: Several were given, or what does not go together with one.
    """
    given = [(way, text) for way, text in ways.items() if text is not None]
    if not given:
        return None
    way = given[0][0]
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name, _ in given)
        raise typer.BadParameter(f"{names} exclude each other", param_hint=f"'--{given[1][0]}'")
    for name, value in others.items():
        if value:
            raise typer.BadParameter(f"not together with --{way}", param_hint=f"'{name}'")
    if kind not in KINDS:
        known = ", ".join(f".{k}" for k in KINDS)
        raise typer.BadParameter(f"with --{way} write one of {known}", param_hint="'--out'")
    return given[0]


def write_grown(
    network: GraphCNF,
    recipe: Recipe,
    number: int,
    out: Path | None,
    way: tuple[str, str],
    particles: int,
) -> None:
    """Draw molecules around a fragment and write them.

    Raises:
        UserError: The model cannot grow from it, or too few molecules are found: what was found is
            on stdout, but no file is written.
    """
    from graphcnf.molecules.growth import Growth, fragment_of
    from graphcnf.molecules.vocabulary import MoleculeVocabulary
    from graphcnf.scripts._output import open_output
    from graphcnf.scripts.generation.records import WRITERS, header
    from graphcnf.terminal import progress_bar

    vocabulary = MoleculeVocabulary.of_model(network)
    task, text = way
    fragment = fragment_of(text, task, vocabulary)
    growth = Growth(
        network,
        vocabulary,
        fragment,
        seed=recipe.seed,
        temperature=recipe.temperature,
        atoms=recipe.sizes,
        particles=particles,
    )
    write = WRITERS[recipe.kind]
    found = growth.molecules()
    bar = out is not None or not sys.stdout.isatty()
    with (
        open_output(out) as stream,
        closing(found),
        progress_bar("growing", number, hidden=not bar) as show,
    ):
        stream.write(header(recipe))
        for record, one in enumerate(islice(found, number)):
            row = {"record": record, "smiles": one.smiles}
            stream.write(write({name: row[name] for name in recipe.columns}))
            stream.flush()
            show(record + 1)
    share = growth.valid / max(growth.ended, 1)
    print(
        f"{number:,} distinct molecules with {text}; {growth.ended:,} of {growth.walks:,} walks "
        f"placed all of it, {100 * share:.1f} % of these are valid",
        file=sys.stderr,
    )
