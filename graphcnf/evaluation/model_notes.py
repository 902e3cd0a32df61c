"""Footnotes of reports on the rules by which a graph model draws, by architecture."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from graphcnf.graphs.graph_model import GraphModel

CONNECTED = "connected: by construction of the code of the connectivity."


def limits(rules: bool, environments: bool = False) -> str:
    """Return what limited the edges of nodes."""
    if rules and environments:
        return (
            "support of the data: on; nodes have the edges and neighbours that nodes in the data "
            "have, but where drawing could not complete one."
        )
    if rules:
        return "support of the data: on; sums of edge weights are at most those in the data."
    return "support of the data: off."


def _depth_first(model: GraphModel, rules: bool) -> list[str]:
    return [CONNECTED, limits(rules, model.config.get("environments") is not None)]


def _node_by_node(model: Any, rules: bool) -> list[str]:
    notes = ["connected: every node but the first has an edge."] * model.network.connected
    if rules:
        notes.append("planar: edges that would make a graph non-planar are left out.")
    return notes


def _graphaf(model: GraphModel, rules: bool) -> list[str]:
    if not rules:
        return ["valency check: off."]
    return [
        "valency check: on. These are no raw samples: a bond that gives an atom more bonds "
        "than its category has in the data is drawn again up to 50 times, and an atom without "
        "a bond ends the molecule. Bits are those of the density without it."
    ]


NOTES: dict[str, Callable[[Any, bool], list[str]]] = {
    "path": _depth_first,
    "unordered": _depth_first,
    "growth": _node_by_node,
    "graphaf": _graphaf,
    "jtvae": lambda model, rules: [limits(rules)],
}


def notes_of_rules(model: GraphModel, rules: bool) -> list[str]:
    """Return sentences on how a model draws, with its rules on or off."""
    write = NOTES.get(model.architecture)
    return write(model, rules) if write is not None else []
