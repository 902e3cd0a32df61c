"""Columns of measured numbers beside the molecules of a file."""

import json
import math

import numpy as np
import pytest

from graphcnf.datasets import load_smiles_file
from graphcnf.errors import UserError

CHAINS = ["C" * k + end for k in range(1, 16) for end in ("O", "N")]


def table(path, rows, header="smiles,pIC50"):
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_formats_agree_on_a_column_with_empty_cells(tmp_path):
    rows = [(s, "" if k % 5 == 0 else k / 2) for k, s in enumerate(CHAINS)]
    wanted = [math.nan if value == "" else value for _, value in rows]
    files = [table(tmp_path / "a.csv", rows), tmp_path / "b.jsonl", tmp_path / "c.sdf"]
    lines = [json.dumps({"smiles": s, "pIC50": None if v == "" else v}) for s, v in rows]
    files[1].write_text("\n".join(lines))
    from rdkit import Chem

    with Chem.SDWriter(str(files[2])) as writer:
        for text, value in rows:
            mol = Chem.MolFromSmiles(text)
            mol.SetProp("pIC50", str(value))
            writer.write(mol)
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    files.append(tmp_path / "d.parquet")
    pandas.DataFrame({"smiles": CHAINS, "pIC50": wanted}).to_parquet(files[-1])
    for path in files:
        data = load_smiles_file(path, columns=["pIC50"])
        assert data.columns == ("pIC50",) and data.targets.shape == (len(CHAINS), 1)
        np.testing.assert_array_equal(data.targets[:, 0], wanted, err_msg=str(path))
    assert load_smiles_file(files[0]).targets is None


def test_values_stay_with_their_molecules_and_repeats_have_their_mean(tmp_path, capsys):
    rows = [("CC.CC", 99), *((s, k) for k, s in enumerate(CHAINS)), ("OC", 10), ("nonsense", 1)]
    data = load_smiles_file(table(tmp_path / "a.csv", rows), columns=["pIC50"])
    wanted = [5.0, *range(1, len(CHAINS)), 5.0]  # CO has the values 0 and 10
    assert data.smiles == [*CHAINS, "CO"] and data.targets[:, 0].tolist() == wanted
    assert "1 molecules have several values of pIC50" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cell", "shown"),
    [
        (">10", "'>10'"),
        ("n.d.", "'n.d.'"),
        ("nan", "'nan'"),
        ("1e999", "'1e999'"),
        ("1_0", "'1_0'"),
    ],
)
def test_a_cell_that_is_no_number_is_named(tmp_path, cell, shown):
    rows = [(s, k) for k, s in enumerate(CHAINS)]
    rows[7] = (CHAINS[7], cell)
    with pytest.raises(UserError, match=r"a.csv, line 9: pIC50 is .*not a finite number") as caught:
        load_smiles_file(table(tmp_path / "a.csv", rows), columns=["pIC50"])
    assert shown in str(caught.value)


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["logp"], None, "logp is a property that is computed: rename the column"),
        (["QED"], None, "QED is a property that is computed"),
        (["IC50 (nM)"], None, "letters, digits and _"),
        (["pIC50", "pIC50"], None, "pIC50 is given twice"),
        (["pIC5"], None, "has no column 'pIC5'; did you mean 'pIC50'?"),
        (["pIC50"], [1] * 30, "all values of pIC50 are 1: nothing to learn"),
        (["pIC50"], [*range(19), *[""] * 11], "19 molecules with a value of pIC50: too few"),
    ],
)
def test_columns_that_cannot_be_learned(tmp_path, names, values, message):
    rows = list(zip(CHAINS, values or range(30), strict=True))
    with pytest.raises(UserError) as caught:
        load_smiles_file(table(tmp_path / "a.csv", rows), columns=names)
    assert message in str(caught.value)
