"""Arrays with two axes: pixels in raster order, given pixels, and what is refused."""

import itertools

import numpy as np
import pytest
import torch
from couplings import perturb
from frequencies import assert_frequencies

from graphcnf import CategoricalModel
from graphcnf.categorical import AutoregressiveNetwork
from graphcnf.errors import UserError
from graphcnf.flows.transform import Context

EVERY = np.array(list(itertools.product([0, 3], repeat=6))).reshape(-1, 2, 3)


@pytest.fixture
def model(double):
    """An untrained model of all grids of 2 x 3 pixels, away from its initialisation."""
    torch.manual_seed(0)
    model = perturb(CategoricalModel.for_data(EVERY, width=8, layers=2), 0.3)
    model.flow.double()
    return model


def assert_shares(drawn, p):
    """Compare drawn grids with the probabilities of all of them."""
    keys = [grid.tobytes() for grid in EVERY.astype(drawn.dtype)]
    found = [sum(key == grid.tobytes() for grid in drawn) for key in keys]
    assert sum(found) == len(drawn)
    assert_frequencies(found, p)


def test_probabilities_sum_to_one_and_samples_have_them(model):
    p = np.exp(model.log_prob(EVERY))
    assert p.sum() == pytest.approx(1, abs=1e-9)
    drawn = model.sample(2000, seed=1)
    assert drawn.shape == (2000, 2, 3) and drawn.dtype == EVERY.dtype
    assert_shares(drawn, p)
    assert np.array_equal(model.sample(50, seed=1), drawn[:50])


def test_a_pixel_depends_on_all_earlier_ones_and_on_no_later_one():
    torch.manual_seed(0)
    grids = np.random.default_rng(0).integers(0, 3, (40, 6, 5))
    model = perturb(CategoricalModel.for_data(grids, width=8, layers=3), 0.3)
    model.flow.double().eval()
    network, rows = model.flow.network, model.batch(grids[:1])
    embedded = network.values(rows.values).detach().requires_grad_()
    values = network.values
    network.values = torch.nn.Identity()
    logits = network.hidden(embedded.unflatten(1, network.shape)).flatten(1, 2).sum((0, 2))
    network.values = values
    depends = torch.stack(
        [
            torch.autograd.grad(own, embedded, retain_graph=True)[0].abs().sum((0, 2))
            for own in logits
        ]
    )
    assert (depends.triu() == 0).all(), "a later pixel is seen"
    near = torch.tensor([[abs(i // 5 - j // 5) < 3 for j in range(30)] for i in range(30)])
    before = torch.ones(30, 30).tril(-1).bool()
    assert (depends[before & near] > 0).all(), "an earlier pixel is not seen: a blind spot"


def test_drawing_pixel_by_pixel_has_the_probabilities_of_one_pass(model):
    model.flow.eval()
    batch = model.batch(EVERY)
    network, context = model.flow.network, Context(batch.mask)
    x = batch.values[..., None]
    whole = next(network.steps(x, context)).hidden.view(len(x), 6, -1)
    for step in AutoregressiveNetwork.steps(network, x, context):
        torch.testing.assert_close(step.hidden, whole[:, step.positions[0]])


@pytest.mark.parametrize("known", [[0, 1, 3], [4, 5], [0, 5]])
def test_unknown_pixels_are_drawn_given_known_ones(model, known):
    given = np.full(6, np.nan)
    given[known] = 3
    drawn = model.sample(200, given=given.reshape(2, 3), seed=1)
    fits = (EVERY.reshape(-1, 6)[:, known] == 3).all(1)
    p = np.exp(model.log_prob(EVERY)) * fits
    assert_shares(drawn, p / p.sum())
    again = model.impute(np.repeat(given.reshape(1, 2, 3), 20, 0), seed=1)
    assert np.array_equal(again, drawn[:20])


def test_training_learns_stripes_and_the_model_is_kept(tmp_path):
    random = np.random.default_rng(0)
    grids = np.repeat(random.integers(0, 2, (400, 6, 1)), 4, 2).astype(np.uint8)
    options = {"width": 16, "layers": 2}
    model = CategoricalModel.fit(torch.from_numpy(grids), steps=150, network=options)
    assert -model.log_prob(torch.from_numpy(grids)).mean() / np.log(2) < 7.5  # 6; pixels alone: 24
    drawn = model.sample(200)
    assert isinstance(drawn, torch.Tensor) and drawn.dtype == torch.uint8
    assert (drawn == drawn[:, :, :1]).all(2).float().mean() > 0.9
    model.save_pretrained(tmp_path)
    loaded = CategoricalModel.from_pretrained(tmp_path)
    assert torch.equal(loaded.sample(20), drawn[:20]) and "grids of 6 x 4 pixels" in repr(loaded)
    holes = grids[:5].astype(float)
    holes[:, :, 1:] = np.nan
    filled = model.impute(holes).numpy()
    assert (filled[:, :, 0] == grids[:5, :, 0]).all() and (filled == grids[:5]).mean() > 0.9
    model.flow.metadata["data"]["dtype"] = "datetime64[s]"
    model.flow.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="unreadable vocabulary .pixels of the type datetime64"):
        CategoricalModel.from_pretrained(tmp_path)


def test_what_a_model_of_grids_refuses(model):
    assert model.reasons(np.full((1, 2, 3), 7)) == [
        "the value 7 at row 0, column 0, which training lacked"
    ]
    assert model.log_prob(np.full((1, 2, 3), 7)) == [-np.inf]
    for wrong, message in {
        "shape": r"the shape \(1, 3, 2\); this model takes an array \(N, 2, 3\)",
        "value": "grid 0: no pixel of the training data has 7.0",
    }.items():
        grid = np.zeros((1, 3, 2)) if wrong == "shape" else np.full((1, 2, 3), 7.0)
        with pytest.raises(UserError, match=message):
            model.impute(grid)
    with pytest.raises(UserError, match='statistic must be "draw" for grids'):
        model.impute(EVERY[:1], statistic="mean")
    with pytest.raises(UserError, match="pixels must be integers"):
        CategoricalModel.for_data(EVERY / 2)
    with pytest.raises(UserError, match="predict_proba is for models of a DataFrame"):
        model.predict_proba(EVERY, 0)
