"""Print *PGD, reduced*, of sets of molecules: how well a classifier tells them from MOSES.

PolyGraph discrepancy (Krimmel et al. 2025, arXiv 2510.06122) is the Jensen-Shannon distance that a
classifier finds between two sets, by the best of several descriptors. Reduced: without the weights
of MolCLR, and by logistic regression instead of TabPFN. So it is no figure of the paper.

In an environment of its own, beside graphcnf: `pip install polygraph-benchmark`, and `pip install
--no-deps molsets`. Then, with files of a SMILES per line, which may be compressed:

    python docs/discrepancy.py docs/samples/moses.smi.gz
"""

from __future__ import annotations

import gzip
import random
import sys

from polygraph.metrics.base import PolyGraphDiscrepancy
from polygraph.utils.descriptors.molecule_descriptors import (
    ChemNetDescriptor,
    FingerprintDescriptor,
    LipinskiDescriptor,
    TopoChemicalDescriptor,
)
from rdkit import Chem
from sklearn.linear_model import LogisticRegression

from graphcnf.data_files import read_data
from graphcnf.datasets import moses_source
from graphcnf.molecules.codec import quiet

MOLECULES = 2_000
"""Number of molecules of each set: the more, the more a classifier finds."""


def molecules(smiles: list[str]) -> list[Chem.Mol]:
    """Return the first `MOLECULES` valid molecules of one fragment."""
    with quiet():
        mols = (Chem.MolFromSmiles(one) for one in smiles if "." not in one)
        return [mol for mol in mols if mol is not None][:MOLECULES]


def main() -> None:
    """Compare files and training molecules of MOSES with its test molecules."""
    pick = random.Random(0)
    held_out = molecules(pick.sample(moses_source("test").smiles(), 2 * MOLECULES))
    known = molecules(pick.sample(moses_source("train").smiles(), 2 * MOLECULES))
    metric = PolyGraphDiscrepancy(
        held_out,
        {
            "topochemical": TopoChemicalDescriptor(),
            "morgan": FingerprintDescriptor(dim=128),
            "chemnet": ChemNetDescriptor(dim=128),
            "lipinski": LipinskiDescriptor(),
        },
        classifier=LogisticRegression(max_iter=2000),
    )
    sets = {"training molecules": known}
    for file in sys.argv[1:]:
        content = read_data(file)
        lines = (gzip.decompress(content) if file.endswith(".gz") else content).decode()
        sets[file] = molecules([line.split()[0] for line in lines.splitlines() if line.strip()])
    for name, mols in sets.items():
        found = metric.compute(mols)
        parts = ", ".join(f"{key} {100 * value:.1f}" for key, value in found["subscores"].items())
        print(f"{name}: {100 * found['pgd']:.1f} ({found['pgd_descriptor']}; {parts})", flush=True)


if __name__ == "__main__":
    main()
