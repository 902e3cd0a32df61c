"""Fine-tuning: trained weights learn the molecules of a user, and never get worse on them."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphcnf.compute.files import claim, inside, is_claimed, read_json, replace_file
from graphcnf.errors import UserError, require
from graphcnf.graphs.model import GraphCNF
from graphcnf.graphs.path.enlargement import enlarged
from graphcnf.molecules.flow import MoleculeFlow
from graphcnf.molecules.properties import Feature, property_table
from graphcnf.molecules.vocabulary import CODEC_VERSION
from graphcnf.training.finetuning_report import course, expectation, news, sampled, story
from graphcnf.training.folds import fold_experiment
from graphcnf.training.processes import is_main, leave_unless_main
from graphcnf.training.settings import Experiment, TrainingSettings, load_config

REQUEST = "finetune.json"
"""File of a run's folder with the arguments of the run."""

PASSES = 3, 12
"""Passes over many and over few molecules, if nothing ends a run before."""

NEW_FACTOR = 3
"""Multiplies the passes if the weights lack categories of the molecules."""

MANY = 3000
"""Molecules from which on passes become fewer, with the root of their number."""

LEARNING_RATE, ENOUGH = 1e-3, 2000
"""Learning rate for at least `ENOUGH` molecules.

It falls with the root of their number for fewer, except in cross-validation, which finds the step
at which to end.
"""

LEAST_STEPS = 200
"""Steps of the longest run on few molecules: the evaluations end it long before."""

FEW_HELD_OUT = 30
"""With fewer held-out molecules by hash, the number of steps is chosen by cross-validation."""

FOLDS = 4
"""Folds of the cross-validation."""

SMALL_BATCH = 16
"""Molecules per step of each copy of the model in a cross-validation."""

TOLERANCE = 0.03
"""Share of the cross-validated bits by which a later step may be worse and still be kept.

Its samples are more like the molecules.
"""

LEAST_MOLECULES = 20
LARGEST_HELD_OUT = 1000
PATIENCE = 4
PERCENTILES = 1000
"""Molecules whose scores give the percentiles."""


@dataclass
class FineTuning:
    """Result of a fine-tuning.

    Attributes:
        flow: The fine-tuned model, that of the best evaluation.
        figures: `molecules`, `training`, `held_out`, `folds` (of the cross-validation, 0 for
            none), `evaluated` (molecules that chose the step); `new` (categories and sizes that
            the weights lacked); `bits_per_molecule` and `bits_per_node` of held-out molecules,
            number of atoms given, each with `before` and `after`; `steps`, `best_step`,
            `planned_steps`, `minutes`; `samples`, `before`, `after` (of as many samples:
            `strict_validity`, `uniqueness`, `copied`, shares) and `features` (each with `name`,
            `before`, `after`, `data`).
        story: The course and the outcome, in sentences.
        signal: Number of the signal that interrupted it, or None; the figures are empty then.
    """

    flow: MoleculeFlow
    figures: dict[str, Any]
    story: list[str]
    signal: int | None = None


def finetune(
    flow: MoleculeFlow,
    data,
    out: str | Path,
    *,
    minutes: float | None = None,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    features: Sequence[Feature] = (),
    samples: int = 1000,
    say: Callable[[str], None] = print,
) -> FineTuning:
    """Teach a model some molecules.

    The weights are evaluated on held-out molecules before the first step and then every half pass;
    those of the best evaluation are kept, and training ends when several in a row are worse. Where
    one molecule in ten is fewer than `FEW_HELD_OUT`, all are learned, and copies of the model, each
    without one of `FOLDS` folds, say which step is the best. A call with the same arguments after a
    kill goes on where the run was.

    Args:
        flow: A model that codes molecules atom by atom. It stays as it is.
        data: A `MoleculeDataset`, such as `graphcnf.datasets.load_smiles_file` makes, in categories
            of its own; one molecule in ten, chosen by a hash, is held out where these are enough.
        out: Folder of the run; `model/` in it will hold the fine-tuned weights.
        minutes: Time at most, about; what the number of molecules asks for when None.
        seed: Seed of everything random.
        settings: Entries of `TrainingSettings` to use instead of those chosen.
        features: Patterns and properties whose share or mean samples before and after are reported.
        samples: Samples before and after, 0 for none.
        say: Takes lines that say what goes on.

    Raises:
        UserError: Too few molecules, a model of another kind, or a folder with another run.

    Examples:
        >>> from graphcnf.datasets import load_smiles_file
        >>> mine = [f"{'C' * k}NC(=O)c1ccc({x})cc1" for k in range(1, 9) for x in "CFNOS"]
        >>> _ = Path("mine.smi").write_text(chr(10).join(mine))
        >>> flow = MoleculeFlow.from_pretrained("zinc250k")
        >>> options = {"samples": 0, "settings": {"steps": 4}, "say": lambda line: None}
        >>> tuned = finetune(flow, load_smiles_file("mine.smi"), "runs/mine", **options)
        >>> bits = tuned.figures["bits_per_molecule"]
        >>> bits["after"] <= bits["before"]
        True
    """
    require("lightning", "training", "train")
    out, before = Path(out), flow
    say = say if is_main() else lambda line: None
    flow, data = prepared(flow, data)
    for line in expectation(before, flow, data):
        say(line)
    request = _request(before, data, minutes=minutes, seed=seed, settings=settings)
    resume = _resumable(out, request)
    config = inside(out, "config.toml")
    if resume and config.exists():
        chosen = TrainingSettings.from_dict(load_config(config)["training"])
    else:
        new = flow.vocabulary != before.vocabulary
        chosen = _settings(flow, data, new, minutes, seed, settings or {})
    say(
        f"plan: up to {chosen.steps} steps of {chosen.batch_size} molecules, learning rate "
        f"{chosen.learning_rate:g} after {chosen.warmup_steps} steps, average over the last "
        f"{chosen.ema_horizon:g}, {chosen.patience} worse evaluations end it"
    )
    experiment = _experiment(flow, data, chosen.batch_size)
    from graphcnf.training.loop import fit

    if not resume:
        claim(out, "training")
        replace_file(inside(out, REQUEST), (json.dumps(request, indent=1) + "\n").encode())
    result = fit(experiment, chosen, out, resume)
    leave_unless_main()
    if not result.finished:
        return FineTuning(flow, {}, [], result.signal)
    flow = _with_percentiles(out, data)
    figures = {**_counts(data, chosen), "new": news(before, flow), **course(result, chosen)}
    if samples:
        figures |= sampled(before, flow, data, features, samples, seed)
    return FineTuning(flow, figures, story(figures))


def _with_percentiles(out: Path, data) -> MoleculeFlow:
    """Load the model of a finished run, and save it with the scores of training molecules."""
    flow = MoleculeFlow.from_pretrained(inside(out, "model"))
    # Any of them: a file may be sorted by size.
    known = np.random.default_rng(0).permutation(data.split("train"))[:PERCENTILES]
    flow.learn_percentiles(data.graphs.subset(known))
    flow.save_pretrained(out / "model")
    return flow


def _counts(data, settings: TrainingSettings) -> dict[str, int]:
    """Return the numbers of molecules of a fine-tuning, by their use."""
    held_out = len(data.split("test"))
    return {
        "molecules": len(data),
        "training": len(data.split("train")),
        "held_out": held_out,
        "folds": 0 if held_out else FOLDS,
        "evaluated": min(held_out, 4 * settings.batch_size * settings.eval_batches) or len(data),
    }


def prepared(flow: MoleculeFlow, data) -> tuple[MoleculeFlow, Any]:
    """Return a model that can represent all of the data, and the data in its categories.

    Raises:
        UserError: The model is of another kind, or there are too few molecules.
    """
    distinct = len(np.unique(data.hashes))
    if distinct < LEAST_MOLECULES:
        raise UserError(
            f"{distinct} distinct molecules: too few to fine-tune; {LEAST_MOLECULES} are the "
            "least, some hundreds are better"
        )
    if len(data.split("test")) < FEW_HELD_OUT:
        data = replace(data, test_indices=np.array([], dtype=int))
    known = flow.vocabulary
    data = data if known.marked else data.without_marks()
    vocabulary = known.extended(data.vocabulary)
    data = data.in_categories(vocabulary)
    model = enlarged(
        flow.model,
        data.graphs,
        node_sources=known.nearest_atoms(vocabulary),
        edge_sources=known.nearest_bonds(vocabulary),
        edge_weights=vocabulary.bond_orders,
    )
    hashes, own = flow.model.training_hashes, data.training_hashes()
    # Molecules that the weights were trained on are not novel.
    model.training_hashes = own if hashes is None else np.union1d(hashes, own)
    model.metadata = {
        "dataset": data.name,
        "vocabulary": vocabulary.to_dict(),
        "size_histogram": _with_known_sizes(data.size_histogram(), flow.model),
        "rdkit": version("rdkit"),
        "codec": CODEC_VERSION,
        "weights": {
            "dataset": flow.model.metadata.get("dataset"),
            **flow.model.metadata.get("training", {}),
        },
    }
    return MoleculeFlow(model), data


def _with_known_sizes(histogram: np.ndarray, model: GraphCNF) -> list[float]:
    """Return the histogram with one more molecule, spread over the sizes that the model knows.

    So every size that had a probability keeps one.
    """
    known = model.size_probabilities()
    sizes = np.zeros(max(len(histogram), len(known)))
    sizes[: len(histogram)] = histogram
    sizes[: len(known)] += known
    return [round(size, 9) for size in sizes.tolist()]


def plan(molecules: int, *, new: bool = False, few: bool = False, **given) -> TrainingSettings:
    """Return settings for a number of molecules to learn from.

    Molecules that are like those of the weights are learned within two or three passes and by heart
    after; a new element takes more of them. So the plan is long, patience ends it, and the best
    averaged weights are kept. Evaluations are half a pass apart, the average looks back over the
    last tenth of the run, and the rate falls linearly from the end of the warm-up on. Few molecules
    are learned in batches of `SMALL_BATCH`, so that several copies cost no more than one.

    Args:
        molecules: Their number.
        new: Whether they have categories that the weights do not know.
        few: Whether the number of steps is chosen by cross-validation.
        **given: Settings to use instead; the number of steps decides on those that go with it.

    Raises:
        UserError: A setting that there is not, or a bad value.
    """
    given = {"keep_best": True, **({"batch_size": SMALL_BATCH} if few else {}), **given}
    if not given["keep_best"]:
        raise UserError("fine-tuning: keep_best cannot be false: the best weights are the result")
    checked = TrainingSettings.from_dict(given, "fine-tuning")
    passes = max(PASSES[0], PASSES[1] * min(1.0, math.sqrt(MANY / molecules)))
    passes *= NEW_FACTOR if new else 1
    least = LEAST_STEPS if few else 1
    steps = checked.steps or max(least, round(passes * molecules / checked.batch_size))
    rate = LEARNING_RATE if few else LEARNING_RATE * math.sqrt(min(1.0, molecules / ENOUGH))
    tenth, half_a_pass = max(1, steps // 10), max(5, round(molecules / checked.batch_size / 2))
    chosen = {
        "steps": steps,
        "learning_rate": float(f"{rate:.2g}"),
        "warmup_steps": min(50, tenth),
        "decay_fraction": 1.0,
        "ema_horizon": float(min(100, tenth)),
        "log_every": tenth,
        "eval_minutes": 0.0,
        "eval_steps": min(tenth, half_a_pass),
        "tolerance": TOLERANCE if few else 0.0,
        "patience": PATIENCE,
        "checkpoint_minutes": 0.5,
        "threads": 1,
    }
    return TrainingSettings.from_dict({**chosen, **given}, "fine-tuning")


def _settings(flow, data, new: bool, minutes, seed: int, given: dict) -> TrainingSettings:
    """Return the plan for these molecules, cut to the time if there is a limit."""
    TrainingSettings.from_dict({"keep_best": True, **given}, "fine-tuning")
    if minutes is not None and "steps" in given:
        raise UserError("fine-tuning: minutes and steps exclude each other")
    held_out, learned = len(data.split("test")), len(data.split("train"))
    given = {**given, "seed": seed, "new": new, "few": not held_out}
    settings = plan(learned, **given)
    # A fold is evaluated in batches of its own.
    batches = -(-min(held_out, LARGEST_HELD_OUT) // (4 * settings.batch_size)) or len(data)
    given = {"eval_batches": batches, "final_eval_batches": batches, **given}
    cpu = settings.accelerator == "cpu" or (
        settings.accelerator == "auto" and not torch.accelerator.is_available()
    )
    if minutes is not None and (settings.processes > 1 or not cpu):
        given["minutes"] = minutes
    elif minutes is not None:
        assert settings.steps is not None
        experiment = _experiment(flow, data, settings.batch_size)
        affordable = int(60 * minutes / _seconds_per_step(experiment, settings))
        given["steps"] = max(1, min(settings.steps, affordable))
    return plan(learned, **given)


def _seconds_per_step(experiment: Experiment, settings: TrainingSettings, steps: int = 4) -> float:
    """Measure the seconds of a step, evaluations included; the weights stay as they are."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    seconds, model = [], experiment.model
    for number, batch in enumerate(experiment.train_batches(0, settings.seed, 0)):
        began = time.perf_counter()
        model.training_loss(batch)[0].backward()  # type: ignore[operator]
        seconds.append(time.perf_counter() - began)
        model.zero_grad(set_to_none=True)
        if number == steps:
            break
    # The first step is slower; updates and evaluations cost about as much as a third of a step.
    return 1.3 * float(np.mean(seconds[1:] or seconds))


def _request(flow: MoleculeFlow, data, **given) -> dict[str, Any]:
    """Return the arguments that determine a run, in a form that can be compared."""
    digest = hashlib.sha256()
    for name, tensor in sorted(flow.model.state_dict().items()):
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    molecules = hashlib.sha256("\n".join(data.smiles).encode())
    request = {"weights": digest.hexdigest(), "molecules": molecules.hexdigest(), **given}
    return json.loads(json.dumps(request, sort_keys=True))


def _resumable(out: Path, request: dict[str, Any]) -> bool:
    """Return True where the folder holds this run.

    Raises:
        UserError: It holds another one.
    """
    if is_main():
        is_claimed(out, "training")
    path = inside(out, REQUEST)
    if not path.exists():
        if (out / "checkpoints" / "last.ckpt").exists():
            raise UserError(f"{out} holds another run: choose another folder")
        return False
    try:
        stored = read_json(path)
    except (OSError, ValueError):
        raise UserError(f"{path}: unreadable; choose another folder") from None
    if stored != request:
        known = stored if isinstance(stored, dict) else {}
        other = [name for name, value in request.items() if known.get(name) != value]
        raise UserError(
            f"{out} holds a run with other {', '.join(other) or 'arguments'}: choose another folder"
        )
    return True


def _experiment(flow: MoleculeFlow, data, batch_size: int) -> Experiment:
    """Join a model with the molecules, cross-validated where none are held out."""

    def words(row: dict[str, Any]) -> str | None:
        if row["phase"] != "eval":
            return None
        return f"step {row['step']}: {row['bits_per_molecule']:.3f} bits per held-out molecule"

    model, train = flow.model.train(), data
    names = [table["name"] for table in model.conditions]
    if names:  # the properties that the model takes
        train = replace(data, targets=property_table(data.smiles, names))
    if len(data.split("test")):
        held_out = partial(data.test_batches, 4 * batch_size)
        found = Experiment(model, partial(train.train_batches, batch_size), held_out)
    else:
        found = fold_experiment(model, train, FOLDS, batch_size)
    found.headline, found.words = "bits_per_molecule", words
    return found
