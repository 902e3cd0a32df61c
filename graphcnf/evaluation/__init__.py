"""Molecules and models evaluated: validity, distribution metrics, tables, report."""

from graphcnf.registry import Registry

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

    Args:
        text: "all", "none", or names separated by commas, such as "fcd,snn".

    Returns:
        The names, keys of `METRICS`, each once and in the order of tables; () for "none".

    Raises:
        UserError: A name is unknown.
    """
    names = [part.strip() for part in text.split(",")]
    for name in names:
        if name not in ("all", "none"):
            METRICS.find(name, "metric")
    return tuple(name for name in METRICS if name in names or "all" in names)
