"""Adapter of integer arrays (M, H, W), such as small images, for `CategoricalModel`.

- A *grid* is one array (H, W) of *pixels*. The different values of pixels in the training data are
  the *categories*, 0 to C - 1, of a `GridFlow`.
- *Encoded* grids are `Rows` (M, H W) of categories in *raster order*, row by row, each from left to
  right. The *mask* is True for known pixels.
- A pixel is *missing* if it is NaN. Missing pixels are drawn given the known ones by *particles*,
  weighted copies of the grid. Their *effective* number is 1 / (sum of squared weights), with
  weights that sum to 1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from graphcnf.discrete.adapters import Adapter, Items, Reasons, Refused, Vocabulary, draw_rows
from graphcnf.discrete.grids import LARGEST_GRID, GatedPixelCNN, GridFlow
from graphcnf.discrete.rows import Rows
from graphcnf.errors import UserError, type_of
from graphcnf.flows.base import record_generators
from graphcnf.flows.transform import Context

KINDS = "iub"
"""Numpy's kinds of types that pixels may have: integers, and 0 and 1 as bool."""

MOST_VALUES = 256
"""Largest number of different values of a pixel."""

PARTICLES = 64
"""Particles of a grid whose unknown pixels are drawn given pixels after them."""

FEW = 4
"""Effective number of particles below which a warning counts a grid."""

COMPLETED = 16
"""Number of grids whose particles are drawn at a time."""


@dataclass
class GridAdapter(Adapter):
    """Adapter of integer arrays (M, H, W) for a `GridFlow`.

    Attributes:
        values: Values of a pixel, ascending: value k has category k.
        shape: Height H and width W of a grid.
        dtype: Numpy's name of the type of the training data, such as "uint8".
        tensor: True if the training data were a torch tensor.
    """

    kind = "grids"
    flow_class = GridFlow
    arguments = (GatedPixelCNN,)
    fixed = ("cardinality", "shape")
    settings = {**Adapter.settings, "batch_size": 32, "optimizer": "muon"}
    scored = 128

    values: list[int]
    shape: list[int]
    dtype: str
    tensor: bool = False

    def __post_init__(self) -> None:
        self.vocabulary, self.cardinality = Vocabulary(self.values), len(self.values)
        if np.dtype(self.dtype).kind not in KINDS:
            raise ValueError(f"pixels of the type {self.dtype}")

    @classmethod
    def of(cls, data: np.ndarray | torch.Tensor) -> GridAdapter:
        """Build the adapter for training data, whose different values become the categories.

        At most 4096 pixels in a grid (`LARGEST_GRID`) and 256 values (`MOST_VALUES`) are taken.
        """
        array = _numpy(data)
        if array.dtype.kind not in KINDS:
            raise Refused(
                f"pixels must be integers, such as (x > 127).astype(int), got {array.dtype}"
            )
        if not array.size or array[0].size > LARGEST_GRID:
            raise Refused(
                f"an array of the shape {array.shape}: it must have 1 to {LARGEST_GRID} pixels"
            )
        values = np.unique(array).tolist()
        if len(values) > MOST_VALUES:
            raise Refused(
                f"{len(values)} different values of a pixel, at most {MOST_VALUES} are learned"
            )
        whole = list(array.shape[1:])
        return cls(values, whole, str(array.dtype), isinstance(data, torch.Tensor))

    def encode(self, data: Items, flow: Any = None) -> tuple[Rows, Reasons]:
        """Encode grids, and leave out those with an unknown value or a missing pixel."""
        rows, flat = self._encoded(data)
        unknown, reasons = ~rows.mask.numpy(), list[str | None]([None] * len(flat))
        for row in np.flatnonzero(unknown.any(1)):
            place = int(unknown[row].argmax())
            at = "row {}, column {}".format(*divmod(place, self.shape[1]))
            reasons[row] = f"the value {flat[row, place].item()!r} at {at}, which training lacked"
        return rows[rows.mask.all(1)], reasons

    def known(self, data: Items) -> Rows:
        """Encode grids with missing pixels, which are to be drawn (`completed`).

        The mask is False at missing pixels, NaN in floats.
        """
        rows, flat = self._encoded(data)
        strange = ~rows.mask.numpy() & ~np.isnan(flat.astype(float))
        if strange.any():
            row, place = (int(at[0]) for at in np.nonzero(strange))
            raise UserError(f"grid {row}: no pixel of the training data has {flat[row, place]}")
        return rows

    def _encoded(self, data: Items) -> tuple[Rows, np.ndarray]:
        """Encode the known values of grids."""
        wanted = f"this model takes an array (N, {self.shape[0]}, {self.shape[1]})"
        if not isinstance(data, np.ndarray | torch.Tensor):
            raise UserError(f"got {type_of(data)}; {wanted}")
        array = _numpy(data)
        if list(array.shape[1:]) != self.shape or array.dtype.kind not in "iubf":
            raise UserError(f"got an array of {array.dtype} of the shape {array.shape}; {wanted}")
        flat, known = array.reshape(len(array), -1), np.array(self.values)
        index = np.searchsorted(known, flat).clip(max=len(known) - 1)
        there = torch.from_numpy(known[index] == flat)
        return Rows(torch.from_numpy(index) * there, there), flat

    def decode(self, rows: Rows) -> np.ndarray | torch.Tensor:
        """Invert `encode`: turn encoded grids into an array."""
        array = np.array(self.values)[rows.values.cpu().numpy()].astype(self.dtype)
        array = array.reshape(-1, *self.shape)
        return torch.from_numpy(array) if self.tensor else array

    def build(self, rows, chosen, /, **network):
        """Build an untrained flow, whose pixels have the frequencies of the training grids."""
        flow = GridFlow(self.cardinality, shape=self.shape, **network)
        flow.start_from(self.batch(rows, chosen))
        return flow

    def finish(self, flow: Any, rows: Rows, chosen: np.ndarray, held_out: np.ndarray) -> None:
        """Leave a trained flow as it is: unlike those of tables, it has no counts to update."""

    def log_prob(self, flow: GridFlow, rows: Rows, orders: int = 1) -> torch.Tensor:
        """Return the exact log-likelihood of each grid, (B,) nats; `orders` must be 1."""
        if orders != 1:
            raise UserError("orders are for tables and graphs; grids have one")
        return flow.log_prob(rows.values, Context(rows.mask)).cpu().double()

    def draw(
        self,
        flow: GridFlow,
        count: int,
        *,
        seed: int,
        temperature: float,
        sizes: tuple[int, int] | None = None,
    ) -> Rows:
        """Draw grids; with the same seed, a larger `count` only appends further ones."""
        if sizes is not None:
            raise UserError("sizes are for sequences and graphs: grids have one")
        pixels = self.shape[0] * self.shape[1]
        return draw_rows(flow, count, np.eye(pixels + 1)[pixels], seed, temperature)

    def completed(self, flow: GridFlow, known: Rows, seed: int) -> Rows:
        """Draw the missing pixels of grids, given the known ones, see `GridFlow.complete`.

        Grids whose known pixels all come first in raster order are drawn exactly. All others are
        drawn by 64 particles (`PARTICLES`). A warning counts the grids whose effective number of
        particles, 1 / (sum of squared weights), fell below 4 (`FEW`): their known pixels are
        improbable under the model.
        """
        values, least = known.values.clone(), torch.full((len(known),), np.inf).double()
        # Where all known pixels come first, one particle is exact.
        first = known.mask.long().cummin(1).values.sum(1) == known.mask.sum(1)
        for rows, particles in ((first, 1), (~first, PARTICLES)):
            for chosen in rows.nonzero()[:, 0].split(COMPLETED * PARTICLES // particles):
                if not len(chosen):
                    continue
                random = [record_generators(seed, row, 1)[0] for row in chosen.tolist()]
                part = known[chosen.repeat_interleave(particles)].to(flow.device)
                values[chosen], effective = flow.complete(part, random)
                least[chosen] = effective if particles > 1 else np.inf
        if few := int((least < FEW).sum()):
            warnings.warn(
                f"{few} of {len(known)} grids have less than {FEW} effective particles of "
                f"{PARTICLES}: the known pixels are improbable",
                stacklevel=4,
            )
        return Rows(values, torch.ones_like(known.mask))

    def __str__(self) -> str:
        return f"grids of {self.shape[0]} x {self.shape[1]} pixels, {self.cardinality} values"


def _numpy(data: Any) -> np.ndarray:
    """Return an array or tensor as an array."""
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else data
