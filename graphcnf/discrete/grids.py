"""Categorical normalizing flow over grids: arrays with two axes, such as small images.

A grid has H x W *pixels*, each with one of C *categories*, the same ones everywhere. Pixels are in
*raster order*: row by row, each from left to right. Each is given all those before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import (
    AutoregressiveFlow,
    AutoregressiveNetwork,
    Step,
)
from graphcnf.categorical.causal_convolution import COLUMNS, ROWS, CausalConvolution, Memory
from graphcnf.discrete.rows import Rows, build_network, loss_of
from graphcnf.flows.transform import Context
from graphcnf.limits import Range
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.torch_state import evaluated

LARGEST_GRID = 4096
"""Largest number of pixels: each has a bias of its own, and takes a step when grids are drawn."""


class GatedConvolutions(nn.Module):
    """Layer of a gated PixelCNN: what is above a pixel, and what is to the left of it.

        v' = v + dropout(U gate(A * v)),    h' = h + dropout(V gate(B * h + W A * v)),
        gate(a, b) = tanh(a) sigmoid(b)

    for the *vertical* channels v, which know the rows above a pixel, and the *horizontal* channels
    h, which know the pixels to the left of it as well. A sees these rows (K x (2K - 1) pixels), B
    the K pixels up to the own place (van den Oord et al. 2016, arXiv 1606.05328, figure 2).

    Args:
        width: Channels of v and of h.
        reach: Rows and columns K that a convolution sees.
        dropout: Share of the channels of an update that training leaves out.
    """

    def __init__(self, width: int, reach: int, dropout: float):
        super().__init__()
        self.above = CausalConvolution(width, 2 * width, (reach, 2 * reach - 1), ROWS)
        self.before = CausalConvolution(width, 2 * width, (1, reach), COLUMNS)
        self.down = nn.Conv2d(2 * width, 2 * width, 1)
        self.leave_above, self.leave = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.dropout = nn.Dropout2d(dropout)
        for last in (self.leave_above, self.leave):
            nn.init.zeros_(last.weight)

    def vertical(self, v: Tensor, memory: Memory | None = None) -> tuple[Tensor, Tensor]:
        """Update the vertical channels of whole grids, or of their next row.

        Args:
            v: The channels, (B, width, H, W).
            memory: Inputs of the rows before, see `CausalConvolution`; None for none.

        Returns:
            v', (B, width, H, W); and W A * v, (B, 2 width, H, W), for `horizontal`.
        """
        above = self.above(v, memory)
        return v + self.dropout(self.leave_above(_gate(above))), self.down(above)

    def horizontal(self, h: Tensor, above: Tensor, memory: Memory | None = None) -> Tensor:
        """Update the horizontal channels of whole grids, or of their next pixel.

        Args:
            h: The channels, (B, width, H, W).
            above: W A * v at the same places, (B, 2 width, H, W).
            memory: Inputs of the pixels before in the row, see `CausalConvolution`; None for none.

        Returns:
            h', (B, width, H, W).
        """
        return h + self.dropout(self.leave(_gate(self.before(h, memory) + above)))


def _gate(x: Tensor) -> Tensor:
    """Return tanh(a) sigmoid(b) of both halves of the channels, (B, 2 C, H, W) to (B, C, H, W)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedPixelCNN(AutoregressiveNetwork):
    """Probabilities of each pixel of a grid, given all pixels before it, by causal convolutions.

    Vertical channels begin with the row above a pixel, horizontal channels with the pixel to the
    left of it. Weights are shared by all places but for an embedding of the place and the bias of
    the logits, which begins with the frequencies of the categories at each place. Untrained, the
    network is the density of independent pixels.

    Args:
        cardinality: Number of categories.
        shape: Height H and width W of a grid.
        width: Channels of each stack.
        layers: Number of layers, see `GatedConvolutions`.
        reach: Rows and columns that a convolution sees.
        dropout: Share of the channels of an update that training leaves out.

    Attributes:
        bias: Bias of the logits at each place, (H W, C).

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        cardinality: int,
        *,
        shape: Sequence[int],
        width: int = 32,
        layers: int = 4,
        reach: Annotated[int, Range(2, 16)] = 3,
        dropout: Annotated[float, Range(0, 1)] = 0.1,
    ):
        super().__init__()
        height, columns = shape
        if not (cardinality >= 1 <= min(shape) and height * columns <= LARGEST_GRID):
            raise ValueError(f"{height} x {columns} pixels of {cardinality} categories")
        self.cardinalities, self.shape = [cardinality], (height, columns)
        self.values = nn.Embedding(cardinality, width)
        self.place = nn.Parameter(0.3 * torch.randn(1, width, height, columns))
        self.enter_above = CausalConvolution(width, width, (1, 2 * reach - 1), ROWS)
        self.layers: Sequence[GatedConvolutions] = nn.ModuleList(  # type: ignore[assignment]
            GatedConvolutions(width, reach, dropout) for _ in range(layers)
        )
        self.out = nn.Linear(2 * width, width)
        self.weight = nn.Parameter(torch.zeros(cardinality, width))
        self.bias = nn.Parameter(torch.zeros(height * columns, cardinality))

    def hidden(self, x: Tensor) -> Tensor:
        """Return what the network knows of each pixel before its category.

        Args:
            x: Categories, (B, H, W) long.

        Returns:
            (B, H, W, width).
        """
        known = self.values(x).permute(0, 3, 1, 2)
        v = self.enter_above(F.pad(known[:, :, :-1], (0, 0, 1, 0))) + self.place
        h = F.pad(known[..., :-1], (1, 0)) + self.place
        for layer in self.layers:
            v, above = layer.vertical(v)
            h = layer.horizontal(h, above)
        return self.joined(v, h)

    def joined(self, v: Tensor, h: Tensor) -> Tensor:
        """Return what both stacks know of pixels, (B, H, W, width), from (B, width, H, W) each."""
        return F.relu(self.out(F.relu(torch.cat([v, h], 1).permute(0, 2, 3, 1))))

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        h = self.hidden(x[..., 0].unflatten(1, self.shape)).flatten(1, 2)
        rows, positions = context.mask.nonzero(as_tuple=True)
        logits = F.linear(h, self.weight) + self.bias
        yield Step(rows, positions, logits[rows, positions])

    def start(self, context: Context) -> GridState:
        return GridState(self, len(context.mask))


class GridState:
    """State of B grids that are drawn pixel by pixel.

    Attributes:
        x: Categories so far, (B, H, W) long.
        position: Number of the current pixel in raster order, -1 before the first one.
        row: Of the current row of pixels, the vertical channels after the last layer, and
            W A * v of every layer, (B, C, 1, W) each.
        above: Inputs of the convolutions at earlier rows, see `CausalConvolution`.
        before: Inputs of the convolutions at earlier pixels of the row.
    """

    def __init__(self, network: GatedPixelCNN, count: int):
        self.network, self.position = network, -1
        device = network.bias.device
        self.x = torch.zeros(count, *network.shape, dtype=torch.long, device=device)
        self.rows = torch.arange(count, device=device)
        self.row: list[Tensor] = []
        self.above: Memory = {}
        self.before: Memory = {}

    def step(self) -> Step | None:
        """Advance to the next pixel, and return its logits (B, C) as a `Step`; None at the end."""
        self.position += 1
        net = self.network
        if self.position == self.x[0].numel():
            return None
        row, column = divmod(self.position, net.shape[1])
        if not column:
            self._next_row(row)
        here = slice(column, column + 1)
        place = net.place[:, :, row : row + 1]
        h = place[..., here].expand(len(self.x), -1, -1, -1)
        if column:
            h = h + net.values(self.x[:, row : row + 1, column - 1 : column]).permute(0, 3, 1, 2)
        for layer, above in zip(net.layers, self.row[1:], strict=True):
            h = layer.horizontal(h, above[..., here], self.before)
        known = net.joined(self.row[0][..., here], h)[:, 0, 0]
        logits = F.linear(known, net.weight, net.bias[self.position])
        return Step(self.rows, torch.full_like(self.rows, self.position), logits)

    def _next_row(self, row: int) -> None:
        """Compute the vertical channels of a row of pixels, whose earlier rows are drawn."""
        net, self.before = self.network, {}
        last = net.values(self.x[:, row - 1 : row]) if row else None
        if last is None:
            last = net.place.new_zeros(len(self.x), 1, net.shape[1], net.values.embedding_dim)
        v = net.enter_above(last.permute(0, 3, 1, 2), self.above) + net.place[:, :, row : row + 1]
        found = []
        for layer in net.layers:
            v, above = layer.vertical(v, self.above)
            found.append(above)
        self.row = [v, *found]

    def update(self, x: Tensor) -> None:
        """Store the categories of the current pixel, (B, 1) long."""
        self.x.view(len(self.x), -1)[:, self.position] = x[:, 0]

    def select(self, rows: Tensor) -> None:
        """Replace the grids by some of them: indices (B,) long, which may repeat."""
        self.x, self.row = self.x[rows], [own[rows] for own in self.row]
        for memory in (self.above, self.before):
            memory |= {layer: own[rows] for layer, own in memory.items()}


class GridFlow(Pretrained, AutoregressiveFlow):
    """Density of grids, pixel by pixel in raster order; `log_prob` is exact.

    Args:
        cardinality: Number of categories of a pixel.
        **network: Further arguments of `GatedPixelCNN`, JSON, of which `shape` has no default.

    Attributes:
        config: Arguments of the constructor, JSON.
        metadata: Facts about the data, JSON.

    Raises:
        UserError: if an argument is out of range.
    """

    @keep_arguments
    def __init__(self, cardinality: int, **network: Any):
        super().__init__(build_network(GatedPixelCNN, self.config), single=True)
        self.metadata: dict[str, Any] = {}

    @torch.no_grad()
    def start_from(self, rows: Rows) -> None:
        """Set the bias of the logits to the frequencies of the categories of grids, in place.

        Half a grid with each category is added to the counts.

        Args:
            rows: Grids in raster order.
        """
        often = F.one_hot(rows.values, self.network.cardinalities[0]).sum(0) + 0.5
        self.network.bias.copy_((often / often.sum(1, keepdim=True)).log())

    def training_loss(
        self, batch: Rows, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss of a batch, and metrics.

        Args:
            batch: The grids in raster order.
            beta: Ignored: it is the weight of a decoder, and there is none.

        Returns:
            The negative log-likelihood in nats per pixel, a scalar; and the metrics
            "bits_per_variable" and "bits_per_row", as pairs (sum, number).
        """
        nats = self.network.log_prob(batch.values[..., None], Context(batch.mask))
        return loss_of(nats, batch.mask)

    @evaluated
    @torch.no_grad()
    def complete(self, known: Rows, random: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
        """Draw the unknown pixels of a grid by particles, given the known ones.

        Every particle is a grid. It is drawn in raster order, with the known pixels as they are,
        and weighs the product of their probabilities given the pixels before. Where the weights are
        worth less than half of the particles, particles are resampled systematically (Doucet &
        Johansen 2011, *A tutorial on particle filtering and smoothing*). If no unknown pixel comes
        before a known one, the draw is exact, else in the limit of many particles.

        Args:
            known: One row for each particle of M grids, M * P, those of a grid one after the other;
                the mask is True for known pixels.
            random: Random generator of each of the M grids.

        Returns:
            One particle of each grid, drawn by the weights, (M, N) long; and the least effective
            number of particles at any pixel of each, (M,).
        """
        state = self.network.start(Context(known.mask))
        count, x = len(random), known.values.long()
        weight = torch.zeros(count, len(x) // count, dtype=torch.float64)
        first = torch.arange(count)[:, None] * weight.shape[1]
        least = torch.full((count,), float(weight.shape[1]), dtype=torch.float64)
        while (step := state.step()) is not None:
            log_p = step.hidden.double().log_softmax(-1).cpu()
            u = torch.from_numpy(np.stack([own.random(weight.shape[1]) for own in random])).view(-1)
            drawn = (u[:, None] > log_p.exp().cumsum(1)).sum(1).clamp(max=log_p.shape[1] - 1)
            there = known.mask[:, state.position].cpu()
            value = torch.where(there, x[:, state.position].cpu(), drawn)
            own = log_p.gather(1, value[:, None])[:, 0]
            weight = weight + torch.where(there, own, 0).view_as(weight)
            weight = weight - weight.logsumexp(1, keepdim=True)
            state.update(value[:, None].to(x.device))
            effective = 1 / weight.exp().square().sum(1)
            least = least.minimum(effective)
            poor = effective < weight.shape[1] / 2
            if poor.any():
                start = torch.tensor([own.random() for own in random])
                chosen = _systematic(weight, start)
                chosen = torch.where(poor[:, None], chosen, torch.arange(weight.shape[1]))
                state.select((first + chosen).view(-1).to(x.device))
                weight = torch.where(poor[:, None], -np.log(weight.shape[1]), weight)
        u = torch.tensor([own.random() for own in random], dtype=torch.float64)
        last = (u[:, None] > weight.exp().cumsum(1)).sum(1).clamp(max=weight.shape[1] - 1)
        return state.x.flatten(1)[(first[:, 0] + last).to(x.device)].cpu(), least


def _systematic(weight: Tensor, start: Tensor) -> Tensor:
    """Resample P particles of M grids systematically.

    Args:
        weight: Logarithms of the weights, (M, P); the weights of a grid sum to 1.
        start: Uniform random numbers, (M,).

    Returns:
        Indices of the particles to go on with, (M, P) long.
    """
    count = weight.shape[1]
    place = (torch.arange(count) + start[:, None].double()) / count
    return torch.searchsorted(weight.exp().cumsum(1), place).clamp(max=count - 1)
