"""Scores of molecules: log-likelihood, bits per atom, percentile among the training molecules.

- *Log-likelihood*: log p(molecule) under a model, in nats, or a lower bound on it.
- *Bits per atom*: minus the log-likelihood in bits, divided by the number of atoms; lower is more
  likely.
- *Percentile*: the share of training molecules of similar size that are less likely. It tells
  whether a log-likelihood is usual, which depends on the size. It compares bits per atom *given the
  size*, to which the probability of the number of atoms does not contribute.
- *Group of sizes*: neighbouring numbers of atoms whose training molecules are compared together. A
  model stores quantiles of the bits per atom of each group in its metadata.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from rdkit import Chem

from graphcnf.chemistry.standardize import charge_states_of, cut_off, standardized
from graphcnf.chunks import chunked
from graphcnf.compute.parallel import parallel_map
from graphcnf.errors import UserError
from graphcnf.graphs.batch import GraphBatch, PackedGraphs
from graphcnf.graphs.records import one_thread
from graphcnf.limits import is_number
from graphcnf.messages import counted
from graphcnf.molecules import codec

if TYPE_CHECKING:
    from graphcnf.molecules.molecule_model import MoleculeModel

CHUNK = 512
"""Molecules that a process scores at a time."""

GROUP_SIZE, QUANTILES = 100, 101
"""Of the likelihood percentiles: least number of molecules in a group of sizes, and the number of
quantiles of a group."""

TAIL, TAIL_SIZE = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01), 10_000
"""Percentiles below 1 that are stored as well, for groups of at least so many molecules."""


def score(
    flow: MoleculeModel,
    molecules: str | Chem.Mol | Iterable,
    *,
    orders: int = 1,
    standardize: bool = False,
    workers: Any = None,
) -> pd.DataFrame:
    """Return a table with the log-likelihood of each molecule; `MoleculeModel.score` calls it.

    Molecules that are none, such as None, get a row with a reason. For `orders` see `log_prob`;
    with `standardize`, molecules are scored without salts and charged like the training data.
    Columns:

    - `smiles`: as given; with `standardize` also `standardized`, the SMILES that was scored;
    - `log_likelihood`: nats (`log_prob`); NaN if the model cannot represent the molecule. A model
      without a node ordering, such as `zinc250k-unordered`, gives that of one ordering; that of the
      molecule is larger by log(n! / |Aut|);
    - `stereo`: the part due to stereo marks, nats, and `stereo_exact`, False for a lower bound;
    - `bits_per_atom`; with several `orders` also `bits_per_atom_one_order`, of the canonical
      ordering alone, to which the percentile belongs;
    - `percentile`: per cent of the training molecules of similar size that are less likely; NaN if
      the model stores no quantiles; `percentile_below`: True if it is only an upper bound;
    - `reason`: why the model cannot represent the molecule, or which atoms were cut off.
          which atoms were cut off.
    """
    molecules = codec.list_molecules(molecules)
    if workers is None and (len(molecules) <= 4 * CHUNK or flow.model.device.type != "cpu"):
        workers = 1
    states = charge_states_of(flow) if standardize else None
    score = partial(_score, flow, orders=orders, states=states)
    chunks = chunked(molecules, CHUNK) or [[]]
    parts = parallel_map(score, chunks, workers=workers, label="scoring molecules")
    return pd.concat(parts, ignore_index=True)


def _score(
    flow: MoleculeModel, molecules: list, orders: int, states: frozenset[str] | None
) -> pd.DataFrame:
    """Return the table of `score` for some of the molecules, computed in this process."""
    text = [Chem.MolToSmiles(m) if isinstance(m, Chem.Mol) else m for m in molecules]
    columns = {"smiles": text}
    refused: dict[int, str] = {}
    if states is not None:
        molecules = []
        for number, smiles in enumerate(text):
            try:
                molecules.append(standardized(str(smiles), states))
            except codec.MoleculeNotRepresentable as error:
                refused[number] = str(error)
                molecules.append(None)
        columns["standardized"] = molecules
    graphs, found = flow.graphs(molecules)
    reasons = [refused.get(number, reason) for number, reason in enumerate(found)]
    sizes = np.asarray(graphs.node_counts)
    with one_thread(flow.model.device):
        given_size = flow.model.log_prob(graphs, orders=orders).numpy()
        canonical = given_size if orders == 1 else flow.model.log_prob(graphs).numpy()
        inside = [number for number, reason in enumerate(reasons) if reason is None]
        marks = None if flow.stereo is None else flow.stereo.scores([molecules[k] for k in inside])
    of_sizes = flow.model.size_prior.log_prob(torch.from_numpy(graphs.node_counts)).numpy()
    of_others = of_sizes if marks is None else of_sizes + marks.nats
    nats, of_one = given_size + of_others, canonical + of_others
    table = pd.DataFrame({"log_likelihood": nats}, index=inside)
    if marks is not None:
        table["stereo"] = marks.nats
        table["stereo_exact"] = marks.exact.astype(object)
    table["bits_per_atom"] = -nats / math.log(2) / sizes
    if orders > 1:
        table["bits_per_atom_one_order"] = -of_one / math.log(2) / sizes
    known = _stored_quantiles(flow.model.metadata)
    places, below = percentiles(known, sizes, -canonical / math.log(2) / sizes)
    table["percentile"], table["percentile_below"] = places, below
    table[~np.isfinite(nats)] = np.nan
    for k in np.flatnonzero(~np.isfinite(nats)).tolist():
        reasons[inside[k]] = _impossible(flow, graphs.subset([k]))
    for number, reason in enumerate(reasons) if states is not None else ():
        if reason is not None and number not in refused:
            with codec.quiet():
                lost = cut_off(str(text[number]), molecules[number])
            reasons[number] = f"{reason}; standardizing cut off {lost}" if lost else reason
    frame = pd.DataFrame(columns, dtype=object).join(table)
    return frame.assign(reason=pd.Series(reasons, dtype=object))


def _impossible(flow: MoleculeModel, graph: PackedGraphs) -> str:
    """Say why a model gives a graph the probability 0."""
    size = int(graph.node_counts[0])
    if not flow.model.size_prior.probabilities()[size]:
        return f"no training molecule has {counted(size, 'atom')}"
    if not flow.model.knows(GraphBatch.collate(graph).to(flow.model.device)).all():
        return flow.model.why_unknown
    if flow.model.config.get("environments") is not None:
        return "an atom with bonds and neighbours that no atom in the training data has"
    return "an atom with more bonds than its category has in the training data"


def learn_percentiles(flow: MoleculeModel, molecules: PackedGraphs) -> None:
    """Store quantiles of the training molecules' bits per atom in a model, for `percentiles`.

    The table of `likelihood_quantiles` is stored in `flow.model.metadata["likelihood_quantiles"]`,
    in place. Fine-tuning calls this function once the weights are final.
    """
    sizes = molecules.node_counts
    bits = -flow.model.log_prob(molecules).numpy() / math.log(2) / sizes
    flow.model.metadata["likelihood_quantiles"] = likelihood_quantiles(sizes, bits)


def likelihood_quantiles(sizes: np.ndarray, bits: np.ndarray) -> list[dict[str, Any]]:
    """Return the quantiles of the bits per atom of molecules, for each group of neighbouring sizes.

    Sizes are joined in ascending order until a group has at least 100 molecules (`GROUP_SIZE`).
    Sizes that remain at the end, with fewer molecules together, are joined with the last group. If
    there are fewer than 100 molecules in all, they are one group.

    Returns:
        Dicts of "largest", the largest number of atoms; "quantiles", 101 (`QUANTILES`) of the bits
        per atom in even steps, the most likely first; and, for at least 10,000 molecules
        (`TAIL_SIZE`), "tail": [percentile, bits per atom] for 0.5, ..., 0.01 per cent (`TAIL`).
    """
    ends: list[int] = []
    count = 0
    for size, here in zip(*np.unique(sizes, return_counts=True), strict=True):
        count += here
        if count >= GROUP_SIZE:
            ends.append(int(size))
            count = 0
    # The last group also contains the remaining sizes.
    ends = [*ends[:-1], int(sizes.max())]
    groups, table = np.searchsorted(ends, sizes), []
    for k, end in enumerate(ends):
        own = bits[groups == k]
        steps = np.quantile(own, np.linspace(0, 1, QUANTILES)).round(4).tolist()
        group = {"largest": end, "quantiles": steps}
        if len(own) >= TAIL_SIZE:
            rare = np.quantile(own, 1 - np.array(TAIL) / 100).round(4).tolist()
            group["tail"] = [list(pair) for pair in zip(TAIL, rare, strict=True)]
        table.append(group)
    return table


def _stored_quantiles(metadata: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the likelihood quantiles that the metadata of a model hold; [] if they hold none."""
    groups = metadata.get("likelihood_quantiles", [])
    try:
        _check_quantiles(groups)
    except (KeyError, OverflowError, TypeError, ValueError) as error:
        reason = error if type(error) is ValueError else "no list of quantiles"
        raise UserError(f"model: config.json: metadata.likelihood_quantiles: {reason}") from None
    return groups


def _check_quantiles(groups: list[dict[str, Any]]) -> None:
    """Raise an error unless groups of likelihood quantiles hold finite numbers in order."""
    if not isinstance(groups, list):
        raise TypeError
    ascending = [[group["largest"] for group in groups]]
    for group in groups:
        *steps, last = group["quantiles"]
        if not steps:
            raise ValueError("two quantiles or more are needed in a group")
        tail = group.get("tail", [])
        shares = [share for share, _ in tail]
        rare = [bits for _, bits in tail]
        ascending.append([*steps, *rare, last])
        ascending.append([*shares[::-1], 1])
    for numbers in ascending:
        if not all(is_number(value) and math.isfinite(value) for value in numbers):
            raise ValueError("all numbers must be finite")
        if numbers != sorted(numbers):
            raise ValueError("the numbers must be in ascending order")


def percentiles(
    table: list[dict[str, Any]], sizes: np.ndarray, bits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return in per cent how many training molecules of similar size are less likely.

    Nothing is extrapolated: a molecule less likely than the lowest stored percentile of its group
    gets that percentile, which is then an upper bound.

    Returns:
        (percentages, below), (M,) each: NaN without a table and for bits that are not finite; and
        whether each is only an upper bound, None where it is NaN.
    """
    groups = np.searchsorted([group["largest"] for group in table[:-1]], sizes)
    places = np.full(len(bits), np.nan)
    below = np.full(len(bits), None, dtype=object)
    for k, group in enumerate(table):
        here = (groups == k) & np.isfinite(bits)
        # The last step is the least likely of the molecules, of which nothing follows for others.
        even = zip(np.linspace(100, 0, len(group["quantiles"])), group["quantiles"], strict=True)
        shares, known = zip(*[*list(even)[:-1], *group.get("tail", [])], strict=True)
        places[here] = np.interp(bits[here], known, shares)
        below[here] = (bits[here] > known[-1]).astype(object)
    return places, below


def percentile_text(percentile: float, below: bool | None) -> str:
    """Write a percentile of the table of `score` for people; "" if it is NaN.

    Examples:
        >>> percentile_text(0.1, True), percentile_text(0.034, False), percentile_text(99.99, False)
        ('< 0.1 %', '0.034 %', '> 99.9 %')
    """
    if math.isnan(percentile):
        return ""
    if below:
        return f"< {percentile:g} %"
    if percentile > 99.9:
        return "> 99.9 %"
    return f"{percentile:.1f} %" if percentile >= 1 else f"{percentile:.2g} %"
