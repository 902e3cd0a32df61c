"""Molecules without salts and without charges that can go, by RDKit's MolStandardize."""

from __future__ import annotations

from functools import cache

from rdkit import Chem
from rdkit.Chem.MolStandardize import rdMolStandardize

from graphcnf.molecules.codec import UnparsableSmiles, parse


def parse_standardized(smiles: str) -> Chem.Mol:
    """The largest organic fragment of a molecule, cleaned up and neutral where it can be.

    Cleaning up disconnects metals and writes functional groups in one way. Charges stay where no
    hydrogen can take them away: in nitro groups, N-oxides and quaternary ammonium.

    Raises:
        UnparsableSmiles: RDKit or its MolStandardize refuses the SMILES.
    """
    mol = parse(smiles)
    try:
        parent = rdMolStandardize.FragmentParent(mol, _organic_first())
        return _uncharger().uncharge(parent)
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UnparsableSmiles(f"it cannot be standardized: {reason}") from None


@cache
def _organic_first() -> rdMolStandardize.CleanupParameters:
    parameters = rdMolStandardize.CleanupParameters()
    parameters.preferOrganic = True  # type: ignore[assignment]  # wrong in the stubs
    return parameters


@cache
def _uncharger() -> rdMolStandardize.Uncharger:
    return rdMolStandardize.Uncharger()
