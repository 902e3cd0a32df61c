"""Copies of a model that are trained side by side, each without a fold of the molecules."""

from datetime import date
from itertools import islice

import numpy as np
import pytest
import torch

from graphcnf.datasets.molecules import encode
from graphcnf.errors import UserError
from graphcnf.graphs import GraphBatch
from graphcnf.graphs.building import model_for_graphs
from graphcnf.training.finetuning import _steps_within, finetune, fold_experiment, plan

SMILES = [f"{'C' * k}NC(=O)c1ccc({x})cc1" for k in range(1, 7) for x in "CFNOS"]


def rows(batch):
    return {tuple(t[t >= 0].tolist()) for t in torch.where(batch.mask, batch.node_types, -1)}


def experiment():
    data = encode("mine", [*SMILES, *SMILES[:5]])
    model = model_for_graphs(
        data.graphs,
        node_categories=len(data.vocabulary.atoms),
        edge_categories=len(data.vocabulary.bonds),
        edge_weights=data.vocabulary.bond_orders,
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
