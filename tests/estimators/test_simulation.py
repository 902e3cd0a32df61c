"""The density estimator for sbi; skipped where that is not installed."""

import pytest
import torch

pytest.importorskip("sbi")

from sbi.inference import NLE, NPE
from sbi.utils import BoxUniform

from graphcnf.errors import UserError
from graphcnf.estimators.simulation import estimator_builder

PRIOR = BoxUniform(torch.tensor([-1.0, 0.5]), torch.tensor([1.0, 4.0]))
SMALL = {"width": 16, "seed": 0}


def simulated(count, seed=0):
    """Parameters, and of each a time, a colour of three and a choice of two."""
    torch.manual_seed(seed)
    theta = PRIOR.sample((count,))
    choice = torch.bernoulli(torch.sigmoid(2 * theta[:, :1]))
    colour = torch.multinomial(torch.softmax(theta[:, :1] * torch.arange(3.0), 1), 1)
    time = theta[:, 1:] + 0.3 * torch.randn(count, 1)
    return theta, torch.cat([time, colour, choice], 1)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """sbi writes logs where it is called."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def estimator():
    return estimator_builder(**SMALL)(*simulated(600))


def test_probabilities_of_discrete_data_sum_to_one():
    theta, x = simulated(600)
    estimator = estimator_builder(**SMALL)(theta, x[:, 1:])
    every = torch.cartesian_prod(torch.arange(3.0), torch.arange(2.0))
    nats = estimator.log_prob(every[:, None], theta[:5])
    assert nats.shape == (6, 5)
    assert torch.allclose(nats.exp().sum(0), torch.ones(5), atol=1e-4)
    # Samples have these probabilities: four standard errors of 800 draws.
    drawn = estimator.sample(torch.Size([800]), theta[:5])
    assert drawn.shape == (800, 5, 2) and set(drawn.flatten().tolist()) == {0.0, 1.0, 2.0}
    share = (drawn == torch.tensor([1.0, 1.0])).all(-1).float().mean(0)
    p = nats.exp()[3]
    assert ((share - p).abs() < 4 * (p * (1 - p) / 800).sqrt()).all()


def test_shapes_gradients_and_unknown_values(estimator):
    theta, x = simulated(40, seed=1)
    nats = estimator.log_prob(x, theta)
    assert nats.shape == (1, 40) and torch.equal(-estimator.loss(x, theta), nats[0])
    assert torch.allclose(estimator.log_prob(x[:1], theta), estimator.log_prob(x[:1, None], theta))
    estimator.loss(x, theta).mean().backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in estimator.parameters())
    unknown = torch.tensor([[1.0, 7.0, 0.0]])
    assert estimator.log_prob(unknown, theta[:1]).isneginf().all()
    # In the loss, which has to be finite, it counts as missing.
    rest = estimator.log_prob(
        torch.cartesian_prod(torch.tensor([1.0]), torch.arange(3.0), torch.tensor([0.0]))[:, None],
        theta[:1],
    )
    assert torch.allclose(-estimator.loss(unknown, theta[:1]), rest.logsumexp(0)[0], atol=1e-3)
    assert estimator.sample(torch.Size([3, 2]), theta[:4]).shape == (3, 2, 4, 3)


def test_the_inference_of_sbi_trains_it():
    theta, x = simulated(600)
    quiet = {"show_progress_bars": False}
    likelihood = NLE(PRIOR, density_estimator=estimator_builder(**SMALL), **quiet)
    network = likelihood.append_simulations(theta, x).train(max_num_epochs=3).net.network
    assert (network.ordered.direct != network.weights).any()  # as which they began
    assert likelihood.summary["validation_loss"][-1] < 2.5
    posterior = NPE(PRIOR, density_estimator=estimator_builder("posterior", **SMALL), **quiet)
    posterior.append_simulations(theta, x).train(max_num_epochs=3)
    seen = torch.tensor([[2.0, 2.0, 1.0]])
    drawn = posterior.build_posterior().sample((100,), x=seen, **quiet)
    # The time, 2.0, is the second parameter with noise of 0.3.
    assert drawn.shape == (100, 2) and abs(drawn[:, 1].mean() - 2) < 0.5


def test_what_is_wrong_is_said():
    with pytest.raises(UserError, match="one of likelihood, posterior, got 'prior'"):
        estimator_builder("prior")
    with pytest.raises(UserError, match=r"x must be rows of numbers \(M, D\), got \(9, 2, 2\)"):
        estimator_builder()(torch.rand(9, 2), torch.rand(9, 2, 2))
