"""Make larger molecules by joining smaller ones with four simple reactions (`REACTIONS`).

The command `graphcnf datasets join` uses it, to make molecules with more atoms than a data set has.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
from rdkit import Chem
from rdkit.Chem.rdChemReactions import ReactionFromSmarts

from graphcnf.chemistry.filters import NO_FILTERS, Funnel
from graphcnf.chemistry.hashing import hash_each
from graphcnf.chemistry.standardize import parse_standardized
from graphcnf.errors import UserError
from graphcnf.limits import check_low_and_high, check_seed
from graphcnf.molecules import codec

AMINE = "[NX3;H1,H2;!$(N[C,S,P]=*);!$(N[N,O]):2]"
ALKYL = "[CX4;H1,H2;!$(C([OH])[!#6;!H]):2]"

REACTIONS = {
    "amide": f"[CX3:1](=[O:3])[OX2H1].{AMINE}>>[C:1](=[O:3])[N:2]",
    "ether": f"[c,CX4;!$(C[OH][OH]):1][OX2H1:3].{ALKYL}[OX2H1]>>[*:1][O:3][C:2]",
    "amine": f"[CX3;$(C([#6])[#6,#1]);!$(C[!#6]):1]=[OX1].{AMINE}>>[C:1][N:2]",
    "triazole": "[CX4:1][NX3H2:2].[CX2H1:3]#[CX2:4]>>[C:1][n:2]1[cH:3][c:4]nn1",
}
"""Reactions of two molecules, as SMARTS: an acid and an amine; two alcohols, of which the first may
be a phenol; an aldehyde or ketone and an amine (reductive amination); a primary amine, standing for
the azide made from it, and a terminal alkyne."""

MAX_REACTANTS = 2000
"""Number of molecules that can be joined; random ones if more are given."""

PATIENCE = 1000
"""Consecutive tries without a new product after which the search ends."""


def join_molecules(
    molecules: Sequence[str],
    *,
    ends: Sequence[str] = (),
    seed: int = 0,
    atoms: tuple[int, int] = (1, 80),
) -> Iterator[str]:
    """Yield distinct SMILES of two or three molecules joined by random `REACTIONS`.

    Molecules are neutralized first (`parse_standardized`). With probability 1/2, the product of two
    molecules is joined to a third one. Neither the yield of a reaction nor other groups that would
    react are considered.

    Args:
        molecules: Molecules to join; unreadable ones are left out. Of more than 2,000
            (`MAX_REACTANTS`), random ones are taken.
        ends: If given, every product is made from one of these and one or two of `molecules`.
        atoms: Lowest and highest number of heavy atoms of a product.

    Examples:
        >>> next(join_molecules(["OC(=O)c1ccccc1", "NCC1CC1"], atoms=(13, 13)))
        'O=C(NCC1CC1)c1ccccc1'
    """
    check_seed(seed)
    check_low_and_high("atoms", atoms)
    random = np.random.default_rng(seed)
    reactions = [ReactionFromSmarts(text) for text in REACTIONS.values()]
    groups = [list(reaction.GetReactants()) for reaction in reactions]
    some = [molecules[k] for k in random.permutation(len(molecules))[:MAX_REACTANTS]]
    read, first_ones = _neutral(some), _neutral(ends)
    if len(ends) and not first_ones:
        raise UserError("none of the ends can be read")
    partners = [[[m for m in read if m.HasSubstructMatch(g)] for g in pair] for pair in groups]

    def join(first: Chem.Mol | None) -> Chem.Mol | None:
        """Join a molecule and a random one by a random reaction that both can take part in."""
        ways = [
            (reaction, one if first is None else [first], other, swapped)
            for reaction, pair, there in zip(reactions, groups, partners, strict=True)
            for swapped, (one, other) in enumerate((there, there[::-1]))
            if other and (one if first is None else first.HasSubstructMatch(pair[swapped]))
        ]
        if not ways:
            return None
        reaction, *sides, swapped = ways[random.integers(len(ways))]
        pair = [side[random.integers(len(side))] for side in sides]
        products = reaction.RunReactants(pair[::-1] if swapped else pair, 100)
        product = products[random.integers(len(products))][0]
        return None if Chem.SanitizeMol(product, catchErrors=True) else product

    funnel = Funnel(NO_FILTERS, PATIENCE)

    def tries() -> Iterator[list[tuple[int, str]]]:
        while True:
            with codec.quiet():
                product = join(first_ones[random.integers(len(first_ones))] if first_ones else None)
                if product is not None and random.random() < 0.5:
                    product = join(product)
            if product is None or not atoms[0] <= product.GetNumHeavyAtoms() <= atoms[1]:
                yield []
            elif funnel.passes(product):
                text = Chem.MolToSmiles(product)
                yield [(int(hash_each([text])[0]), text)]

    yield from funnel.distinct(tries())
    raise UserError(
        f"{len(read)} molecules, joined to {atoms[0]} to {atoms[1]} atoms: {funnel.ending()}"
    )


def _neutral(molecules: Sequence[str]) -> list[Chem.Mol]:
    """Read SMILES as neutral molecules, in the way of `parse_standardized`."""
    found = []
    with codec.quiet():
        for text in molecules:
            with suppress(codec.MoleculeNotRepresentable):
                found.append(parse_standardized(text, frozenset()))
    return found
