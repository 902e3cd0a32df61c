"""Decoding of junction trees: all graphs of a batch walk depth-first, one step at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphcnf.baselines.junction_tree.assembly import Growing
from graphcnf.baselines.junction_tree.treebatch import Sites
from graphcnf.flows.base import Generators, draw_uniform

if TYPE_CHECKING:
    from graphcnf.baselines.junction_tree.jtvae import JunctionTreeVAE

TRIES = 20
"""Labels that are tried where the more probable ones can be attached nowhere."""


class Walk:
    """State of the depth-first walks of B graphs with at most S clusters each.

    Args:
        steps: The model.
        graphs: Graphs without nodes, which the walk fills.
        z_tree: Latents of the trees, (B, D).
        z_graph: Latents of the graphs, (B, D).
        generator: Of the draws.
        sample: Whether steps are drawn; the most probable ones are taken otherwise.
    """

    def __init__(
        self,
        steps: JunctionTreeVAE,
        graphs: list[Growing],
        z_tree: Tensor,
        z_graph: Tensor,
        generator: Generators,
        sample: bool,
    ):
        self.steps, self.graphs, self.sample, self.generator = steps, graphs, sample, generator
        self.z_tree, self.z_graph = z_tree, z_graph
        # A tree of edges alone has fewer clusters than nodes, and single nodes between them.
        self.most = [2 * graph.size + 1 for graph in graphs]
        shape = (len(graphs), max(self.most), steps.label.weight.shape[1])
        self.down, self.down_gated = z_tree.new_zeros(shape), z_tree.new_zeros(shape)
        self.up, self.up_gated = z_tree.new_zeros(shape), z_tree.new_zeros(shape)
        self.current = [0] * len(graphs)
        self.chances = z_tree.new_empty(0)

    def run(self) -> None:
        """Decode all graphs."""
        self._roots()
        walking = list(range(len(self.graphs)))
        while walking:
            self._draw()
            walking = self._step(walking)

    def _draw(self) -> None:
        """Uniform numbers of a step: every graph has its own, whatever the others do."""
        if self.sample:
            shape = (len(self.graphs), len(self.steps.vocabulary) + 2)
            self.chances = draw_uniform(
                shape, generator=self.generator, device=self.z_tree.device, dtype=torch.float64
            )

    def _perturbed(self, logits: Tensor, rows: list[int]) -> Tensor:
        """Logits whose largest is a draw, those below it draws without replacement."""
        if not self.sample:
            return logits
        u = self.chances[rows, : logits.shape[1]].clamp(1e-12, 1 - 1e-12)
        return logits - (-u.log()).log()

    def _roots(self) -> None:
        self._draw()
        rows = list(range(len(self.graphs)))
        sizes = torch.tensor([g.size for g in self.graphs], device=self.z_tree.device)
        none = torch.full_like(sizes, -1)
        logits = self.steps.label_logits(self.down[:, 0], self.z_tree, sizes, none)
        for graph, label in zip(self.graphs, self._perturbed(logits, rows).argmax(1).tolist(),
                                strict=True):  # fmt: skip
            graph.add(label)

    def _step(self, walking: list[int]) -> list[int]:
        """One step of each graph that is still walking; gives those that go on."""
        steps, device = self.steps, self.z_tree.device
        here = [self.current[b] for b in walking]
        labels = [self.graphs[b].labels[k] for b, k in zip(walking, here, strict=True)]
        left = [self.graphs[b].remaining for b in walking]
        x = steps.tree.label(torch.tensor(labels, device=device))
        remaining = torch.tensor(left, device=device)
        up, up_gated = self.up[walking, here], self.up_gated[walking, here]
        heard = self.down[walking, here] + up
        logit = steps.tree.more(x, heard, self.z_tree[walking], remaining)
        wanted = logit > 0
        if self.sample:
            wanted = self.chances[walking, -1] < torch.sigmoid(logit)
        full = [len(self.graphs[b].labels) == self.most[b] for b in walking]
        # The first cluster ends the tree, and not before there are enough nodes; no cluster is left
        # where nothing could be attached to those above it.
        more = [
            n > 0 and not f and (m or k == 0 or not graph.open(graph.parents[k]))
            for m, n, k, f, graph in zip(
                wanted.tolist(), left, here, full, (self.graphs[b] for b in walking), strict=True
            )
        ]
        growing = [r for r, m in enumerate(more) if m]
        if growing:
            gated = self.down_gated[walking, here] + up_gated
            down = steps.tree.messages.combined(x[growing], heard[growing], gated[growing])
            rows = [walking[r] for r in growing]
            for r, grown in zip(growing, self._grow(rows, down, remaining[growing]), strict=True):
                more[r] = grown
        closing = [r for r, m in enumerate(more) if not m and here[r] > 0]
        if closing:
            message = steps.tree.messages.combined(x[closing], up[closing], up_gated[closing])
            self._close([walking[r] for r in closing], message)
        done = {walking[r] for r, m in enumerate(more) if not m and here[r] == 0}
        return [b for b in walking if b not in done]

    def _grow(self, rows: list[int], down: Tensor, remaining: Tensor) -> list[bool]:
        """Give the current cluster of some graphs a child; whether there is one that fits."""
        device = down.device
        parents = [self.current[b] for b in rows]
        above = [self.graphs[b].labels[k] for b, k in zip(rows, parents, strict=True)]
        logits = self.steps.label_logits(
            down, self.z_tree[rows], remaining, torch.tensor(above, device=device)
        )
        logits = self._perturbed(logits, rows)
        best = logits.topk(min(TRIES, logits.shape[1]), dim=1)
        found: list[tuple | None] = []
        for b, parent, labels, values in zip(
            rows, parents, best.indices.tolist(), best.values.tolist(), strict=True
        ):
            graph = self.graphs[b]
            tried = (
                (
                    label,
                    [
                        option
                        for option in graph.attachments(parent, label)
                        if graph.leads_on(parent, label, *option)
                    ],
                )
                for label, value in zip(labels, values, strict=True)
                if value > -torch.inf
            )
            found.append(next(((label, options) for label, options in tried if options), None))
        grown = {r: one for r, one in enumerate(found) if one is not None}
        chosen = self._attach(
            [(r, rows[r], above[r], *one) for r, one in grown.items()], parents, down
        )
        for r, (label, options) in grown.items():
            graph = self.graphs[rows[r]]
            graph.add(label, parents[r], *options[chosen.get(r, 0)])
        if grown:
            self._descend([rows[r] for r in grown], down[[*grown]])
        return [one is not None for one in found]

    def _attach(self, choices: list[tuple], parents: list[int], down: Tensor) -> dict[int, int]:
        """Which option each choice among several takes, by its row."""
        choices = [c for c in choices if len(c[-1]) > 1]
        if not choices:
            return {}
        rows = [r for r, *_ in choices]
        graphs = [b for _, b, *_ in choices]
        sites = Sites.of(
            [
                (above, label, self.graphs[b].attached[parents[r]], options, 0)
                for r, b, above, label, options in choices
            ],
            down.device,
        )
        features = self.steps.attachments.features(self.steps.tables, sites, down[rows])
        log_p = self.steps.attachment_log_probs(features, sites, self.z_graph[graphs])
        table = log_p.new_full((len(rows), max(len(c[-1]) for c in choices)), -torch.inf)
        owner = sites.option[:, 0]
        table[owner, torch.arange(len(owner), device=owner.device) - sites.chosen[owner]] = log_p
        if self.sample:
            below = table.double().exp().cumsum(1)
            u = self.chances[graphs, -2][:, None] * below[:, -1:]
            taken = torch.searchsorted(below, u, right=True)[:, 0]
        else:
            taken = table.argmax(1)
        most = torch.tensor([len(c[-1]) - 1 for c in choices], device=taken.device)
        return dict(zip(rows, taken.minimum(most).tolist(), strict=True))

    def _descend(self, rows: list[int], down: Tensor) -> None:
        """Go to the child that was just added, which hears a message."""
        new = [len(self.graphs[b].labels) - 1 for b in rows]
        labels = [self.graphs[b].labels[-1] for b in rows]
        x = self.steps.tree.label(torch.tensor(labels, device=down.device))
        self.down[rows, new] = down
        self.down_gated[rows, new] = self.steps.tree.messages.gated(x, down)
        for b, k in zip(rows, new, strict=True):
            self.current[b] = k

    def _close(self, rows: list[int], message: Tensor) -> None:
        """Go back to the parent, which hears a message."""
        parents = [self.graphs[b].parents[self.current[b]] for b in rows]
        labels = [self.graphs[b].labels[k] for b, k in zip(rows, parents, strict=True)]
        x = self.steps.tree.label(torch.tensor(labels, device=message.device))
        self.up[rows, parents] += message
        self.up_gated[rows, parents] += self.steps.tree.messages.gated(x, message)
        for b, k in zip(rows, parents, strict=True):
            self.current[b] = k
