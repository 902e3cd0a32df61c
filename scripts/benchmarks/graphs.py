"""Planar graphs, block models, trees and lobsters, made as in papers, beside published figures.

- *Planar* graphs can be drawn in a plane without crossing edges. *Stochastic block models* have
  blocks of nodes with many edges inside and few between them. Both: Martinkus et al. 2022,
  "SPECTRE: Spectral Conditioning Helps to Overcome the Expressivity Limits of One-shot Graph
  Generators", arXiv 2204.01613: 200 graphs each, 128 for training and 32 for validation.
- *Trees*: Bergmeister et al. 2024, arXiv 2312.11529.
- *Lobsters* are trees whose nodes are at most two edges away from a path: Liao et al. 2019, "GRAN",
  arXiv 1910.00760.

The headline figure is the share of valid, unique and novel graphs; *valid* are those of the kind
that was learned.
"""

from __future__ import annotations

import io
import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import networkx as nx
import numpy as np
import typer

from graphcnf.discrete.categorical_model import CategoricalModel
from graphcnf.errors import UserError, suggest
from graphcnf.evaluation.layout import Column, number, percent, text
from graphcnf.file_writing import write_file
from graphcnf.graphs.building import draws_raw, without_rules
from graphcnf.messages import say
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts.benchmarks.runner import (
    Minutes,
    Out,
    Samples,
    Seed,
    check_budget,
    published,
    write,
)

TRAINING, VALIDATION = 128, 32
NODES = 64  # of a planar graph, and of a tree
SPINE, LEG = 80, 0.7  # of a lobster: mean length of its path, probability of one more neighbour
LOBSTER = (10, 100)  # fewest and most nodes of a lobster
BLOCKS, IN_BLOCK = (2, 5), (20, 40)  # fewest and most blocks, and nodes in one
INSIDE, BETWEEN = 0.3, 0.005  # probabilities of an edge in a block and between two
SETTINGS: dict[str, dict[str, Any]] = {
    "planar": {"batch_size": 16, "network": {"architecture": "faces"}},
    "blocks": {"batch_size": 8, "network": {"architecture": "growth"}},
    "trees": {"batch_size": 16},
    "lobsters": {"batch_size": 16},
}
RATE = 2e-3  # learning rate
PENALTY = 20  # of a block, in log N nats


def graphs(
    kinds: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KIND...", help="planar, blocks, trees, lobsters.", show_default="all"
        ),
    ] = None,
    seed: Seed = 0,
    minutes: Minutes = 60,
    samples: Samples = 100,
    folder: Annotated[Path, option("Folder of the runs; finished ones are kept."), Role.RUN] = Path(
        "runs/graphs"
    ),
    picture: Annotated[
        Path | None, option("Also draw some graphs: .png or .svg."), Role.OUTPUT
    ] = None,
    out: Out = None,
) -> None:
    """Train on planar graphs, block models, trees or lobsters, and evaluate samples."""
    rows: list[dict[str, Any]] = []
    shown: dict[str, list[nx.Graph]] = {}
    for kind in kinds or KINDS:
        if kind not in KINDS:
            raise UserError(f"{kind}: no such graphs{suggest(kind, list(KINDS))}")
        make = KINDS[kind]
        random = np.random.default_rng(seed)
        known = [make(random) for _ in range(TRAINING + VALIDATION)]
        place = folder / kind / f"seed-{seed}"
        if not (place / "model" / "config.json").exists():
            share = VALIDATION / len(known)
            CategoricalModel.fit(
                known,
                seed=seed,
                minutes=minutes,
                clock="cpu",
                held_out=share,
                patience=0,  # All have the budget of the table; the best weights count.
                out=place,
                learning_rate=RATE,
                **SETTINGS[kind],
            )
        model = CategoricalModel.from_pretrained(place)
        check_budget(place, model.flow.metadata["training"]["minutes"], minutes)
        drawn = {"data, drawn anew": [make(random) for _ in range(samples)]}
        if not draws_raw(model.flow):
            drawn["GraphCNF, planar by rule"] = model.sample(samples, seed=seed)
            model.flow = without_rules(model.flow)
        drawn["GraphCNF"] = model.sample(samples, seed=seed)
        for method, found in drawn.items():
            rows.append({"kind": kind, "method": method, **count(found, known, VALID[kind])})
            say(f"{kind}, {method}: {rows[-1]}")
        rows += published("graphs", kind=kind)
        shown[kind] = list(drawn.values())[1][:4]  # of the model, by its rule if it has one
    columns: list[Column] = [
        ("Graphs", text("kind")),
        ("Model", text("method")),
        ("Valid", percent("valid")),
        ("Unique", percent("unique")),
        ("Novel", percent("novel")),
        ("V.U.N.", percent("vun")),
        ("Edges", number("edges", 1)),
        ("Triangles", number("triangles", 1)),
        ("Source", text("source")),
    ]
    notes = [
        f"{samples} graphs each at temperature 1, seed {seed}; {minutes:g} minutes of CPU time for "
        f"each training. Valid: planar of {NODES} nodes and connected; block models of "
        f"{BLOCKS[0]} to {BLOCKS[1]} blocks of {IN_BLOCK[0]} to {IN_BLOCK[1]} nodes that pass the "
        "likelihood-ratio test; blocks are found by modularity, then nodes move to the block of "
        f"the largest likelihood; trees of {NODES} nodes; lobsters of {LOBSTER[0]} to {LOBSTER[1]} "
        "nodes. The model of trees and lobsters has no closures if no training graph has any: then "
        "all that it draws are trees. The rule drops edges that would make a graph non-planar, so "
        f"that each connected graph of {NODES} nodes is valid, of an untrained model as well: "
        "compare edges and triangles.",
    ]
    write(out, rows, columns, notes)
    if picture is not None:
        draw(shown, picture)


def planar(random: np.random.Generator) -> nx.Graph:
    """Draw a planar graph: the Delaunay triangulation of 64 random points (`NODES`) in a square.

    Args:
        random: Random generator.
    """
    from scipy.spatial import Delaunay

    graph = nx.Graph()
    for corners in Delaunay(random.random((NODES, 2))).simplices.tolist():
        nx.add_cycle(graph, corners)
    return graph


def block_model(random: np.random.Generator) -> nx.Graph:
    """Draw a connected graph of a stochastic block model, with more edges inside of blocks.

    It has 2 to 5 blocks of 20 to 40 nodes. Two nodes of a block have an edge with probability 0.3,
    nodes of different blocks with 0.005.

    Args:
        random: Random generator.
    """
    while True:
        count = random.integers(BLOCKS[0], BLOCKS[1] + 1)
        sizes = random.integers(IN_BLOCK[0], IN_BLOCK[1] + 1, size=count)
        block = np.repeat(np.arange(count), sizes)
        p = np.where(block[:, None] == block, INSIDE, BETWEEN)
        upper = np.triu(random.random(p.shape) < p, 1)
        graph = nx.from_numpy_array(upper | upper.T, edge_attr=None)
        if nx.is_connected(graph):
            return graph


def tree(random: np.random.Generator) -> nx.Graph:
    """Draw a uniformly random tree of 64 numbered nodes (`NODES`), by its Prüfer sequence.

    Args:
        random: Random generator.
    """
    return nx.from_prufer_sequence(random.integers(NODES, size=NODES - 2).tolist())


def lobster(random: np.random.Generator) -> nx.Graph:
    """Draw a lobster of 10 to 100 nodes: a path, neighbours of its nodes, and neighbours of these.

    The path has up to 160 nodes (twice `SPINE`). Every node of the path and every neighbour of one
    gets further neighbours, as long as a uniform number lies below 0.7 (`LEG`). Graphs of other
    sizes are drawn again.

    Args:
        random: Random generator.
    """
    while True:
        graph = nx.path_graph(int(random.integers(1, 2 * SPINE + 1)))
        ends = list(graph)
        for _ in range(2):
            legs = random.geometric(1 - LEG, size=len(ends)) - 1
            first = len(graph)
            graph.add_edges_from(zip(np.repeat(ends, legs).tolist(), itertools.count(first)))
            ends = list(range(first, len(graph)))
        if LOBSTER[0] <= len(graph) <= LOBSTER[1]:
            return graph


def is_planar(graph: nx.Graph) -> bool:
    """Return True for a connected planar graph of 64 nodes (`NODES`)."""
    return len(graph) == NODES and nx.is_connected(graph) and nx.check_planarity(graph)[0]


def is_tree(graph: nx.Graph) -> bool:
    """Return True for a tree of 64 nodes (`NODES`)."""
    return len(graph) == NODES and nx.is_tree(graph)


def is_lobster(graph: nx.Graph) -> bool:
    """Return True for a lobster of 10 to 100 nodes (`LOBSTER`).

    A lobster is a tree of which a path, or nothing, is left after its leaves were removed twice.

    Args:
        graph: A graph, which stays as it is.
    """
    if not (LOBSTER[0] <= len(graph) <= LOBSTER[1] and nx.is_tree(graph)):
        return False
    rest = graph.copy()
    for _ in range(2):
        rest.remove_nodes_from([node for node, degree in rest.degree if degree == 1])
    return all(degree <= 2 for _, degree in rest.degree)


def likely_blocks(graph: nx.Graph) -> np.ndarray:
    """Divide a graph into blocks such that its likelihood under the block model is high.

    Starting from communities by modularity (Blondel et al. 2008) at several resolutions, nodes move
    one by one to the block that raises the likelihood most. Of these divisions the best one is
    returned, where each block costs 20 log N nats (`PENALTY`), so that blocks are not split.

    Args:
        graph: A graph of N nodes, numbered from 0.

    Returns:
        Number of the block of each node, (N,) int64.
    """
    adjacency = nx.to_numpy_array(graph, weight=None) > 0
    weight = np.where(adjacency, math.log(INSIDE / BETWEEN), math.log((1 - INSIDE) / (1 - BETWEEN)))
    np.fill_diagonal(weight, 0)
    place = {node: k for k, node in enumerate(graph)}
    best, found = -math.inf, np.zeros(len(graph), dtype=int)
    for resolution in (0.25, 0.5, 0.75, 1.0):
        block = np.zeros(len(graph), dtype=int)
        parts = nx.community.louvain_communities(graph, seed=0, resolution=resolution)
        for k, nodes in enumerate(parts):
            block[[place[node] for node in nodes]] = k
        for _ in graph:
            members = np.eye(len(parts))[block]
            score = np.where(members.any(0), weight @ members, -np.inf)
            gain = score.max(1) - score[np.arange(len(graph)), block]
            if gain.max() <= 0:
                break
            block[gain.argmax()] = score[gain.argmax()].argmax()
        used = len(np.unique(block))
        total = weight[block[:, None] == block].sum() / 2 - PENALTY * used * math.log(len(graph))
        if total > best:
            best, found = total, np.unique(block, return_inverse=True)[1]
    return found


def is_block_model(graph: nx.Graph) -> bool:
    """Return True if a graph could come from `block_model`, by SPECTRE's test.

    The graph must be connected, and is divided by `likely_blocks`. There must be 2 to 5 blocks of
    20 to 40 nodes. The densities of edges, inside of and between blocks, must agree with those of
    the model: the mean p-value of a Wald test must exceed 0.9.

    Args:
        graph: The graph.
    """
    from scipy.stats import chi2

    if not nx.is_connected(graph):
        return False
    block = likely_blocks(graph)
    sizes = np.bincount(block)
    if not (BLOCKS[0] <= len(sizes) <= BLOCKS[1]):
        return False
    if sizes.min() < IN_BLOCK[0] or sizes.max() > IN_BLOCK[1]:
        return False
    members = np.eye(len(sizes))[block]
    edges = members.T @ nx.to_numpy_array(graph, weight=None) @ members
    same = np.eye(len(sizes), dtype=bool)
    pairs = np.where(same, sizes * (sizes - 1), sizes[:, None] * sizes)
    found, wanted = edges / pairs, np.where(same, INSIDE, BETWEEN)
    statistic = (found - wanted) ** 2 / (found * (1 - found) + 1e-6)
    return float((1 - chi2.cdf(statistic, 1)).mean()) > 0.9


KINDS = {"planar": planar, "blocks": block_model, "trees": tree, "lobsters": lobster}
VALID = {
    "planar": is_planar,
    "blocks": is_block_model,
    "trees": is_tree,
    "lobsters": is_lobster,
}


def count(
    found: list[nx.Graph], known: list[nx.Graph], valid: Callable[[nx.Graph], bool]
) -> dict[str, float]:
    """Return the shares of drawn graphs that are valid, distinct and new.

    Graphs with the same hash of neighbourhoods (Shervashidze et al. 2011) count as one.

    Args:
        found: Drawn graphs.
        known: Training graphs.
        valid: Function that returns True for a graph of the kind that was learned.

    Returns:
        A dict of the shares "valid", "unique", "novel" and "vun" (all three at once), in [0, 1];
        and of the mean numbers of "edges" and "triangles" of a graph.
    """
    with warnings.catch_warnings():
        # networkx warns that its hashes differ between versions, which does not matter here.
        warnings.simplefilter("ignore", UserWarning)
        seen = {nx.weisfeiler_lehman_graph_hash(graph) for graph in known}
        keys = [nx.weisfeiler_lehman_graph_hash(graph) for graph in found]
    fine = [valid(graph) for graph in found]
    good = {key for key, ok in zip(keys, fine, strict=True) if ok and key not in seen}
    return {
        "valid": float(np.mean(fine)),
        "unique": len(set(keys)) / len(keys),
        "novel": float(np.mean([key not in seen for key in keys])),
        "vun": len(good) / len(found),
        "edges": float(np.mean([graph.number_of_edges() for graph in found])),
        "triangles": float(np.mean([sum(nx.triangles(graph).values()) / 3 for graph in found])),
    }


def draw(shown: dict[str, list[nx.Graph]], file: Path) -> None:
    """Draw graphs into a picture file, a row for each kind.

    Args:
        shown: `{kind: graphs}`; nodes of the kind "blocks" are coloured by `likely_blocks`.
        file: File to write; its suffix is that of the format, such as ".svg".
    """
    from matplotlib.figure import Figure

    most = max(map(len, shown.values()))
    figure = Figure(figsize=(3 * most, 3 * len(shown)), layout="tight")
    axes = figure.subplots(len(shown), most, squeeze=False)
    for line, (kind, found) in zip(axes, shown.items(), strict=True):
        for ax, graph in zip(line, found, strict=False):
            flat = nx.check_planarity(graph)[0]
            first = nx.planar_layout(graph) if flat else None
            place = nx.kamada_kawai_layout(graph, pos=first)
            block = likely_blocks(graph) if kind == "blocks" else np.zeros(len(graph), dtype=int)
            colours = [f"C{k}" for k in block]
            nx.draw_networkx_edges(graph, place, ax=ax, width=0.5, edge_color="gray")
            nx.draw_networkx_nodes(graph, place, ax=ax, node_size=14, node_color=colours)
    for ax in axes.flat:
        ax.axis("off")
    content = io.BytesIO()
    figure.savefig(content, format=file.suffix[1:], dpi=100)
    write_file(file, content.getvalue())
