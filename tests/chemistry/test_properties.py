"""Named properties, comparisons of them, and patterns."""

import math
from types import SimpleNamespace

import pytest
from rdkit import Chem

from graphcnf.chemistry.descriptors import COUNTS, PROPERTIES, RANGES
from graphcnf.chemistry.properties import (
    Requirement,
    check_possible,
    conditions_of,
    has_element,
    has_pattern,
    has_property,
    parse_names,
    properties_of,
)
from graphcnf.errors import UserError

ASPIRIN = Chem.MolFromSmiles("CC(=O)Oc1ccccc1C(=O)O")


def test_properties_of_aspirin():
    # RDKit's figures for aspirin, as its documentation and PubChem (2244) give them.
    values = properties_of(ASPIRIN, PROPERTIES)
    assert values["weight"] == pytest.approx(180.159, abs=1e-3)
    assert values["logp"] == pytest.approx(1.3101, abs=1e-4)
    assert values["tpsa"] == pytest.approx(63.6, abs=0.01)
    assert values["qed"] == pytest.approx(0.55, abs=0.01) and 1 < values["sa"] < 2
    counts = {"atoms": 13, "rings": 1, "aromatic_rings": 1, "hbd": 1, "charge": 0}
    assert {name: values[name] for name in counts} == counts
    assert values["fsp3"] == pytest.approx(1 / 9, abs=1e-4)
    assert list(properties_of(ASPIRIN, parse_names("sa, qed,sa"))) == ["sa", "qed"]
    for text in ("", "qed,", "solubility"):
        with pytest.raises(UserError, match="no property"):
            parse_names(text)


@pytest.mark.parametrize("name", PROPERTIES)
def test_every_property_lies_in_its_range_and_says_if_it_is_an_integer(name):
    for smiles in ("C", "CC(=O)Oc1ccccc1C(=O)O", "C[NH+](C)CCc1c[nH]c2ccc(O)cc12", "[O-][N+](=O)C"):
        value = PROPERTIES[name](Chem.MolFromSmiles(smiles))
        low, high = RANGES[name]
        assert low <= value <= high and isinstance(value, int) == (name in COUNTS)


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("qed > 0.5", True), ("qed>0.6", False), ("0.5 < qed < 0.6", True), ("13 == atoms", True),
        ("atoms != 13", False), ("200 <= weight < 500", False), ("1e2 <= weight <= +2E2", True),
        ("hbd < rings", False), ("hbd <= rings", True), ("charge >= -.5", True),
    ],
)  # fmt: skip
def test_comparisons(text, holds):
    requirement = Requirement.parse(text)
    assert requirement.holds(ASPIRIN) is holds
    # One form stands for all ways to write it.
    assert Requirement.parse(str(requirement)) == requirement
    assert str(Requirement.parse(f"  {text.replace(' ', '')} ")) == str(requirement)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no comparison"),
        ("qed", "is no comparison"),
        ("qed >", "is no comparison"),
        ("> 0.6", "is no comparison"),
        ("qed = 0.6", "== !=: write 'qed > 0.6' or '200 <= weight < 500', and one"),
        ("qed => 0.6", "is no comparison with < <= > >= == !=:"),
        ("qid > 0.6", "did you mean 'qed'"),
        ("1 < 2", "names no property"),
        ("qed > nan", "no property 'nan'"),
        ("qed > 0.6, sa < 3", "is no comparison"),
        ("__import__('os').abort() > 1", "is no comparison"),
        ("qed > 1e999", "1e999 is larger than any number"),
        ("1 < qed < 0", "no value of qed from 0 to 1 meets this"),
        ("sa < 1", "no value of sa from 1 to 10 meets this"),
        ("rings < 0", "no value of rings from 0 on meets this"),
        ("atoms < 1", "no value of atoms from 1 on meets this"),
        ("2 < rings < 3", "no value of rings"),
        ("3 < logp < 2", "no value of logp meets this"),
        ("1 < 0 < qed", "1 < 0 is never so"),
    ],
)
def test_what_is_no_comparison(text, message):
    with pytest.raises(UserError, match=".*") as caught:
        Requirement.parse(text).check_names()
    assert message in str(caught.value)


def test_bounds_that_a_value_meets_are_taken():
    for text in ("qed >= 1", "rings <= 0", "2 <= rings <= 2", "charge == -1", "logp < -1e300",
                 "qed != 2", "qed > sa", "0.2 < fsp3 < 0.3", "sa <= 1"):  # fmt: skip
        Requirement.parse(text)
    with pytest.raises(UserError, match=r"qed > 0.8 and qed < 0.2: no value of qed"):
        check_possible([Requirement.parse("qed > 0.8"), Requirement.parse("qed < 0.2")])


def test_values_that_no_molecule_has_cannot_be_asked_for():
    names = ["qed", "sa", "atoms", "logp"]
    model = SimpleNamespace(conditions=[{"name": name} for name in names])
    asked = {"qed": 1, "sa": 1, "atoms": 1, "logp": -99}
    assert conditions_of(model, asked) == tuple(asked.values())
    for name, value, ends in (("qed", 5, "0 to 1"), ("sa", 0, "1 to 10"), ("atoms", 0, "1 on")):
        with pytest.raises(UserError, match=f"{name} must be a number from {ends}, got {value}"):
            conditions_of(model, {name: value})


def test_means_and_shares():
    smiles = ["CCO", "CS(=O)(=O)NC", "C[Si](C)(C)C", "c1ccccc1"]
    assert has_pattern("S(=O)(=O)N").mean(smiles) == 0.25
    assert has_element("Si").mean(smiles) == 0.25 and has_element("S").mean(smiles[:1]) == 0
    assert has_property("atoms").mean(smiles) == pytest.approx((3 + 6 + 5 + 6) / 4)
    assert has_property("atoms >= 5").mean(smiles) == 0.75
    assert not has_property("qed").share and has_property("qed<2").mean(smiles) == 1
    assert math.isnan(has_property("logp").mean([]))
    for text in ("taste", "qed=>1", "qed,sa", ""):
        with pytest.raises(UserError, match="no property|is no comparison"):
            has_property(text)
