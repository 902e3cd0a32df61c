"""Logistic regression of one column of a table on all others, a part of `ColumnMLP`.

The *target* is the column that is predicted, with C categories. Slots and curves are those of
`graphcnf.discrete.columns`.

Beside counts and networks, which treat each category for itself, this is the model for classes that
are told apart by sums over many numbers. It has a convex loss, and needs few rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from graphcnf.discrete.counts import weighted_sum

PENALTIES = (100.0, 10.0, 1.0, 0.1)
"""Penalties of the squared weights that are tried. Each fit starts from the weights before it."""

LEFT_OUT = 10
"""One of so many rows is left out to choose the penalty."""

LARGEST_STEP = 10**9
"""Largest number of products in a step of fitting: further rows are not used."""

STEPS = 100
"""Steps of L-BFGS for each penalty."""


class Classifier(nn.Module):
    """Logistic regression: probabilities of the categories of the target, given all other columns.

    The logit of category c of the target is

        a_c + sum_k u_kc g_k + sum_j v_jc

    where k runs over the curves of the other columns, with the values g_k, and j over the slots of
    their categories that no curve describes: those of columns without an order, and "missing". What
    an unknown column would add to the logit is replaced by its expected value, by the probabilities
    of the column's categories that `forward` is given. Until `fit` is called, all categories are
    equally probable.

    Args:
        target: Number of the column that is predicted.
        owner: Column of each slot, (S,) long.
        curves: Values of the curves at each category, (S, R).

    Attributes:
        offset: The a_c, (C,).
        weights: The u_kc, then the v_jc, (R + S, C).
        kept: 1 for rows of `weights` that are used, else 0, (R + S, 1). Not used are the curves and
            slots of the target, and slots that curves describe.
    """

    owner: Tensor
    curve_owner: Tensor
    curves: Tensor
    offset: Tensor
    weights: Tensor
    kept: Tensor

    def __init__(self, target: int, owner: Tensor, curve_owner: Tensor, curves: Tensor):
        super().__init__()
        count = int((owner == target).sum())
        for name, value in {"owner": owner, "curve_owner": curve_owner, "curves": curves}.items():
            self.register_buffer(name, value, persistent=False)
        self.register_buffer("offset", torch.zeros(count))
        self.register_buffer("weights", torch.zeros(len(curve_owner) + len(owner), count))
        nominal = (owner != target) & (curves == 0).all(1)
        kept = torch.cat([curve_owner != target, nominal])
        self.register_buffer("kept", kept.float()[:, None], persistent=False)

    def forward(
        self, number: Tensor, curves: Tensor, known: Tensor | None = None, p: Tensor | None = None
    ) -> Tensor:
        """Return the log-probabilities of the categories of the target, (B, C) nats.

        `number` and `curves` (B, R) are arbitrary in unknown columns, as `known` (B, N) says;
        instead their probabilities `p` (B, S) by slot are read.
        """
        by_curve, by_slot = (self.weights * self.kept).split(self.curves.shape[::-1])
        seen, curves = torch.ones_like(number), curves.to(by_curve)
        logits = self.offset
        if known is not None and p is not None:
            seen, curves = known, curves * known[:, self.curve_owner]
            unknown = p * (1 - known)[:, self.owner]
            logits = logits + unknown.to(by_curve) @ (by_slot + self.curves @ by_curve)
        return (logits + curves @ by_curve + weighted_sum(by_slot, number, seen)).log_softmax(-1)

    def fit(self, number: Tensor, curves: Tensor, category: Tensor) -> None:
        """Fit the weights to rows, in place, with the penalty that is best for a tenth of them.

        What is minimised is the sum of -log p, plus half the penalty times the sum of the squares
        of `weights`. The tenth of the rows is left out while the penalty is chosen; in the end, all
        rows are fitted.
        """
        most = max(LARGEST_STEP // self.weights.numel(), 1)
        number, curves, category = number[:most], curves[:most], category[:most]
        left_out = torch.arange(len(category)) % LEFT_OUT == LEFT_OUT - 1
        scores = []
        for penalty in PENALTIES:
            self._minimise(penalty, number[~left_out], curves[~left_out], category[~left_out])
            nats = self(number[left_out], curves[left_out])
            scores.append(float(-nats.gather(1, category[left_out, None]).sum()))
        best = min(range(len(scores)), key=scores.__getitem__)
        self._minimise(PENALTIES[best], number, curves, category)

    @torch.enable_grad()
    def _minimise(self, penalty: float, number: Tensor, curves: Tensor, category: Tensor) -> None:
        """Fit the weights by L-BFGS, in place, starting from what they are."""
        fitted = [self.offset, self.weights]
        for buffer in fitted:
            buffer.requires_grad_()
        search = torch.optim.LBFGS(fitted, max_iter=STEPS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            nats = self(number, curves).gather(1, category[:, None])
            value = penalty / 2 * self.weights.square().sum() - nats.sum()
            value.backward()
            return value.detach()

        search.step(loss)
        for buffer in fitted:
            buffer.requires_grad_(False)
            buffer.grad = None
