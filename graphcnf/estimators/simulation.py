"""A density estimator for sbi, for parameters or data of which some are discrete.

sbi (simulation-based inference) infers the parameters of a simulator from its data.

- *theta* are the parameters of a simulation, P numbers; *x* is the data that it gives, Q numbers.
- The *target* of learning is the likelihood p(x | theta), for sbi's `NLE`, or the posterior p(theta
  | x), for its `NPE`.
- The *input* is what stands before the bar, the *condition* what stands after it: these are sbi's
  words.
- A *simulation* is a row of a table, with a column for each number of theta and x. The estimator is
  a `ColumnFlow` of that table: it models the columns in turn, the condition first.
- A column that holds whole numbers only is *discrete*: it has probabilities, not a density.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from graphcnf.arguments import check
from graphcnf.discrete.rows import Rows
from graphcnf.discrete.table_adapter import TableAdapter
from graphcnf.errors import UserError, require
from graphcnf.limits import check_seed

if TYPE_CHECKING:
    from sbi.neural_nets.estimators import ConditionalDensityEstimator

TARGETS = {"likelihood": "x", "posterior": "theta"}
"""Which of theta and x is the input, for each target."""


def estimator_builder(
    target: str = "likelihood", *, seed: int = 0, bins: int | None = None, **network: Any
) -> Callable[[Tensor, Tensor], ConditionalDensityEstimator]:
    """Return what sbi takes as its argument `density_estimator`: a function of theta and x.

    The estimator that the function makes begins with the frequencies of values in the simulations,
    and training improves on them (`graphcnf.discrete.counts`).

    Args:
        bins: Number of bins into which the values of a column of real numbers are divided; within a
            bin the density is linear. None to choose it by the number of simulations.
        **network: Arguments of `ColumnFlow`, such as `width`.
    """
    if target not in TARGETS:
        raise UserError(f"target must be one of {', '.join(TARGETS)}, got {target!r}")
    check_seed(seed)
    check("network", network, *TableAdapter.arguments, fixed=TableAdapter.fixed)
    require("sbi", "a density estimator", "sbi")
    return partial(_build, TARGETS[target], (seed, bins, network))


def _build(
    name: str, others: tuple[int, int | None, dict[str, Any]], theta: Tensor, x: Tensor
) -> ConditionalDensityEstimator:
    """Return an untrained estimator for simulations; see `estimator_builder`."""
    seed, bins, network = others
    parts = [("theta", theta), ("x", x)]
    (_, condition), (_, given) = ordered = parts if name == "x" else parts[::-1]
    table = pd.concat([_columns(label, values) for label, values in ordered], axis=1)
    real = table.columns[table.dtypes == np.float64]
    adapter = TableAdapter.of(table, None if bins is None else dict.fromkeys(real, bins))
    rows, _ = adapter.encode(table)
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        every = np.arange(len(table))
        flow = adapter.build(rows, every, first=condition.shape[1], **network)
    return estimator_class()(flow, given.shape[1:], condition.shape[1:], adapter)


def _columns(label: str, values: Tensor) -> pd.DataFrame:
    """Return rows of numbers as a table, with columns of integers where all are whole."""
    if values.dim() != 2:
        raise UserError(f"{label} must be rows of numbers (M, D), got {tuple(values.shape)}")
    columns = values.detach().double().T.cpu().numpy()
    whole = (columns == columns.round()).all(1)
    typed = [c.astype(np.int64 if w else np.float64) for c, w in zip(columns, whole, strict=True)]
    return pd.DataFrame({f"{label}{k}": column for k, column in enumerate(typed)})


@cache
def estimator_class() -> type[ConditionalDensityEstimator]:
    """Return the class of the estimators that `estimator_builder` makes, a class of sbi's.

    It is made in a function, since its base class belongs to sbi, which need not be installed.
    """
    from sbi.neural_nets.estimators import ConditionalDensityEstimator

    class MixedTableEstimator(ConditionalDensityEstimator):
        """Conditional density of a `ColumnFlow`, in whose order the condition comes first."""

        def __init__(self, net, input_shape, condition_shape, adapter: TableAdapter):
            super().__init__(net, input_shape, condition_shape)
            self.adapter = adapter

        def log_prob(self, input: Tensor, condition: Tensor, **kwargs) -> Tensor:
            """Return log p(input | condition), (S, B) nats; -inf for unknown values."""
            nats, known = self._nats(input, condition)
            return torch.where(known, nats, -torch.inf)

        def loss(self, input: Tensor, condition: Tensor, **kwargs) -> Tensor:
            """Return the loss of inputs: -log p(input | condition) of values that training had.

            Values that training lacked add nothing to it. They occur in validation data, and their
            loss would be infinite, which sbi refuses.

            The unit is nats, (B,).
            """
            return -self._nats(input.unsqueeze(0), condition)[0][0]

        def _nats(self, input: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
            """Return log p(input | condition), and whether training had all values of an input."""
            parts = [t if t.dim() > 2 else t[None] for t in (condition, input)]
            size = torch.broadcast_shapes(*(part.shape[:2] for part in parts))
            joined = torch.cat([part.expand(*size, -1) for part in parts], -1).flatten(0, 1)
            rows, first = self._encoded(joined).to(self.net.device), parts[0].shape[-1]
            labels = [column.name for column in self.adapter.columns[:first]]
            nats = self.adapter.log_prob(self.net, rows, given=labels).float().to(input.device)
            known = rows.mask[:, first:].all(1).to(input.device)
            return nats.reshape(size), known.reshape(size)

        @torch.no_grad()
        def sample(self, sample_shape: torch.Size, condition: Tensor, **kwargs) -> Tensor:
            """Draw inputs (*sample_shape, B, D), given B conditions."""
            count = torch.Size(sample_shape).numel()
            given = condition.reshape(-1, *self.condition_shape).repeat(count, 1)
            seed, known = int(torch.randint(1 << 31, ())), self._encoded(given)
            table = self.adapter.decode(
                self.adapter.draw(self.net, len(given), seed=seed, known=known)
            )
            drawn = torch.from_numpy(table.to_numpy(np.float32)[:, given.shape[1] :])
            return drawn.reshape(*sample_shape, -1, *self.input_shape).to(condition.device)

        def _encoded(self, values: Tensor) -> Rows:
            """Encode the first columns of the table; masked are values that training lacked."""
            encoded = torch.full((len(values), len(self.adapter.columns)), -1.0).double()
            for k, (_, column) in enumerate(_columns("", values).items()):
                encoded[:, k] = torch.from_numpy(self.adapter.columns[k].encode(column))
            return Rows(encoded.clamp(min=0), encoded >= 0)

    return MixedTableEstimator
