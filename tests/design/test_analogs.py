"""Analogues share what is kept with their molecule, and come from the model."""

import math
from itertools import islice

import networkx as nx
import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator
from rdkit.Chem.Scaffolds import MurckoScaffold
from rdkit.DataStructs import TanimotoSimilarity

from graphcnf.design import analogues as analogs
from graphcnf.design import growing as growth
from graphcnf.design.analogues import Origin, RedrawnAnalogs, scaffold_and_rest
from graphcnf.errors import UserError
from graphcnf.molecules import codec
from graphcnf.molecules.codec import quiet
from graphcnf.molecules.validity import strict
from graphcnf.molecules.vocabulary import AROMATIC

ORIGIN = "COc1ccc(CNC(C)=O)cc1"


pytestmark = pytest.mark.usefixtures("few_walks")


def skeleton(smiles, orders):
    """Bonds of a molecule as a graph, with their types where `orders`."""
    graph = nx.Graph()
    for bond in Chem.MolFromSmiles(smiles).GetBonds():
        kind = str(bond.GetBondType()) if orders else ""
        graph.add_edge(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), kind=kind)
    return graph


@pytest.mark.parametrize("similar", [0.0, 0.35])
@pytest.mark.parametrize("keep", analogs.KEEP)
def test_every_analogue_keeps_what_it_should(flow, keep, similar):
    sample = flow.analogs(ORIGIN, 7, keep=keep, similar=similar, seed=1, particles=2, alerts="none")
    assert len(set(sample)) == len(sample) == 7 and sample.validity == 1
    assert ORIGIN not in sample.smiles
    morgan = GetMorganGenerator(radius=2, fpSize=2048)
    own = morgan.GetFingerprint(Chem.MolFromSmiles(ORIGIN))
    for smiles in sample:
        if keep == "scaffold":
            assert MurckoScaffold.MurckoScaffoldSmiles(smiles) == "c1ccccc1"
        else:
            orders = keep == "bonds"
            assert nx.is_isomorphic(
                skeleton(smiles, orders), skeleton(ORIGIN, orders),
                edge_match=lambda a, b: a["kind"] == b["kind"],
            )  # fmt: skip
        print_ = morgan.GetFingerprint(Chem.MolFromSmiles(smiles))
        assert TanimotoSimilarity(print_, own) >= similar


def test_atoms_that_changed(flow):
    """What is left of both without them is the same, and identical molecules have none."""
    for keep in analogs.KEEP:
        search = analogs.analogs_of(flow, ORIGIN, keep=keep, similar=0, seed=1, particles=2)
        for one in islice(search.molecules(), 4):
            mol = Chem.RWMol(Chem.MolFromSmiles(one.smiles))
            changed = search.origin.changed(mol)
            assert 0 < len(changed) <= mol.GetNumAtoms()
            if keep == "scaffold":  # its benzene is no change
                assert not any(mol.GetAtomWithIdx(k).GetIsAromatic() for k in changed)
                continue
            for atom in sorted(changed, reverse=True):
                mol.RemoveAtom(atom)
            left = Chem.MolFromSmarts(Chem.MolToSmarts(mol))
            assert not mol.GetNumAtoms() or search.origin.mol.HasSubstructMatch(left)
        assert search.origin.changed(search.origin.mol) == []
    nitrile = analogs.analogs_of(flow, "CCO", keep="skeleton", similar=0.1).origin
    assert nitrile.changed(Chem.MolFromSmiles("NCC")) == [0]
    assert nitrile.changed(Chem.MolFromSmiles("OC=O")) == [1, 2]


@pytest.mark.parametrize("similar", [0.0, 0.3])
def test_a_seed_determines_the_analogues(flow, similar):
    def drawn(count, seed):
        return flow.analogs(
            ORIGIN, count, similar=similar, seed=seed, particles=2, alerts="none"
        ).smiles

    assert drawn(6, 3)[:3] == drawn(3, 3) != drawn(3, 4)


def test_weights_are_probabilities_of_molecules(flow):
    """Mean weights of the walks to some molecules are their share of plain samples.

    Of chains of three atoms; marks of aromatic atoms outside of rings are no part of a molecule.
    """
    origin = Origin("CCO", flow.vocabulary, 38, 0.0)
    drawn = RedrawnAnalogs(flow, origin, "skeleton", seed=0)
    rounds = [drawn._round(number) for number in range(24)]
    assert drawn.placed == drawn.drawn == 24 * 48
    plain = flow.model.sample(torch.full((4000,), 3), generator=torch.Generator().manual_seed(0))
    graphs, vocabulary, there = plain.to_packed(), flow.vocabulary, []
    for types, edges, bonds in map(graphs.graph, range(4000)):
        marked = any(vocabulary.atoms[k].aromatic for k in types)
        marked |= any(vocabulary.bonds[k].startswith(AROMATIC) for k in bonds)
        chain = not marked and len(edges) == 2
        with quiet():
            mol = codec.graph_to_molecule(types, edges, bonds, vocabulary)
            there.append(strict(mol) if chain else None)
    for pattern in ("", "=", "N"):  # all, those with a double bond, those with nitrogen

        def counts(smiles, pattern=pattern):
            return smiles not in (None, "CCO") and pattern in smiles

        share = [sum(math.exp(one.log_weight) for s, one in found.items() if counts(s)) / 48
                 for found in rounds]  # fmt: skip
        wanted = np.array([counts(s) for s in there])
        error = math.hypot(np.std(share) / len(rounds) ** 0.5, wanted.std() / len(wanted) ** 0.5)
        # Four standard errors; without the two places of a chain in itself it would be double.
        assert abs(np.mean(share) - wanted.mean()) < 4 * error < 0.8 * wanted.mean()


def test_scaffold_and_what_hangs_on_it():
    mol = Chem.MolFromSmiles("CC(C)Cc1ccc(C(=O)C2CC2)cc1O")
    inside, parts = scaffold_and_rest(mol)
    assert sorted(map(len, parts)) == [1, 4]
    assert sorted({*inside, *set.union(*parts)}) == list(range(mol.GetNumAtoms()))
    assert len(inside) == 6 + 2 + 3  # the doubly bonded oxygen counts as part of it


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": "rings"}, "keep must be one of"),
        ({"similar": 1.5}, "from 0 to 1"),
        ({"particles": 0}, "particles"),
        ({"particles": 0, "similar": 0.2}, "particles"),
        ({"temperature": -1.0, "similar": 0.2}, "temperature"),
        ({"similar": 1.0, "keep": "bonds"}, "0 analogues found .* none of .* the highest is 0"),
    ],
)
def test_one_line_says_what_is_wrong(flow, options, message):
    with pytest.raises(UserError, match=message) as caught:
        flow.analogs("CCO", 2, **options)
    assert "\n" not in str(caught.value)


def test_all_there_are_then_a_line(flow):
    """A molecule of one atom has few analogues."""
    found = []
    with pytest.raises(UserError, match="no further one"):
        for one in analogs.analogs_of(flow, "C", similar=0).molecules():
            found.append(one.smiles)
    assert len(found) > 3 and "C" not in found
    assert all(Chem.MolFromSmiles(smiles).GetNumAtoms() == 1 for smiles in found)


@pytest.mark.parametrize("keep", analogs.KEEP)
def test_marks_stay_where_the_molecule_stays(flow, keep):
    origin = "C[C@@H](O)C(=O)N1C[C@@H]2C[C@H](/C=C/C)CO[C@@H]2C1"
    seed = 2 if keep == "scaffold" else 1  # of seed 1 the small model keeps too little to compare
    search = analogs.analogs_of(flow, origin, keep=keep, similar=0.3, seed=seed, particles=2)
    kept = 0
    for one in islice(growth.found(flow, search), 6):
        mol = Chem.MolFromSmiles(one.smiles)
        place = search.origin.places(mol)[0]
        pattern = Chem.RWMol(search.marked.mol)
        changed = set(search.origin.changed(mol))
        for k in range(pattern.GetNumAtoms()):
            if place.get(k) in {None, *changed}:
                pattern.ReplaceAtom(k, Chem.AtomFromSmarts("*"))
                for bond in pattern.GetAtomWithIdx(k).GetBonds():
                    pattern.ReplaceBond(bond.GetIdx(), Chem.BondFromSmarts("~"))
        if mol.HasSubstructMatch(pattern):  # no atom has less neighbours
            assert mol.HasSubstructMatch(pattern, useChirality=True)
            kept += any(atom.GetChiralTag() for atom in pattern.GetAtoms())
    assert kept > 1


def test_what_hangs_from_a_scaffold_begins_no_rings(flow):
    """No new atom is aromatic: the model would begin rings, and leave them open as polyenes."""
    search = analogs.analogs_of(flow, ORIGIN, keep="scaffold", similar=0, seed=0, particles=2)
    aromatic = torch.tensor([category.aromatic for category in flow.vocabulary.atoms])
    drawn = search._draw(search._whole, 0, 48)
    core = int(aromatic[search._whole.fragment.fragment.categories.int().argmax(1)].sum())
    graphs = drawn.graphs.to_packed()
    for k in np.flatnonzero(np.isfinite(drawn.log_weights.numpy())):
        nodes, _, edges = graphs.graph(k)
        assert aromatic[torch.as_tensor(nodes.astype(int))].sum() == core == 6
        marked = [flow.vocabulary.bonds[e].startswith(AROMATIC) for e in edges]
        assert sum(marked) == 6
    assert len(graphs.node_counts) == 48
