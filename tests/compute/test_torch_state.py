"""What others have set in torch changes nothing here, and is as before afterwards."""

import os
import threading
import time
from contextlib import ExitStack, nullcontext

import numpy as np
import pytest
import torch
from small_molecules import small_model
from torch_states import STATES, default

from graphcnf import CategoricalModel, GraphBatch, MoleculeFlow
from graphcnf.datasets.molecules import encode
from graphcnf.design.interpolation import interpolate
from graphcnf.optimization.run import optimize
from graphcnf.optimization.search import SearchSettings
from graphcnf.torch_state import default_type, own_modes
from graphcnf.training.exclusive import learning

SMILES = ["CC(N)=O", "C[C@H](N)CO"]
SMALL = {"width": 16, "layers": 1, "heads": 2}


def modes():
    return (torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_inference_mode_enabled(),
            torch.get_default_device(), dict(os.environ))  # fmt: skip


@pytest.fixture(scope="module")
def folder(zinc_smiles, tmp_path_factory):
    """A small model of molecules."""
    data = encode("zinc250k", zinc_smiles[:100])
    model = small_model(data, {"dataset": "zinc250k", "size_histogram": [0, 0, 0, 0, 4, 4, 4]})
    model.save_pretrained(folder := tmp_path_factory.mktemp("model"))
    return folder


@pytest.fixture(scope="module")
def flow(folder):
    return MoleculeFlow.from_pretrained(folder)


def computed(flow, folder):
    latents, mask = flow.encode(SMILES)
    return (
        MoleculeFlow.from_pretrained(folder).log_prob(SMILES).tolist(),
        flow.log_prob(SMILES).tolist(),
        flow.score(SMILES).to_string(),
        flow.sample(3, seed=0).smiles,
        flow.decode(latents, mask),
        flow.grow("[*:1]CC", 2).smiles,
        flow.analogs("OCCC", 2, similar=0).smiles,
        interpolate(flow, *SMILES, steps=2),
    )


def fitted():
    model = CategoricalModel.fit(["ab", "ba", "abb"] * 20, steps=3, network=SMALL)
    assert all(p.dtype == torch.float32 and not p.is_inference() for p in model.parameters())
    return model.log_prob(["ab"]).tolist()


def optimized(flow):
    settings = SearchSettings(first=8, batch=4, every=1, steps=1)
    found = optimize("qed", model=flow, budget=14, workers=0, settings=settings)
    return [answer.smiles for answer in found.answers]


def test_what_others_have_set_changes_nothing(flow, folder, few_walks):
    usual = computed(flow, folder), fitted(), optimized(flow)
    for names in (
        ("bfloat16", "no gradients", "the ranks of a launcher"),
        ("float64", "inference mode", "another device"),
    ):
        with ExitStack() as states:
            for name in names:
                states.enter_context(STATES[name]())
            before = modes()
            assert (computed(flow, folder), fitted(), optimized(flow)) == usual, names
            assert modes() == before, names


def test_a_model_that_was_loaded_in_inference_mode_can_be_trained(folder):
    with torch.inference_mode():
        flow = MoleculeFlow.from_pretrained(folder)
    batch = GraphBatch.collate(flow.graphs(SMILES)[0])
    flow.model.train().training_loss(batch)[0].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in flow.model.parameters())


def test_models_in_float64_compute_in_float64():
    model = CategoricalModel.for_data(["ab", "ba"], **SMALL)
    expected, rows = model.log_prob(["ab"]), model.batch(["ab"]).values
    for around in (nullcontext(), default(torch.float64), default(torch.bfloat16)):
        with around:
            found = model.flow.double().log_prob(rows)
        assert found.dtype == torch.float64
        model.flow.float()
    np.testing.assert_allclose(model.log_prob(["ab"]), expected)


def test_the_last_thread_restores_the_default_type():
    inside, leave = threading.Barrier(2), threading.Event()

    def other():
        with default_type():
            inside.wait()
            leave.wait()
            assert torch.get_default_dtype() == torch.float32

    with default(torch.float64):
        thread = threading.Thread(target=other)
        with default_type():
            thread.start()
            inside.wait()
        assert torch.get_default_dtype() == torch.float32  # the other thread still needs it
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
        with pytest.raises(ZeroDivisionError), own_modes():
            raise ZeroDivisionError
        assert torch.get_default_dtype() == torch.float64


def test_another_thread_waits_and_the_same_one_does_not():
    order = []

    def second():
        with learning():
            order.append("second")

    with learning(), learning():
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
