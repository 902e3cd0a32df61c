"""Files of molecules to fine-tune on, made of ZINC250k.

`python -m graphcnf.scripts.benchmarks.own_molecules boronic-acids --out boronic-acids.smi`
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from graphcnf.errors import UserError, say
from graphcnf.scripts._output import write_text
from graphcnf.scripts.cli import run

SULFONAMIDE = "S(=O)(=O)N"
ACID_TO_BORONIC = "[c:1][CX3](=O)[OX1-,OX2H1]>>[c:1]B(O)O"


def sulfonamides(smiles: list[str]) -> Iterator[str]:
    """The molecules with a sulfonamide."""
    from rdkit import Chem

    pattern = Chem.MolFromSmarts(SULFONAMIDE)
    return (s for s in smiles if Chem.MolFromSmiles(s).HasSubstructMatch(pattern))


def boronic_acids(smiles: list[str]) -> Iterator[str]:
    """Aromatic carboxylic acids with B(OH)2 in place of one CO2H: made up, boron is not in ZINC."""
    from rdkit import Chem
    from rdkit.Chem import rdChemReactions

    swap = rdChemReactions.ReactionFromSmarts(ACID_TO_BORONIC)
    for text in smiles:
        products = swap.RunReactants((Chem.MolFromSmiles(text),))
        if products:
            mol = products[0][0]
            Chem.SanitizeMol(mol)
            yield Chem.MolToSmiles(mol)


KINDS: dict[str, tuple[Callable[[list[str]], Iterator[str]], int]] = {
    "sulfonamides": (sulfonamides, 3000),
    "boronic-acids": (boronic_acids, 500),
}


def main(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))],
    out: Annotated[Path | None, typer.Option(help="File.", show_default="stdout")] = None,
    count: Annotated[
        int | None, typer.Option("-n", min=1, help="Molecules.", show_default="3000; 500")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order of ZINC250k.")] = 0,
) -> None:
    """Write distinct molecules of a kind, the first ones in a random order of ZINC250k."""
    from graphcnf.datasets.zinc250k import load_zinc250k

    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r}: choose from {', '.join(KINDS)}")
    make, usual = KINDS[kind]
    smiles = list(dict.fromkeys(load_zinc250k().smiles))
    random.Random(seed).shuffle(smiles)
    found: dict[str, None] = {}
    for one in make(smiles):
        found[one] = None
        if len(found) == (count or usual):
            break
    else:
        raise UserError(f"ZINC250k has {len(found)} {kind} only")
    write_text("\n".join(found) + "\n", out)
    say(f"{len(found)} {kind}")


if __name__ == "__main__":
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)
    app.command()(main)
    run(app, name="own_molecules")
