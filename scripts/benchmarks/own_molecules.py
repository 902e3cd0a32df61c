"""Files of molecules to fine-tune on, made of ZINC250k."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rdkit import Chem
from rdkit.Chem import rdChemReactions

from graphcnf.datasets.zinc250k import load_zinc250k
from graphcnf.errors import say
from graphcnf.scripts._output import check_place, output_kind, write_text


def sulfonamides(smiles: Sequence[str]) -> Iterator[str]:
    """Yield the molecules with a sulfonamide."""
    pattern = Chem.MolFromSmarts("S(=O)(=O)N")
    return (s for s in smiles if Chem.MolFromSmiles(s).HasSubstructMatch(pattern))


def boronic_acids(smiles: Sequence[str]) -> Iterator[str]:
    """Yield aromatic carboxylic acids with B(OH)2 in place of one CO2H; ZINC holds no boron."""
    swap = rdChemReactions.ReactionFromSmarts("[c:1][CX3](=O)[OX1-,OX2H1]>>[c:1]B(O)O")
    for text in smiles:
        products = swap.RunReactants((Chem.MolFromSmiles(text),))
        if products:
            mol = products[0][0]
            Chem.SanitizeMol(mol)
            yield Chem.MolToSmiles(mol)


KINDS = {"sulfonamides": (sulfonamides, 3000), "boronic-acids": (boronic_acids, 500)}


def own_molecules(
    kind: Annotated[str, typer.Argument(metavar="|".join(KINDS))],
    out: Annotated[Path | None, typer.Option(help="File, .smi.", show_default="stdout")] = None,
) -> None:
    """Write distinct molecules of a kind, the first ones in a random order of ZINC250k."""
    if kind not in KINDS:
        raise typer.BadParameter(f"{kind!r} must be {' or '.join(KINDS)}")
    output_kind(out, ("smi",))
    check_place(out)
    make, count = KINDS[kind]
    smiles = list(dict.fromkeys(load_zinc250k().smiles))
    random.Random(0).shuffle(smiles)
    found: dict[str, None] = {}
    for one in make(smiles):
        found[one] = None
        if len(found) == count:
            break
    write_text("\n".join(found) + "\n", out)
    say(f"{len(found)} {kind}")
