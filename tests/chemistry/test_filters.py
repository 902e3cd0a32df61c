"""Filters of molecules."""

import pickle

import pytest
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogParams

from graphcnf.chemistry.alerts import ALERTS
from graphcnf.chemistry.filters import (
    NO_FILTERS,
    Filters,
    passing_shares,
    passing_text,
    removed_by_alerts,
)
from graphcnf.chemistry.properties import similarity_to
from graphcnf.errors import UserError

ASPIRIN, RHODANINE = "CC(=O)Oc1ccccc1C(=O)O", "O=C1NC(=S)SC1=Cc1ccccc1"

# Options, and the first check that aspirin does not pass.
CASES = [
    ({}, ""),
    ({"require": ["qed > 0.5", "rings == 1"], "smarts": ["C(=O)[OH]", "c1ccccc1"]}, ""),
    ({"require": ["qed > 0.5", "rings == 2"]}, "rings == 2"),
    ({"require": ["rings == 2"], "smarts": ["c1ccccc1", "N"]}, "has N"),
    ({"exclude": ["N"]}, ""),
    ({"exclude": ["N", "[OH]"], "alerts": ["brenk"]}, "without [OH]"),
    ({"alerts": ["pains", "nih"]}, ""),
    ({"alerts": ["pains", "brenk"]}, "no brenk alert: phenol_ester"),
    ({"min_similarity": ([ASPIRIN], 1), "max_similarity": (["CCO"], 0.5)}, ""),
    ({"min_similarity": (["CCO", "OC(=O)c1ccccc1"], 0.9)}, "similarity >= 0.9"),
    ({"max_similarity": (["CCO", ASPIRIN], 0.99)}, "similarity <= 0.99"),
]


@pytest.mark.parametrize(("options", "refusal"), CASES)
def test_the_first_check_that_does_not_pass(options, refusal):
    filters, molecule = Filters(**options), Chem.MolFromSmiles(ASPIRIN)
    assert filters.refusal(molecule) == refusal and bool(filters) == bool(options)
    other = pickle.loads(pickle.dumps(filters))
    assert other.refusal(molecule) == refusal and other.identity == filters.identity


def test_alerts_are_those_of_rdkit():
    for name in ALERTS[1:]:
        catalog = getattr(FilterCatalogParams.FilterCatalogs, name.upper())
        expected = FilterCatalog(FilterCatalogParams(catalog))
        for smiles in (ASPIRIN, RHODANINE, "CCO", "O=C(Cl)CCBr"):
            mol = Chem.MolFromSmiles(smiles)
            assert (Filters(alerts=[name]).refusal(mol) == "") == (not expected.HasMatch(mol))


def test_similarity_is_that_to_the_nearest():
    known = ["CCOc1ccccc1", "OC(=O)c1ccccc1", "CCN"]
    mol = Chem.MolFromSmiles(ASPIRIN)
    nearest = max(similarity_to(Chem.MolFromSmiles(s))(mol) for s in known)
    for value in (nearest - 1e-6, nearest, nearest + 1e-6):
        assert (Filters(min_similarity=(known, value)).refusal(mol) == "") == (nearest >= value)
        assert (Filters(max_similarity=(known, value)).refusal(mol) == "") == (nearest <= value)


def test_one_text_is_one_filter():
    mol = Chem.MolFromSmiles("CCO")
    assert Filters(smarts="CNO").refusal(mol) == "has CNO"
    assert Filters(min_similarity=("CCO", 1.0)).refusal(mol) == ""
    once = Filters(min_similarity=(iter(["CCO"]), 1.0))
    assert once.identity == Filters(min_similarity=(["CCO"], 1.0)).identity


def test_shares_multiply_to_the_share_of_all():
    filters = Filters(smarts=["c"], require=["qed > 0.5"], alerts=["pains"])
    outcomes = {"": 30, "has c": 20, "qed > 0.5": 10}
    shares = passing_shares(filters.checks, outcomes)
    assert shares == {"has c": 40 / 60, "qed > 0.5": 30 / 40, "no pains alert": 1}
    assert passing_text(filters.checks, outcomes) == (
        "50.0% pass the filters (has c 66.7%, qed > 0.5 75.0%, no pains alert 100.0%)"
    )
    assert passing_text(NO_FILTERS.checks, {"": 3}) == ""


def test_what_alerts_have_removed_is_named():
    filters = Filters(alerts=["reactive", "pains"])
    outcomes = {"": 30, "no reactive alert: thiol": 4, "no reactive alert: peroxide": 6}
    assert passing_shares(filters.checks, outcomes) == {
        "no reactive alert": 0.75,
        "no pains alert": 1,
    }
    assert removed_by_alerts(outcomes) == {"no reactive alert": {"peroxide": 6, "thiol": 4}}
    assert passing_text(filters.checks, outcomes) == (
        "75.0% pass the filters (no reactive alert 75.0%: removed 6 peroxide, 4 thiol, "
        "no pains alert 100.0%)"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"smarts": [""]}, "not a SMARTS"),
        ({"exclude": ["c1cc"]}, "not a SMARTS"),
        ({"smarts": ["c"], "exclude": ["c"]}, "c is wanted and excluded: nothing can pass"),
        ({"require": ["qed > 0.8", "qed < 0.2"]}, "no value of qed"),
        ({"alerts": ["PAIN"]}, "no catalogue of alerts 'PAIN'"),
        ({"min_similarity": ([], 0.4)}, "no molecules to compare with"),
        ({"max_similarity": (["CCO", "C1CC"], 0.4)}, "molecule 2 to compare with: not a SMILES"),
        ({"max_similarity": (["CCO"], -0.1)}, "between 0 and 1, got -0.1"),
    ],
)
def test_one_line_says_what_cannot_be(options, message):
    with pytest.raises(UserError, match=message) as caught:
        Filters(**options)
    assert "\n" not in str(caught.value)
