import errno
import os
from unittest.mock import Mock

import numpy as np
import pytest
from rdkit import Chem

from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.molecules import validity
from graphcnf.molecules.codec import graph_to_molecule
from graphcnf.molecules.drawing import draw_grid
from graphcnf.molecules.hashing import contains, hash_each, hash_smiles, smiles_hash
from graphcnf.molecules.metrics import (
    CONVENTIONS,
    data_ceiling,
    evaluate,
    evaluate_records,
    summarize,
    validity_table,
)
from graphcnf.molecules.vocabulary import MoleculeVocabulary

VOCABULARY = MoleculeVocabulary((("C", 0), ("N", 0), ("O", 0)))
C, N, O = range(3)  # noqa: E741
SINGLE, DOUBLE, TRIPLE = range(3)


def raw(smiles):
    return Chem.MolFromSmiles(smiles, sanitize=False)


def test_figures_of_a_hand_made_sample():
    samples = ["CCO", "OCC", "CCN", "C(C)(C)(C)(C)C", "CCCC.O", "c1ccc1C(", "O=C=C=C=O.N(C)(C)(C)C"]
    result = evaluate(samples, training_hashes=hash_smiles(["CCN"]))
    assert result["samples"] == 7
    assert (result["strict_valid"], result["strict_unique"], result["strict_novel"]) == (3, 2, 2)
    assert result["strict_validity"] == pytest.approx(3 / 7)
    assert result["uniqueness"] == pytest.approx(2 / 3)
    assert result["novelty"] == pytest.approx(2 / 3)
    assert result["vun"] == pytest.approx(1 / 7)
    # CCCC.O keeps 4 of 5 atoms, the last sample 5 of 10.
    assert result["largest_fragment_validity"] == pytest.approx(5 / 7)
    assert result["largest_fragment_atom_share"] == pytest.approx((3 + 4 / 5 + 5 / 10) / 5)
    assert result["valence_only_valid"] == 5  # three strict ones and both with fragments
    assert result["repaired_valid"] == 6
    assert all(
        0 <= v <= 1 for k, v in result.items() if k.split("_")[-1] in ("validity", "novelty")
    )


def test_conventions_side_by_side():
    samples = ["CCO", "OCC", "CCN", "C(C)(C)(C)(C)C", "CCCC.O"]
    summary = evaluate(samples, training_hashes=hash_smiles(["CCN"]))
    table = validity_table(summary)
    assert list(table.index) == list(CONVENTIONS) and (table["samples"] == 5).all()
    assert list(table["valid"]) == [3, 4, 4, 5]
    assert np.allclose(table["validity"] * table["samples"], table["valid"])
    assert np.allclose(table["uniqueness"] * table["valid"], table["unique"])
    assert np.allclose(table["novelty"] * table["valid"], table["novel"])
    assert table.loc["strict", "vun"] == 1 / 5
    assert validity_table(evaluate(samples))["novelty"].isna().all()


def test_uniqueness_among_the_first_thousand():
    chains = ["C" * n for n in range(1, 501)]
    assert evaluate(chains)["uniqueness_at_1000"] is None
    result = evaluate(["CC(C)(C)(C)C", *chains, *chains, "O"])
    # The invalid one does not count; what comes after the first thousand does not either.
    assert result["uniqueness_at_1000"] == 0.5 and result["uniqueness_at_10000"] is None
    assert result["uniqueness"] == 501 / 1001


def test_records_table():
    table = evaluate_records(["OCC", "CN(=C)(C)C", None, "CC.O"], first=40)
    assert list(table["record"]) == [40, 41, 42, 43]
    assert list(table["smiles"]) == ["CCO", "C=N(C)(C)C", None, "CC.O"]
    assert list(table["strict"]) == [True, False, False, False]
    assert list(table["largest_fragment"]) == ["CCO", None, None, "CC"]
    assert list(table["atoms"]) == [3, 5, 0, 3]
    with pytest.raises(ValueError, match="no convention 'lenient'"):
        evaluate_records([], conventions=["lenient"])
    with pytest.raises(ValueError, match="lacks 'valence_only': evaluate_records gives all"):
        summarize(evaluate_records(["C"], conventions=()))


def test_nothing_at_all_is_no_division_by_zero():
    result = evaluate([], training_hashes=hash_smiles([]))
    assert result["samples"] == 0 and result["strict_validity"] == 0 and result["novelty"] == 0
    assert evaluate([None, ""])["strict_validity"] == 0
    assert evaluate(["C"])["novelty"] is None


def test_packed_graphs_smiles_and_molecules_agree(zinc_smiles):
    dataset = encode("part", zinc_smiles[:300])
    sources = (dataset.smiles, [Chem.MolFromSmiles(s) for s in dataset.smiles], zinc_smiles[:300])
    results = [evaluate(s, training_hashes=hash_smiles(["C"])) for s in sources]
    packed = evaluate(dataset.graphs, dataset.vocabulary, training_hashes=hash_smiles(["C"]))
    assert all(r == packed for r in results)
    with pytest.raises(ValueError, match="vocabulary"):
        evaluate(dataset.graphs)


def test_data_ceiling(zinc_smiles):
    dataset = encode("part", zinc_smiles[:300])
    row = data_ceiling(dataset.graphs, dataset.smiles, dataset.vocabulary)
    assert row["strict_validity"] == row["reconstruction"] == row["uniqueness"] == 1
    assert row["novelty"] == 0
    with pytest.raises(ValueError, match="300 graphs, but 299 SMILES"):
        data_ceiling(dataset.graphs, dataset.smiles[1:], dataset.vocabulary)


def test_valence_repair_ends_in_a_valid_molecule(zinc_smiles):
    dataset = encode("part", zinc_smiles[:200]).without_marks()
    dataset.graphs.bond_types = np.random.default_rng(0).choice(
        3, len(dataset.graphs.bond_types), p=[0.7, 0.2, 0.1]
    )
    table = evaluate_records(dataset.graphs, dataset.vocabulary)
    assert table["strict"].mean() < 0.3
    assert table["repaired"].notna().all()
    assert (table["repaired"] == table["smiles"])[table["strict"]].all()


def test_repair_lowers_the_highest_bond_first():
    mol = graph_to_molecule([C, C, C], [(1, 0), (2, 1)], [TRIPLE, DOUBLE], VOCABULARY)
    assert validity.strict(mol) is None
    assert validity.repaired(mol) == "C=C=C"
    cut = graph_to_molecule([O, C, C, C], [(1, 0), (2, 0), (3, 0)], [SINGLE] * 3, VOCABULARY)
    assert validity.repaired(cut) == "COC"


def test_conventions_on_molecules():
    assert validity.strict(raw("CC.O")) is None
    assert validity.strict(raw("C=N(C)=O")) == "C=[N+](C)[O-]"
    assert validity.valence_only(raw("CC.O")) == "CC.O"
    assert validity.valence_only(raw("CN(C)(C)C")) == "C[N+](C)(C)C"
    # However the rings are written: three bonds of an aromatic O, S or N are not one too many.
    for smiles in ("c1ccoc1.CC", "c1ccsc1.CC", "Cn1cccc1.CC", "CN(C)(C)Cc1ccco1"):
        clean = Chem.MolFromSmiles(smiles.replace("CN(C)(C)C", "C[N+](C)(C)C"))
        assert validity.valence_only(raw(smiles)) == Chem.MolToSmiles(clean)
    assert validity.strict(raw("CN(C)(C)C")) is None
    assert validity.largest_fragment(raw("CN(C)(C)C.O")) == (None, 5 / 6)
    assert validity.largest_fragment(Chem.Mol()) == (None, 0.0)
    assert validity.strict(Chem.Mol()) is validity.repaired(Chem.Mol()) is None


def test_hashes():
    # A fixed value: saved training hashes have to keep their meaning.
    assert smiles_hash("CCO") == int(hash_each(["CCO"])[0]) == 0xC353956C6F0B206D
    hashes = hash_smiles(["CCO", "C", "CCO"])
    assert hashes.dtype == np.uint64 and len(hashes) == 2 and hashes[0] < hashes[1]
    assert contains(hashes, hash_each(["N", "C", "CCO"])).tolist() == [False, True, True]
    assert not contains(hash_smiles([]), hash_each(["C"])).any()


def test_drawing(tmp_path, capfd, monkeypatch):
    invalid = graph_to_molecule([C, C, C], [(1, 0), (2, 1)], [TRIPLE, DOUBLE], VOCABULARY)
    png = draw_grid(["CCO", invalid, raw("c1ccccc1")], tmp_path / "a/b.png", columns=2)
    assert png.read_bytes().startswith(b"\x89PNG")
    svg = draw_grid(["CCO"], tmp_path / "c.svg", legends=["ethanol"])
    assert "</svg>" in svg.read_text()
    for bad in ((["CC"], "x.pdf"), ([], "x.png"), (["C(("], "x.png")):
        with pytest.raises(ValueError):
            draw_grid(bad[0], tmp_path / bad[1])
    with pytest.raises(ValueError, match="2 legends for 1"):
        draw_grid(["CC"], tmp_path / "x.png", legends=["a", "b"])
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot write .*x.png: No"):
        patch.setattr(os, "fsync", Mock(side_effect=full))
        draw_grid(["CC"], tmp_path / "x.png")
    assert not list(tmp_path.glob("*x.png*"))
    assert capfd.readouterr().err == ""
