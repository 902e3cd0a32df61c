"""Molecules unlike drugs come back from their graphs, or are refused; none changes."""

import pytest
from rdkit import Chem

from graphcnf.molecules import codec
from graphcnf.scripts.benchmarks import roundtrip
from graphcnf.scripts.benchmarks.odd_molecules import odd_molecules


def test_odd_molecules_are_a_function_of_the_seed():
    first = odd_molecules(60)
    assert odd_molecules(30) == first[:30] and odd_molecules(60, 1) != first
    assert len(set(first)) == 60
    with codec.quiet():
        assert all(Chem.MolFromSmiles(smiles) for smiles in first)


def test_none_of_them_changes():
    row, changed = roundtrip.roundtrip_row("odd", odd_molecules(150, 2), workers=1)
    assert changed == [] and row["changed"] == 0
    # Both happen, or the molecules would not be odd.
    assert 0.3 < row["returned"] < 0.9 and row["returned"] + row["refused"] == pytest.approx(1)
    assert "HydrogensLost" in row["reasons"]


def test_a_change_is_seen(monkeypatch):
    monkeypatch.setattr(roundtrip.codec, "check_roundtrip", lambda mol, smiles=None: None)
    # Phosphorus(V) with two hydrogens would be read as phosphorus(III).
    row, changed = roundtrip.roundtrip_row("odd", ["CCO", "C[PH2](F)F", "C[SH](=O)=O"], workers=1)
    assert changed and "CCO" not in changed


def test_the_command_fails_where_one_changes(bench, monkeypatch):
    code, out, err = bench("roundtrip", "--odd", 12, "--each", 0, "--workers", 1)
    assert code == 0 and out.startswith("| Molecules |") and "| 0 " in out
    monkeypatch.setattr(roundtrip, "judge", lambda smiles: ["changed"] * len(smiles))
    code, out, err = bench("roundtrip", "--odd", 3, "--each", 0, "--workers", 1)
    assert code == 1 and err.startswith("error: 3 molecules change, the first is ")
