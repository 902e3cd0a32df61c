"""Molecules and models evaluated: validity, distribution metrics, tables, report."""

from graphcnf.registry import Registry, lazy_names

_NAMES = (
    "fcd", "nspdk", "snn", "frag", "scaf", "int_div1", "int_div2", "pains", "mcf", "filters",
    "logp_w1", "qed_w1", "sa_w1", "weight_w1",
    "atoms_tv", "elements_tv", "charges_tv", "bonds_tv", "rings_tv",
)  # fmt: skip
METRICS = Registry(
    "metrics", {name: f"graphcnf.evaluation.metrics:{name.upper()}" for name in _NAMES}
)
"""Distribution metrics by name, in the order of tables; each is a `Metric` of `metrics.py`."""


def parse_metrics(text: str) -> tuple[str, ...]:
    """Read names of distribution metrics from a text.

    `text` is "all", "none", or names separated by commas. They come in the order of tables.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in ("all", "none"):
            METRICS.find(name, "metric")
    return tuple(name for name in METRICS if name in names or "all" in names)


# `evaluate` is a module of this package; the function is `graphcnf.evaluate`.
__getattr__, __dir__, _names = lazy_names(
    __name__,
    {
        "ModelSamples": "evaluate",
        "Reference": "evaluate",
        "Metric": "metrics",
        "Statistic": "metrics",
        "write_report": "report",
        "Comparison": "statistics",
        "SetStatistics": "statistics",
        "compare": "statistics",
        "set_statistics": "statistics",
        "Summary": "summary",
        "summarize": "summary",
        "Evaluation": "tables",
    },
)
__all__ = ["METRICS", "parse_metrics", *_names]
