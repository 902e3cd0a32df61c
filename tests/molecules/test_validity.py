"""Validity and its conventions, reasons of failure, hashes of molecules, drawings."""

import errno
import os
from unittest.mock import Mock

import numpy as np
import pytest
from rdkit import Chem

import graphcnf
from graphcnf.chemistry import hashing
from graphcnf.chemistry.drawing import draw_grid
from graphcnf.chemistry.hashing import HashSet, contains, hash_each
from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.molecules import conventions, validity
from graphcnf.molecules.codec import graph_to_molecule
from graphcnf.molecules.conventions import (
    KEKULIZATION,
    evaluate_records,
    failures,
    read_unsanitized,
)
from graphcnf.molecules.vocabulary import MoleculeVocabulary

VOCABULARY = MoleculeVocabulary((("C", 0), ("N", 0), ("O", 0)))
C, N, O = range(3)  # noqa: E741
SINGLE, DOUBLE, TRIPLE = range(3)


def raw(smiles):
    return Chem.MolFromSmiles(smiles, sanitize=False)


def test_valence_repair_ends_in_a_valid_molecule(zinc_smiles):
    dataset = encode("part", zinc_smiles[:200]).without_aromatic()
    dataset.graphs.edge_types = np.random.default_rng(0).choice(
        3, len(dataset.graphs.edge_types), p=[0.7, 0.2, 0.1]
    )
    table = evaluate_records(dataset.graphs, dataset.vocabulary)
    assert table["strict"].mean() < 0.3
    assert table["repaired"].notna().all()
    assert (table["repaired"] == table["smiles"])[table["strict"]].all()


def test_repair_lowers_the_highest_bond_first():
    mol = graph_to_molecule([C, C, C], [(1, 0), (2, 1)], [TRIPLE, DOUBLE], VOCABULARY)
    assert validity.strict(mol) is None
    assert conventions.repaired(mol) == "C=C=C"
    cut = graph_to_molecule([O, C, C, C], [(1, 0), (2, 0), (3, 0)], [SINGLE] * 3, VOCABULARY)
    assert conventions.repaired(cut) == "COC"


def test_a_molecule_that_cannot_be_read_again_is_not_valid():
    (row,) = evaluate_records(["C[O+]=I"]).to_dict("records")
    assert not row["strict"] and all(row[name] is None for name in conventions.CONVENTIONS[1:])
    assert list(failures(read_unsanitized(row["smiles"]))) == ["O+ with 3 bonds"]
    found = graphcnf.evaluate(["C[O+]=I", "CCO"], "none", standardize=True)
    assert found.figures["strict_valid"] == 1


def test_conventions_on_molecules():
    assert validity.strict(raw("CC.O")) is None
    assert validity.strict(raw("C=N(C)=O")) == "C=[N+](C)[O-]"
    assert conventions.valence_only(raw("CC.O")) == "CC.O"
    assert conventions.valence_only(raw("CN(C)(C)C")) == "C[N+](C)(C)C"
    # However the rings are written: three bonds of an aromatic O, S or N are not one too many.
    for smiles in ("c1ccoc1.CC", "c1ccsc1.CC", "Cn1cccc1.CC", "CN(C)(C)Cc1ccco1"):
        clean = Chem.MolFromSmiles(smiles.replace("CN(C)(C)C", "C[N+](C)(C)C"))
        assert conventions.valence_only(raw(smiles)) == Chem.MolToSmiles(clean)
    assert validity.strict(raw("CN(C)(C)C")) is None
    table = evaluate_records([raw("CN(C)(C)C.O"), Chem.Mol()])
    assert table["largest_fragment"].tolist() == [None, None]
    assert table["kept"].tolist() == [5 / 6, 0]
    assert validity.strict(Chem.Mol()) is conventions.repaired(Chem.Mol()) is None


@pytest.mark.parametrize(
    "smiles, expected",
    [
        ("CC(C)(C)(C)C", {"C with 5 bonds": (1,)}),
        ("CC(C)(C)(C)CC(C)(C)(C)C", {"C with 5 bonds": (1, 6)}),
        ("C[O-](C)C", {"O- with 3 bonds": (1,)}),
        ("C=[N](C)(C)C", {"N with 5 bonds": (1,)}),
        ("c1cccc1", {KEKULIZATION: (0, 1, 2, 3, 4)}),
        ("CC.O.N", {"3 fragments": ()}),
        ("CF.C=F", {"F with 2 bonds": (3,), "2 fragments": ()}),
        ("", {"unreadable": ()}),
        ("CCO", {}),
        ("CN(=O)=O", {}),
        ("C[N+](C)(C)C", {}),
    ],
)
def test_reasons_and_atoms_are_given_exactly_where_invalid(smiles, expected):
    mol = read_unsanitized(smiles)
    assert failures(mol) == expected
    assert mol is None or (validity.strict(mol) is None) == bool(expected)


def test_hashes():
    # A fixed value: saved training hashes have to keep their meaning.
    assert int(hash_each(["CCO"])[0]) == 0xC353956C6F0B206D
    hashes = np.unique(hash_each(["CCO", "C", "CCO"]))
    assert hashes.dtype == np.uint64 and len(hashes) == 2
    assert contains(hashes, hash_each(["N", "C", "CCO"])).tolist() == [False, True, True]
    assert not contains(hash_each([]), hash_each(["C"])).any()


def test_a_hash_set_is_a_set(monkeypatch):
    monkeypatch.setattr(hashing, "RECENT", 100)
    found, known = HashSet(), set()
    numbers = np.random.default_rng(0).integers(0, 2**64, 700, dtype=np.uint64)
    numbers[:4] = [0, 2**64 - 1, 2**63, 1]
    for number in map(int, np.concatenate([numbers, numbers[::-1], numbers[::3]])):
        assert found.add(number) == (number not in known)
        known.add(number)
        assert len(found) == len(known) and len(found._recent) < 100
        assert found._sorted.nbytes == 8 * (len(found) - len(found._recent))
    assert len(found) == 700 and not len(HashSet())


def test_drawing(tmp_path, capfd, monkeypatch):
    invalid = graph_to_molecule([C, C, C], [(1, 0), (2, 1)], [TRIPLE, DOUBLE], VOCABULARY)
    draw_grid(["CCO", invalid, raw("c1ccccc1")], tmp_path / "a/b.png")
    assert (tmp_path / "a/b.png").read_bytes().startswith(b"\x89PNG")
    draw_grid(["CCO"], tmp_path / "c.svg", legends=["ethanol"])
    assert "</svg>" in (tmp_path / "c.svg").read_text()
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch, pytest.raises(UserError, match="cannot write .*x.png: No"):
        patch.setattr(os, "fsync", Mock(side_effect=full))
        draw_grid(["CC"], tmp_path / "x.png")
    assert not list(tmp_path.glob("*x.png*"))
    assert capfd.readouterr().err == ""
