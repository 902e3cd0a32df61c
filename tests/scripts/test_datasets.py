import json

import pytest

from graphcnf.compute import files


def test_list(graphcnf):
    code, out, err = graphcnf("datasets", "list")
    assert code == 0 and "zinc250k" in out and "cache" in err
    assert set(json.loads(graphcnf("datasets", "list", "--json")[1])) >= {
        "zinc250k", "moses", "qm9", "FILE",
    }  # fmt: skip


def test_prepare_builds_the_cache(graphcnf, small_zinc, tmp_path):
    code, out, err = graphcnf("datasets", "prepare", "zinc250k")
    assert code == 0 and out == "" and "400 molecules are ready" in err
    assert list((tmp_path / "cache").glob("zinc250k-*.npz"))
    assert "encoding" not in graphcnf("datasets", "prepare", "zinc250k")[2]


def test_info(graphcnf, small_zinc):
    code, out, _ = graphcnf("datasets", "info", "zinc250k")
    assert code == 0 and "molecules  400" in out and "| atom category" in out and "| N+ " in out
    facts = json.loads(graphcnf("datasets", "info", "zinc250k", "--json")[1])
    assert facts["train"] + facts["test"] == facts["molecules"] == 400
    assert 0.2 < facts["charged"] < 0.5 and 20 < facts["atoms_per_molecule"]["mean"] < 26
    bonds = sum(facts["bond_categories"].values())
    assert bonds == pytest.approx(400 * facts["bonds_per_molecule"]["mean"])


def test_info_of_a_file(graphcnf, surroundings):
    (surroundings / "x.csv").write_text("name,mol\na,CCO\nb,C[NH3+]\nc,junk\n")
    code, out, err = graphcnf("datasets", "info", "x.csv", "--column", "mol", "--json")
    facts = json.loads(out)
    assert code == 0 and "left out 1" in err
    assert facts["molecules"] == 2 and facts["left_out"] == 1 and facts["charged"] == 0.5
    assert facts["atom_categories"] == {"C": 3, "N+": 1, "O": 1}
    assert facts["bonds_per_molecule"] == {"least": 1, "mean": 1.5, "most": 2}


def test_check(graphcnf, small_zinc, surroundings):
    code, out, err = graphcnf("datasets", "check", "zinc250k", "--workers", 1)
    assert code == 0 and out == "" and "400 of 400 molecules (100.00000%)" in err
    (surroundings / "x.smi").write_text("CCO\nO=[PH2]C(Cc1ccccc1)c1ccccc1\n")
    code, out, err = graphcnf("datasets", "check", "x.smi")
    # Its graph would not lead back to it, so it is left out, by line and with the reason.
    assert code == 0 and out == "" and "left out 1 of 2" in err and "line 2" in err
    assert "1 of 1 molecules (100.00000%)" in err


@pytest.mark.parametrize(
    ("name", "cure"),
    [("moses", "pip install --no-deps molsets"), ("qm9", "pip install 'graphcnf[qm9]'")],
)
def test_what_to_install(graphcnf, monkeypatch, name, cure):
    monkeypatch.setattr(files, "find_spec", lambda package: None)
    code, out, err = graphcnf("datasets", "check", name)
    assert code == 1 and out == "" and cure in err and err.count("\n") == 1
