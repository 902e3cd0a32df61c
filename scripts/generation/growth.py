"""`generate` with a fragment that every molecule has to hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rdkit import Chem

    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.growth import Found
    from graphcnf.scripts.generation.records import Recipe


def chosen_way(ways: dict[str, str | None], others: dict[str, object]) -> tuple[str, str] | None:
    """The one option that names a fragment, and its text; None without any.

    Args:
        ways: By the names of the tasks.
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
    return given[0]


def write_grown(
    network: GraphCNF,
    recipe: Recipe,
    number: int,
    out: Path | None,
    way: tuple[str, str],
    particles: int,
    convert: Callable[[Path, Path], None] | None,
    as_json: bool = False,
) -> None:
    """Draw molecules around a fragment and write them, then a summary to stderr.

    Raises:
        UserError: The model cannot grow from it, or too few molecules are found: what was found is
            on stdout, but no file is written.
    """
    from graphcnf.molecules.growth import Growth, fragment_of
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    vocabulary = MoleculeVocabulary.of_model(network)
    task, text = way
    growth = Growth(
        network,
        vocabulary,
        fragment_of(text, task, vocabulary),
        seed=recipe.seed,
        temperature=recipe.temperature,
        atoms=recipe.sizes,
        particles=particles,
    )
    write_found(growth.molecules(), recipe, number, out, convert)
    share = growth.valid / max(growth.ended, 1)
    figures: dict[str, int | list[int]] = {
        "written": number, "distinct": number, "walks": growth.walks, "placed": growth.ended,
        "valid": growth.valid,
    }  # fmt: skip
    groups = [len(parts) for parts in growth.substituents.values()]
    if groups:
        figures["substituents"] = groups
    sentence = (
        f"{number:,} distinct molecules with {text}; {growth.ended:,} of {growth.walks:,} walks "
        f"placed all of it, {100 * share:.1f} % of these are valid"
    )
    if groups:
        counts = " and ".join(f"{count:,}" for count in groups)
        sentence += f"; {counts} distinct substituents at its attachment points"
    print(json.dumps(figures) if as_json else sentence, file=sys.stderr)


def write_found(
    molecules: Iterator[Found],
    recipe: Recipe,
    number: int,
    out: Path | None,
    convert: Callable[[Path, Path], None] | None,
    more: dict[str, Callable[[Chem.Mol], float]] | None = None,
) -> None:
    """Write molecules as they come, the first ones of an iterator.

    Args:
        molecules: The iterator; it is closed at the end.
        recipe: Format, columns and properties.
        number: How many.
        out: File to write, None for stdout.
        convert: See `open_output`.
        more: What further columns hold, by their names.
    """
    from rdkit import Chem

    from graphcnf.molecules.selection import DECIMALS, described
    from graphcnf.scripts._output import open_output
    from graphcnf.scripts.generation.records import WRITERS, header
    from graphcnf.terminal import progress_bar

    write = WRITERS[recipe.kind]
    bar = out is not None or not sys.stdout.isatty()
    with (
        open_output(out, convert) as stream,
        closing(molecules),
        progress_bar("drawing", number, hidden=not bar) as show,
    ):
        stream.write(header(recipe))
        for record, one in enumerate(islice(molecules, number)):
            mol = Chem.MolFromSmiles(one.smiles)
            row = {"record": record, "smiles": one.smiles}
            row |= {name: round(value(mol), DECIMALS) for name, value in (more or {}).items()}
            row |= described(mol, recipe.properties)
            stream.write(write({name: row[name] for name in recipe.columns}))
            stream.flush()
            show(record + 1)
