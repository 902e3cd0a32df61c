"""The `score` command."""

import csv
import io
import json


def test_every_record_is_a_row(run, model_folder, zinc_smiles, surroundings):
    lines = [*zinc_smiles[:5], "C1CC", "", "[Xe]"]
    table = "id,smiles\n" + "".join(f"{k},{s}\n" for k, s in enumerate(lines))
    (surroundings / "x.csv").write_text(table)
    out, err = run("score", "x.csv", "--model", model_folder)
    assert "cannot represent" in err.splitlines()[-1]
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["smiles"] for r in rows] == lines and [r["line"] for r in rows][:2] == ["2", "3"]
    assert all(r["reason"] for r in rows[5:]) and not any(r["log_likelihood"] for r in rows[5:])
    out, _ = run("score", "x.csv", "--model", model_folder, "--out", "y.jsonl")
    assert not out
    assert len((surroundings / "y.jsonl").read_text().splitlines()) == len(lines)


def test_what_came_in_goes_out_beside_the_figures(run, model_folder, surroundings):
    (surroundings / "x.csv").write_text(
        'id,structure,reason,note\n7,CCO,"a, b",=1+1\n08,C[C@H](N)O,,\n9,OC1=CC=CC=C1,c,d\n'
    )
    arguments = ("--column", "structure", "--model", model_folder)
    out, err = run("score", "x.csv", *arguments)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["id"] for r in rows] == ["7", "08", "9"]
    assert [r["reason_given"] for r in rows] == ["a, b", "", "c"]
    assert list(rows[0])[:5] == ["line", "smiles", "id", "reason_given", "note"]
    assert "stereo" not in err and float(rows[1]["stereo"]) < 0 == float(rows[0]["stereo"])
    (surroundings / "x.smi").write_text("CCO ethanol\nCC\n")
    out, _ = run("score", "x.smi", "--json", "--model", model_folder)
    assert [json.loads(line)["name"] for line in out.splitlines()] == ["ethanol", None]
    # What score writes, score reads.
    (surroundings / "y.csv").write_text(run("score", "x.csv", *arguments)[0])
    out, _ = run("score", "y.csv", "--model", model_folder)
    again = list(csv.DictReader(io.StringIO(out)))
    assert [r["log_likelihood"] for r in again] == [r["log_likelihood"] for r in rows]
    assert [r["reason_given"] for r in again] == [r["reason_given"] for r in rows]


def test_charges_that_the_training_data_write_otherwise_are_told(run, surroundings):
    (surroundings / "x.smi").write_text("CCCCCC(=O)O\nCCCCCCN(C)C\nc1ccccc1CC\n")
    out, err = run("score", "x.smi")
    assert "note: a neutral acid (1 of 3 molecules)" in err
    assert "note: a neutral amine (1 of 3 molecules)" in err
    out, err = run("score", "x.smi", "--standardize")
    written = [r["standardized"] for r in csv.DictReader(io.StringIO(out))]
    assert err == ""
    assert written == ["CCCCCC(=O)[O-]", "CCCCCC[NH+](C)C", "CCc1ccccc1"]


def test_bits_of_one_order_stand_beside_those_of_several(run, surroundings):
    (surroundings / "x.smi").write_text("CC(=O)Nc1ccc(O)cc1\nC1CC\n")
    one, more = (
        [*map(json.loads, run("score", "x.smi", "--json", *options)[0].splitlines())]
        for options in ((), ("--orders", 8))
    )
    assert more[0]["bits_per_atom"] < one[0]["bits_per_atom"]
    assert more[0]["bits_per_atom_one_order"] == one[0]["bits_per_atom"]
    assert more[0]["percentile"] == one[0]["percentile"] and "bits_per_atom_one_order" not in one[0]
    assert one[0]["percentile_below"] in (False, True) and one[1]["percentile_below"] is None


HOSTILE = "\x1b]0;owned\x07"


def test_foreign_text_neither_steers_a_terminal_nor_runs_in_a_spreadsheet(
    run, model_folder, surroundings
):
    (surroundings / "x.csv").write_text(f"smiles\nCCO\n=cmd|'/C'!A0\n@SUM(A1)\n{HOSTILE}\n")
    out, err = run("score", "x.csv", "--model", model_folder)
    assert "\x1b" not in out + err and "\\x1b]0;owned" in out
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [r["smiles"] for r in rows[:3]] == ["CCO", "'=cmd|'/C'!A0", "'@SUM(A1)"]
    # Numbers stay numbers, and SMILES what they are.
    assert float(rows[0]["log_likelihood"]) < 0 and not rows[0]["log_likelihood"].startswith("'")


def test_what_standardizing_cut_off_is_said(run, model_folder, surroundings):
    lines = ["N[Pt](N)(Cl)Cl", "CC(=O)[O-].[Na+]", "[Xe]"]
    (surroundings / "x.smi").write_text("\n".join(lines) + "\n")
    out, _ = run("score", "x.smi", "--standardize", "--model", model_folder)
    metal, salt, gas = csv.DictReader(io.StringIO(out))
    assert metal["reason"].endswith("; standardizing cut off 2 Cl, N, Pt")
    assert "1 atom" in metal["reason"] and metal["standardized"] == "N"
    assert not salt["reason"] and "cut off" not in gas["reason"]
