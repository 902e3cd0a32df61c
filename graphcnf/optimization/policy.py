"""Training of a model towards molecules that score high.

The log-likelihood of a code is exact, so the loss is a function of molecules: the augmented
likelihood of REINVENT (Olivecrona et al. 2017, arXiv 1704.07555),

    log p_target(x) = log p_prior(x) + sigma r(x),    loss = (log p_target(x) - log p(x))^2,

with rewards r in [0, 1], on molecules that are replayed (Guo & Schwaller 2023, arXiv 2305.16160).
The prior is the model as it was given.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from graphcnf.graphs import GraphBatch, PackedGraphs
from graphcnf.molecules import codec
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.molecules.validity import strict_smiles

SIZES_FROM_PRIOR = 0.2
"""Share of the molecules whose size is drawn from the prior of the training data."""

SIZE_WIDTH = 1.5
"""Standard deviation, in atoms, of sizes around those of good molecules."""


class Policy:
    """A copy of a model that is trained; the model itself stays as it is.

    Args:
        flow: The prior.
        learning_rate: Learning rate of AdamW.
        sigma: Nats that the best molecules gain over the prior.
    """

    def __init__(self, flow: MoleculeFlow, *, learning_rate: float, sigma: float):
        self.prior = flow
        # Without dropout, whose masks would be others after an interruption.
        self.model = copy.deepcopy(flow.model).eval()
        self.sigma = sigma
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0,
        )  # fmt: skip
        self._graphs: dict[str, tuple] = {}
        self._nats: dict[str, float] = {}  # under the prior

    def prior_nats(self, smiles: str) -> float:
        """Return the log-likelihood under the prior, -inf outside of the model, NaN if unknown."""
        return self._nats.get(smiles, math.nan)

    def remember(self, smiles: str, nats: float) -> None:
        """Restore a value of `prior_nats`: computed again, it might be rounded otherwise."""
        if not math.isnan(nats):
            self._nats[smiles] = nats

    def learnable(self, molecules: Sequence[str]) -> list[bool]:
        """Return True for each molecule that the model can give a probability."""
        new = [
            s for s in dict.fromkeys(molecules)
            if s not in self._graphs and self._nats.get(s) != -math.inf
        ]  # fmt: skip
        for start in range(0, len(new), 64):
            chunk = new[start : start + 64]
            with codec.quiet():
                graphs, reasons = self.prior.graphs(chunk)
            inside = [s for s, reason in zip(chunk, reasons, strict=True) if reason is None]
            unknown = [k for k, s in enumerate(inside) if s not in self._nats]
            nats = self._log_prob(graphs.subset(np.array(unknown, dtype=int)))
            self._nats |= dict.fromkeys(set(chunk) - set(inside), -math.inf)
            self._nats |= zip((inside[k] for k in unknown), nats, strict=True)
            self._graphs |= {
                s: graphs.graph(k) for k, s in enumerate(inside) if self._nats[s] != -math.inf
            }
        return [s in self._graphs for s in molecules]

    @torch.no_grad()
    def _log_prob(self, graphs: PackedGraphs) -> list[float]:
        """Return log-likelihoods under the prior, -inf where one is not finite."""
        if not len(graphs):
            return []
        model = self.prior.model
        nats = model.log_prob(GraphBatch.collate(graphs).to(model.device)).cpu().double()
        return nats.where(nats.isfinite(), -math.inf).tolist()

    def update(self, molecules: Sequence[str], rewards: np.ndarray) -> float:
        """Take one training step on learnable molecules, and return the loss before it.

        Args:
            molecules: SMILES.
            rewards: In [0, 1], (M,).
        """
        packed = PackedGraphs.from_lists([self._graphs[s] for s in molecules])
        batch = GraphBatch.collate(packed).to(self.model.device)
        prior = torch.tensor([self._nats[s] for s in molecules], dtype=torch.float32)
        target = prior + self.sigma * torch.as_tensor(rewards, dtype=torch.float32)
        log_p = self.model.log_prob(batch).float()
        loss = (target.to(log_p) - log_p).square().mean() / (2 * self.sigma)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        return float(loss.detach())

    def sample(self, count: int, sizes: np.ndarray, seed: tuple[int, ...]) -> list[str]:
        """Draw `count` molecules, and return the distinct valid ones as canonical SMILES.

        Args:
            count: Number of draws.
            sizes: Probabilities (K,) of 0 to K - 1 atoms.
            seed: The molecules are a function of the seed and the weights.
        """
        generators = [
            np.random.Generator(np.random.Philox(np.random.SeedSequence((*seed, k))))
            for k in range(count)
        ]
        below = sizes.cumsum()
        drawn = [int(np.searchsorted(below, g.random() * below[-1], "right")) for g in generators]
        order = np.argsort(drawn, kind="stable")
        molecules: dict[str, None] = {}
        for start in range(0, count, 64):
            chosen = order[start : start + 64]
            graphs = self.model.sample(
                torch.tensor([drawn[k] for k in chosen]),
                generator=[generators[k] for k in chosen],
            ).to_packed()
            smiles = strict_smiles(graphs, self.prior.vocabulary)
            molecules |= dict.fromkeys(s for s in smiles if s is not None)
        return list(molecules)

    def sizes(self, molecules: Sequence[str]) -> np.ndarray:
        """Return probabilities (K,) of 0 to K - 1 atoms: good molecules, blurred, and the prior.

        Args:
            molecules: Good molecules; those outside of the model do not count.
        """
        prior = self.prior.model.size_probabilities()
        counts = np.zeros_like(prior)
        for smiles in molecules:
            if self.learnable([smiles])[0]:
                counts[len(self._graphs[smiles][0])] += 1
        if not counts.any():
            return prior
        place = np.arange(len(prior))
        blur = np.exp(-0.5 * ((place[:, None] - place) / SIZE_WIDTH) ** 2)
        blur[0] = 0
        good = blur @ counts
        return SIZES_FROM_PRIOR * prior + (1 - SIZES_FROM_PRIOR) * good / good.sum()

    def tensors(self) -> dict[str, Tensor]:
        """Return the weights and the optimizer's moments, by name."""
        named = dict(self.model.named_parameters())
        state = {f"weight.{name}": p.detach() for name, p in named.items()}
        for name, p in named.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                state[f"{key}.{name}"] = torch.as_tensor(value).detach()
        return state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore weights and moments from `tensors`.

        Raises:
            KeyError: A weight is missing.
            ValueError: A weight is not finite.
            RuntimeError: A shape is wrong.
        """
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weight.{name}"])
                if not p.isfinite().all():
                    raise ValueError(f"{name} must be finite")
                keys = ("step", "exp_avg", "exp_avg_sq")
                there = {
                    k: tensors[f"{k}.{name}"].clone() for k in keys if f"{k}.{name}" in tensors
                }
                if there:
                    self.optimizer.state[p] = there
