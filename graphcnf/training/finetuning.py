"""Fine-tuning of a trained model on a user's molecules, without getting worse on held-out ones.

- *Held-out* molecules: about one in ten, which the model does not learn. The weights are chosen by
  their likelihood.
- *Cross-validation* takes the place of held-out molecules if there are few: the molecules are cut
  into *folds*, and a copy of the model for each fold learns all but that one
  (`graphcnf.training.folds`).
- *Plan*: the settings of the training, chosen by the number of molecules.
- *Request*: what the caller has asked for. It is kept in the folder of the run, which is continued
  only for an equal request.
- *Figures*: numbers that describe the outcome, as JSON values by name.
- *Stereo marks*: if the model has a density of stereo marks (a `StereoFlow`), it learns the marks
  of the molecules in a second training.
- *Measured columns*: columns of the user's file, such as pIC50, by which the model learns to draw
  in a last training (`graphcnf.training.conditioning`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphcnf.arguments import check
from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.chemistry.properties import Feature, has_element
from graphcnf.chemistry.scoring import learn_percentiles
from graphcnf.errors import UserError, require
from graphcnf.file_reading import inside, read_json
from graphcnf.file_writing import replace_file
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.limits import check_integer, check_minutes
from graphcnf.molecule_flow import MoleculeFlow
from graphcnf.molecules.codec import parse
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.molecules.vocabulary import CODEC_VERSION
from graphcnf.molecules.vocabulary_building import (
    bond_orders,
    extend_vocabulary,
    merge_aromatic,
    nearest_atoms,
    nearest_bonds,
)
from graphcnf.pretrained import model_digest
from graphcnf.run_folder import claim, is_claimed
from graphcnf.training.conditioning import (
    column_figures,
    column_text,
    computed,
    learn_columns,
    names_of,
    with_targets,
)
from graphcnf.training.exclusive import learning
from graphcnf.training.folder import check_replaceable
from graphcnf.training.folds import fold_experiment
from graphcnf.training.settings import (
    Experiment,
    TrainingSettings,
    exit_unless_main,
    is_main,
    load_preset,
)
from graphcnf.training.stereo_tuning import FEW, LEAST, marked_molecules, stereo_experiment

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.datasets.stereo import StereoDataset

REQUEST = "finetune.json"
"""File in a run's folder with the arguments that determine the run."""

COLUMNS = "columns"
"""Folder in a run's folder, of the run that learns measured columns."""

BEGUN = ("config.toml", "checkpoints", "model", "snapshots", "metrics.csv")
"""Files and folders one of which a run has that has begun."""

FEW_HELD_OUT = 30
"""With fewer held-out molecules, cross-validation chooses the number of steps."""

FOLDS = 2
"""Folds of the cross-validation."""

MOST_COPIES = 0.17
"""Share of copies among drawn molecules up to which few molecules are learned further.

It is measured in one node order of each molecule, and comes out a little higher in samples.
"""

STEREO = "stereo"
"""Folder, in that of the run, of the training of stereo marks."""

STEREO_SHARE = 0.2
"""Share of a time limit that the training of stereo marks takes."""


@dataclass
class FineTuning:
    """Result of a fine-tuning.

    Attributes:
        flow: The fine-tuned model, with the weights of the best evaluation.
        figures: JSON values by name:

            - "molecules", "training", "held_out": numbers of molecules, of those learned and of
              those held out; "folds": number of folds, 0 without cross-validation; "evaluated": how
              many molecules an evaluation scores;
            - "new": categories and sizes that the given weights lacked, in words;
            - "bits_per_molecule" and "bits_per_node" of held-out molecules, given the number of
              atoms, each a dict of "before" and "after";
            - "steps", "best_step", "planned_steps", "stopped" (True if the training ended early),
              "minutes", "seed";
            - with samples "samples", their number, and "before" and "after", the shares that
              `sample_shares` returns; and "features", for each feature its "name", "share" (True if
              it is a share of molecules), and values in samples "before" and "after" and in the
              learned molecules, "data";
            - if stereo marks were learned "stereo", a dict of numbers of molecules and steps and of
              "bits_per_element" (per stereo element);
            - with measured columns "columns", what `graphcnf.training.conditioning.column_figures`
              returns.
        summary: The outcome, in sentences.
        signal: Number of the signal that interrupted the run, or None. After a signal, `figures`
            and `summary` are empty.
    """

    flow: MoleculeFlow
    figures: dict[str, Any]
    summary: list[str]
    signal: int | None = None


@learning()
def finetune(
    flow: MoleculeFlow,
    data: MoleculeDataset,
    out: str | Path,
    *,
    minutes: float | None = None,
    seed: int = 0,
    settings: dict[str, Any] | None = None,
    features: Sequence[Feature] = (),
    samples: int = 1000,
    say: Callable[[str], None] = print,
) -> FineTuning:
    """Fine-tune a model on molecules, such as a chemist's own series.

    The weights are evaluated on held-out molecules before the first step and about every half
    epoch. Those of the best evaluation are kept, and training ends after several worse evaluations
    in a row. If one molecule in ten would be fewer than `FEW_HELD_OUT` (30), the model learns all
    molecules, and cross-validation chooses the step: each of `FOLDS` (2) copies of the model learns
    all molecules but one fold, and is evaluated on that fold. If the model has a density of stereo
    marks and molecules have marks, that density is fine-tuned in the same way, and saved with the
    model.

    A call with the same arguments continues a run that was interrupted.

    After a signal such as Ctrl-C, the model is as it is then, without figures.

    Args:
        data: The molecules. Their measured `columns` become properties that molecules can be asked
            for, with surrogates that predict them.
        out: Folder of the run; its `model/` will contain the fine-tuned weights.
        minutes: Approximate time limit, at the machine's speed when training starts; None for the
            time that follows from the number of molecules.
        settings: Settings that override those that `plan` chooses, such as `{"steps": 500}`.
        features: Features whose means are reported, of the molecules and of samples.
        samples: Number of samples drawn before and after fine-tuning for the report.

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
    require("lightning_fabric", "training", "train")
    from graphcnf.training.loop import fit

    check("fine-tuning", settings or {}, TrainingSettings)
    check_integer("samples", samples)
    if minutes is not None:
        check_minutes(minutes)
    out, before = Path(out), flow
    say = say if is_main() else lambda line: None
    flow, data = _prepared(flow, data)
    new = _additions(before, flow)
    _say_data(data, new, say)
    marked = _marked(before, data, say)
    request = _request(before, data, minutes=minutes, seed=seed, settings=settings)
    resume = _resumable(out, request)
    options = {**(settings or {}), "seed": seed}
    if resume:
        chosen = load_preset(inside(out, "config.toml")).training
    else:
        share = 1 if marked is None else 1 - STEREO_SHARE
        limit = None if minutes is None else share * minutes
        lacking = flow.vocabulary != before.vocabulary
        chosen = _planned(
            partial(_experiment, flow, data), data, limit, {**options, "new": lacking}
        )
    say(
        f"plan: up to {chosen.steps} steps of {chosen.batch_size} molecules, learning rate "
        f"{chosen.learning_rate:g} after {chosen.warmup_steps} steps, average over the last "
        f"{chosen.ema_horizon:g}, {chosen.patience} worse evaluations end it"
    )
    if not resume:
        claim(out, "training")
        # Before `config.toml`: a folder with settings and no request is that of another training.
        replace_file(inside(out, REQUEST), (json.dumps(request, indent=1) + "\n").encode())
    experiment = _experiment(flow, data, chosen.batch_size)
    result = fit(experiment, chosen, out, resume)
    stereo = None
    if result.finished and marked is not None:
        stereo = _learn_stereo(before.stereo, data, marked, out, minutes, options)
    exit_unless_main()
    for run in (result, stereo or result):
        if not run.finished:
            return FineTuning(flow, {}, [], run.signal)
    if data.columns:
        learned, signal = learn_columns(
            inside(out, "model"), data, inside(out, COLUMNS), options, say
        )
        if signal is not None:
            return FineTuning(learned, {}, [], signal)
        learned.save_pretrained(inside(out, "model"))
    tuned = None
    if stereo is not None and stereo.best.step > 0:
        tuned = type(before.stereo).from_pretrained(inside(out, STEREO))
    flow = _finished(inside(out, "model"), data, tuned)
    figures = _figures(data, experiment, chosen, result) | {"new": new, "seed": seed}
    if stereo is not None:
        figures["stereo"] = _stereo_figures(marked, stereo)
    if samples:
        figures |= _sampled(before, flow, data, features, samples, seed)
    if data.columns:
        figures["columns"] = column_figures(flow, data, out, samples, seed)
    return FineTuning(flow, figures, _summary(figures))


def _planned(
    experiment: Callable[[int], Experiment],
    data: MoleculeDataset | StereoDataset,
    minutes: float | None,
    options: dict[str, Any],
) -> TrainingSettings:
    """Choose training settings by the number of molecules (`plan`) and by a time limit."""
    learned, options = len(data.split("train")), {**options, "held_out": len(data.split("test"))}
    chosen = plan(learned, **options)
    if minutes is None:
        return chosen
    # A limit of steps, not of time, so that a resumed run gives the same weights.
    most = _steps_within(minutes, experiment(chosen.batch_size), chosen)
    return plan(learned, **{**options, "steps": min(most, chosen.steps or most)})


def _learn_stereo(
    stereo: Any,
    data: MoleculeDataset,
    marked: StereoDataset,
    out: Path,
    minutes: float | None,
    options: dict[str, Any],
) -> Any:
    """Train a density of stereo marks, in a folder of its own within that of the run."""
    from graphcnf.training.loop import fit

    folder = inside(out, STEREO)
    experiment = partial(stereo_experiment, stereo, data, marked, FOLDS)
    config = inside(folder, "config.toml")
    if resume := config.exists():
        chosen = load_preset(config).training
    else:
        limit = None if minutes is None else STEREO_SHARE * minutes
        settings = options if len(marked.split("test")) else {**FEW, **options}
        chosen = _planned(experiment, marked, limit, settings)
    return fit(experiment(chosen.batch_size), chosen, folder, resume)


def _finished(folder: Path, data: MoleculeDataset, stereo: Any) -> MoleculeFlow:
    """Load a fine-tuned model, give it stereo marks and likelihood percentiles, and save it."""
    flow = MoleculeFlow.from_pretrained(folder)
    if stereo is not None:
        flow.model.companions["stereo"] = stereo
    # Random molecules, since a file may be sorted.
    scored = np.random.default_rng(0).permutation(data.split("train"))[:1000]
    learn_percentiles(flow, data.graphs.subset(scored))
    flow.save_pretrained(folder)
    return flow


def _stereo_figures(marked: StereoDataset, result: Any) -> dict[str, Any]:
    """Describe a finished training of stereo marks: the entry "stereo" of `FineTuning.figures`."""
    best, name = result.best, "bits_per_element"
    return {
        "molecules": len(marked),
        "held_out": len(marked.split("test")),
        name: {"before": best.first[name], "after": best.metrics[name]},
        "steps": result.step,
        "best_step": best.step,
        "minutes": round(result.minutes, 2),
    }


def _figures(
    data: MoleculeDataset, experiment: Experiment, chosen: TrainingSettings, result: Any
) -> dict[str, Any]:
    """Describe a finished run: the entries of `FineTuning.figures` that need no samples."""
    best, held_out = result.best, len(data.split("test"))
    return {
        "molecules": len(data),
        "training": len(data.split("train")),
        "held_out": held_out,
        "folds": 0 if held_out else FOLDS,
        "evaluated": sum(map(len, islice(experiment.eval_batches(), chosen.eval_batches))),
        **{
            name: {"before": best.first[own], "after": best.metrics[own]}
            for name, own in (
                ("bits_per_molecule", "bits_per_graph"),
                ("bits_per_node", "bits_per_node"),
            )
        },
        "steps": result.step,
        "best_step": best.step,
        "planned_steps": chosen.steps,
        "stopped": best.worse >= chosen.patience > 0 and result.step < chosen.steps,
        "minutes": round(result.minutes, 2),
    }


def _prepared(flow: MoleculeFlow, data: MoleculeDataset) -> tuple[MoleculeFlow, MoleculeDataset]:
    """Enlarge a model so that it can represent all molecules."""
    from graphcnf.design.enlargement import enlarged

    if (distinct := len(np.unique(data.hashes))) < 20:
        raise UserError(
            f"{distinct} distinct molecules: too few to fine-tune; give 20 at least, better some "
            "hundreds"
        )
    if len(data.split("test")) < FEW_HELD_OUT:
        data = replace(data, test_indices=np.array([], dtype=int))
    known = flow.vocabulary
    atoms = (atom for smiles in data.smiles for atom in parse(smiles).GetAtoms())
    if (
        known.tells_aromatic
        and not data.vocabulary.tells_aromatic
        and any(a.GetIsAromatic() for a in atoms)
    ):
        raise UserError(
            "the model's categories say what is aromatic, those of the data do not: load the data "
            "with aromatic=True"
        )
    data = data if known.tells_aromatic else data.without_aromatic()
    vocabulary = extend_vocabulary(known, data.vocabulary)
    data = data.in_categories(vocabulary)
    model = enlarged(
        flow.model,
        data.graphs,
        node_sources=nearest_atoms(known, vocabulary),
        edge_sources=nearest_bonds(known, vocabulary),
        edge_weights=bond_orders(vocabulary),
        merged=merge_aromatic(vocabulary),
    )
    hashes, own = flow.model.training_hashes, data.training_hashes()
    # Novelty also excludes the molecules that the given weights were trained on.
    model.training_hashes = own if hashes is None else np.union1d(hashes, own)
    # The sizes of the given weights count as one more molecule, so that none becomes impossible.
    sizes, known_sizes = data.size_histogram(), flow.model.size_prior.probabilities()
    histogram = np.zeros(max(len(sizes), len(known_sizes)))
    histogram[: len(sizes)] = sizes
    histogram[: len(known_sizes)] += known_sizes
    model.companions = dict(flow.model.companions)
    given = flow.model.metadata
    model.metadata = facts(data) | {
        "stereo": given.get("stereo", given.get("dataset")),
        "size_histogram": [round(size, 9) for size in histogram.tolist()],
        "weights": {"dataset": given.get("dataset"), **given.get("training", {})},
        "measured": given.get("measured", {}),
    }
    return MoleculeFlow(model), data


def facts(data: MoleculeDataset) -> dict[str, Any]:
    """Return what the metadata of a model say about the molecules that it is trained on.

    These are "dataset", "vocabulary", "size_histogram" (entry n: molecules of n atoms), "rdkit",
    and "codec", the versions of RDKit and of the conversion of molecules to graphs.
    """
    return {
        "dataset": data.name,
        "vocabulary": data.vocabulary.to_dict(),
        "size_histogram": data.size_histogram().tolist(),
        # Canonical SMILES, and so the hashes, may differ between versions.
        "rdkit": version("rdkit"),
        "codec": CODEC_VERSION,
    }


def _additions(before: MoleculeFlow, flow: MoleculeFlow) -> list[str]:
    """Say in words what an enlarged model can represent that the one before could not."""
    known, vocabulary = before.vocabulary, flow.vocabulary
    found = []
    for what, labels, old, sources in (
        ("atoms", vocabulary.atom_labels, known.atom_labels, nearest_atoms(known, vocabulary)),
        ("bonds", vocabulary.bonds, known.bonds, nearest_bonds(known, vocabulary)),
    ):
        further = [f"{labels[k]} (from {old[sources[k]]})" for k in range(len(old), len(labels))]
        if further:
            found.append(f"{what} {', '.join(further)}")
    was, now = (f.model.config for f in (before, flow))
    for key, text in (
        ("max_nodes", "sizes up to {} atoms (from {})"),
        ("back", "choices of a step back {} (from {})"),
        ("closures", "ring closures {} (from {})"),
    ):
        if now[key] != was[key]:
            found.append(text.format(now[key], was[key]))
    sums = zip(now.get("largest_sums") or [], was.get("largest_sums") or [], strict=False)
    more = [f"{known.atom_labels[k]} with {n} (from {w})" for k, (n, w) in enumerate(sums) if n > w]
    of_atoms, new = (len((c.get("environments") or {"known": ()})["known"]) for c in (was, now))
    if new > of_atoms:
        found.append(f"environments of atoms {new} (from {of_atoms})")
    return found + ([f"more bonds at {', '.join(more)}"] if more else [])


def plan(molecules: int, *, held_out: int = 0, new: bool = False, **given) -> TrainingSettings:
    """Return training settings that suit a number of molecules.

    Molecules like those that the given weights have seen are learned within two or three epochs,
    and overfitted after that; new elements take longer. More epochs than that are planned, and
    early stopping ends the training.

    There is no time limit unless it is given.

    Args:
        held_out: Number of held-out molecules, 0 for cross-validation.
        new: True if the molecules have atoms or bonds that the given weights lack.
        **given: Settings that override the plan. Others, such as warm-up and decay, follow a given
            `steps`.
    """
    few = not held_out
    given = {"keep_best": True, **({"batch_size": 16} if few else {}), **given}
    if not given["keep_best"]:
        raise UserError("fine-tuning: keep_best cannot be false: the best weights are the result")
    checked = TrainingSettings.from_dict(given, "fine-tuning")
    size = checked.batch_size
    passes = max(3, min(12, 12 * math.sqrt(3000 / molecules))) * (3 if new else 1)
    least = 200 if few else 1  # early stopping mostly ends training before
    steps = checked.steps or max(least, round(passes * molecules / size))
    # The fewer molecules, the lower the rate, unless cross-validation chooses the step anyway.
    rate = 2e-3 if few else 1e-3 * math.sqrt(min(1.0, molecules / 2000))
    tenth, half_a_pass = max(1, steps // 10), max(5, round(molecules / size / 2))
    # All held-out molecules up to 1,000; in cross-validation all batches of all folds.
    batches = -(-min(held_out, 1000) // (4 * size)) or molecules
    chosen: dict[str, Any] = {
        "steps": steps,
        "learning_rate": float(f"{rate:.2g}"),
        "warmup_steps": min(50, tenth),
        "decay_fraction": 1.0,
        "ema_horizon": float(min(100, tenth)),
        "log_every": tenth,
        "eval_minutes": 0.0,
        "eval_steps": min(tenth, half_a_pass),
        "eval_batches": batches,
        "final_eval_batches": batches,
        # Later weights draw samples that resemble the molecules more, and copy more of them.
        "most_copies": MOST_COPIES if few else 0.0,
        "patience": 4,
        "checkpoint_minutes": 0.5,
        "threads": 1,
    }
    return replace(checked, **{key: chosen[key] for key in chosen if key not in given})


def _steps_within(minutes: float, experiment: Experiment, chosen: TrainingSettings) -> int:
    """Return the number of steps that fit into a time on this machine, with their evaluations."""
    torch.set_num_threads(chosen.threads or torch.get_num_threads())
    model: Any = copy.deepcopy(experiment.model)
    seconds = []
    for batch in islice(experiment.train_batches(0, chosen.seed, 0), 3):
        began = time.perf_counter()
        model.training_loss(batch)[0].backward()
        seconds.append(time.perf_counter() - began)
    # A held-out batch is four times larger and without gradients, so costs about a step.
    held_out = sum(1 for _ in islice(experiment.eval_batches(), chosen.eval_batches))
    each = held_out / chosen.eval_steps if chosen.eval_steps else 0.0
    step = sum(seconds) / len(seconds) * (1 + each)
    return max(1, int(60 * minutes / step))


def _request(flow: MoleculeFlow, data: MoleculeDataset, **given: Any) -> dict[str, Any]:
    """Describe what determines a run, by which it is recognised when it is to go on."""
    molecules = hashlib.sha256("\n".join(data.isomers or data.smiles).encode())
    request = {"weights": model_digest(flow.model), "molecules": molecules.hexdigest(), **given}
    if flow.stereo is not None:
        request["stereo"] = model_digest(flow.stereo)
    if data.columns:
        request["columns"] = [*data.columns, hashlib.sha256(data.targets.tobytes()).hexdigest()]
    return json.loads(json.dumps(request, sort_keys=True))


def _resumable(out: Path, request: dict[str, Any]) -> bool:
    """Return True if the run of a request has begun in a folder, and False for a new folder."""
    if is_main():
        is_claimed(out, "training")
    path = inside(out, REQUEST)
    begun = any(inside(out, name).exists() for name in BEGUN)
    if not path.exists():
        if begun:
            raise UserError(f"{out} holds another run: choose another folder")
        return False
    try:
        stored = dict(read_json(path))
    except (OSError, TypeError, ValueError):
        raise UserError(f"{path}: unreadable; choose another folder") from None
    if stored != request:
        other = ", ".join(k for k, v in request.items() if stored.get(k) != v) or "arguments"
        raise UserError(f"{out} holds a run with other {other}: choose another folder")
    check_replaceable(out, STEREO, COLUMNS)
    return begun


def _say_data(data: MoleculeDataset, new: list[str], say: Callable[[str], None]) -> None:
    """Print the numbers of molecules learned and held out, and what the weights lack."""
    learned, held_out = len(data.split("train")), len(data.split("test"))
    others = f"{held_out:,} held out" if held_out else "each held out once by cross-validation"
    say(f"{len(data):,} molecules: {learned:,} to learn from, {others}")
    known = "the weights have categories for all their atoms and bonds"
    say(f"new to the weights: {'; '.join(new)}" if new else known)


def _marked(
    flow: MoleculeFlow, data: MoleculeDataset, say: Callable[[str], None]
) -> StereoDataset | None:
    """Choose the molecules whose stereo marks are learned, and print how many there are."""
    if data.isomers is None or data.isomers == data.smiles or flow.stereo is None:
        return None
    found = marked_molecules(data, FEW_HELD_OUT)
    count = 0 if found is None else len(found)
    kept = f"fewer than {LEAST} have stereo marks, which are drawn as before, given the graphs"
    say(f"stereo marks are learned from {count:,} molecules" if count else f"note: {kept}")
    return found


def _experiment(flow: MoleculeFlow, data: MoleculeDataset, batch_size: int) -> Experiment:
    """Return the training of a model on molecules, cross-validated if none are held out."""

    def log_line(row: dict[str, Any]) -> str | None:
        if row["phase"] != "eval":
            return None
        copies = f", {row['copies']:.1%} copies" if "copies" in row else ""
        return f"step {row['step']}: {row['bits_per_graph']:.3f} bits per held-out molecule{copies}"

    model = flow.model.train()
    train = with_targets(data, names_of(model), computed)
    data = replace(data, targets=None)
    if len(data.split("test")):
        held_out = partial(data.test_batches, 4 * batch_size)
        found = Experiment(model, partial(train.train_batches, batch_size), held_out)
    else:
        found = fold_experiment(model, train, FOLDS, batch_size, held_out=data)
        _, distinct = np.unique(data.hashes, return_index=True)
        found.measure = partial(_copying, graphs=data.graphs.subset(distinct))
    found.headline, found.log_line, found.data = "bits_per_graph", log_line, train
    return found


def _copying(folds: Any, graphs: PackedGraphs) -> dict[str, float]:
    """Return the probability that a drawn molecule is one of those learned."""
    model = folds.models[-1]
    sizes = torch.from_numpy(graphs.node_counts).to(model.device)
    nats = model.log_prob(graphs).numpy()
    return {"copies": float(np.exp(nats + model.size_prior.log_prob(sizes).cpu().numpy()).sum())}


def _sampled(
    before: MoleculeFlow,
    flow: MoleculeFlow,
    data: MoleculeDataset,
    features: Sequence[Feature],
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """Compare samples of the model before and after fine-tuning with the learned molecules."""
    known = {atom.symbol for atom in before.vocabulary.atoms}
    new = dict.fromkeys(a.symbol for a in flow.vocabulary.atoms if a.symbol not in known)
    own, train = data.training_hashes(), data.split("train")
    if len(train) > samples:
        train = np.random.default_rng(seed).permutation(train)[:samples]
    drawn = {"data": [data.smiles[k] for k in train]}
    figures: dict[str, Any] = {"samples": samples}
    for name, one in (("before", before), ("after", flow)):
        drawn[name], figures[name] = sample_shares(one, own, samples, seed)
    figures["features"] = [
        {"name": f.name, "share": f.share, **{k: f.mean(v) for k, v in drawn.items()}}
        for f in (*features, *map(has_element, new))
    ]
    return figures


def sample_shares(
    flow: MoleculeModel, hashes: np.ndarray, samples: int, seed: int
) -> tuple[list[str], dict[str, float]]:
    """Draw samples, and return the valid ones and the share that copies training molecules.

    The shares are "strict_validity" (among all samples), and "uniqueness" and "copied" (among the
    valid ones). `hashes` of the training molecules are sorted.
    """
    valid = [s for s in flow.sample(samples, seed=seed, stereo=False).smiles if s is not None]
    return valid, {
        "strict_validity": len(valid) / samples,
        "uniqueness": len(set(valid)) / len(valid) if valid else 0.0,
        "copied": float(contains(hashes, hash_each(valid)).mean()) if valid else 0.0,
    }


def _summary(figures: dict[str, Any]) -> list[str]:
    """Describe the outcome of a fine-tuning in sentences."""
    bits, step, sentences = figures["bits_per_molecule"], figures["best_step"], []
    if "samples" in figures:
        copied = f"{figures['after']['copied']:.1%} of the samples after"
        sentences.append(f"{copied} are copies of molecules that it learned from.")
    if step == 0:
        sentences.append(
            f"No evaluation was better than the start ({bits['before']:.2f} bits per held-out "
            "molecule): the model is the one it started from. A lower learning rate, or more "
            "molecules, may help."
        )
    else:
        sentences.append(
            f"Held-out bits per molecule fell from {bits['before']:.2f} to {bits['after']:.2f} "
            f"({bits['after'] - bits['before']:+.2f}); the model is that of step {step}."
        )
    if figures["stopped"]:
        sentences.append(
            f"Training stopped early, at step {figures['steps']} of {figures['planned_steps']}: "
            "the last evaluations were worse, because of overfitting."
        )
    elif step == figures["steps"]:
        sentences.append("The last evaluation was the best: more steps may improve the model.")
    if "stereo" in figures:
        bits = figures["stereo"]["bits_per_element"]
        sentences.append(
            f"Stereo marks of {figures['stereo']['molecules']:,} molecules: held-out bits per "
            f"stereo element from {bits['before']:.3f} to {bits['after']:.3f}."
        )
    return sentences + [text for one in figures.get("columns", ()) for text in column_text(one)]
