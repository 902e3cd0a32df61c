import numpy as np
import pytest
from rdkit import Chem

from graphcnf.chemistry.hashing import hash_each
from graphcnf.datasets.molecules import encode
from graphcnf.evaluation.summary import Summary, summarize
from graphcnf.molecules.conventions import evaluate_records


def figures(samples, vocabulary=None, training=None):
    hashes = None if training is None else np.unique(hash_each(training))
    return summarize(evaluate_records(samples, vocabulary)).figures(hashes)


def test_uniqueness_among_the_first_thousand():
    chains = [f"{'C' * a}O{'N' * b}" for a in range(1, 26) for b in range(20)]
    assert figures(chains)["uniqueness_at_1000"] is None
    result = figures(["CC(C)(C)(C)C", *chains, *chains, "O"])
    # The invalid one does not count; what comes after the first thousand does not either.
    assert result["uniqueness_at_1000"] == 0.5 and result["uniqueness_at_10000"] is None
    assert result["uniqueness"] == 501 / 1001


@pytest.mark.parametrize("training", [None, ["CCO", "CCCC"]])
def test_parts_add_up_to_the_whole(training):
    smiles = ["CCO", "OCC", "CC(C)=O", "CCN.O", "C(C)(C)(C)(C)C", "nonsense", "CCO"]
    records, parts = evaluate_records(smiles), Summary()
    for cut in (records[:1], records[1:5], records[5:5], records[5:]):
        parts.add(summarize(cut))
    found = parts.figures(None if training is None else np.unique(hash_each(training)))
    assert found == figures(smiles, training=training) and parts.head.equals(records)
    assert found["connected"] == (records["kept"] == 1).mean()
    assert figures([], training=[])["novelty"] == figures([None, ""])["strict_validity"] == 0


def test_records_table():
    equal = "O=C=C=C=O.N(C)(C)(C)C"  # parts as large as each other, one of which is valid
    table = evaluate_records(["OCC", "CN(=C)(C)C", None, "CC.O", equal], first=40)
    assert table["kept"].tolist()[3:] == [2 / 3, 5 / 10]
    assert table.values[:, :5].tolist() == [
        [40, "CCO", True, "CCO", 3],
        [41, "C=N(C)(C)C", False, None, 5],
        [42, None, False, None, 0],
        [43, "CC.O", False, "CC", 3],
        [44, "CN(C)(C)C.O=C=C=C=O", False, "O=C=C=C=O", 10],
    ]


def test_packed_graphs_smiles_and_molecules_agree(zinc_smiles):
    zinc_smiles = zinc_smiles[:80]
    dataset = encode("part", zinc_smiles)
    sources = (dataset.smiles, [Chem.MolFromSmiles(s) for s in dataset.smiles], zinc_smiles)
    results = [figures(s, training=["C"]) for s in sources]
    packed = figures(dataset.graphs, dataset.vocabulary, training=["C"])
    assert all(r == packed for r in results)
