"""The model card: a page in Markdown that tells users of the Hugging Face hub what a model is.

It is made from the model's files when the model is uploaded (`graphcnf.hub.repository.push`). It
begins with YAML that the hub reads, with licence and tags. *Figures* are numbers that say how good
the model is; the card gives each with its source or the command that measures it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from graphcnf.messages import printable

FIGURES = {
    "samples": "molecules drawn",
    "strict_validity": "valid",
    "uniqueness": "unique among the valid",
    "novelty": "not in the training data",
    "fcd": "FCD",
}
"""Keys of `graphcnf evaluate --json` that the card shows, with the words that it uses for them."""

INTENDED = {
    "molecules": "Drawing and scoring molecules that resemble the training data, as suggestions "
    "that a chemist reviews.",
    "data": "Drawing and scoring records that resemble the training data.",
}
"""Intended use if the user names none, for models of molecules and of other data."""

LIMITS = (
    "Nothing but the training data says what is likely: rare things are rare, what training lacks "
    "may have the probability 0, and mistakes in the data are learned.",
    "Records that are near to training records may reveal them.",
)
"""Limits of every model, which each card names."""

LIMITS_OF_MOLECULES = (
    "A valid molecule need not be stable, safe or possible to make; no property was measured.",
)
"""Further limits of models of molecules."""


def model_card(
    files: Mapping[str, bytes],
    name: str,
    *,
    licence: str,
    intended: str | None = None,
    limits: str | None = None,
    figures: Mapping[str, Any] | None = None,
) -> str:
    """Write the model card of a model, in Markdown.

    Args:
        files: `{name: content}` of the model's files; "config.json" must be among them.
        name: "org/name" of the repository, for the examples of use.
        licence: Licence of the weights, such as "mit".
        intended: Sentences about what the model is meant for; None for a general one.
        limits: A sentence about what the model does not do, beside the limits of every model; None
            to add nothing.
        figures: What `graphcnf evaluate --json` wrote of a sample of the model, `{figure: value}`;
            None to show only what training has recorded.

    Returns:
        The text, which begins with the YAML. Control characters in it are made harmless.
    """
    config = json.loads(files["config.json"])
    metadata = config["metadata"]
    of_molecules = "vocabulary" in metadata
    known = [*(LIMITS_OF_MOLECULES if of_molecules else ()), *LIMITS, *([limits] if limits else [])]
    parts = [
        _front(licence, of_molecules),
        f"# {name}",
        "A categorical normalizing flow of the Python package graphcnf.",
        f"## Use\n\n{_usage(name, of_molecules)}",
        f"## Data\n\n{_listed(_data(config))}",
        f"## Figures\n\n{_figures(name, metadata, figures)}",
        f"## Intended use\n\n{intended or INTENDED['molecules' if of_molecules else 'data']}",
        f"## Limits\n\n{_listed(known)}",
        f"## Licence\n\nThe weights: {licence}. The licence of the training data is its owner's.",
        f"## Files\n\n{_listed(_checksums(files))}",
    ]
    return printable("\n\n".join(parts) + "\n")


def _front(licence: str, of_molecules: bool) -> str:
    """Return the YAML at the beginning, in which texts are JSON strings, which YAML includes."""
    tags = ["graphcnf", "normalizing-flows", *(["chemistry", "molecules"] if of_molecules else [])]
    lines = [
        f"license: {json.dumps(licence)}",
        "library_name: graphcnf",
        f"tags: {json.dumps(tags)}",
    ]
    return "\n".join(["---", *lines, "---"])


def _listed(lines) -> str:
    return "\n".join(f"- {' '.join(str(line).split())}" for line in lines)


def _usage(name: str, of_molecules: bool) -> str:
    """Return the code that loads and draws; the commit stands for one that the reader chooses."""
    kind = "MoleculeFlow" if of_molecules else "CategoricalModel"
    code = [
        "```python",
        f"from graphcnf import {kind}  # pip install 'graphcnf[hub]'",
        "",
        f'model = {kind}.from_pretrained("{name}")  # "{name}@COMMIT" to pin it',
        "print(model.sample(5, seed=0))",
        "```",
    ]
    if of_molecules:
        code += ["", "```bash", f"graphcnf generate --model {name} -n 5", "```"]
    return "\n".join(code)


def _data(config: Mapping[str, Any]) -> list[str]:
    """Return lines about the training data, as far as the metadata have it."""
    metadata, lines = config["metadata"], []
    if "dataset" in metadata:
        lines.append(f"Name: {metadata['dataset']}")
    counts = metadata.get("size_histogram", [])
    sizes = [size for size, count in enumerate(counts) if count]
    if sizes:
        lines.append(f"{sum(counts):,} training graphs of {sizes[0]} to {sizes[-1]} nodes")
    atoms = metadata.get("vocabulary", {}).get("atoms", [])
    if atoms:
        elements = sorted({str(atom[0]) for atom in atoms})
        lines.append(f"{len(atoms)} kinds of atoms, of the elements {', '.join(elements)}")
    if "data" in metadata:
        lines.append(f"Kind: {metadata['data'].get('kind')}")
    conditions = [one["name"] for one in config["model"].get("conditions") or []]
    if conditions:
        lines.append(f"Properties that can be asked for: {', '.join(conditions)}")
    return lines or ["The metadata say nothing."]


def _figures(name: str, metadata: Mapping[str, Any], figures: Mapping[str, Any] | None) -> str:
    """Return the figures that training has recorded, and those of a sample, as Markdown."""
    training = metadata.get("training", {})
    held_out = training.get("held_out", {})
    budget = [f"{key} {training[key]}" for key in ("steps", "minutes", "seed") if key in training]
    lines = []
    if held_out:
        lines = [f"Recorded by `graphcnf train` on held-out data ({', '.join(budget)}):", ""]
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {key} | {value} |" for key, value in sorted(held_out.items())]
    if figures is not None:
        lines += ["", "Of a sample, by `graphcnf evaluate FILE --json`, where FILE is from", ""]
        lines += [f"    graphcnf generate --all --model {name} -n {figures.get('samples')}", ""]
        lines += ["| figure | value |", "|---|---|"]
        shown = {key: figures[key] for key in FIGURES if figures.get(key) is not None}
        lines += [f"| {FIGURES[key]} | {value} |" for key, value in shown.items()]
    return "\n".join(lines).strip() or "None were recorded."


def _checksums(files: Mapping[str, bytes]) -> list[str]:
    """Return a line with the SHA-256 of each file."""
    return [f"`{name}`: SHA-256 {hashlib.sha256(data).hexdigest()}" for name, data in files.items()]
