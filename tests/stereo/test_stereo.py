"""Stereo marks as categories: bijection with isomeric SMILES, and a density that sums to 1."""

import math
from itertools import product

import couplings
import numpy as np
import pytest
import torch
from frequencies import assert_frequencies
from rdkit import Chem
from rdkit.Chem import rdDistGeom
from rdkit.Chem.EnumerateStereoisomers import EnumerateStereoisomers, StereoEnumerationOptions

from graphcnf.errors import UserError
from graphcnf.molecules.codec import UnparsableSmiles, without_stereo
from graphcnf.molecules.molecule_model import shipped_stereo
from graphcnf.stereo.marks import (
    FORCED,
    StereoTemplate,
    dropped_marks,
    has_marks_of,
    isomeric_smiles,
    split_renumbered,
    split_stereo,
)
from graphcnf.stereo.stereo_flow import StereoContext, StereoFlow, StereoGraphs
from graphcnf.testing import assert_stepping_agrees

PLAIN = [
    "CC(N)C(=O)O",
    "CC=CC(F)Cl",
    "CC1CCC(O)C1N",
    "C1CC2CCC1O2",
    "CS(=O)CC(C)N=NC",
    "CC12CC1CCC2",
]
SYMMETRIC = [
    "CC1CCC(C)CC1", "CC(O)C(O)C(C)O", "OC(F)C(F)O", "C1CC2CCC1CC2C", "CC=CC(C)C=CC", "C1CC12CC2C",
    "NCC12CC3CC(CC(C3)C1)C2", "CC(=NO)C(C)=NO", "CCC(C)=NN=C(C)CC",
    "CC1CC(C)CC(C)C1", "CC1CC2(C1)CCO2",
    # RDKit's CIP ranks tie atoms that no automorphism exchanges: in all rings, in one of two.
    "C1C2CC2CC2CC12", "C1CC2CCC2CC1C",
]  # fmt: skip
TIED = "CC1C(C2CC2)CCC2CCC21"
"""A molecule without automorphisms, with such a tie."""


def read(smiles):
    return split_stereo(Chem.MolFromSmiles(smiles))


@pytest.fixture(scope="module")
def flow():
    torch.manual_seed(0)
    return couplings.perturb(StereoFlow(width=16, hidden=24, layers=2).double()).eval()


def configurations_of(one, values=(0, 1, 2)):
    """The canonical configurations of all with these values, (1, 2) for fully marked ones."""
    return sorted({one.canonical(marks) for marks in product(values, repeat=len(one.elements))})


def total(flow, one, configurations):
    equivalents = [s for marks in configurations for s in one.equivalents(marks)]
    return sum(math.exp(row.sum()) for row in flow.log_probs([one] * len(equivalents), equivalents))


@pytest.mark.parametrize("smiles", [*PLAIN, *SYMMETRIC, TIED])
def test_configurations_are_isomeric_smiles(smiles):
    one, marks = read(smiles)
    assert not any(marks)
    configurations = configurations_of(one)
    written = [Chem.MolToSmiles(one.with_marks(marks)) for marks in configurations]
    assert len(set(written)) == len(configurations)
    assert [read(text)[1] for text in written] == configurations
    equivalents = [s for marks in configurations for s in one.equivalents(marks)]
    assert len(equivalents) == len(set(equivalents)) == 3 ** len(one.elements)
    options = StereoEnumerationOptions(unique=True)
    isomers = EnumerateStereoisomers(Chem.MolFromSmiles(smiles), options)
    found = {read(Chem.MolToSmiles(mol))[1] for mol in isomers}
    assert found == set(configurations_of(one, (1, 2)))


@pytest.mark.parametrize("smiles", [
    "NC1CC2CC2CO1", "OC12CCC1C2", "FC1CC2CCC1C2", "CC1(C)C2CCC1(C)C(=O)C2", "O=C1CC2CCC(C1)N2",
    "CC1CC2CCC1O2", "C1CC2C3CCC(C3)C2C1", "CC1C2CC3CC(C2)CC1C3", "C1CCC2CCCCC2C1",
])  # fmt: skip
def test_geometry_forces_relations_of_small_and_of_bridged_rings(smiles):
    """An isomer embeds where centres beside small rings and across bridges are as `equal` says."""
    one, _ = read(smiles)
    forced = [(k, r) for k, r in enumerate(one.relations) if r and r.kind == FORCED]
    assert bool(forced) == (smiles != "C1CCC2CCCCC2C1")  # both decalins exist
    for marks in product((1, 2), repeat=len(one.elements)):
        mol = Chem.AddHs(one.with_marks(marks))
        embeds = rdDistGeom.EmbedMolecule(mol, maxAttempts=25, randomSeed=1) == 0
        assert embeds == all((marks[k] == marks[r.element]) == r.equal for k, r in forced)


def test_numbering_does_not_matter(zinc_smiles):
    random = np.random.default_rng(0)
    marked = [s for s in zinc_smiles if "@" in s or "/" in s][:60]
    for smiles in marked:
        mol = Chem.MolFromSmiles(smiles)
        order = random.permutation(mol.GetNumAtoms()).tolist()
        one, marks = split_stereo(mol)
        other, same = split_stereo(Chem.RenumberAtoms(mol, order))
        assert (one.smiles, marks) == (other.smiles, same)
        assert Chem.MolToSmiles(one.with_marks(marks)) == Chem.MolToSmiles(mol)


def test_atoms_in_any_order_have_the_same_marks(zinc_smiles):
    random, orders = np.random.default_rng(0), set()
    for smiles in zinc_smiles[:40]:
        mol = Chem.MolFromSmiles(smiles)
        for _ in range(3):
            constitution, configuration = split_renumbered(mol, random)
            orders.add(constitution.smiles)
            written = Chem.MolToSmiles(constitution.with_marks(configuration))
            assert written == isomeric_smiles(smiles)
    assert len(orders) > 80


def test_the_network_sees_which_way_a_ring_runs():
    # In fused rings, the numbers of distant atoms decide it, which the network does not see.
    mol = Chem.MolFromSmiles("C[C@]12CC[C@H]3[C@H]([C@@H]1CC[C@@H]2O)CCC4=CC(=O)CC[C@]34C")
    for number, atom in enumerate(mol.GetAtoms(), 1):
        atom.SetIntProp("known", number)
    seen: dict[tuple, set[int]] = {}
    local: dict[tuple, set[int]] = {}
    random = np.random.default_rng(0)
    for _ in range(40):
        one, marks = split_renumbered(mol, random)
        graphs = StereoGraphs.of([one], [marks])
        known = [0, *(atom.GetIntProp("known") for atom in one.mol.GetAtoms())]
        for (atom, _), sides, parity in zip(
            graphs.elements.tolist(), graphs.sides.tolist(), graphs.categories.tolist(), strict=True
        ):
            near = graphs.neighbours[atom - 1].tolist()
            others = [known[k] for k in near if k not in sides]
            key = known[atom], *(known[k] for k in sides)
            assert all(sides) and set(sides) <= set(near)
            seen.setdefault((*key, *sorted(others)), set()).add(parity)
            local.setdefault((known[atom], *(known[k] for k in near)), set()).add(parity)
    assert all(len(parities) == 1 for parities in seen.values())
    assert any(len(parities) == 2 for parities in local.values())


def test_every_configuration_is_equivalent_to_one_canonical_one(zinc_smiles):
    count = 0
    for one, _ in map(read, zinc_smiles):
        if one.ambiguous and len(one.elements) < 5 and count < 40:
            equivalents = [s for marks in configurations_of(one) for s in one.equivalents(marks)]
            assert sorted(equivalents) == list(product((0, 1, 2), repeat=len(one.elements)))
            count += 1
    assert count > 20


def test_a_configuration_is_the_same_molecule_wherever_writing_starts(zinc_smiles):
    for smiles in ["CC(N)C(O)F", *[s for s in zinc_smiles if "@" in s][:30]]:
        one, _ = read(smiles)
        mol = one.with_marks((1,) * len(one.elements))
        wanted = split_stereo(mol)[1]
        for start in range(mol.GetNumAtoms()):
            assert read(Chem.MolToSmiles(mol, rootedAtAtom=start))[1] == wanted


@pytest.mark.parametrize("smiles", [*PLAIN, *SYMMETRIC, TIED])
def test_probabilities_sum_to_one(flow, smiles):
    one, _ = read(smiles)
    assert total(flow, one, configurations_of(one)) == pytest.approx(1, abs=1e-9)
    isomers = flow.isomers(smiles)
    assert isomers.probability.sum() == pytest.approx(1)
    assert len(isomers) == len(configurations_of(one, (1, 2)))


@pytest.mark.parametrize("smiles", ["C[C@H]1CCC(O)C1N", "CC1CCC(O)[C@H]1N", "C[C@H](O)C(O)C(C)O",
                                    "C[C@H]1CC[C@@H](C)CC1"])  # fmt: skip
def test_marks_that_are_not_given_are_summed_over(flow, smiles):
    one, given = read(smiles)
    pattern = Chem.MolFromSmiles(smiles)
    matches = [marks for marks in configurations_of(one)
               if one.with_marks(marks).HasSubstructMatch(pattern, useChirality=True)]  # fmt: skip
    (value,), exact = flow.scores_given([one], [given])
    assert exact.all()
    assert math.exp(value) == pytest.approx(total(flow, one, matches))


def test_without_marks_nothing_is_given(flow):
    one, given = read("CC(F)C(F)Cl")
    assert flow.scores_given([one], [given]).nats == 0
    assert flow.log_prob(["CC(F)C(F)Cl"])[0] == 0
    with pytest.raises(UnparsableSmiles, match="nonsense"):
        flow.log_prob(["C[C@H](O)N", "nonsense"])


def test_parallel_equals_stepping(flow, zinc_smiles):
    marked = [pair for pair in map(read, zinc_smiles[:80]) if pair[1]]
    constitutions, configurations = zip(*marked, strict=True)
    graphs = StereoGraphs.of(constitutions, configurations)
    context, x = StereoContext.of(graphs), graphs.padded(graphs.categories)[..., None]
    assert_stepping_agrees(flow.flow.network, x, context)
    expected = flow.flow.network.log_probs(x, context)
    for k in (0, 7, 20):  # whatever it is batched with
        (alone,) = flow.log_probs([constitutions[k]], [configurations[k]])
        assert alone == pytest.approx(expected[k, : len(alone), 0].detach().numpy())


def test_draws_follow_the_probabilities(flow):
    one, _ = read("CC1CCC(C)CC1")
    drawn = flow.draw([one] * 4000, torch.Generator().manual_seed(0))
    assert_drawn(drawn, {c: total(flow, one, [c]) for c in configurations_of(one)})


def assert_drawn(drawn, chances):
    """Compare drawn configurations with the chances of all that are possible."""
    assert set(drawn) <= set(chances)
    p = np.array([*chances.values()])
    assert_frequencies([drawn.count(marks) for marks in chances], p / p.sum())


def part_of(smiles):
    """A part with marks, each of its atoms with as many bonds as in the molecules, but for `*`."""
    mol = Chem.MolFromSmiles(smiles)
    how = Chem.AdjustQueryParameters.NoAdjustments()
    how.makeDummiesQueries, how.adjustDegree = True, True
    how.adjustDegreeFlags = Chem.ADJUST_IGNOREDUMMIES
    query = Chem.AdjustQueryProperties(mol, how)
    Chem.RemoveStereochemistry(query)

    def places(other):
        found = other.GetSubstructMatches(query, uniquify=False)
        return [
            {k: a for k, a in enumerate(place) if mol.GetAtomWithIdx(k).GetAtomicNum()}
            for place in found
        ]

    return StereoTemplate(mol, places), Chem.AdjustQueryProperties(mol, how)


@pytest.mark.parametrize(("part", "smiles"), [
    ("C[C@H]1CC(*)C1", "CC1CC(F)C1"),
    ("*[C@H](C)O", "CC(O)C(O)C(C)O"),
    ("*/C=C/C", "CC=CC(C)C=CC"),
    ("*[C@](*)(C)F", "CC(F)C(C)(F)Cl"),
])  # fmt: skip
def test_draws_given_marks_follow_the_probabilities(flow, part, smiles):
    one = read(smiles)[0]
    given, pattern = part_of(part)
    random = np.random.default_rng(0)
    drawn = [flow.draw_given(one, one.kept_marks(given), random) for _ in range(120)]
    chances = {
        marks: total(flow, one, [marks])
        for marks in configurations_of(one)
        if one.with_marks(marks).HasSubstructMatch(pattern, useChirality=True)
    }
    assert_drawn(drawn, chances)


@pytest.mark.parametrize("smiles", [
    "C[C@H]1C[C@@H](C)CC(C)C1", "C[C@H]1CC(C)C[C@@H](C)C1", "C1C2C[C@H]2C[C@@H]2CC12",
    "C[C@H]1CCC[C@@H]1C",
])  # fmt: skip
def test_draws_reach_every_way_to_write_the_given_marks(smiles):
    torch.manual_seed(0)
    # Less far from equal probabilities than `flow`: no isomer is rare.
    flow = couplings.perturb(StereoFlow(width=16, hidden=24, layers=2).double(), 0.1).eval()
    one, given = read(smiles)
    random = np.random.default_rng(0)
    drawn = [flow.draw_given(one, [given], random) for _ in range(120)]
    chances = {
        marks: total(flow, one, [marks])
        for marks in configurations_of(one)
        if any(has_marks_of(image, given) for image in one.orbit(marks))
    }
    assert_drawn(drawn, chances)


def test_given_marks_are_kept(zinc_smiles):
    """Cut molecules and draw the marks of the whole given those of each piece."""
    random, count = np.random.default_rng(1), 0
    for smiles in [s for s in zinc_smiles if "@" in s or "/" in s][:40]:
        mol = Chem.MolFromSmiles(smiles)
        bonds = [b.GetIdx() for b in mol.GetBonds() if not b.IsInRing()]
        bonds = [k for k in bonds if mol.GetBondWithIdx(k).GetBondType() == Chem.BondType.SINGLE]
        if not bonds:
            continue
        pieces = Chem.FragmentOnBonds(mol, [int(random.choice(bonds))])
        for piece in Chem.GetMolFrags(pieces, asMols=True):
            for atom in piece.GetAtoms():
                atom.SetIsotope(0)
            part, pattern = part_of(Chem.MolToSmiles(piece))
            plain = without_stereo(mol)
            text = Chem.MolToSmiles(plain)
            (found,) = shipped_stereo("zinc250k").marked([text], [plain], seed=count, template=part)
            assert Chem.MolFromSmiles(found).HasSubstructMatch(pattern, useChirality=True)
            count += "@" in Chem.MolToSmiles(piece)
    assert count > 20


@pytest.mark.parametrize(
    ("smiles", "kinds"),
    [
        ("C[C@H](F)/C=C/C", []),
        ("C[N@@H+](CC)CCC", ["amine"]),
        ("CC=[C@]=CC", ["allene"]),
        ("C/C=C=C=C/C", ["cumulene"]),
        ("F[Pt@SP1](Cl)(Br)I", ["metal"]),
        ("C[C@H](C)C", ["places without isomers"]),
        ("C1C/C=C/CC1", ["places without isomers"]),
        ("O=C1OC(/C=C\\c2ccccc2)=N/C1=C\\C", []),
    ],
)
def test_marks_that_are_dropped_are_named(smiles, kinds):
    assert dropped_marks(smiles) == kinds


def test_too_many_isomers_are_refused(flow):
    with pytest.raises(UserError, match="at most 4,096"):
        flow.isomers("".join("C(F)" for _ in range(14)) + "Cl")


def test_a_symmetric_molecule_with_all_marks_is_its_only_isomer(flow):
    smiles = "C[C@H](O)" + "[C@@H](O)[C@H](O)" * 6 + "C"  # 13 elements, 2 ** 13 configurations
    isomers = flow.isomers(smiles)
    assert list(isomers.smiles) == [isomeric_smiles(smiles)]
    assert list(isomers.probability) == [1.0]
    with pytest.raises(UserError, match="^8,192 combinations.*mark all"):
        flow.isomers(smiles.replace("[C@H](O)", "C(O)", 1))
