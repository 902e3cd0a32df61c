"""Reinforcement learning: train a model towards molecules that score high.

The *policy* is a copy of the model that is trained during a search; the *prior* is the model before
training, which keeps the policy near to real molecules. A *reward* is a score mapped to [0, 1]. A
molecule is *learnable* if the prior can represent it.

The loss is the augmented likelihood of REINVENT (Olivecrona et al. 2017, arXiv 1704.07555), with
the model's exact log-likelihood of a molecule's canonical code,

    log p_target(x) = log p_prior(x) + sigma r(x),    loss = (log p_target(x) - log p(x))^2,

with rewards r, on replayed molecules (Guo & Schwaller 2023, arXiv 2305.16160). It pulls the policy
to the prior times exp(sigma r).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import suppress
from itertools import compress, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphcnf.chunks import chunked
from graphcnf.design.fragments import MoleculeFragment
from graphcnf.design.growing import Growth
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.records import batches_of_block
from graphcnf.molecules import codec
from graphcnf.molecules.molecule_flow import MoleculeFlow
from graphcnf.molecules.validity import strict_smiles
from graphcnf.torch_state import own_modes

BATCH = 64
"""Graphs that are drawn, or whose likelihood is computed, at a time."""

PARTICLES = 2
"""Particles per molecule with a fragment: few, since the score selects among the molecules."""

SIZES_FROM_PRIOR = 0.2
"""Weight of the training data's size distribution in that of proposals."""

SIZE_WIDTH = 1.5
"""Standard deviation, in atoms, by which the sizes of good molecules are blurred."""


class Policy:
    """A trainable copy of a model, which learns to draw molecules with high rewards.

    The model itself, the prior, is left as it is. The copy is trained so that its log-probability
    of a molecule becomes log p(molecule) under the prior plus `sigma` times the reward, as in
    REINVENT (Olivecrona et al. 2017, arXiv 1704.07555): see `update`.

    Args:
        flow: The model.
        learning_rate: Learning rate of AdamW.
        sigma: Nats that a reward of 1 adds to the target log-probability.

    Attributes:
        prior: The model.
        model: The trained copy.
        nats: Log-likelihood under the prior by canonical SMILES, nats; -inf for a molecule that is
            not learnable. Saved with a search, since computing it again could round differently.
    """

    @own_modes()
    def __init__(self, flow: MoleculeFlow, *, learning_rate: float, sigma: float):
        self.prior = flow
        # No dropout: its random masks would differ after an interruption.
        self.model = copy.deepcopy(flow.model).eval()
        self.sigma = sigma
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=learning_rate, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.nats: dict[str, float] = {}
        self._graphs: dict[str, tuple[Any, ...]] = {}

    @torch.no_grad()
    def learnable(self, molecules: Sequence[str]) -> list[bool]:
        """Find out which molecules are learnable: the prior can represent them.

        Graphs and `nats` of the molecules are kept, for `update` and `sizes`.

        Args:
            molecules: Canonical SMILES.

        Returns:
            True for each molecule that is learnable.
        """
        known = self.nats
        others = (s for s in dict.fromkeys(molecules) if s not in self._graphs)
        new = [s for s in others if known.get(s) != -math.inf]
        with codec.quiet():
            graphs, reasons = self.prior.graphs(new)
        inside = [s for s, reason in zip(new, reasons, strict=True) if reason is None]
        self._graphs |= {s: graphs.graph(k) for k, s in enumerate(inside)}
        known |= dict.fromkeys(set(new) - set(inside), -math.inf)
        # Batches contain only molecules without a value, as they would after an interruption.
        for part in chunked([k for k, s in enumerate(inside) if s not in known], BATCH):
            batch = GraphBatch.collate(graphs, part).to(self.model.device)
            nats = self.prior.model.log_prob(batch).cpu().double()
            nats = nats.where(nats.isfinite(), -math.inf)
            known |= zip((inside[k] for k in part), nats.tolist(), strict=True)
        return [known[s] != -math.inf for s in molecules]

    def update(self, molecules: Sequence[str], rewards: np.ndarray) -> None:
        """Take one training step, which lowers the mean of (target - log p)^2 / (2 sigma).

        Args:
            molecules: M molecules for which `learnable` has returned True.
            rewards: Reward of each, in [0, 1], (M,).
        """
        packed = PackedGraphs.from_lists([self._graphs[s] for s in molecules])
        batch = GraphBatch.collate(packed).to(self.model.device)
        prior = torch.tensor([self.nats[s] for s in molecules], dtype=torch.float32)
        target = prior + self.sigma * torch.as_tensor(rewards, dtype=torch.float32)
        log_p = self.model.log_prob(batch).float()
        loss = (target.to(log_p) - log_p).square().mean() / (2 * self.sigma)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def sample(self, count: int, sizes: np.ndarray, seed: tuple[int, ...]) -> list[str]:
        """Draw graphs, and return the distinct valid molecules among them.

        Args:
            count: Number of graphs.
            sizes: Probabilities (K,) of 0 to K - 1 atoms.
            seed: Seed; graphs are a function of it, `sizes` and the weights.

        Returns:
            Canonical SMILES without stereo marks, `count` at most; [] if no graph is valid.
        """
        molecules: dict[str, None] = {}
        for _, atoms, generators in batches_of_block(range(count), sizes, seed, BATCH):
            graphs = self.model.sample(torch.as_tensor(atoms), generator=generators).to_packed()
            smiles = strict_smiles(graphs, self.prior.vocabulary)
            molecules |= dict.fromkeys(s for s in smiles if s is not None)
        return list(molecules)

    @own_modes()
    def grow(self, count: int, fragment: MoleculeFragment, seed: tuple[int, ...]) -> list[str]:
        """Draw distinct molecules with a fragment.

        Args:
            count: Number of molecules; fewer are returned if no further ones are found.
            fragment: The fragment.
            seed: Seed.

        Returns:
            Canonical SMILES.

        Raises:
            UserError: The fragment is too large for the model.
        """
        number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        growth = Growth(
            self.model, self.prior.vocabulary, fragment, seed=number, particles=PARTICLES
        )
        found: list[str] = []
        with suppress(UserError):  # the search for further molecules was given up
            found.extend(one.smiles for one in islice(growth.molecules(), count))
        return found

    def sizes(self, molecules: Sequence[str]) -> np.ndarray:
        """Choose the probabilities of numbers of atoms for new proposals.

        They are a mixture of the sizes of the training data and of good molecules. The latter are
        blurred, so that a search can move to sizes that it has not met.

        Args:
            molecules: The good molecules, canonical SMILES; those that are not learnable do not
                count.

        Returns:
            Probabilities of 0 to K - 1 atoms, (K,).
        """
        prior = self.prior.model.size_prior.probabilities()
        inside = compress(molecules, self.learnable(molecules))
        counts = np.bincount([len(self._graphs[s][0]) for s in inside], minlength=len(prior))
        if not counts.any():
            return prior
        place = np.arange(len(prior))
        blur = np.exp(-0.5 * ((place[:, None] - place) / SIZE_WIDTH) ** 2)
        blur[0] = 0
        good = blur @ counts
        return SIZES_FROM_PRIOR * prior + (1 - SIZES_FROM_PRIOR) * good / good.sum()

    def tensors(self) -> dict[str, Tensor]:
        """Return what training has changed, to be saved.

        Returns:
            `weight.NAME` for each parameter, and its moments in the optimizer, `step.NAME`,
            `exp_avg.NAME` and `exp_avg_sq.NAME`, if it has taken a step.
        """
        named = dict(self.model.named_parameters())
        state = {f"weight.{name}": p.detach() for name, p in named.items()}
        for name, p in named.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                state[f"{key}.{name}"] = torch.as_tensor(value).detach()
        return state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Set weights and the optimizer's moments to those that `tensors` returned.

        Args:
            tensors: The result of `tensors`.

        Raises:
            KeyError: A parameter is missing.
            RuntimeError: A tensor has another shape than its parameter.
            ValueError: A weight is not finite.
        """
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weight.{name}"])
                if not p.isfinite().all():
                    raise ValueError(f"{name} must be finite")
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{key}.{name}" in tensors:
                        self.optimizer.state[p][key] = tensors[f"{key}.{name}"].clone()
