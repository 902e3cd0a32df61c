import pickle
from collections import Counter

import numpy as np
import pytest
from rdkit import Chem

from graphcnf.data_files import installed_file
from graphcnf.evaluation import METRICS, metrics
from graphcnf.evaluation.metrics import statistics_of

CONTENTS = ("atoms_tv", "elements_tv", "charges_tv", "bonds_tv", "rings_tv")


def bits(*places):
    """Packed fingerprints with these bits set."""
    rows = np.zeros((len(places), metrics.BITS), np.uint8)
    for row, on in zip(rows, places, strict=True):
        row[list(on)] = 1
    return np.packbits(rows, axis=1)


def mol(smiles):
    return Chem.MolFromSmiles(smiles)


def test_nearest_similarity_by_hand(monkeypatch):
    generated, reference = bits({1, 2, 3}, {9}), bits({2, 3, 4, 5}, {1, 2}, {7, 8})
    # {1,2,3} is 2/5, 2/3 and 0 from the three; {9} shares nothing.
    assert metrics.nearest_similarity(generated, reference) == pytest.approx(1 / 3)
    monkeypatch.setattr(metrics, "BLOCK", 1)
    assert metrics.nearest_similarity(generated, reference) == pytest.approx(1 / 3)
    assert metrics.nearest_similarity(reference, reference) == 1
    assert metrics.nearest_similarity(bits(set()), bits(set(), {1})) == 1


@pytest.mark.parametrize("block", [2000, 2])
def test_internal_diversity_by_hand(block, monkeypatch):
    monkeypatch.setattr(metrics, "BLOCK", block)
    # Similarities 1/3, 0 and 0 between the three.
    prints = bits({1, 2}, {2, 3}, {5})
    rows = [1 + 1 / 3, 1 + 1 / 3, 1]
    assert metrics.internal_diversity(prints) == pytest.approx(1 - sum(rows) / 9)
    squares = np.sqrt(np.array([1 + 1 / 9, 1 + 1 / 9, 1]) / 3)
    assert metrics.internal_diversity(prints, power=2) == pytest.approx(1 - squares.mean())
    assert metrics.internal_diversity(prints[[0, 0, 0]], power=2) == 0


def test_count_similarity_by_hand():
    assert metrics.cosine({"a": 3, "b": 4}, {"a": 6, "b": 8}) == pytest.approx(1)
    assert metrics.cosine({"a": 3, "b": 4}, {"b": 2}) == pytest.approx(0.8)
    assert metrics.cosine({"a": 1}, {"b": 2}) == 0
    with pytest.raises(ValueError, match="none among the reference"):
        metrics.cosine({"a": 1}, {})


def test_fragments_and_scaffolds():
    # The amide bond, and the bonds of the CH2 to nitrogen and to the ring.
    assert sorted(metrics.brics_fragments(mol("CC(=O)NCc1ccccc1"))) == [
        "[1*]C(C)=O", "[16*]c1ccccc1", "[4*]C[8*]", "[5*]N[5*]",
    ]  # fmt: skip
    assert metrics.brics_fragments(mol("CCC")) == ["CCC"]
    assert metrics.scaffolds(mol("Cc1ccc(CCc2ccncc2)cc1")) == ["c1ccc(CCc2ccncc2)cc1"]
    assert metrics.scaffolds(mol("Cc1ccccc1")) == metrics.scaffolds(mol("CCO")) == []


def test_what_molecules_are_made_of():
    def found(smiles):
        one = mol(smiles)
        counts = {name: METRICS[name].statistic.of([one]) for name in CONTENTS}
        # Nothing is read off that changes the molecule.
        assert one.GetRingInfo().NumRings() == mol(smiles).GetRingInfo().NumRings()
        return counts

    assert found("[O-][N+](=O)c1ccccc1") == {
        "atoms_tv": Counter(["9"]),
        "elements_tv": Counter("CCCCCCNOO"),
        "charges_tv": Counter({"+0": 7, "+1": 1, "-1": 1}),
        "bonds_tv": Counter({"SINGLE": 5, "DOUBLE": 4}),
        "rings_tv": Counter(["6"]),
    }
    # Cubane has six faces, five of which are independent.
    assert found("C12C3C4C1C5C2C3C45")["rings_tv"] == {"4": 5}
    assert found("C#N")["bonds_tv"] == {"TRIPLE": 1} and not found("C#N")["rings_tv"]


def test_distances_of_distributions_by_hand():
    assert metrics.total_variation({"a": 1, "b": 1}, {"b": 30, "c": 10}) == pytest.approx(0.5)
    assert metrics.total_variation({"a": 2}, {"a": 5}) == 0
    assert metrics.total_variation({}, {"a": 5}) == metrics.total_variation({"a": 5}, {}) == 1
    assert metrics.total_variation({}, {}) == 0
    # 0 stays and 1 moves to 2, and three times 1 to 4.
    assert metrics.wasserstein({"0": 1, "1": 1}, {"0.0": 3, "2": 3}) == pytest.approx(0.5)
    assert metrics.wasserstein({"1.00": 3}, {"4.00": 1}) == pytest.approx(3)


@pytest.mark.parametrize("name", ["logp_w1", "qed_w1", "sa_w1", "weight_w1"])
def test_properties_of_two_molecules_are_as_far_apart_as_their_values(name):
    sets = [METRICS[name].statistic.of([mol(smiles)]) for smiles in ("CCO", "c1ccccc1N")]
    values = [float(text) for counts in sets for text in counts]
    assert METRICS[name].function(*sets) == pytest.approx(abs(values[0] - values[1])) != 0


def test_statistics_can_be_sent_to_processes():
    names = [one.name for one in pickle.loads(pickle.dumps(statistics_of()))]
    assert names == [one.name for one in statistics_of()] and len(set(names)) == len(names)


def test_filters():
    assert metrics.passes_pains(mol("CC(=O)Nc1ccccc1"))
    assert not metrics.passes_pains(mol("O=C1C=CC(=O)C=C1"))
    assert METRICS["pains"].function({"passed": 3, "failed": 1}, {}) == 0.75
    if installed_file("moses", "metrics", "mcf.csv") is None:
        pytest.skip("molsets, which brings the list of filters, is not installed")
    # An aldehyde; an alkyl chloride, which is found by its hydrogens.
    assert not metrics.passes_mcf(mol("CC=O")) and not metrics.passes_mcf(mol("CCCl"))
    assert metrics.passes_mcf(mol("CC(=O)Nc1ccccc1"))
    for failing in ("CC=O", "C[NH3+]", "C[Si](C)(C)C", "C1CCCCCCC1", "O=C1C=CC(=O)C=C1"):
        assert not metrics.passes_filters(mol(failing)), failing
    assert metrics.passes_filters(mol("CC(=O)Nc1ccccc1"))
