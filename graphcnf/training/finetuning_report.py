"""Report of a fine-tuning: figures and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.molecules.hashing import contains, hash_each
from graphcnf.molecules.properties import Feature, has_element
from graphcnf.training.settings import TrainingSettings

if TYPE_CHECKING:
    from graphcnf.training.loop import FitResult


def expectation(before: MoleculeFlow, flow: MoleculeFlow, data) -> list[str]:
    """Say in sentences how many molecules will be learned, and which categories are new."""
    held_out = len(data.split("test"))
    learned = len(data) - held_out
    new = "; ".join(news(before, flow))
    others = f"{held_out:,} held out" if held_out else "each held out once by cross-validation"
    return [
        f"{len(data):,} molecules: {learned:,} to learn from, {others}",
        f"new to the weights: {new}" if new else "the weights have a category for all in them",
    ]


def news(before: MoleculeFlow, flow: MoleculeFlow) -> list[str]:
    """List the atoms, bonds and sizes that the model can represent and the one before could not."""
    known, vocabulary = before.vocabulary, flow.vocabulary
    found = []
    for what, labels, old, sources in (
        ("atoms", vocabulary.atom_labels, known.atom_labels, known.nearest_atoms(vocabulary)),
        ("bonds", vocabulary.bonds, known.bonds, known.nearest_bonds(vocabulary)),
    ):
        further = [f"{labels[k]} (from {old[sources[k]]})" for k in range(len(old), len(labels))]
        found += [f"{what} {', '.join(further)}"] if further else []
    old, new = (f.model.config["steps"] for f in (before, flow))
    if new["max_nodes"] > old["max_nodes"]:
        found.append(f"sizes up to {new['max_nodes']} atoms (from {old['max_nodes']})")
    if new["back"] > old["back"]:
        found.append(f"steps back of up to {new['back'] - 1} levels (from {old['back'] - 1})")
    if new["closures"] != old["closures"]:
        found.append(f"ring closures {new['closures']} (from {old['closures']})")
    sums, count = (new.get("largest_sums") or [], len(known.atoms))
    more = [
        f"{label} with {now} (from {was})"
        for label, now, was in zip(
            vocabulary.atom_labels[:count], sums, old.get("largest_sums") or [], strict=False
        )
        if now > was
    ]
    return found + ([f"more bonds at {', '.join(more)}"] if more else [])


def course(result: FitResult, settings: TrainingSettings) -> dict[str, Any]:
    """Return the figures of the training."""
    best = result.best
    assert best is not None and settings.steps is not None
    bits = {
        name: {"before": best.first[name], "after": best.metrics[name]}
        for name in ("bits_per_molecule", "bits_per_node")
    }
    return {
        **bits,
        "steps": result.step,
        "best_step": best.step,
        "planned_steps": settings.steps,
        "stopped": best.worse >= settings.patience > 0 and result.step < settings.steps,
        "minutes": round(result.minutes, 2),
        "seed": settings.seed,
    }


def sampled(
    before: MoleculeFlow,
    flow: MoleculeFlow,
    data,
    features: Sequence[Feature],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Return figures of samples before and after, and of the molecules to learn from."""
    known = {atom.symbol for atom in before.vocabulary.atoms}
    new = dict.fromkeys(a.symbol for a in flow.vocabulary.atoms if a.symbol not in known)
    features = [*features, *map(has_element, new)]
    own = data.training_hashes()
    train = [data.smiles[k] for k in data.split("train")]
    if len(train) > samples:
        chosen = np.random.default_rng(seed).permutation(len(train))[:samples]
        train = [train[k] for k in chosen]
    drawn = {"data": train}
    figures: dict[str, Any] = {"samples": samples}
    for name, one in (("before", before), ("after", flow)):
        valid = [s for s in one.sample(samples, seed=seed).smiles if s is not None]
        drawn[name] = valid
        hashes = hash_each(valid)
        figures[name] = {
            "strict_validity": len(valid) / samples,
            "uniqueness": len(set(valid)) / len(valid) if valid else 0.0,
            "copied": float(contains(own, hashes).mean()) if valid else 0.0,
        }
    figures["features"] = [
        {"name": f.name, "share": f.share, **{k: f.mean(v) for k, v in drawn.items()}}
        for f in features
    ]
    return figures


def story(figures: dict[str, Any]) -> list[str]:
    """Say in sentences what the figures mean."""
    before, after = (figures["bits_per_molecule"][k] for k in ("before", "after"))
    told = []
    if "samples" in figures:
        told.append(
            f"{figures['after']['copied']:.1%} of the samples after are copies of molecules that "
            "it learned from."
        )
    if figures["best_step"] == 0:
        told += [
            f"No evaluation was better than the start ({before:.2f} bits per held-out molecule): "
            "the model is the one it started from. A lower learning rate, or more molecules, may "
            "help."
        ]
    else:
        told += [
            f"Held-out bits per molecule fell from {before:.2f} to {after:.2f} "
            f"({after - before:+.2f}); the model is that of step {figures['best_step']}."
        ]
    if figures["stopped"]:
        told.append(
            f"Training ended by itself at step {figures['steps']} of {figures['planned_steps']}: "
            "the last evaluations were worse, the molecules were being learned by heart."
        )
    else:
        told.append(f"Training went through its {figures['steps']} steps.")
        if figures["best_step"] == figures["steps"]:
            told.append("The last evaluation was the best: more steps may go further.")
    return told
