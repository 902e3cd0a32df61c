"""Copies of a model that are trained side by side, each without a fold of the molecules."""

from datetime import date
from itertools import islice

import numpy as np
import pytest
import torch
from small_molecules import small_model

from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch
from graphcnf.graphs.building import model_for_graphs
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.vocabulary_building import bond_orders
from graphcnf.training.checkpoint import Best
from graphcnf.training.finetuning import _copying, _steps_within, finetune, plan
from graphcnf.training.folds import fold_experiment

SMILES = [f"{'C' * k}NC(=O)c1ccc({x})cc1" for k in range(1, 7) for x in "CFNOS"]


def rows(batch):
    return {tuple(t[t >= 0].tolist()) for t in torch.where(batch.mask, batch.node_types, -1)}


def experiment():
    data = encode("mine", [*SMILES, *SMILES[:5]])
    model = model_for_graphs(
        data.graphs,
        node_categories=len(data.vocabulary.atoms),
        edge_categories=len(data.vocabulary.bonds),
        edge_weights=bond_orders(data.vocabulary),
        width=8, layers=1, heads=1,
    )  # fmt: skip
    return data, fold_experiment(model, data, 3, 8)


def test_each_molecule_is_held_out_once_by_a_copy_that_never_sees_it():
    data, found = experiment()
    seen = [set() for _ in range(4)]
    for batch in islice(found.train_batches(0, 0, 0), 12):
        for known, part in zip(seen, batch.parts, strict=True):
            known |= rows(part)
    held_out, totals = [set(), set(), set()], np.zeros(2)
    found.model.eval()
    for batch in found.eval_batches():
        (k,) = [k for k, part in enumerate(batch.parts) if part is not None]
        held_out[k] |= rows(batch.parts[k])
        metrics = found.model.training_loss(batch)[1]
        totals += [float(value) for value in metrics["bits_per_graph"]]
    # Nothing is learned yet, so that the copies are alike.
    bits = -found.model.models[-1].log_prob(GraphBatch.collate(data.graphs)) / np.log(2)
    np.testing.assert_allclose(totals, [float(bits.detach().sum()), len(data)], rtol=1e-4)
    for k in range(3):
        assert held_out[k] and not held_out[k] & seen[k]
    assert set().union(*held_out) == seen[3], "the last copy learns all"


def test_no_copy_sees_a_held_out_molecule_in_another_form():
    data, _ = experiment()
    model = small_model(data)
    several = data.take(np.repeat(np.arange(len(data)), 2))
    found = fold_experiment(model, several, 3, 8, held_out=data)
    seen = [set() for _ in range(4)]
    for batch in islice(found.train_batches(0, 0, 0), 20):
        for known, part in zip(seen, batch.parts, strict=True):
            known |= rows(part)
    count = 0
    for batch in found.eval_batches():
        (k,) = [k for k, part in enumerate(batch.parts) if part is not None]
        assert not rows(batch.parts[k]) & seen[k]
        count += len(batch)
    assert count == len(data)


def test_a_run_goes_on_with_the_same_batches():
    _, found = experiment()
    whole = list(islice(found.train_batches(0, 5, 0), 14))
    for start in (1, 6, 13):
        again = next(iter(found.train_batches(0, 5, start)))
        for one, other in zip(whole[start].parts, again.parts, strict=True):
            assert torch.equal(one.node_types, other.node_types)


def test_a_time_limit_needs_no_evaluations_between():
    data, found = experiment()
    assert _steps_within(1, found, plan(len(data), eval_steps=0)) > 0


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"settings": {"learning_rate": date(2020, 1, 1)}}, "learning_rate must be a number"),
        ({"minutes": -1}, "minutes must be greater than 0"),
        ({"samples": -1}, "samples must be an integer of at least 0"),
    ],
)
def test_a_bad_argument_is_refused_before_anything_is_done(given, line):
    with pytest.raises(UserError, match=line):
        finetune(None, None, "run", **given)


def test_later_weights_are_kept_while_copies_are_few():
    """Up to the first evaluation at most: held-out molecules are never worse off than before."""
    best = Best()
    offers = [(9.0, 0.0), (5.0, 0.01), (8.0, 0.1), (5.1, 0.3), (8.0, 0.11), (9.0, 0.0)]
    kept = [
        best.offer(step, {"bits": bits, "copies": copies}, "bits", 0.03, 0.1)
        for step, (bits, copies) in enumerate(offers)
    ]
    assert kept == [True, True, True, True, False, False]
    assert (best.step, best.least, best.worse) == (3, 5.0, 2)


def test_the_share_of_copies_is_the_sum_of_the_probabilities_of_the_molecules():
    data, found = experiment()
    found.model.models[-1].metadata = {"vocabulary": data.vocabulary.to_dict()}
    flow = MoleculeFlow(found.model.models[-1])
    sizes = torch.bincount(torch.from_numpy(data.graphs.node_counts))
    flow.model.metadata["size_histogram"] = sizes.tolist()
    distinct = list(dict.fromkeys(data.smiles))
    graphs = data.graphs.subset([data.smiles.index(s) for s in distinct])
    share = _copying(found.model, graphs)["copies"]
    assert share == pytest.approx(np.exp(flow.log_prob(distinct)).sum(), rel=1e-5)
    assert 0 < share < 1
