"""Molecules around a fragment."""

import math
from itertools import islice

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem.rdMolDescriptors import CalcNumRotatableBonds

import graphcnf
from graphcnf.design import growing as growth
from graphcnf.design import particles as fragments
from graphcnf.design.additions import ROTATABLE, AddedLimits, added
from graphcnf.design.fragments import atom_could_be, bond_could_be, read_fragment
from graphcnf.errors import UserError
from graphcnf.molecules import codec
from graphcnf.molecules.vocabulary import AtomCategory
from graphcnf.stereo.marks import split_stereo

pytestmark = pytest.mark.usefixtures("few_walks")

OPTIONS = {"atoms": (8, 14), "particles": 2, "alerts": "none"}
# Hydrogens at the closed atoms, anything but a hydrogen at the attachment points.
CASES = [
    ("decorate", "[*:1]c1ccc([*:2])cc1", "[#6]1(-[!#1]):[cH]:[cH]:[#6](-[!#1]):[cH]:[cH]:1"),
    ("grow", "[1*]C1CCNC1", "[!#1]-[CX4H1]1[CX4H2][CX4H2][NX3H1][CX4H2]1"),
    ("link", "[*:1]CO.[*:2]C#N", "[CX4H2]([OH1]).C(#N)"),
    ("link", "[*:1]CO.[*:2]C#N.[*:3]N", "[CX4H2]([OH1]).C(#N).[NX3H2][!#1]"),
    ("close", "[*:1]NCC[*:2]", "[NX3H1;R][CX4H2;R][CX4H2;R]"),
    ("decorate", "[cH:1]1cc[cH:2]cc1", "[c]1:[cH]:[cH]:[c]:[cH]:[cH]:1"),
    ("decorate", "[n,c]1[cH:2]cc[cH:1]c1", "[n,cH]1:[c]:[cH]:[cH]:[c]:[cH]:1"),
    ("scaffold", "C1CCNC1", "C1CCNC1"),
    ("scaffold", "*C1CCNC1", "[!#1]-C1CCNC1"),
    ("scaffold", "C~N", "[#6]~[#7]"),
    ("scaffold", "[#7]-[C;H2]", "[#7]-[C;H2]"),
]


@pytest.mark.parametrize(("task", "fragment", "pattern"), CASES)
def test_every_molecule_holds_the_fragment(flow, task, fragment, pattern):
    sample = flow.grow(fragment, 3, task=task, seed=1, **OPTIONS)
    assert len(sample) == len(set(sample)) == 3 and sample.validity == 1
    query = Chem.MolFromSmarts(pattern)
    for molecule in sample.molecules:
        assert molecule.HasSubstructMatch(query), Chem.MolToSmiles(molecule)
        assert 8 <= molecule.GetNumAtoms() <= 14 and len(Chem.GetMolFrags(molecule)) == 1


def test_proposals_are_numbers_where_a_step_back_has_no_placement(flow, monkeypatch):
    seen = []

    def checked(group, value, count, plain=fragments._logsumexp_by):
        seen.append(bool(value.isnan().any()))
        return plain(group, value, count)

    monkeypatch.setattr(fragments, "_logsumexp_by", checked)
    flow.grow("[C,c]1~[#6,#7]~[#6,#7]~[#6,#7]~[#6,#7]~[#6,#7]1", 2, task="scaffold", **OPTIONS)
    assert len(seen) > 20 and not any(seen)


def test_a_seed_determines_the_molecules(flow):
    few = flow.grow("[1*]CC(N)=O", 3, seed=3, **OPTIONS).smiles
    assert flow.grow("[1*]CC(N)=O", 5, seed=3, **OPTIONS).smiles[:3] == few
    assert flow.grow("[1*]CC(N)=O", 3, seed=4, **OPTIONS).smiles != few


def drawn_around(flow, text, task, **options):
    part = read_fragment(text, task, flow.vocabulary)
    return growth.Growth(flow.model, flow.vocabulary, part, particles=2, **options)


@pytest.mark.parametrize(("text", "task"), [("[*:1]CO.[*:2]C#N", "link"), ("[*:1]CC", "grow")])
def test_the_likeliest_of_those_found_come_first(flow, text, task):
    def smiles(n, likeliest):
        search = drawn_around(flow, text, task, atoms=(8, 14), seed=2, likeliest=likeliest)
        return [one.smiles for one in islice(search.molecules(), n)], search.found

    found, kept = smiles(18, 1)[0], smiles(6, 3)
    atoms = [codec.parse(one).GetNumAtoms() for one in found]
    nats = dict(zip(found, flow.log_prob(found) / atoms, strict=True))
    for k in range(6):
        left = [one for one in found[: 3 * k + 3] if one not in kept[0][:k]]
        assert kept[0][k] == max(left, key=nats.get)
    assert kept[0] != found[:6] and kept[1] == 18 == smiles(18, 1)[1]
    how = {**OPTIONS, "stereo": False}
    assert flow.grow(text, 4, task=task, seed=2, likeliest=3, **how).smiles == kept[0][:4]
    # Linkers are chosen unless the user says otherwise.
    default = smiles(4, 4 if task == "link" else 1)[0]
    assert flow.grow(text, 4, task=task, seed=2, **how).smiles == default


def test_a_search_that_finds_no_more_yields_all_that_wait(flow, monkeypatch):
    monkeypatch.setattr(growth, "PATIENCE", 2)
    found = {}
    for likeliest in (1, 3):
        search = drawn_around(flow, "[*:1]CO.[*:2]CN", "link", atoms=(5, 5), likeliest=likeliest)
        found[likeliest] = []
        with pytest.raises(UserError, match=r"\d molecules found and no further one"):
            found[likeliest].extend(one.smiles for one in search.molecules())
    assert len(found[1]) > 3 and sorted(found[1]) == sorted(found[3])


def read(flow, text, task="scaffold"):
    return read_fragment(text, task, flow.vocabulary)


def test_kekule_structures_and_places(flow):
    forms = {"c1ccccc1": 2, "c1ccc2ccccc2c1": 3, "C1CCCCC1": 1, "c1cc[nH]c1": 1, "CC(=O)N": 1}
    for smiles, count in forms.items():
        assert len(read(flow, smiles).fragment.structures) == count, smiles
    # Resonance that moves charges gives another fragment.
    assert len(read(flow, "O=[N+]([O-])c1ccccc1").fragment.structures) == 2
    assert read(flow, "[*]n1cccc1").fragment.attachments.tolist() == [1, 0, 0, 0, 0]
    assert read(flow, "c1ccccc1").places(Chem.MolFromSmiles("Cc1ccccc1")) == 12
    # Only hydrogens are replaced: not in pyridone, nor at a nitrogen without any.
    pyridine = read(flow, "c1ccncc1")
    given = ("Cc1ccncc1", "c1ccc2ncccc2c1", "O=c1cc[nH]cc1", "c1ccn2ccnc2c1")
    assert [pyridine.places(Chem.MolFromSmiles(s)) for s in given] == [2, 2, 0, 0]
    closed = read(flow, "[*]c1ccccc1", "grow")
    assert closed.places(Chem.MolFromSmiles("Cc1ccccc1")) == 2
    assert closed.places(Chem.MolFromSmiles("Cc1ccc(C)cc1")) == 0
    # Bonds at attachment points are single.
    middle = read(flow, "[*]C[*]", "decorate")
    assert [middle.places(Chem.MolFromSmiles(s)) for s in ("OCN", "OC=N", "C=C=O", "N#CO")] == [
        1, 0, 0, 0,
    ]  # fmt: skip


def test_smarts_atoms():
    carbon, aromatic = AtomCategory("C"), AtomCategory("N", 0, True)
    answers = {
        "[#6]": (1, 0), "C": (1, 0), "n": (0, 1), "[#6,#7]": (1, 1), "[!#6]": (0, 1), "*": (1, 1),
        "[a]": (0, 1), "[N+]": (0, 0), "[R;!C]": (0, 1), "[$(CC)]": (1, 1),
    }  # fmt: skip
    # Without marks any atom may be aromatic, and nothing that only C says excludes c.
    plain = [AtomCategory("C"), AtomCategory("N"), AtomCategory("O")]
    unmarked = {
        "C": (1, 0, 0), "[!C]": (1, 1, 1), "[!c]": (1, 1, 1), "[!N&!O]": (1, 1, 1),
        "[!#6]": (0, 1, 1), "[N,O]": (0, 1, 1), "[C;!N]": (1, 0, 0),
    }  # fmt: skip
    for marked, known, table in ((True, (carbon, aromatic), answers), (False, plain, unmarked)):
        for smarts, wanted in table.items():
            (atom,) = Chem.MolFromSmarts(smarts).GetAtoms()
            assert tuple(int(atom_could_be(atom, c, marked)) for c in known) == wanted, smarts


def test_smarts_bonds():
    # (pattern, marked vocabulary): single, double, and where there are marks aromatic single.
    answers = {
        ("cc", True): (1, 0, 1), ("cc", False): (1, 1), ("c:c", True): (0, 0, 1),
        ("c:c", False): (1, 1), ("C-C", True): (1, 0, 0), ("C-C", False): (1, 0),
        ("C=C", True): (0, 1, 0), ("C=C", False): (0, 1), ("C~C", True): (1, 1, 1),
        ("*!=*", True): (1, 0, 1), ("*!=*", False): (1, 1), ("*!#*", False): (1, 1),
    }  # fmt: skip
    for (smarts, marked), wanted in answers.items():
        (bond,) = Chem.MolFromSmarts(smarts).GetBonds()
        names = ("SINGLE", "DOUBLE", "AROMATIC_SINGLE")[: len(wanted)]
        found = tuple(int(bond_could_be(bond, name, marked)) for name in names)
        assert found == wanted, (smarts, marked)


@pytest.mark.parametrize(
    ("task", "fragment", "message"),
    [
        ("link", "[*]CC", "1 parts, 2 or more needed"),
        ("link", "[*]CC.CC", "0 attachment points in a part, 1 or more needed"),
        ("close", "[*]CC", "1 attachment points in a part, 2 or more needed"),
        ("close", "[*]CC[*].C[*]", "2 parts, 1 needed"),
        ("close", "[*:1]" + 30 * "C" + "[*:2]", "a ring of 31 .*rings of up to .*fine-tune"),
        ("grow", "C1CC", "not a SMILES or SMARTS"),
        ("grow", "[*]=CC", "one single bond"),
        ("grow", "[*]", "no atoms beside"),
        ("grow", "[c,n]1ccccc1*", "write .* for an attachment point in a SMARTS"),
        ("grow", "FC(F)(F)F", "no hydrogen to replace"),
        ("scaffold", "[#54;R]", "knows no atom like"),
        ("scaffold", "[CH2]C", "radical"),
        ("scaffold", "", "not a SMILES or SMARTS"),
        ("extend", "C", "task must be one of"),
    ],
)
def test_what_cannot_be_grown_from_gets_one_line(flow, task, fragment, message):
    with pytest.raises(UserError, match=message) as caught:
        flow.grow(fragment, 2, task=task)
    assert "\n" not in str(caught.value)


def test_threshold_takes_as_many_as_asked():
    random = np.random.default_rng(0)
    for count, spread in ((1, 1), (7.5, 3), (40, 10), (99.5, 30)):
        weights = random.normal(scale=spread, size=100)
        threshold = growth.log_threshold(weights, count)
        assert np.exp(np.minimum(0, weights - threshold)).sum() == pytest.approx(count)
    assert growth.log_threshold(weights, 100) == -math.inf


def test_tilted_weights_take_molecules_of_the_wanted_size():
    random = np.random.default_rng(0)
    atoms, noise = random.integers(10, 35, 2000), random.normal(scale=4, size=2000)
    for slope, mean in ((0.1, 23.0), (0.1, 26.0), (-0.1, 22.0)):
        weights = slope * atoms + noise
        tilted = weights + growth.size_tilt(weights, atoms, 200, mean) * atoms
        taken = np.exp(np.minimum(0, tilted - growth.log_threshold(tilted, 200)))
        assert taken @ atoms / taken.sum() == pytest.approx(mean, abs=0.05)
    assert growth.size_tilt(weights, atoms, 200, 40) == pytest.approx(growth.TILT, rel=1e-3)


def test_groups_by_attachment_point(flow):
    cases = [
        ("[*:1]N1CCN([*:2])CC1", "decorate", "CCN1CCN(C(=O)F)CC1", {"R1": "*CC", "R2": "*C(=O)F"}),
        ("*N1CCN(*)CC1", "decorate", "CCN1CCN(C(=O)F)CC1", {"R1": "*CC", "R2": "*C(=O)F"}),
        ("[7*]C[*:3]", "grow", "NCO", {"R3": "*N", "R7": "*O"}),
        ("[*:2]C#N.[*:9]c1ccccc1", "link", "N#CCOc1ccccc1", {"linker": "[*:1]CO[*:2]"}),
        ("[*:1]c1ccccc1[*:2]", "decorate", "c1ccc2c(c1)CCC2",
         {"R1": "[*:1]CCC[*:2]", "R2": "[*:1]CCC[*:2]"}),
        ("[*:9]C#N.[*:2]c1ccccc1", "link", "N#CCOc1ccccc1", {"linker": "[*:1]OC[*:2]"}),
        ("CN", "scaffold", "CNO", {}),
        # Of two matches, the one with the marks: both SMILES are one molecule.
        *[("[*:1]O[C@@H]1CCC[C@@H]1O[2*]", "decorate", smiles, {"R1": "*C", "R2": "*CC"})
          for smiles in ("CO[C@@H]1CCC[C@@H]1OCC", "CCO[C@H]1CCC[C@H]1OC")],
    ]  # fmt: skip
    for text, task, molecule, groups in cases:
        found = read(flow, text, task).groups(Chem.MolFromSmiles(molecule))
        assert found == groups, text


@pytest.fixture(scope="module")
def piperazines():
    """Molecules of the shipped weights with two parts at the nitrogens, and what they were of."""
    flow = graphcnf.MoleculeFlow.from_pretrained("zinc250k")
    fragment = read(flow, "[*:1]N1CCN([*:2])CC1", "decorate")
    drawn = growth.Growth(flow.model, flow.vocabulary, fragment, seed=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(growth, "ROUND", 256)
        patch.setattr(growth, "TRIAL", 64)
        return fragment, list(islice(drawn.molecules(), 60))


def test_first_molecules_have_different_parts_at_each_point(piperazines):
    """Of 20 as many as of 20 drawn from all: walks that share free atoms give one molecule.

    Of these 60 a draw of 20 has 19; nine tenths of that are 17.
    """
    fragment, found = piperazines
    parts = [fragment.groups(codec.parse(one.smiles)) for one in found]
    random = np.random.default_rng(0)
    for point in parts[0]:
        names = np.array([one[point] for one in parts])
        later = [len(set(random.choice(names, 20, replace=False))) for _ in range(50)]
        assert len(set(names[:20])) >= 0.9 * max(np.mean(later), 19), point


def test_reactive_bonds_are_as_rare_as_the_model_has_them(piperazines):
    """Unlikely walks are not taken for want of likely ones: of 60 at most two.

    At 1 % more than two of 60 come up in one of 45 seeds, at 6 % in seven of ten.
    """
    pattern = Chem.MolFromSmarts("[$([#7,#8]-[F,Cl,Br,I]),$([#8]-[#8]),$(C(=O)[F,Cl,Br,I])]")
    reactive = [one.smiles for one in piperazines[1]
                if codec.parse(one.smiles).HasSubstructMatch(pattern)]  # fmt: skip
    assert len(reactive) <= 2, reactive


LIMITS = [
    ("decorate", "[*:1]c1ccccc1", {"added_atoms": (3, 6), "added_rings": (1, 1)}),
    ("link", "[*:1]CO.[*:2]C#N", {"added_atoms": (4, 5), "added_rotatable": (1, 2)}),
    ("close", "[*:1]NCC[*:2]", {"added_atoms": (3, 7), "added_rings": (0, 0)}),
]


@pytest.mark.parametrize(("task", "fragment", "limits"), LIMITS)
def test_what_is_added_is_within_limits(flow, task, fragment, limits):
    names = {name.removeprefix("added_"): limit for name, limit in limits.items()}
    part = read_fragment(fragment, task, flow.vocabulary)
    for molecule in flow.grow(
        fragment, 8, task=task, particles=2, alerts="none", **limits
    ).molecules:
        each = [added(molecule, place, linked=part.linked) for place in part.matches(molecule)]
        assert any(
            all(low <= one[name] <= high for name, (low, high) in names.items()) for one in each
        )


def test_molecules_beyond_a_limit_leave_the_choice_as_strict(flow):
    """One of 4 particles within the limits is taken, however many others there are."""
    limits = AddedLimits(rotatable=(0, 1))
    part = read_fragment("[*:1]CO.[*:2]C#N", "link", flow.vocabulary, limits)
    drawn = growth.Growth(flow.model, flow.vocabulary, part, atoms=(8, 11), particles=4)
    taken = sum(len(drawn._accepted(number)) for number in range(16))
    assert drawn.valid < drawn.placed / 2
    assert taken < 1.2 * drawn.valid / 4


def test_new_atoms_and_rings_are_counted():
    for smiles, place, linked, counts in (
        ("CC1CC1", (0,), False, (3, 1, 0)),
        ("OCCCCN", (0, 5), True, (4, 0, 3)),
        ("C1CCCCCN1", (0, 6), True, (5, 0, 0)),
        ("C1CC2CC2CCN1", (0, 7), True, (6, 1, 0)),
        ("c1ccc2ncccc2c1", (0, 1, 2, 3, 8, 9), False, (4, 1, 0)),
    ):
        found = added(Chem.MolFromSmiles(smiles), place, linked=linked)
        assert tuple(found.values()) == counts, smiles


def test_rotatable_bonds_are_those_that_rdkit_counts(zinc_smiles):
    query = Chem.MolFromSmarts(ROTATABLE)
    for mol in map(Chem.MolFromSmiles, zinc_smiles[:300]):
        assert len(mol.GetSubstructMatches(query)) == CalcNumRotatableBonds(mol)


def test_a_linker_touches_all_points(flow):
    ring = read(flow, "[*:1]CC[*:2]", "close")
    # One part at both points, or another one at each.
    given = ("C1CN1", "OCCN", "C1OC1CCN")
    assert [ring.places(Chem.MolFromSmiles(s)) for s in given] == [2, 0, 0]
    three = read(flow, "[*:1]C#N.[*:1]F.[*:1]Cl", "link")
    assert three.groups(Chem.MolFromSmiles("N#CC(F)Cl")) == {"linker": "[*:1]C([*:2])[*:3]"}


def test_only_mapped_atoms_carry_new_ones(flow):
    for text in ("Cc1[cH:1]cncc1", "C[c;!$(cN)]1[cH:1]c[n,s]cc1"):
        part = read(flow, text, "decorate")
        given = ("Cc1ccncc1", "Cc1c(O)cncc1", "Cc1c(O)cnc(O)c1", "CCc1c(O)cncc1", "Cc1ccncc1O")
        assert [part.places(Chem.MolFromSmiles(s)) for s in given] == [2, 1, 0, 0, 1], text
        assert part.groups(Chem.MolFromSmiles("Cc1ccncc1O")) == {"R1": "*O"}
        assert part.groups(Chem.MolFromSmiles("Cc1ccncc1")) == {"R1": ""}


def test_options_out_of_range(flow):
    for options, message in (
        ({"particles": 0}, "particles"),
        ({"likeliest": 0}, "likeliest must be an integer from 1 to 1000, got 0"),
        ({"likeliest": 2.5}, "likeliest must be an integer from 1 to 1000, got 2.5"),
        ({"temperature": float("nan")}, "temperature"),
        ({"atoms": (2, 2)}, "needs 3 or more"),
        ({"atoms": (4, 9), "added_atoms": (8, 9)}, "needs 10 or more"),
        ({"added_rings": (2, 1)}, "added_rings"),
    ):
        with pytest.raises(UserError, match=message):
            flow.grow("[*]CC", 1, **options)


def test_sizes_of_the_first_walks_are_spread_over_their_distribution(flow):
    sizes = flow.model.size_prior.probabilities((8, 14))
    for seed in range(5):
        drawn = growth.Growth(
            flow.model, flow.vocabulary, read(flow, "CC(N)=O"), seed=seed, atoms=(8, 14)
        )
        numbers = drawn._sizes(drawn._whole, 0, 21)
        shares = np.bincount(numbers, minlength=len(sizes)) / 21
        # The discrepancy of multiples of the golden ratio at a Fibonacci number n: below 2 / n.
        assert np.abs(np.cumsum(shares) - np.cumsum(sizes)).max() < 2 / 21, seed


MARKED = [
    ("scaffold", "C[C@H]1CC[C@@H](O)CN1"),
    ("decorate", "[*:1]N1C[C@@H](O)[C@H]([*:2])C1"),
    ("link", "[*:1]C[C@H](C)O.[*:2]/C=C/C"),
    ("close", "[*:1]N[C@@H](C)[C@H](O)C[*:2]"),
    ("scaffold", "[#7,#8][C@;R0](C)([#6])"),
]


@pytest.mark.parametrize(("task", "fragment"), MARKED)
def test_marks_of_the_fragment_are_kept(flow, task, fragment):
    sample = flow.grow(fragment, 3, task=task, seed=1, **OPTIONS)
    plain = flow.grow(fragment, 8, task=task, seed=1, stereo=False, **OPTIONS)
    graphs = [codec.canonical_smiles(mol) for mol in sample.molecules]
    # Molecules that cannot have the marks are left out.
    assert graphs == [smiles for smiles in plain if smiles in graphs]
    how = Chem.AdjustQueryParameters.NoAdjustments()
    how.makeDummiesQueries = True
    # One atom may be at two attachment points.
    parts = ["N[C@@H](C)[C@H](O)C"] if task == "close" else fragment.split(".")
    for part in parts:
        pattern = Chem.MolFromSmiles(part) or Chem.MolFromSmarts(part)
        pattern = Chem.AdjustQueryProperties(pattern, how)
        for mol in sample.molecules:
            assert mol.HasSubstructMatch(pattern, useChirality=True), Chem.MolToSmiles(mol)


def test_a_mark_at_an_amine_holds_nothing_up(flow):
    part = read(flow, "CC1C[N@]2CC[C@@H]1C2").marked
    constitution, marks = split_stereo(part.mol)
    assert constitution.kept_marks(part) == [marks] and sum(map(bool, marks)) == 1


def test_contradictory_marks_of_a_fragment_are_one_line(flow):
    with pytest.raises(UserError, match="contradict each other"):
        read(flow, "F/C=C(/F)/Cl")


def test_samples_of_the_model_are_taken_where_the_fragment_is_common(flow):
    """Each of them is as good as any other; a rare fragment is grown from particles."""
    for text, common in (("C", True), ("C1CC2CC1CN2", False)):
        fragment = read(flow, text)
        drawn = growth.Growth(flow.model, flow.vocabulary, fragment, particles=4, atoms=(8, 14))
        found = list(islice(drawn.molecules(), 4))
        assert drawn.common is common and len({one.smiles for one in found}) == 4, text
        assert bool(drawn.accuracy()) is not common
        if common:
            assert {one.log_weight for one in found} == {0.0}
        else:
            assert drawn.accuracy()["effective"] >= 1


def tries(flow, particles, seed=0):
    part = read(flow, "[1*]C1CCNC1", "grow")
    return growth.Growth(
        flow.model, flow.vocabulary, part, atoms=(8, 14), particles=particles, seed=seed
    )


def test_attempts_keep_failures(flow):
    search = tries(flow, 1)
    plain = search._draw

    def drawn(part, number, count):
        particles = plain(part, number, count)
        if number:
            particles.log_weights[::2] = -math.inf
        return particles

    made = tries(flow, 1).attempts(60)
    valid = [smiles for smiles in made if smiles]
    assert len(made) == 60 and len(valid) > 50
    search._draw = drawn
    half = search.attempts(60)
    assert not any(half[::2]) and half[1::2] == made[1::2]
    assert tries(flow, 1).attempts(20) == made[:20] != tries(flow, 1, seed=1).attempts(20)
    query = Chem.MolFromSmarts("[!#1]-[CX4H1]1[CX4H2][CX4H2][NX3H1][CX4H2]1")
    assert all(Chem.MolFromSmiles(smiles).HasSubstructMatch(query) for smiles in valid)


def test_an_attempt_is_the_particle_that_has_the_weight(flow):
    search = tries(flow, 3)
    rounds, plain = [], search._draw

    def drawn(part, number, count):
        particles = plain(part, number, count)
        if number:
            particles.log_weights[:] = -math.inf
            particles.log_weights[1 : count // 2 : 3] = 0
            rounds.append(particles)
        return particles

    search._draw = drawn
    made = search.attempts(growth.ROUND // 3)
    packed = rounds[0].graphs.to_packed()
    known = [search._molecule(search._whole, packed.graph(k)) for k in range(1, growth.ROUND, 3)]
    half = len(made) // 2
    assert made[:half] == [one and one[0] for one in known[:half]] and any(made[:half])
    assert len(rounds) == 1 and not any(made[half:])
