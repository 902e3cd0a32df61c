"""The generative model of a search, trained during it to draw molecules that score high.

The search (`graphcnf.optimization.search`) lets the model draw proposals, and trains it on the best
molecules so far. This is reinforcement learning.

- The *prior* is the user's model. It is not changed, and keeps the search near to real molecules.
- The *policy* is a copy of it that is trained.
- A *reward* is the score of a molecule mapped to [0, 1]; the search does the mapping.
- A molecule is *learnable* if the prior can represent it, so that it has a log-probability.
- A *fragment* is a part that every drawn molecule has to contain, given by the user.

The loss is the augmented likelihood of REINVENT (Olivecrona et al. 2017, arXiv 1704.07555). For a
molecule x with reward r(x) it is

    log p_target(x) = log p_prior(x) + sigma r(x),    loss = (log p_target(x) - log p(x))^2.

Here p is the policy, and log p(x) the exact log-likelihood of the molecule's graph in its canonical
node ordering. The loss is smallest where p is the prior times exp(sigma r). Good molecules are
trained on again and again (replay; Guo & Schwaller 2023, arXiv 2305.16160).
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
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.molecules.validity import strict_smiles
from graphcnf.torch_state import own_modes

BATCH = 64
"""Number of graphs that are drawn, or whose likelihood is computed, at a time."""

PARTICLES = 2
"""Graphs with the fragment that are drawn for each molecule that is kept: few, since the score
selects among the molecules anyway."""

SIZES_FROM_PRIOR = 0.2
"""Share of proposals whose number of atoms follows the training data; see `Policy.sizes`."""

SIZE_WIDTH = 1.5
"""Standard deviation, in atoms, by which the numbers of atoms of good molecules are blurred."""


class Policy:
    """A trainable copy of a model, which learns to draw molecules with high rewards.

    The model itself, the prior, is left as it is. Training brings the copy's log-probability of a
    molecule near to that of the prior plus `sigma` times the reward; `update` takes one step.

    Attributes:
        nats: `{canonical SMILES: log-likelihood under the prior}` in nats; -inf for a molecule that
            is not learnable. It is saved with a search, since computing it again could round
            differently.
    """

    @own_modes()
    def __init__(self, flow: MoleculeModel, *, learning_rate: float, sigma: float):
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

        Their graphs and their log-likelihoods under the prior (`nats`) are stored in this object.
        So call it for every molecule before `update`, which reads both.

        The result has a value for each.
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
        """Train the model by one step on some molecules with their rewards.

        The loss is the mean of `(target - log p)^2 / (2 sigma)`. Here `target` is the molecule's
        log-likelihood under the prior, `nats`, plus `sigma` times its reward, and `log p` is that
        under the trained model. The gradient is clipped to norm 1.
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
        """Draw graphs with the trained model, and return the distinct valid molecules among them.

        The graphs are a function of the seed, `sizes` and the weights.

        SMILES have no stereo marks; there are fewer than `count` where graphs are equal or not
        valid. They are not sorted by size, so the first few have the same distribution of sizes as
        all.
        """
        drawn: dict[int, str | None] = {}
        for records, atoms, generators in batches_of_block(range(count), sizes, seed, BATCH):
            graphs = self.model.sample(torch.as_tensor(atoms), generator=generators).to_packed()
            smiles = strict_smiles(graphs, self.prior.vocabulary)
            drawn |= zip(records.tolist(), smiles, strict=True)
        molecules = (drawn[record] for record in sorted(drawn))
        return list(dict.fromkeys(s for s in molecules if s is not None))

    @own_modes()
    def grow(self, count: int, fragment: MoleculeFragment, seed: tuple[int, ...]) -> list[str]:
        """Draw up to `count` distinct molecules that contain a fragment, with the trained model."""
        number = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0] >> 1)
        growth = Growth(
            self.model, self.prior.vocabulary, fragment, seed=number, particles=PARTICLES
        )
        found: list[str] = []
        with suppress(UserError):  # the search for further molecules was given up
            found.extend(one.smiles for one in islice(growth.molecules(), count))
        return found

    def sizes(self, molecules: Sequence[str]) -> np.ndarray:
        """Return the probability of each number of atoms for new proposals, (K,).

        It is a mixture: 20 % from the training data of the prior (`SIZES_FROM_PRIOR`), 80 % from
        good molecules. The numbers of atoms of good molecules are blurred by a Gaussian
        (`SIZE_WIDTH`), so that a search can move to sizes that it has not met. Without good
        molecules, those of the training data are returned.
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
        """Return weights and optimizer state, to save them in a file from which a search continues.

        For each parameter NAME of the model there is `weight.NAME`. After the first training step
        there are also `step.NAME`, `exp_avg.NAME` and `exp_avg_sq.NAME`, the number of steps and
        the moments of AdamW.
        """
        named = dict(self.model.named_parameters())
        state = {f"weight.{name}": p.detach() for name, p in named.items()}
        for name, p in named.items():
            for key, value in self.optimizer.state.get(p, {}).items():
                state[f"{key}.{name}"] = torch.as_tensor(value).detach()
        return state

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Restore the weights and the state of the optimizer that `tensors` returned."""
        with torch.no_grad():
            for name, p in self.model.named_parameters():
                p.copy_(tensors[f"weight.{name}"])
                if not p.isfinite().all():
                    raise ValueError(f"{name} must be finite")
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{key}.{name}" in tensors:
                        self.optimizer.state[p][key] = tensors[f"{key}.{name}"].clone()
