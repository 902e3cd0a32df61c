"""Structural alerts, and the reactive groups that a user gives himself."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace

import pytest
from rdkit import Chem
from rdkit.Chem.FilterCatalog import FilterCatalog, FilterCatalogEntry, SmartsMatcher

from graphcnf.chemistry.alerts import Given, reactive_alerts, reactive_groups, with_default
from graphcnf.chemistry.filters import Filters
from graphcnf.errors import UserError

# By alert: a molecule that has it, and one that is near and stable.
EXAMPLES = {
    "acyl halide": ("CC(=O)Cl", "Clc1ccccn1"),
    "N- or O-halogen": ("CN(C)Cl", "NCCF"),
    "S- or P-halogen": ("CS(=O)(=O)F", "FS(F)(F)(F)(F)c1ccccc1"),
    "peroxide": ("COOC", "COCOC"),
    "S-S, S-N or S-O bond": ("CSSC", "CS(=O)(=O)NC"),
    "thiol": ("CCS", "CSC"),
    "three nitrogens in a row": ("CN=[N+]=[N-]", "Cn1ccnn1"),
    "hydrazine or chain of N and O": ("CN(C)NC", "CC(=O)NNC"),
    "azo or diazo": ("CN=NC", "C1CC(C)=NN1"),
    "nitroso or nitrate": ("CCO[N+](=O)[O-]", "O=[N+]([O-])c1ccccc1"),
    "isocyanate or other cumulene": ("CN=C=O", "CNC=O"),
    "anhydride": ("CC(=O)OC(C)=O", "CC(=O)NC(C)=O"),
    "active ester": ("CC(=O)ON1C(=O)CCC1=O", "CC(=O)Oc1ccccc1"),
    "carbamic or carbonic acid": ("CNC(=O)O", "CNC(=O)OC"),
    "aldehyde": ("CC=O", "CN(C)C=O"),
    "alkyl halide": ("CC(=O)CBr", "CC(F)(F)Cl"),
    "alkyl sulfonate": ("COS(C)(=O)=O", "CS(C)(=O)=O"),
    "epoxide or aziridine": ("CC1CO1", "C1COC1"),
    "Michael acceptor": ("CC=CC(C)=O", "C=CC(=O)NC"),
    "quinone": ("O=C1C=CC(=O)c2ccccc21", "O=C1CCC(=O)CC1"),
    "hemiaminal or hemiacetal": ("CC(O)NC", "OCC1OC(O)CC1O"),
    "aminal": ("CN(C)C(C)NC(C)=O", "CC(=O)NCNC(C)=O"),
    "enol": ("CC(O)=CC", "CC(O)=CC(C)=O"),
    "enamine": ("CC=CN1CCOCC1", "CC(=O)C=CN1CCOCC1"),
    "imine": ("CC=NC", "C1CN=C(C)C1"),
    "imidate": ("COC(C)=NC", "CC1=NCCO1"),
    "diene": ("CC=CC=CC", "CC=CC=CC(=O)NC"),
    "amide anion": ("c1ccc([N-]c2ccccc2)cc1", "CS(=O)(=O)[N-]c1ccccc1"),
}


def refusal(smiles, given=Given()):  # noqa: B008
    return Filters(alerts="reactive").refusal(Chem.MolFromSmiles(smiles), given)


def test_every_reactive_group_has_an_example():
    assert [name for name, _ in reactive_alerts()] == list(EXAMPLES) and len(EXAMPLES) <= 28


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_reactive_group_and_a_stable_one(name):
    reactive, stable = EXAMPLES[name]
    assert refusal(reactive) == f"no reactive alert: {name}"
    assert refusal(stable) == ""


def test_a_neighbour_activates_a_tertiary_halide():
    assert refusal("CC(Br)(c1ccccc1)N1CCOCC1") == "no reactive alert: alkyl halide"
    assert refusal("CC(C)(Br)C(=O)NC") == "no reactive alert: alkyl halide"
    assert refusal("CC1(Cl)CCCCC1") == ""


def test_an_acceptor_makes_an_enamine_stable():
    for enamine in ("C1CCC(=CC1)N1CCOCC1", "CC=C(OC)N(C)C", "C=C1CCCN1C", "CN(C)C=Cc1ccccc1"):
        assert refusal(enamine) == "no reactive alert: enamine"
    for acceptor in ("C#N", "[N+](=O)[O-]", "S(C)(=O)=O", "c1ccccn1", "C=CC(N)=O"):
        assert refusal(f"CN(C)C=C{acceptor}") == ""
    assert refusal("CC=CNC(C)=O") == "" == refusal("CN1C=CCC1")  # an amide; one ring


def test_iminium_ions_are_imines_and_amidines_are_not():
    for imine in ("CC=[N+](C)C", "CC(C)=[NH+]C", "CC=[NH2+]", "CC=N"):
        assert refusal(imine) == "no reactive alert: imine"
    for stable in ("CN=CN(C)C", "CC(N)=[NH+]C", "CC=[N+]([O-])C", "CC=NO", "CC=NNC(C)=O"):
        assert refusal(stable) == ""


def test_an_imidate_with_an_acyl_group_is_an_anhydride():
    assert refusal("COC(C)=[NH2+]") == "no reactive alert: imidate"
    assert refusal("CC(=NN(C)C)OC(C)=O") == "no reactive alert: anhydride"
    for stable in ("CC(=NC)[O-]", "COC(C)=NOC", "COC(=NC)NC"):
        assert refusal(stable) == ""


def test_a_hemiaminal_is_stable_in_a_lactam_only():
    assert refusal("CC(=O)NC(C)O") == "no reactive alert: hemiaminal or hemiacetal"
    assert refusal("OC1CCC(=O)N1C") == ""


def test_a_3h_pyrazole_with_hydrogen_is_a_tautomer_of_a_1h_pyrazole():
    for without in ("CC1(C)C=C(C)N=N1", "CC1(C)CCC(C)(C)N=N1"):
        assert refusal(without) == "no reactive alert: azo or diazo"
    for tautomer in ("CC1C=C(C)N=N1", "CC1(C)CCN=N1", "c1ccnnc1", "Cc1cc(C)[nH]n1"):
        assert refusal(tautomer) == ""


def test_anions_of_acids_are_stable_and_those_of_amines_are_not():
    for amine in ("CC[N-]CC", "[NH-]c1ccccc1", "C[N-]c1ncc[nH]1"):
        assert refusal(amine) == "no reactive alert: amide anion"
    for acid in (
        "FC(F)(F)S(=O)(=O)[N-]S(=O)(=O)C(F)(F)F", "CC(=O)[N-]S(C)(=O)=O", "O=C1CCC(=O)[N-]1",
        "Cc1nn[n-]n1", "N#C[N-]c1ccccc1", "O=C1CSC([N-]c2ccccc2)=N1",
    ):  # fmt: skip
        assert refusal(acid) == ""


def test_an_acyl_group_does_not_make_a_chain_of_three_stable():
    assert refusal("CC(=O)N(O)N(C)C") == "no reactive alert: hydrazine or chain of N and O"
    assert refusal("CC(=O)N(C)N(C)C(C)=O") == "" == refusal("CC(=O)N(O)C")


def test_drugs_pass():
    for smiles in (
        "CC(=O)Oc1ccccc1C(=O)O", "C=CC(=O)N1CCCC(C1)n1nc(-c2ccccc2)c2c(N)ncnc12",
        "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12", "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
        "OCC(O)C1OC(=O)C(O)=C1O", "CNC(=C[N+](=O)[O-])NCCSCc1ccc(CN(C)C)o1",
        "OCC(=O)C1(O)CCC2C3CCC4=CC(=O)C=CC4(C)C3C(O)CC12C", "OCC1OC(O)C(O)C(O)C1O",
        "COC(=O)C1=C(C)NC(C)=C(C(=O)OC)C1c1ccccc1[N+](=O)[O-]", "CN(C)CCC=C1c2ccccc2CCc2ccccc12",
        "C=CC1=C(C(=O)O)N2C(=O)C(NC(=O)C(=NOCC(=O)O)c3csc(N)n3)C2SC1",
        "CNC1=Nc2ccc(Cl)cc2C(c2ccccc2)=[N+]([O-])C1", "O=C1Nc2ccc(Cl)cc2C(c2ccccc2)=NC1O",
        "CN(CC=CC#CC(C)(C)C)Cc1cccc2ccccc12", "Cc1ccc(N=CN(C)C=Nc2ccc(C)cc2C)c(C)c1",
        "CC(O)=C(C#N)C(=O)Nc1ccc(C(F)(F)F)cc1", "CC1=C(C(=O)O)N2C(=O)C(NC(=O)C(N)c3ccccc3)C2SC1",
    ):  # fmt: skip
        assert refusal(smiles) == ""


def test_a_group_that_lies_in_the_given_part_does_not_count():
    warhead = Chem.MolFromSmarts("C(=O)Cl")
    given = Given(lambda mol: mol.GetSubstructMatches(warhead))
    assert refusal("CC(=O)Cl", given) == ""
    assert refusal("CC(=O)CCBr", given) == "no reactive alert: alkyl halide"
    assert refusal("ClC(=O)CCOO", given) == "no reactive alert: peroxide"
    # Of two, one is drawn; and a group that only begins in the part is drawn as well.
    assert refusal("ClC(=O)CC(=O)Cl", given) == "no reactive alert: acyl halide"
    assert refusal("CN(C)Cl", Given(lambda mol: [{1}])) == "no reactive alert: N- or O-halogen"


def test_as_many_groups_as_a_given_molecule_has_do_not_count():
    given = Given.of(["CCO", "ClCC(=O)NC", "CC(=O)CCC=O"])
    assert given.molecules == ("ClCC(=O)NC", "CC(=O)CCC=O")
    assert refusal("CCC(Cl)c1ccccc1", given) == "" == refusal("O=CCCCC", given)
    assert refusal("ClCCCCl", given) == "no reactive alert: alkyl halide"
    assert refusal("BrCCC", given) == "no reactive alert: alkyl halide"  # another group
    assert refusal("ClCCC=O", given)  # no given molecule has both


def test_the_default_and_what_is_added():
    assert with_default(None) == with_default(()) == ("reactive",)
    assert with_default("pains") == ("reactive", "pains") == with_default(["pains", "reactive"])[:2]
    assert with_default("none") == ()
    with pytest.raises(UserError, match="none goes without others, got none, pains"):
        with_default(["none", "pains"])


def test_catalogues_of_medchem(monkeypatch):
    """By a module in its place, as medchem installs 150 packages."""
    catalog = FilterCatalog()
    catalog.AddEntry(FilterCatalogEntry("NIBR||iodine", SmartsMatcher("iodine", "I", 1)))
    catalogs = ModuleType("medchem.catalogs")
    catalogs.list_named_catalogs = lambda: ["nibr"]
    catalogs.NamedCatalogs = SimpleNamespace(nibr=lambda: catalog)
    own = ModuleType("medchem")
    own.__spec__ = ModuleSpec("medchem", None)
    monkeypatch.setitem(sys.modules, "medchem", own)
    monkeypatch.setitem(sys.modules, "medchem.catalogs", catalogs)
    filters = Filters(alerts=["medchem:nibr"])
    assert filters.refusal(Chem.MolFromSmiles("CCI")) == "no medchem:nibr alert: NIBR||iodine"
    assert filters.refusal(Chem.MolFromSmiles("CCBr")) == ""
    with pytest.raises(UserError, match="no catalogue of medchem '__init__'; known: nibr"):
        Filters(alerts=["medchem:__init__"])
    monkeypatch.setitem(sys.modules, "medchem", None)
    with pytest.raises(UserError, match="catalogue medchem:zinc needs the package medchem"):
        Filters(alerts=["medchem:zinc"])


def test_groups_say_where_they_are():
    (group,) = reactive_groups(Chem.MolFromSmiles("CCC(=O)Cl"))
    assert group == ("acyl halide", (2, 3, 4), "O=CCl")
