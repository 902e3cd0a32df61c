"""Molecules to graphs and back: they come back, or are refused with a reason; none changes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import Any

from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcMolFormula

from graphcnf.evaluation.formats import Column, percent, text
from graphcnf.molecules import codec, validity
from graphcnf.molecules.vocabulary import MoleculeVocabulary
from graphcnf.parallel import chunked, parallel_map

CHUNK = 500

COLUMNS: list[Column] = [
    ("Molecules", text("source")),
    ("Number", text("molecules", "{:,}")),
    ("Come back", percent("returned")),
    ("Refused", percent("refused")),
    ("Changed without a word", text("changed", "{:,}")),
    ("Reasons of refusals", text("reasons")),
]

Identity = tuple[str, str, int]
"""Canonical SMILES, formula with all hydrogens, unpaired electrons."""


def identity(mol: Chem.Mol) -> Identity:
    """What of a molecule must be the same afterwards: all but stereo, isotopes and atom numbers.

    Written without the codec, which it judges.
    """
    mol = Chem.AddHs(mol)
    for atom in mol.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    Chem.RemoveStereochemistry(mol)
    electrons = sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())
    # Read once more: RDKit's SMILES of what is kept in a molecule may differ from that of its own.
    plain = Chem.MolFromSmiles(Chem.MolToSmiles(Chem.RemoveHs(mol)))
    return Chem.MolToSmiles(plain), CalcMolFormula(mol), electrons


def returned(smiles: str) -> Chem.Mol:
    """The molecule that the graph of another one leads to, in categories of its own.

    Raises:
        MoleculeNotRepresentable: The codec refuses it.
    """
    mol = codec.parse(smiles)
    codec.check_representable(mol)
    canonical = codec.canonical_or_refused(codec.canonical_smiles(mol))
    atoms, _, bonds = codec.categories(canonical, marked=True)
    vocabulary = MoleculeVocabulary.from_counts(Counter(atoms), Counter(bonds))
    graph = codec.molecule_to_graph(smiles, vocabulary)
    back = codec.graph_to_molecule(*graph, vocabulary)
    written = validity.strict(back)
    return Chem.MolFromSmiles(written) if written else Chem.Mol()


def judge(smiles: Sequence[str]) -> list[str]:
    """Per molecule nothing where it comes back, the reason where it is refused, or "changed"."""
    verdicts = []
    with codec.quiet():
        for one in smiles:
            try:
                back = returned(one)
            except codec.MoleculeNotRepresentable as error:
                verdicts.append(type(error).__name__)
                continue
            same = identity(back) == identity(Chem.MolFromSmiles(one))
            verdicts.append("" if same else "changed")
    return verdicts


def roundtrip_row(
    source: str, smiles: Sequence[str], workers: int | None = None
) -> tuple[dict[str, Any], list[str]]:
    """Figures of some molecules, and those of them that change.

    Args:
        source: What the molecules are.
        smiles: The molecules.
        workers: Processes; None for one per core.
    """
    parts = parallel_map(judge, chunked(smiles, CHUNK), workers=workers, label=source)
    verdicts = [verdict for part in parts for verdict in part]
    counts = Counter(verdicts)
    changed = [s for s, v in zip(smiles, verdicts, strict=True) if v == "changed"]
    refused = {name: n for name, n in counts.most_common() if name not in ("", "changed")}
    row = {
        "source": source,
        "molecules": len(smiles),
        "returned": counts[""] / max(len(smiles), 1),
        "refused": sum(refused.values()) / max(len(smiles), 1),
        "changed": len(changed),
        "reasons": ", ".join(f"{name} {n:,}" for name, n in refused.items()),
    }
    return row, changed


def sources(odd: int, each: int, seed: int) -> list[tuple[str, list[str]]]:
    """Odd molecules, and as many of QM9 and of MOSES, drawn at random.

    Raises:
        UserError: A package with data is not installed.
    """
    from graphcnf.datasets.moses import read_moses
    from graphcnf.datasets.qm9 import read_qm9
    from graphcnf.scripts.benchmarks.odd_molecules import odd_molecules

    found = [("odd", odd_molecules(odd, seed))] if odd else []
    if each:
        for name, read in (("QM9", read_qm9), ("MOSES", lambda: read_moses("train"))):
            known = read()
            found.append((name, Random(seed).sample(known, min(each, len(known)))))
    return found
