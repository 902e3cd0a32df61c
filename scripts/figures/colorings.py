"""A picture of sampled colourings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from graphcnf.scripts._output import write_figure

if TYPE_CHECKING:
    from graphcnf.scripts.benchmarks.discrete import Colored

SHOWN = 8
"""Graphs in a picture."""


def draw_colorings(samples: Sequence[Colored], path: Path, count: int = SHOWN) -> None:
    """Draw the first graphs with their sampled colours as PNG, edges in conflict in red.

    Raises:
        UserError: The file cannot be written.
    """
    import networkx as nx
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    pairs = [(part, k) for part in samples for k in range(len(part.batch))][:count]
    lines = math.ceil(len(pairs) / 4)
    figure = Figure(figsize=(12, 3 * lines), dpi=100)
    axes = figure.subplots(lines, 4, squeeze=False)
    palette = colormaps["Set2"]
    for place, (part, k) in zip(axes.flat, pairs, strict=False):
        size = int(part.batch.sizes[k])
        graph = nx.from_numpy_array(part.batch.adjacency[k, :size, :size].numpy())
        colors = part.colors[k, :size].tolist()
        bad = [colors[i] == colors[j] for i, j in graph.edges]
        nx.draw_networkx(
            graph,
            nx.kamada_kawai_layout(graph),
            ax=place,
            with_labels=False,
            node_size=2400 / size**0.9,
            node_color=[palette(c % palette.N) for c in colors],
            edgecolors="#333333",
            edge_color=["#d62728" if b else "#999999" for b in bad],
            width=[2.5 if b else 1 for b in bad],
        )
        found = int(part.conflicts[k])
        words = "no conflict" if not found else f"{found} conflict{'s' if found > 1 else ''}"
        place.set_title(f"{size} nodes, {words}", fontsize=10)
    for place in axes.flat:
        place.set_axis_off()
    figure.tight_layout()
    write_figure(figure, path)
