"""Distribution metrics: the one table that commands, tables and reports read.

All of them compare valid molecules without stereo; invalid samples have to be left out and reported
beside the figures, and duplicates count as often as they occur. Distances between finite sets are
above 0 even for two samples of one distribution: hold them against the distance of the reference to
another set of real molecules of the same size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import iadd
from typing import Any

from graphcnf.errors import UserError
from graphcnf.evaluation import chemnet, counts, nspdk, similarity
from graphcnf.molecules import properties


@dataclass(frozen=True)
class Feature:
    """A statistic of a set of molecules; that of the whole is the sum of those of its parts.

    Memory does not grow with the number of molecules, or with that of distinct texts only.

    Attributes:
        name: Key in `SetStatistics.values`.
        of: Its value for a list of sanitized molecules: a `Counter` of texts, or an array. A
            function at the top level of a module (or a partial of one), so that worker processes
            can find it. Raises `Unavailable` where a package is missing.
        add: The value of two lists together; it may be the first one's, changed.
        on_device: True where `of` takes a `device` as well.
    """

    name: str
    of: Callable[..., Any]
    add: Callable[[Any, Any], Any] = counts.add_counts
    on_device: bool = False


@dataclass(frozen=True)
class Metric:
    """A figure of a generated set, given a reference.

    Attributes:
        name: Name for the command line, and key of the figure in JSON and CSV.
        title: Name in tables.
        better: "lower", "higher", or "as the reference".
        needs: The feature of both sets that it compares.
        function: The figure, from the feature of the generated and of the reference set. Raises
            `Unavailable` where there is none.
        axis: Label of a histogram of the feature in reports, "" for no histogram. The values are
            decimals where the metric is a Wasserstein distance, and categories otherwise.
    """

    name: str
    title: str
    better: str
    needs: Feature
    function: Callable[[Any, Any], float]
    axis: str = ""


def _diversity(power: int, generated: Any, reference: Any) -> float:
    return similarity.internal_diversity(generated, power)


def _counted(name: str, function: Callable) -> Feature:
    return Feature(name, partial(counts.histogram, function))


def _wasserstein(name: str, title: str, axis: str, function: Callable, decimals: int) -> Metric:
    feature = Feature(name, partial(counts.rounded, function, decimals))
    title = f"{title}, Wasserstein"
    return Metric(f"{name}_w1", title, "lower", feature, counts.wasserstein, axis)


def _variation(name: str, title: str, axis: str, function: Callable) -> Metric:
    title = f"{title}, total variation"
    feature = _counted(name, function)
    return Metric(f"{name}_tv", title, "lower", feature, counts.total_variation, axis)


def _passed(name: str, title: str, function: Callable) -> Metric:
    feature = Feature(name, partial(counts.judged, function))
    return Metric(name, title, "higher", feature, counts.passed_share)


_CHEMNET = Feature("chemnet", chemnet.chemnet_sums, iadd, on_device=True)
_NSPDK = Feature("nspdk", nspdk.nspdk_sums, iadd)
_PRINTS = Feature("fingerprints", similarity.fingerprints, similarity.add_fingerprints)
_FRAGMENTS = _counted("fragments", counts.brics_fragments)
_SCAFFOLDS = _counted("scaffolds", counts.scaffolds)
_TABLE = (
    Metric("fcd", "FCD", "lower", _CHEMNET, chemnet.frechet_distance),
    Metric("nspdk", "NSPDK MMD", "lower", _NSPDK, nspdk.nspdk_distance),
    Metric("snn", "SNN", "higher", _PRINTS, similarity.nearest_similarity),
    Metric("frag", "Frag", "higher", _FRAGMENTS, counts.cosine),
    Metric("scaf", "Scaf", "higher", _SCAFFOLDS, counts.cosine),
    Metric("int_div1", "IntDiv1", "as the reference", _PRINTS, partial(_diversity, 1)),
    Metric("int_div2", "IntDiv2", "as the reference", _PRINTS, partial(_diversity, 2)),
    _passed("pains", "free of PAINS alerts", counts.passes_pains),
    _passed("mcf", "free of MCF alerts", counts.passes_mcf),
    _passed("filters", "Filters", counts.passes_filters),
    _wasserstein("logp", "logP", "logP", properties.logp, 4),
    _wasserstein("qed", "QED", "QED", properties.qed, 5),
    _wasserstein("sa", "SA score", "SA score", properties.sa, 4),
    _wasserstein("weight", "molecular weight", "molecular weight (g/mol)", properties.weight, 3),
    _variation("atoms", "number of atoms", "heavy atoms", counts.atoms),
    _variation("elements", "elements", "element", counts.elements),
    _variation("charges", "formal charges", "formal charge", counts.charges),
    _variation("bonds", "bond types", "bond type", counts.kekule_bonds),
    _variation("rings", "ring sizes", "ring size", counts.ring_sizes),
)

METRICS = {metric.name: metric for metric in _TABLE}
"""Every metric by name, in the order of a table. One of your own is one more entry."""


def chosen_metrics(names: Sequence[str] | None = None) -> tuple[Metric, ...]:
    """Return metrics by name, all of them for None.

    Raises:
        ValueError: There is no such metric.
    """
    chosen = tuple(METRICS if names is None else names)
    for name in chosen:
        if name not in METRICS:
            raise ValueError(f"no metric {name!r}: choose from {', '.join(METRICS)}")
    return tuple(METRICS[name] for name in chosen)


def features_of(names: Sequence[str] | None = None) -> tuple[Feature, ...]:
    """Return the features that metrics need, each once; see `chosen_metrics`."""
    needed = {metric.needs.name: metric.needs for metric in chosen_metrics(names)}
    return tuple(needed.values())


def parse_metrics(*texts: str | None) -> tuple[str, ...]:
    """Return the names of metrics, in the order of a table, of "all", "none" or "fcd,snn".

    Raises:
        UserError: There is no such metric.
    """
    names = [part.strip() for text in texts if text is not None for part in text.split(",")]
    for name in names:
        if name not in ("all", "none", *METRICS):
            raise UserError(f"no metric {name!r}: write all or some of {', '.join(METRICS)}")
    return tuple(name for name in METRICS if name in names or "all" in names)
