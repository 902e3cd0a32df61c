"""Categorical normalizing flow over grids: arrays with two axes, such as small images.

- A *grid* has H x W *pixels*, each with one of C *categories*, the same ones for all pixels.
- *Raster order* numbers the pixels row by row, each row from left to right. Each pixel is predicted
  from all pixels before it in this order.
- *Channels* are the features of the network at a pixel. The *vertical* channels know the rows above
  the pixel, the *horizontal* channels also the pixels to the left of it. Their number is the
  argument `width` of the networks.
- A `Memory` holds the last inputs of causal convolutions, so that grids are drawn pixel by pixel
  without convolving again what is known.
- *Particles* are copies of a grid with known and unknown pixels. Each has a draw of the unknown
  pixels of its own, and one particle is chosen by weights (`GridFlow.complete`).

`GridFlow` is the model, `GatedPixelCNN` its network, `GridDrawing` a batch that is being drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from graphcnf.categorical.autoregressive import AutoregressiveNetwork, Step
from graphcnf.categorical.autoregressive_flow import AutoregressiveFlow
from graphcnf.categorical.causal_convolution import COLUMNS, ROWS, CausalConvolution, Memory
from graphcnf.discrete.rows import Rows, build_network, loss_of
from graphcnf.flows.transform import Context
from graphcnf.limits import Range
from graphcnf.pretrained import Pretrained, keep_arguments
from graphcnf.torch_state import evaluated

LARGEST_GRID = 4096
"""Largest number of pixels: each has a bias of its own, and takes a step when grids are drawn."""


class GatedConvolutions(nn.Module):
    """Layer of a gated PixelCNN (van den Oord et al. 2016, arXiv 1606.05328, figure 2).

        v' = v + dropout(U gate(A * v)),    h' = h + dropout(V gate(B * h + W A * v)),
        gate(a, b) = tanh(a) sigmoid(b)

    v are the vertical channels and h the horizontal ones. A and B are causal convolutions, and U,
    V, W are linear maps of channels. At a pixel, A reads v in K rows and 2K - 1 columns: the row of
    the pixel and those above. B reads h at the pixel itself and the K - 1 pixels to the left. Since
    the inputs of the first layer are shifted by a pixel, no layer sees the pixel that is predicted.
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
        """Update the vertical channels of whole grids, or with a `memory` of their next row.

        Also returned is what the horizontal channels read of them, W A * v, (B, 2 width, H, W).
        """
        above = self.above(v, memory)
        return v + self.dropout(self.leave_above(_gate(above))), self.down(above)

    def horizontal(self, h: Tensor, above: Tensor, memory: Memory | None = None) -> Tensor:
        """Update the horizontal channels of whole grids, or with a `memory` of their next pixel.

        `above` is the second result of `vertical` at the same pixels.
        """
        return h + self.dropout(self.leave(_gate(self.before(h, memory) + above)))


def _gate(x: Tensor) -> Tensor:
    """Return tanh(a) sigmoid(b) of both halves of the channels, (B, 2 C, H, W) to (B, C, H, W)."""
    a, b = x.chunk(2, 1)
    return torch.tanh(a) * torch.sigmoid(b)


class GatedPixelCNN(AutoregressiveNetwork):
    """Network of `GridFlow`: probabilities of each pixel given all before it in raster order.

    Vertical channels begin with the row above a pixel, horizontal channels with the pixel to the
    left of it. All pixels share their weights, except for an embedding of the pixel's place in the
    grid and a bias of its logits. `GridFlow.start_from` sets this bias to the frequencies of the
    categories at each pixel. Until it is trained, the network then treats pixels as independent.

    Args:
        cardinality: Number of categories C.
        shape: Height H and width W of a grid.
        reach: Rows and columns K that a convolution sees.
        dropout: Share of the channels of an update that training leaves out.

    Attributes:
        bias: Bias of the logits at each pixel, (H W, C).
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
        """Compute the features (B, H, W, width) of all pixels, each from those before it."""
        known = self.values(x).permute(0, 3, 1, 2)
        v = self.enter_above(F.pad(known[:, :, :-1], (0, 0, 1, 0))) + self.place
        h = F.pad(known[..., :-1], (1, 0)) + self.place
        for layer in self.layers:
            v, above = layer.vertical(v)
            h = layer.horizontal(h, above)
        return self.joined(v, h)

    def joined(self, v: Tensor, h: Tensor) -> Tensor:
        """Join vertical and horizontal channels to features (B, H, W, width), by a small MLP."""
        return F.relu(self.out(F.relu(torch.cat([v, h], 1).permute(0, 2, 3, 1))))

    def steps(self, x: Tensor, context: Context) -> Iterator[Step]:
        """Yield one step with all real pixels; its `hidden` are their logits, (M, C)."""
        h = self.hidden(x[..., 0].unflatten(1, self.shape)).flatten(1, 2)
        rows, positions = context.mask.nonzero(as_tuple=True)
        logits = F.linear(h, self.weight) + self.bias
        yield Step(rows, positions, logits[rows, positions])

    def start(self, context: Context) -> GridDrawing:
        """Begin to draw the grids of a batch, pixel by pixel."""
        return GridDrawing(self, len(context.mask))


class GridDrawing:
    """B grids that are being drawn pixel by pixel, in raster order.

    Attributes:
        x: Categories so far, (B, H, W) long; 0 at pixels that are not drawn yet.
        position: Number of the pixel of the last `step` in raster order; -1 before the first call.
        row: Tensors of the row of this pixel. The first are the vertical channels after the last
            layer, (B, width, 1, W). The others are, for each layer, the second result of
            `GatedConvolutions.vertical`, (B, 2 width, 1, W).
        above: Last inputs of the vertical convolutions at earlier rows, see `CausalConvolution`.
        before: Last inputs of the horizontal convolutions at earlier pixels of the row.
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
        """Advance to the next pixel in raster order."""
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
        """Compute the vertical channels of a row of pixels, when all rows above it are drawn."""
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
        """Store the categories that were drawn for the pixel of the last `step`.

        Call it once after each `step`: the next one reads them.
        """
        self.x.view(len(self.x), -1)[:, self.position] = x[:, 0]

    def select(self, rows: Tensor) -> None:
        """Replace the grids by some of them, in place; for resampling of particles.

        Call it between `update` and the next `step`.

        `rows` may repeat, but must be as many as before.
        """
        self.x, self.row = self.x[rows], [own[rows] for own in self.row]
        for memory in (self.above, self.before):
            memory |= {layer: own[rows] for layer, own in memory.items()}


class GridFlow(Pretrained, AutoregressiveFlow):
    """Density of grids, pixel by pixel in raster order; `log_prob` is exact.

    Grids are passed as rows of H W pixels in raster order.

    Args:
        cardinality: Number of categories of a pixel.
        **network: Further arguments of `GatedPixelCNN`, JSON, of which `shape` has no default.
    """

    @keep_arguments
    def __init__(self, cardinality: int, **network: Any):
        super().__init__(build_network(GatedPixelCNN, self.config), single=True)
        self.metadata: dict[str, Any] = {}

    @torch.no_grad()
    def start_from(self, rows: Rows) -> None:
        """Set the bias of the logits, in place, to the log-frequencies of categories at each pixel.

        0.5 is added to each count, so that no frequency is 0.
        """
        often = F.one_hot(rows.values, self.network.cardinalities[0]).sum(0) + 0.5
        self.network.bias.copy_((often / often.sum(1, keepdim=True)).log())

    def training_loss(
        self, batch: Rows, *, beta: float = 1.0
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Return the loss, nats per pixel, and the metrics of `graphcnf.discrete.rows.loss_of`."""
        nats = self.network.log_prob(batch.values[..., None], Context(batch.mask))
        return loss_of(nats, batch.mask)

    @evaluated
    @torch.no_grad()
    def complete(self, known: Rows, random: Sequence[np.random.Generator]) -> tuple[Tensor, Tensor]:
        """Draw the unknown pixels of grids, given the known ones, by a particle filter.

        Each grid has P particles. A particle is drawn in raster order, while known pixels keep
        their categories. Its weight is the product of the probabilities of the known pixels given
        the pixels before them. If no unknown pixel comes before a known one, the result is an
        exact draw, also with P = 1. Else it is one in the limit of many particles.

        The effective number of particles is 1 / (sum of squared weights), with weights that sum to
        1. Where it falls below P / 2, particles are resampled systematically (Doucet & Johansen
        2011, *A tutorial on particle filtering and smoothing*).

        `known` holds P copies of the first of M grids, then P of the second one, and so on, each a
        row in raster order, masked at unknown pixels. Returned are one particle of each of them,
        (M, H W), and the lowest effective number that each grid had at any pixel, (M,).
        """
        drawing = self.network.start(Context(known.mask))
        count, x = len(random), known.values.long()
        weight = torch.zeros(count, len(x) // count, dtype=torch.float64)
        first = torch.arange(count)[:, None] * weight.shape[1]
        least = torch.full((count,), float(weight.shape[1]), dtype=torch.float64)
        while (step := drawing.step()) is not None:
            log_p = step.hidden.double().log_softmax(-1).cpu()
            u = torch.from_numpy(np.stack([own.random(weight.shape[1]) for own in random])).view(-1)
            drawn = (u[:, None] > log_p.exp().cumsum(1)).sum(1).clamp(max=log_p.shape[1] - 1)
            there = known.mask[:, drawing.position].cpu()
            value = torch.where(there, x[:, drawing.position].cpu(), drawn)
            own = log_p.gather(1, value[:, None])[:, 0]
            weight = weight + torch.where(there, own, 0).view_as(weight)
            weight = weight - weight.logsumexp(1, keepdim=True)
            drawing.update(value[:, None].to(x.device))
            effective = 1 / weight.exp().square().sum(1)
            least = least.minimum(effective)
            poor = effective < weight.shape[1] / 2
            if poor.any():
                start = torch.tensor([own.random() for own in random])
                chosen = _systematic(weight, start)
                chosen = torch.where(poor[:, None], chosen, torch.arange(weight.shape[1]))
                drawing.select((first + chosen).view(-1).to(x.device))
                weight = torch.where(poor[:, None], -np.log(weight.shape[1]), weight)
        u = torch.tensor([own.random() for own in random], dtype=torch.float64)
        last = (u[:, None] > weight.exp().cumsum(1)).sum(1).clamp(max=weight.shape[1] - 1)
        return drawing.x.flatten(1)[(first[:, 0] + last).to(x.device)].cpu(), least


def _systematic(weight: Tensor, start: Tensor) -> Tensor:
    """Resample P particles of M grids systematically."""
    count = weight.shape[1]
    place = (torch.arange(count) + start[:, None].double()) / count
    return torch.searchsorted(weight.exp().cumsum(1), place).clamp(max=count - 1)
