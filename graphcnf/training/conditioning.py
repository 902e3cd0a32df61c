"""Measured columns as conditions of a model that is trained on them.

- *Measured column*: a column of numbers in the user's file, such as pIC50, which the package cannot
  compute for other molecules.
- *Surrogate* of a column: a Gaussian process that predicts it (`graphcnf.chemistry.surrogate`).
- *Members* of a surrogate: the molecules with a value, to which it is fitted. Its *domain* is the
  molecules that are as similar to members as these are to each other.
- *Condition*: a number of a whole molecule, such as logP or a measured column, near which a model
  can be asked to draw.
- *Target* of a molecule: the value of a condition that the molecule has; NaN if unknown.
- *Labelled samples*: molecules that the model draws itself, with the values that the surrogate
  predicts.

Some hundred values are too few to learn a conditional density from: of 300 molecules, a model
learned nothing before it memorised them. So fine-tuning learns the molecules first. Then the model
takes the columns as conditions, and learns to draw by them from the measured molecules together
with labelled samples (`learn_columns`). Only the parameters of the conditions are trained, so that
the model stays exactly as it is where no value is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphcnf.chemistry.descriptors import PROPERTIES
from graphcnf.chemistry.properties import property_table
from graphcnf.chemistry.surrogate import (
    Quality,
    Surrogate,
    give_surrogate,
    sentence,
    surrogates_of,
)
from graphcnf.datasets.molecules import encode
from graphcnf.file_reading import inside
from graphcnf.file_writing import replace_file
from graphcnf.graphs.batch import GraphBatch
from graphcnf.graphs.building import with_conditions
from graphcnf.graphs.conditions import condition_statistics
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.run_folder import claim
from graphcnf.training.history import FORMATS, picture_content
from graphcnf.training.settings import Experiment, TrainingSettings, exit_unless_main

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from graphcnf.datasets.molecules import MoleculeDataset

HIGH = 0.95
"""Quantile of the measured values that samples are asked for, to see whether they follow."""

SAMPLES = 4000
"""Labelled samples."""

STEPS, BATCH, RATE = 250, 32, 4e-3
"""Steps in which the conditions are learned, molecules in a step, and learning rate."""

TAKEN = ("seed", "steps", "threads", "accelerator", "devices", "bf16")
"""Settings of the fine-tuning that the training of conditions takes over."""

EVALUATED = 4
"""Held-out batches of an evaluation, each four times as large as those of training."""

OF_CONDITIONS = ("condition_embedding", "contributions", "size_network")
"""Names of the modules of a model that its conditions alone use."""

BINS, FEWEST_IN_BIN = 12, 20
"""Bins of values that are drawn equally often in training, and molecules that a bin counts at
least, so that few molecules do not come too often."""

ASKED = 200
"""Samples with and without a target at most, by which a model is judged."""


def with_columns(model: GraphModel, data: MoleculeDataset) -> GraphModel:
    """Return a model that takes the measured columns of a data set as conditions.

    The model ignores new conditions until it is trained with them. Columns that it knows already
    keep their mean and standard deviation. The data of the columns' surrogates (Gaussian processes
    that predict the columns) are stored in the metadata of the returned model.

    It is `model` itself if it knows all columns, else a copy.
    """
    known = names_of(model)
    tables = condition_statistics(data.columns, data.targets[data.split("train")])
    new = [table for table in tables if table["name"] not in known]
    if new:
        model = with_conditions(model, new)
    return with_surrogates(model, data)


def names_of(model: GraphModel) -> list[str]:
    """Return the names of the conditions that a model takes, such as "logp", in their order."""
    return [table["name"] for table in model.conditions]


def learn_columns(
    model: Path,
    data: MoleculeDataset,
    folder: Path,
    given: dict[str, Any],
    say: Callable[[str], None],
) -> tuple[MoleculeFlow, int | None]:
    """Teach a model to draw molecules by measured columns; `finetune` calls it last.

    The training is a run of its own, which continues where it was interrupted.

    The second result is the signal that interrupted the run, or None; after one, the model is that
    at the start.

    Args:
        folder: Folder of the run, in which the model at its start is saved as well.
        given: Settings of the fine-tuning, of which "seed", "threads", "accelerator", "devices",
            "bf16", and "steps" below 250 are used (`TAKEN`, `STEPS`). All others are chosen here.
    """
    from graphcnf.training.loop import fit

    claim(folder, "training")
    start = inside(folder, "start")
    if not inside(start, "config.json").exists():
        MoleculeFlow.from_pretrained(model).save_pretrained(start)
    flow = MoleculeFlow.from_pretrained(start)
    network: Any = with_columns(flow.model, data)
    found = surrogates_of(network)
    surrogates = [found[name] for name in data.columns]
    settings = _plan(given)
    joint = _with_samples(data, flow, surrogates, settings.seed)
    say(
        f"learning {', '.join(data.columns)}: {len(data):,} molecules of the file, and "
        f"{len(joint) - len(data):,} samples of the model with the values that the surrogate gives"
    )
    if not flow.model.conditions:  # whose contributions would be fitted anew
        values = np.stack([one.predictions(joint.smiles) for one in surrogates], 1)
        batch = GraphBatch.collate(joint.graphs, np.arange(len(joint)))
        network.fit_contributions(replace(batch, condition_values=torch.from_numpy(values)))
    joint = with_targets(joint, names_of(network), computed)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(any(part in OF_CONDITIONS for part in name.split(".")))
    columns = [names_of(network).index(name) for name in data.columns]
    batches = partial(_batches, joint, columns, settings.batch_size)
    held_out = partial(_held_out, joint, columns, 4 * settings.batch_size)
    experiment = Experiment(network.train(), batches, held_out, data=joint)
    experiment.headline, experiment.log_line = "bits_per_graph", _log_line
    result = fit(experiment, settings, folder, inside(folder, "config.toml").exists())
    exit_unless_main()
    learned = MoleculeFlow.from_pretrained(folder) if result.finished else flow
    return learned, result.signal


def _log_line(row: dict[str, Any]) -> str | None:
    """Return the line of the log for a row of metrics; None for a row of training batches."""
    if row["phase"] != "eval":
        return None
    return f"step {row['step']}: {row['bits_per_graph']:.3f} bits per held-out molecule, by values"


def _plan(given: dict[str, Any]) -> TrainingSettings:
    """Return the settings of the training of conditions."""
    given = {key: given[key] for key in TAKEN if key in given}
    steps = min(given.pop("steps", STEPS), STEPS)
    chosen = {
        "steps": steps,
        "batch_size": BATCH,
        "learning_rate": RATE,
        "warmup_steps": max(1, steps // 12),
        "decay_fraction": 1.0,
        "ema_horizon": float(max(1, steps // 10)),
        "log_every": max(1, steps // 10),
        "eval_minutes": 0.0,
        "eval_steps": max(1, steps // 5),
        "eval_batches": EVALUATED,
        "final_eval_batches": EVALUATED,
        "keep_best": True,
        "checkpoint_minutes": 0.5,
        "threads": 1,
    }
    return TrainingSettings.from_dict({**chosen, **given}, "fine-tuning")


def computed(data: MoleculeDataset, names: Sequence[str]) -> np.ndarray:
    """Compute P properties of M molecules, in their units, (M, P)."""
    return property_table(data.smiles, names)


def _with_samples(
    data: MoleculeDataset, flow: MoleculeFlow, surrogates: Sequence[Surrogate], seed: int
) -> MoleculeDataset:
    """Return a data set of the measured molecules, followed by labelled samples."""
    known = set(data.smiles)
    drawn = dict.fromkeys(flow.sample(SAMPLES, seed=seed, stereo=False).smiles)
    smiles = [text for text in drawn if text is not None and text not in known]
    joint = encode(data.name, [*data.smiles, *smiles], vocabulary=flow.vocabulary, workers=1)
    values = np.stack([one.predictions(smiles) for one in surrogates], 1)
    return replace(joint, columns=data.columns, targets=np.concatenate([data.targets, values]))


def _batches(
    data: MoleculeDataset, columns: Sequence[int], size: int, epoch: int, seed: int, start: int
) -> Iterator[GraphBatch]:
    """Yield the training batches of an epoch, all values of the columns equally common."""
    train = data.split("train")
    chances = _chances(data.targets[train][:, columns])
    for number in range(start, -(-len(train) // size)):
        random = np.random.default_rng((seed, epoch, number))
        chosen = random.choice(train, size, p=chances)
        values = data.targets[chosen]
        # Any part of several conditions may be known, but a single one is.
        hidden = random.random(values.shape) < random.random((size, 1))
        yield _batch(data, chosen, np.where(hidden & (values.shape[1] > 1), np.nan, values))


def _held_out(data: MoleculeDataset, columns: Sequence[int], size: int) -> Iterator[GraphBatch]:
    """Yield batches of held-out molecules with all conditions that are known."""
    test, random = data.split("test"), np.random.default_rng(0)
    chances = _chances(data.targets[test][:, columns])
    for _ in range(EVALUATED):
        rows = random.choice(test, size, p=chances)
        yield _batch(data, rows, data.targets[rows])


def _batch(data: MoleculeDataset, rows: np.ndarray, values: np.ndarray) -> GraphBatch:
    """Return a batch of molecules with conditions."""
    batch = GraphBatch.collate(data.graphs, rows)
    batch.condition_values = torch.from_numpy(values.astype(np.float32))
    return batch


def _chances(values: np.ndarray) -> np.ndarray:
    """Return probabilities by which molecules are drawn, so that all values come equally often."""
    weights = np.zeros(len(values))
    for column in values.T:
        known = np.flatnonzero(~np.isnan(column))
        low, high = np.quantile(column[known], [0.02, 0.98])
        place = np.digitize(column[known], np.linspace(low, high, BINS - 1))
        counts = np.bincount(place, minlength=BINS)
        weights[known] += 1 / np.maximum(counts[place], FEWEST_IN_BIN)
    return weights / weights.sum()


def with_surrogates(model: GraphModel, data: MoleculeDataset) -> GraphModel:
    """Store the data of the surrogates of measured columns in a model's metadata, in place."""
    for name in data.columns:
        give_surrogate(model, Surrogate.of_data(data, name))
    return model


def with_targets(
    data: MoleculeDataset,
    names: Sequence[str],
    compute: Callable[[MoleculeDataset, Sequence[str]], np.ndarray],
) -> MoleculeDataset:
    """Return a data set whose targets are the conditions of a model, in their order.

    They are NaN where unknown, and `columns` are dropped. A name may be a property that `compute`
    gives (M, P), a column of `data`, or one that only earlier data had.
    """
    targets = np.full((len(data), len(names)), np.nan)
    computed = [name for name in names if name in PROPERTIES]
    if computed:
        targets[:, [names.index(name) for name in computed]] = compute(data, computed)
    for k, name in enumerate(data.columns):
        if name in names:
            targets[:, names.index(name)] = data.targets[:, k]
    return replace(data, columns=(), targets=targets if names else None)


def column_figures(
    flow: MoleculeFlow, data: MoleculeDataset, out: Path, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Judge the surrogates of measured columns, and samples that are asked for high values.

    A picture for each column is written to the folder of the run, as PNG and SVG.

    At most 200 samples (`ASKED`) are drawn with a target, and as many without. For each column:

    - "name"; "molecules", the number that have a value; "mean" and "range" of the values;
    - "r2", the cross-validated R² of the surrogate; "covered", the share of values in the predicted
      interval of each probability, such as "80%"; "sentence", whether it can be predicted;
    - with samples "target", the 0.95 quantile of the values (`HIGH`); "without" and "asked", mean
      predictions for samples without and with it; "outside", the share of the latter outside the
      surrogate's domain.
    """
    found, surrogates = [], surrogates_of(flow.model)
    for name in data.columns:
        one, values = surrogates[name], np.array(surrogates[name].values)
        quality = one.quality()
        drawn = _asked(flow, one, float(np.quantile(values, HIGH)), min(samples, ASKED), seed)
        smiles = drawn.pop("smiles")
        found.append(
            {
                "name": name,
                "molecules": len(values),
                "mean": float(values.mean()),
                "range": [float(values.min()), float(values.max())],
                "r2": quality.r2,
                "covered": quality.intervals(),
                "sentence": sentence(one, quality),
                **drawn,
            }
        )
        figure = _picture(one, quality, smiles)
        for kind in FORMATS:
            replace_file(inside(out, f"column-{name}{kind}"), picture_content(figure, kind))
    return found


def column_text(figures: dict[str, Any]) -> list[str]:
    """Describe what `column_figures` returns for one column in sentences."""
    first = figures["sentence"]
    sentences = [f"{first[0].upper()}{first[1:]}."]
    if "target" in figures:
        name, outside = figures["name"], figures["outside"]
        sentences.append(
            f"Samples asked for {name}={figures['target']:.4g}, a value that one molecule in "
            f"{round(1 / (1 - HIGH))} exceeds, have {figures['asked']:.4g} on average as the "
            f"surrogate predicts, samples without a target {figures['without']:.4g}; {outside:.0%} "
            "of the former are farther from the molecules than these from each other."
        )
    return sentences


def _asked(
    flow: MoleculeFlow, one: Surrogate, target: float, count: int, seed: int
) -> dict[str, Any]:
    """Draw samples with and without a target value of a measured column."""
    drawn = {}
    for key, properties in (("without", None), ("asked", {one.name: target})):
        sample = flow.sample(count, seed=seed, properties=properties, best_of=1, stereo=False)
        drawn[key] = [text for text in sample.smiles if text is not None]
    if not all(drawn.values()):
        return {"smiles": []}
    means = {key: float(one.predictions(smiles).mean()) for key, smiles in drawn.items()}
    smiles = drawn["asked"]
    return {"target": target, **means, "outside": one.outside(smiles), "smiles": smiles}


def _picture(one: Surrogate, quality: Quality, smiles: Sequence[str]) -> Figure:
    """Draw predictions of held-out members, their calibration, and the domain."""
    from matplotlib.figure import Figure

    figure = Figure((11, 3.4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    low, high = one.to_dict()["range"]
    left.plot([low, high], [low, high], color="0.7")
    left.plot(quality.measured, quality.predicted, ".", ms=3)
    left.set(xlabel=f"{one.name}, measured", ylabel="predicted, cross-validated")
    left.set_title(f"R² {quality.r2:.2f}", fontsize=10)
    shares = np.linspace(0.05, 0.95, 19)
    middle.plot([0, 1], [0, 1], color="0.7")
    middle.plot(shares, [quality.covered(p) for p in shares])
    middle.set(xlabel="probability of the interval", ylabel="share of the values in it")
    middle.set_title("calibration", fontsize=10)
    for label, texts in (("members", one.smiles), ("samples", smiles)):
        if len(texts):
            share = np.full(len(texts), 1 / len(texts))
            right.hist(one.nearest(texts), 20, (0, 1), weights=share, histtype="step", label=label)
    right.axvline(one.least_similarity, color="0.7")
    right.set(xlabel="similarity to the nearest member", ylabel="share")
    right.set_title("domain: right of the line", fontsize=10)
    right.legend(frameon=False, fontsize=8)
    return figure
