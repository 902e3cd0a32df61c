"""Interpolate between two molecules: a path through the latents of the flow, decoded at each step.

It is used by the command `graphcnf interpolate`. The nouns:

- *Ends*: the first and the last molecule of the path.
- *Latents*: the model draws each molecule of N atoms from N times V numbers, V variables for each
  atom. Here they are mapped to the unit interval by the logistic distribution function.
- *Box* of a molecule: the set of latents that decode to it. For each variable of each atom it is an
  interval, whose width is the probability of the variable's value given the values before.
- *Path*: a straight line between two nearest points of the boxes of the ends. Variables whose
  intervals overlap stay constant along it.
- *Energy* of a path: the sum of (1 - similarity)^2 over neighbouring molecules, with the Tanimoto
  similarity of ECFP4 fingerprints. A path of low energy changes little at each step.
"""

from __future__ import annotations

import math
from collections import Counter
from functools import partial
from typing import Any

import torch
from rdkit import Chem
from torch import Tensor

from graphcnf.chemistry.filters import NO_FILTERS, Filters
from graphcnf.chemistry.properties import similarity_to
from graphcnf.design.analogues import common_places
from graphcnf.errors import UserError
from graphcnf.flows.transform import Context
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.path.path_model import PathModel
from graphcnf.graphs.records import one_thread
from graphcnf.limits import check_integer, check_seed
from graphcnf.molecules import codec
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.stereo.marks import StereoTemplate, isomeric_smiles
from graphcnf.stereo.stereo_flow import StereoFlow
from graphcnf.torch_state import default_type

MARGIN, MAX_STEPS = 0.02, 1000
"""Share of an interval between a path's end and the edge of its box; most steps, and paths."""


@default_type()
def interpolate(
    flow: MoleculeModel,
    first: str,
    last: str,
    *,
    steps: int = 10,
    paths: int = 32,
    seed: int = 0,
    filters: Filters = NO_FILTERS,
    outcomes: Counter[str] | None = None,
    stereo: bool = True,
) -> list[dict[str, Any]]:
    """Return a path of molecules from one molecule to another, through the latents of the flow.

    A variable whose intervals overlap may have any value in the overlap, and one of an atom that
    only one molecule has any value in the interval of that molecule. These values are drawn anew
    for each of `paths` paths, and the path of lowest energy is returned.

    Args:
        steps: Number of equal steps in t; the number of atoms changes evenly as well.
        paths: Number of paths that are drawn and compared.
        filters: Filters between the ends; a molecule that fails becomes None.
        outcomes: Counter of the distinct molecules of all paths by `Filters.refusal`, added to.
        stereo: True to keep the stereo marks of both ends. Each molecule adopts marks from its
            neighbour towards the nearer end; other marks are drawn.

    Returns:
        One dictionary for each of the `steps` + 1 points:

        - "t": position on the path, from 0 to 1;
        - "smiles": the molecule, None if the latents decode to no valid molecule or it is filtered
          out;
        - "similarity_a", "similarity_b": its Tanimoto similarity (ECFP4) to the first and to the
          last molecule; 0 without a molecule;
        - "log_likelihood": log-probability of its graph given its number of atoms, in nats; None
          without a molecule.
    """
    if not isinstance(flow.model, PathModel) or not flow.model.ordered:
        raise UserError('interpolation needs an ordered model that draws atom by atom ("path")')
    check_integer("steps", steps, 1, MAX_STEPS)
    check_integer("paths", paths, 1, MAX_STEPS)
    check_seed(seed)
    filters.check_sizes(flow.model.max_nodes)
    boxes = [_box(flow, smiles) for smiles in (first, last)]
    sizes = [len(lower) for lower, _ in boxes]
    ends = _nearest(boxes, paths, torch.Generator().manual_seed(seed))
    share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    nodes = (sizes[0] + share * (sizes[1] - sizes[0])).round().long()
    mask = (torch.arange(max(sizes)) < nodes[:, None]).repeat(paths, 1)
    u = torch.lerp(ends[0][:, None], ends[1][:, None], share[:, None, None]).flatten(0, 1)
    latents = torch.where(mask[..., None], torch.logit(u), 0.0)
    device = flow.model.device
    with one_thread(device):
        smiles = flow.decode({"nodes": latents.to(device)}, mask.to(device))
    between = {*smiles} - {None, smiles[0], smiles[-1]} if filters else set()
    refusals = {text: filters.refusal(Chem.MolFromSmiles(text)) for text in between}
    if outcomes is not None:
        outcomes.update(refusals.values())
    smiles = [None if refusals.get(text) else text for text in smiles]
    path = _smoothest([smiles[k : k + steps + 1] for k in range(0, len(smiles), steps + 1)])
    texts = [smiles for smiles, _, _ in path]
    values = flow.log_prob(texts).tolist()
    if stereo and flow.stereo is not None:
        texts = _marked(flow.stereo, texts, first, last, seed)
    return [
        {
            "t": round(t, 6),
            "smiles": s,
            "similarity_a": round(a, 4),
            "similarity_b": round(b, 4),
            "log_likelihood": round(nats, 4) if math.isfinite(nats) else None,
        }
        for t, s, (_, a, b), nats in zip(share.tolist(), texts, path, values, strict=True)
    ]


def _marked(
    stereo: StereoFlow, path: list[str | None], first: str, last: str, seed: int
) -> list[str | None]:
    """Return the molecules of a path with stereo marks."""
    marked, half = [*path], (len(path) + 1) // 2
    for end, numbers in ((first, range(half)), (last, range(len(path) - 1, half - 1, -1))):
        neighbour, plain = isomeric_smiles(end), path[numbers[0]] if numbers else None
        for k in numbers:
            text = path[k]
            if text is not None and text != plain:
                with codec.quiet():
                    own, mol = codec.parse(neighbour), codec.parse(text)
                template = StereoTemplate.of(own, partial(common_places, own), strict=False)
                (found,) = stereo.marked(
                    [Chem.MolToSmiles(mol)], [mol], seed=seed, first=k, template=template
                )
                neighbour, plain = found or text, text
            marked[k] = text and neighbour
    return marked


@torch.no_grad()
def _box(flow: MoleculeModel, smiles: str) -> tuple[Tensor, Tensor]:
    """Return the box of a molecule."""
    graphs, (reason,) = flow.graphs(smiles)
    if reason is not None:
        raise UserError(f"{smiles[:80]}: {reason}")
    batch = GraphBatch.collate(graphs).to(flow.model.device)
    model = flow.model
    assert isinstance(model, PathModel)
    x, known = model.code.encode(batch)
    intervals = model.network.intervals(x, Context(batch.mask))
    lower = intervals.lower[0].cpu()
    width = intervals.log_width[0].double().exp().cpu()
    if not (known.all() and (width > 0).all()):
        raise UserError(f"{smiles[:80]}: of probability 0 for the model")
    return lower, width


def _nearest(
    boxes: list[tuple[Tensor, Tensor]], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw pairs of nearest points of two boxes."""
    most = max(len(lower) for lower, _ in boxes)
    # Atoms that only the other molecule has may be anywhere: their intervals are (0, 1).
    ends = []
    for lower, width in boxes:
        missing = most - len(lower), lower.shape[1]
        lower = torch.cat([lower, lower.new_zeros(missing)])
        width = torch.cat([width, width.new_ones(missing)])
        ends.append((lower + MARGIN * width, lower + (1 - MARGIN) * width))
    (low_a, high_a), (low_b, high_b) = ends
    low, high = torch.maximum(low_a, low_b), torch.minimum(high_a, high_b)
    drawn = torch.rand((count, *low.shape), generator=generator, dtype=torch.float64)
    common = low + (high - low) * drawn
    rising = low_b > high_a
    a = torch.where(low <= high, common, torch.where(rising, high_a, low_a))
    b = torch.where(low <= high, common, torch.where(rising, low_b, high_b))
    return a, b


def _smoothest(paths: list[list[str | None]]) -> list[tuple[str | None, float, float]]:
    """Return the path of lowest energy."""
    with codec.quiet():
        mols = {s: Chem.MolFromSmiles(s) for path in paths for s in path if s is not None}
    similar = {s: similarity_to(mol) for s, mol in mols.items()}

    def similarity(a: str | None, b: str | None) -> float:
        if a is None or b is None:  # also if both are invalid
            return 0.0
        return 1.0 if a == b else similar[a](mols[b])

    def energy(path: list[str | None]) -> float:
        return sum((1 - similarity(a, b)) ** 2 for a, b in zip(path, path[1:], strict=False))

    path = min(paths, key=energy)
    return [(s, similarity(path[0], s), similarity(path[-1], s)) for s in path]
