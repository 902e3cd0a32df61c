"""`grow`, `analogs` and `interpolate`."""

import csv
import html
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from rdkit import Chem

from graphcnf.molecule_flow import MoleculeFlow

pytestmark = pytest.mark.usefixtures("few_walks")


@pytest.fixture
def draw(run, model_folder):
    def call(command, *arguments, code=0):
        return run(command, *arguments, "--model", model_folder, code=code)

    return call


def test_every_format_has_the_same_analogues(draw, surroundings):
    same = ("analogs", "CCO", "--similar", 0, "-n", 3, "--particles", 2)
    out, err = draw(*same)
    smiles = out.splitlines()
    assert len(set(smiles)) == 3 and "CCO" not in smiles
    assert "3 distinct analogues of CCO with its skeleton" in err
    assert all(Chem.MolFromSmiles(s).GetNumAtoms() == 3 for s in smiles)
    for name in ("a.csv", "a.parquet"):
        out, err = draw(*same, "--out", name, "--properties", "qed,atoms")
        assert not out
    rows = list(csv.DictReader(io.StringIO((surroundings / "a.csv").read_text())))
    assert [row["smiles"] for row in rows] == smiles and {row["atoms"] for row in rows} == {"3"}
    assert list(rows[0]) == ["record", "smiles", "similarity", "changed", "qed", "atoms"]
    assert all({*row["changed"].split()} <= {"0", "1", "2"} for row in rows)
    table = pd.read_parquet("a.parquet")
    assert table.smiles.tolist() == smiles and table.similarity.between(0, 1).all()
    assert len(list(surroundings.iterdir())) == 2
    assert "exists" in draw(*same, "--out", "a.csv", code=1)[1]


def test_python_gives_the_analogues_of_the_command(draw, model_folder):
    out, err = draw("analogs", "OCCN", "--keep", "bonds", "--similar", 0.2, "-n", 3)
    flow = MoleculeFlow.from_pretrained(model_folder)
    assert flow.analogs("OCCN", 3, keep="bonds", similar=0.2).smiles == out.split()
    assert "valid ones reach 0.2" in err


def test_every_format_has_the_same_molecules_with_the_fragment(draw, surroundings):
    same = ("grow", "--scaffold", "CN", "--particles", 2, "--size", "3-6")
    out, err = draw(*same, "-n", 6)
    smiles = out.splitlines()
    assert len(set(smiles)) == 6 and "6 distinct molecules with CN" in err
    assert all(Chem.MolFromSmiles(s).HasSubstructMatch(Chem.MolFromSmiles("CN")) for s in smiles)
    out, err = draw(*same, "-n", 3, "--json", "--properties", "atoms")
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["smiles"] for row in rows] == smiles[:3]
    assert all(3 <= row["atoms"] <= 6 for row in rows)
    figures = json.loads(err.splitlines()[-1])
    assert figures["written"] == 3 <= figures["valid"] <= figures["placed"] <= figures["particles"]
    out, err = draw(*same, "-n", 3, "--out", "a.csv")
    assert not out
    rows = list(csv.DictReader(io.StringIO((surroundings / "a.csv").read_text())))
    assert [row["smiles"] for row in rows] == smiles[:3] and rows[2]["record"] == "2"


def test_a_summary_counts_the_molecules_of_which_the_likeliest_are_written(draw, model_folder):
    same = ("grow", "--link", "[*:1]C.[*:2]C", "-n", 2, "--size", "4-6")
    for how, likeliest, of_found in (
        ((), 4, ", the likeliest per atom of 8"),
        (("--likeliest", 1), 1, ""),
    ):
        out, err = draw(*same, *how)
        assert f"2 distinct molecules with [*:1]C.[*:2]C{of_found}; " in err
        figures = json.loads(draw(*same, *how, "--json")[1].splitlines()[-1])
        assert (figures["likeliest"], figures["found"]) == (likeliest, 2 * likeliest)
        flow = MoleculeFlow.from_pretrained(model_folder)
        options = {"task": "link", "atoms": (4, 6), "likeliest": likeliest}
        assert flow.grow("[*:1]C.[*:2]C", 2, **options).smiles == out.split()


def test_a_column_for_each_attachment_point(draw):
    how = ("-n", 3, "--particles", 2, "--size", "3-6", "--json")
    for task, text, names in (
        ("--decorate", "[*:2]C[*:1]", ["R1", "R2"]),
        ("--grow", "*CC", ["R1"]),
        ("--link", "[*:1]C.[*:2]C", ["linker"]),
        ("--close", "[*:1]CC[*:2]", ["linker"]),
        ("--scaffold", "CC", []),
    ):
        out, err = draw("grow", task, text, *how)
        rows, groups = [json.loads(line) for line in out.splitlines()], {}
        assert list(rows[0]) == ["record", "smiles", *names]
        for row in rows:
            for name in names:
                groups.setdefault(name, set()).add(row[name])
                # The part is there, with as many ends as it has bonds to the fragment.
                part = Chem.MolFromSmarts(row[name].replace("*:", "#6:").replace("*", "#6"))
                part = part or Chem.MolFromSmarts(row[name])
                assert Chem.MolFromSmiles(row["smiles"]).HasSubstructMatch(part), row
                assert row[name].count("*") == (2 if name == "linker" else 1)
        counts = json.loads(err.splitlines()[-1]).get("groups", {})
        assert counts == {name: len(parts) for name, parts in groups.items()}


@pytest.mark.parametrize(
    "command",
    [
        ("generate", "-n", 4), ("generate", "-n", 4, "--out", "x.csv.gz"),
        ("grow", "-n", 4, "--decorate", "[*:1]C[*:2]"), ("analogs", "CCO", "--similar", 0, "-n", 4),
    ],
)  # fmt: skip
def test_pictures_and_a_page(draw, surroundings, command):
    for name in ("a.png", "a.svg", "a.pdf"):
        more = ("--html", "a.html", "--properties", "qed") if name == "a.svg" else ()
        out, _ = draw(*command, "--picture", name, *more, "--force")
    assert (surroundings / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (surroundings / "a.pdf").read_bytes().startswith(b"%PDF")
    svg, page = (surroundings / "a.svg").read_text(), (surroundings / "a.html").read_text()
    assert "<svg" in svg and "src=" not in page
    table = page.split('id="molecules"')[1]
    smiles = re.findall("<code>(.*?)</code>", table)
    assert len(smiles) == table.count("<svg") == 4
    # The molecule itself is the known one of its analogues.
    assert ("1 known molecule." in page) == (command[0] == "analogs")
    if command[-1] != "x.csv.gz":
        assert list(map(html.unescape, smiles)) == out.split()
    heads = re.findall("<th>(.*?)</th>", table)
    assert heads[0] == "molecule"
    assert {"qed", "how likely", "log p, nats", "cluster", "alerts"} <= set(heads)
    assert ("R1" in heads) == (command[0] == "grow")
    # The fragment and what changed are marked.
    assert ("ellipse" in table) == (command[0] != "generate")


def test_what_is_rarer_than_all_training_molecules_is_shown_and_sorted_as_such(run, surroundings):
    # Seven atoms: too few training molecules to say more than "less than one per cent".
    run(
        "generate", "--size", "7-9", "-n", 12, "--temperature", 2, "--no-stereo", "--workers", 1,
        "--html", "a.html", "--out", "a.smi",
    )  # fmt: skip
    page = (surroundings / "a.html").read_text().split('id="molecules"')[1]
    shown = re.findall('<td data-name="how likely" data-key="(.*?)">(.*?)</td>', page)
    assert len(shown) == 12 and any(text == "&lt; 1 %" for _, text in shown)
    smiles = list(map(html.unescape, re.findall("<code>(.*?)</code>", page)))
    bits = MoleculeFlow.from_pretrained("zinc250k").score(smiles)["bits_per_atom"]
    np.testing.assert_allclose([float(key) for key, *_ in shown], -bits, rtol=1e-6)


def test_a_path_and_its_picture(draw, surroundings):
    ends = ("interpolate", "CCO", "CCCN", "--steps", 4)
    out, err = draw(*ends, "--picture", "path.svg")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert rows[0]["smiles"] == "CCO" and rows[-1]["smiles"] == "CCCN" and len(rows) == 5
    assert float(rows[0]["similarity_a"]) == float(rows[-1]["similarity_b"]) == 1
    assert "<svg" in (surroundings / "path.svg").read_text()
    out, _ = draw(*ends, "--out", "path.smi")
    lines = (surroundings / "path.smi").read_text().split()
    assert lines == [row["smiles"] for row in rows if row["smiles"]] and not out
