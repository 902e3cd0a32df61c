"""Evaluate molecules, or a model by its raw samples: `graphcnf.evaluate` and `graphcnf evaluate`.

The nouns:

- *Raw* samples: as the model draws them; nothing is repaired, filtered or drawn again.
- *Record*: one entry of a file or sample, which may be no molecule. Records are evaluated in
  chunks, each to a `Summary`, and summaries add up.
- *Reference*: a data set of real molecules. Its *training* part decides what is novel. Its
  *held-out* part is what distributions are compared with, and what a model's reconstruction and
  likelihood are measured on.
- *Floor* of a metric (train-vs-test reference): its value for training molecules in place of
  samples.
- *Figures*: the results by name, as they are written in JSON.
- *Hash* of a molecule: that of its canonical SMILES without stereo (`hash_each`), uint64.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rdkit import Chem

from graphcnf.chemistry.hashing import contains, hash_each
from graphcnf.chemistry.standardize import charge_states
from graphcnf.compute.parallel import Workers, available_cores
from graphcnf.datasets import MOLECULES
from graphcnf.datasets.references import HELD_OUT, Rows, held_out, load_reference
from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.datasets.zinc250k import zinc250k_table
from graphcnf.errors import UserError, require
from graphcnf.evaluation.metrics import COMPARED, Statistic, chosen_metrics, statistics_of
from graphcnf.evaluation.model_notes import notes_of_rules
from graphcnf.evaluation.statistics import Comparison, compare, set_statistics
from graphcnf.evaluation.summary import (
    CHUNK,
    Records,
    Summary,
    mean_and_sd,
    score_chunk,
    share,
    summarize,
    summarize_blocks,
)
from graphcnf.evaluation.tables import AGREED, Distances, Evaluation, conventions_agree
from graphcnf.flows.transform import RecordNoise
from graphcnf.graphs.batch import GraphBatch, PackedGraphs, batches
from graphcnf.graphs.building import draws_raw, has_rules
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.isomorphism import isomorphic, labelling_bits
from graphcnf.graphs.records import together_on
from graphcnf.limits import check_integer, check_seed, check_temperature
from graphcnf.messages import say
from graphcnf.molecules.codec import (
    UnparsableSmiles,
    codec_problem,
    find_dropped,
    list_molecules,
    parse,
    quiet,
)
from graphcnf.molecules.conventions import evaluate_records
from graphcnf.molecules.molecule_model import MoleculeModel, shipped_stereo
from graphcnf.molecules.vocabulary import vocabulary_of
from graphcnf.sampling.sample import first_blocks, sampling_processes
from graphcnf.stereo.marks import count_marks, mark_figures

ON_HELD_OUT = (
    "reconstruction", "reconstruction_molecules", "bits_per_node", "bits_per_molecule",
    "bits_molecules",
)  # fmt: skip
"""Figures that a model has on held-out molecules."""

ENCODED_TOGETHER = 128
"""Held-out graphs that are encoded at a time."""

MEASURED = 2000
"""Default number of held-out molecules for reconstruction and likelihood."""

STATES = 2000
"""Molecules of the reference from which its charge states are inferred."""

NOTES = (
    "strict: sanitizes as it is and is in one piece; largest fragment: its largest piece "
    "sanitizes (beside it the share of atoms kept); valence only: sanitizes after automatic N+, "
    "O+, S+, pieces allowed; repaired: after valence repair, about 100 % by construction.",
    "unique: distinct molecules, of the strictly valid samples; novel: strictly valid samples, "
    "repeats included, that are no training molecule, of the same; V.U.N.: distinct, strictly "
    "valid molecules that are no training molecule, of all samples.",
)
"""Footnotes of the overview."""

AGREED_NOTE = (
    f"{AGREED}: RDKit reads the record, it sanitizes as it is and is in one piece; the conventions "
    "of validity agree in every record."
)
"""Footnote in place of the first of `NOTES` where the conventions agree in every record."""

_ROUND_TRIP = "the share of valid molecules that come back unchanged from their graphs"


@dataclass(frozen=True)
class Reference:
    """Training and held-out molecules that samples are compared with.

    `evaluate` makes it of a name. Make one yourself to evaluate several samples: what has been
    computed from the data set is kept in it. `evaluate` calls `load` first, and passes the data set
    that it returns to the other methods.

    Attributes:
        name: A data set of `MOLECULES` ("zinc250k", "moses", "qm9"), "none", or a file of training
            molecules. None for the data of the model that is evaluated, or zinc250k for molecules
            without a model.
        test: File of molecules to use instead of the held-out part; None for the held-out part.
        metrics: Names of distribution metrics to compute, keys of `METRICS`; none by default.
        device: Device of ChemNet, the network of the FCD, such as "cpu" or "cuda".
        workers: Number of processes, or a cluster; None for a number that suits the size of the
            set.
    """

    name: str | None = None
    test: str | None = None
    metrics: Sequence[str] = ()
    device: str = "cpu"
    workers: Workers = None
    _known: dict[tuple[Any, ...], Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        chosen_metrics(self.metrics)

    def load(self, model: GraphModel | None = None) -> tuple[str, Rows | None]:
        """Load the data set of training and held-out molecules.

        Its graphs get the model's categories of atoms and bonds. If `name` is None, the data of the
        model are taken.
        """
        name = "zinc250k" if self.name is None else self.name
        if self.name is None and model is not None:
            own = model.metadata.get("dataset")
            name = str(own) if own in MOLECULES else "none"
            if name == "none":
                say(
                    "note: without the training data, named with --reference, there is no data "
                    "row, reconstruction or likelihood"
                )
        if name == "none":
            return name, None
        coding = None if model is None else (str(model.metadata["vocabulary"]), model.max_nodes)
        key = ("data", name, coding)
        return name, self._once(key, lambda: load_reference(name, model))

    def held_out(self, dataset: Rows | None) -> list[str]:
        """Return the SMILES of held-out molecules for the distribution metrics, at most 10,000.

        They are those of the file `test` if there is one, else of the held-out part. [] if there is
        neither this file nor a metric in `metrics`.
        """
        if self.test is None and not self.metrics:
            return []
        flag = "--fcd" if tuple(self.metrics) == ("fcd",) else "--metrics or --html"
        if dataset is None:
            needs = flag if self.test is None else "--test"
            raise UserError(f"{needs} needs the training data: name them with --reference")
        if self.test is not None:
            smiles = load_smiles_file(self.test).smiles
            if self.metrics and len(smiles) < 2:
                raise UserError(f"{self.test} holds too few molecules to compare with")
            chosen = np.random.default_rng(0).permutation(len(smiles))[:HELD_OUT]
            return [smiles[k] for k in chosen]
        if len(dataset.split("test")) < 2:
            raise UserError(
                f"{flag} needs held-out molecules, {dataset.name} has too few: name some with "
                "--test"
            )
        if flag == "--fcd":
            require("fcd_torch", "the FCD", "fcd")
        return dataset.take(held_out(dataset, HELD_OUT)).smiles

    def statistics(self, dataset: Rows | None) -> tuple[Statistic, ...]:
        """Return the statistics that have to be computed of samples for the chosen metrics."""
        return statistics_of(self.metrics if dataset else (), self.device)

    def data_row(
        self, dataset: Rows, count: int, seed: int, hashes: np.ndarray
    ) -> tuple[dict[str, Any], list[str]]:
        """Evaluate random training molecules in place of samples, for the row "training data".

        Its figures are the best that models with the atom and bond categories of this data set can
        reach.

        Returns:
            - Figures by name, as `Summary.figures` returns them; "name", that of the row;
              "reconstruction", the share of molecules that come back unchanged from their graphs,
              of "reconstruction_molecules"; "reference", the data set's name.
            - SMILES of the chosen molecules.
        """
        count = min(count, COMPARED)

        def compute() -> tuple[Summary, float, list[str]]:
            train = dataset.split("train")
            chosen = dataset.take(np.random.default_rng(seed).permutation(train)[:count])
            records = evaluate_records(chosen.graphs, chosen.vocabulary)
            same = (records["strict"] & (records["smiles"] == chosen.smiles)).sum()
            return summarize(records), share(int(same), len(records)), chosen.smiles

        summary, same, smiles = self._once(("ceiling", id(dataset), count, seed), compute)
        # Novelty is that to the training molecules of this model.
        return {
            "name": "training data through the same pipeline",
            **summary.figures(hashes),
            "reconstruction": same,
            "reconstruction_molecules": len(smiles),
            "reference": dataset.name,
        }, smiles

    def distances(
        self, dataset: Rows, summaries: Sequence[Summary], training: list[str], test: list[str]
    ) -> Distances:
        """Compare the samples of each seed with held-out molecules, by the distribution metrics.

        Training molecules are compared with the same held-out molecules. Their values are the best
        that can be expected of samples: the *floor*, or train-vs-test reference.

        Args:
            summaries: Summary of the samples of each seed, with the statistics that `statistics`
                names.
            training: SMILES of training molecules, as `data_row` returns them. Used are about as
                many as there are strictly valid samples of the first seed, since distances depend
                on the number.
        """
        names = self.metrics
        describe = partial(set_statistics, metrics=names, workers=self.workers, device=self.device)

        def floor() -> Comparison:
            found = describe(training[:count], label="training molecules")
            return compare(found, reference, metrics=names)

        label = f"{'file' if self.test else dataset.name}-test"
        reference = describe(test, label=label, use_cache=True)
        generated = [summary.statistics for summary in summaries]
        # Distances depend on the number of molecules, so the floor has as many as the samples.
        count, key = min(len(training), generated[0].size), ("floor", dataset.name)
        # Sets that differ in size by less than 5 % share one floor.
        sizes = [known[2] for known in self._known if known[:2] == key]
        near = next((n for n in sizes if abs(n - count) < 0.05 * n), count)
        compared = [compare(own, reference, metrics=names) for own in generated]
        own_floor = self._once((*key, near), floor)
        return Distances(
            chosen_metrics(names), compared, own_floor, dataset.name, generated[0], reference
        )

    def _once(self, key: tuple[Any, ...], compute: Callable[[], Any]) -> Any:
        """Return the result of a computation that is made only once."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]


@dataclass(frozen=True)
class ModelSamples:
    """Options of the evaluation of a model.

    Attributes:
        seeds: With more than one, means and standard deviations are reported.
        reconstruct: Number of held-out molecules to encode and decode.
        likelihood: Number of held-out molecules to compute the likelihood of.
        stereo: True to draw and evaluate stereo marks as well, with the first seed, if the model
            has a density of them.
    """

    samples: int = 10_000
    seeds: Sequence[int] = (0,)
    temperature: float = 1.0
    reconstruct: int = MEASURED
    likelihood: int = MEASURED
    stereo: bool = True

    def __post_init__(self):
        check_integer("samples", self.samples, 1)
        check_integer("number of seeds", len(self.seeds), 1)
        check_integer("reconstruct", self.reconstruct)
        check_integer("likelihood", self.likelihood)
        for seed in self.seeds:
            check_seed(seed)
        check_temperature(self.temperature)


def evaluate(
    subject: GraphModel | MoleculeModel | Records | str | Path | Iterable[str | Chem.Mol | None],
    reference: Reference | str | None = None,
    *,
    name: str = "",
    standardize: bool = False,
    **drawn: Any,
) -> Evaluation:
    """Evaluate molecules, or the raw samples of a model.

    Args:
        subject: A model, a file of molecules, a folder of such files, `Records`, or a list of
            SMILES and RDKit molecules, in which None counts as invalid.
        reference: Molecules to compare with, or their name: zinc250k, moses, qm9, "none", or a
            file; None for a model's own data, or zinc250k.
        standardize: True to take the largest organic fragment of each molecule of a file or list,
            cleaned up (`parse_standardized`), with acids and amines in the charge states of the
            reference, or neutral without a reference.
        **drawn: For a model, the attributes of `ModelSamples`: `samples` (10,000), `seeds` ((0,)),
            `temperature`, `reconstruct`, `likelihood` and `stereo`.

    Examples:
        >>> found = evaluate(["CCO", "OCC", "CC.O", "C(C)(C)(C)(C)C"], "none")
        >>> found.figures["strict_validity"], found.figures["uniqueness"]
        (0.5, 0.5)
    """
    if not isinstance(reference, Reference):
        reference = Reference(reference)
    samples = ModelSamples(**drawn)
    model = subject.model if isinstance(subject, MoleculeModel) else subject
    if isinstance(model, str | Path):
        model = Records.read(str(model))
    if isinstance(model, GraphModel):
        return _evaluate_model(model, reference, name or "model", samples)
    if not isinstance(model, Records):
        model = Records.of(list_molecules(model), name or "molecules")
    return _evaluate_records(model, reference, standardize)


def _evaluate_records(records: Records, reference: Reference, standardize: bool) -> Evaluation:
    """Evaluate the molecules of files or a list."""
    # Load the reference first, so that its errors appear before the long work.
    source, dataset = reference.load()
    test = reference.held_out(dataset)
    hashes = states = None
    if dataset is not None:
        # Only published data sets have a held-out part; a user's file is training data as a whole.
        official = source in MOLECULES
        hashes = dataset.training_hashes() if official else np.unique(dataset.hashes)
    if standardize:
        known = [] if dataset is None else dataset.take(dataset.split("train")[:STATES]).smiles
        states = charge_states(known)
    workers = reference.workers
    if workers is None:
        # For few molecules, starting processes takes longer than it saves.
        workers = 1 if records.count <= 4 * CHUNK else available_cores()
    # The files of a folder are not read yet, so each may have stereo marks.
    texts = records.records.smiles if records.records else None
    marked = texts is None or any("stereo" in find_dropped(text) for text in texts)
    summary = summarize_blocks(
        partial(score_chunk, reference.statistics(dataset), states, marked),
        records.chunks(),
        total=records.count,
        label="scoring molecules",
        workers=workers,
    )
    _note_unreadable(records, summary)
    figures = summary.figures(hashes)
    valid = figures["strict_valid"]
    main = {
        "name": records.name,
        **figures,
        "unreadable": summary.sums["unreadable"],
        "reconstruction": summary.sums["came_back"] / valid if valid else None,
        "reconstruction_molecules": valid,
        "reference": source,
        "failures": dict(summary.failures.most_common()),
    }
    if summary.marks["written"]:
        main["stereo"] = stereo_figures(summary, source, hashes)
    agreed = conventions_agree(figures)
    notes = [AGREED_NOTE if agreed else NOTES[0], *NOTES[1:], f"reconstruction: {_ROUND_TRIP}."]
    if states is not None:
        charged = ", ".join(sorted(states)) or "none"
        notes.append(f"standardized: largest organic fragment, charged groups: {charged}.")
    if main["strict_validity"] == 1:
        notes.append(
            "every record is valid, as in any file that RDKit wrote or that was filtered "
            "(graphcnf generate without --all): this says nothing about the model."
        )
    result = Evaluation(main, None, notes, summary.head, training_hashes=hashes)
    if dataset is not None:
        notes.append(f"training molecules: of {source}.")
        main |= _compare_with_training(result, reference, dataset, 0, [summary], test)[0]
    return result


def stereo_figures(summary: Summary, source: str, training: np.ndarray | None) -> dict[str, Any]:
    """Return figures about the stereo marks of strictly valid molecules.

    Returns:
        - "chain", "ring", "double", "marks", "kept": see `graphcnf.stereo.marks.mark_figures`;
        - "uniqueness": share of distinct stereoisomers;
        - "novelty": share of stereoisomers that are no training molecules, see `isomer_novelty`;
          None without `training`, or without shipped stereo weights for this data set;
        - "training": the same figures of the training data, if shipped stereo weights know them;
        - "marks_jsd": Jensen-Shannon distance (base 2) between the numbers of marks per molecule
          here and in the training data, with "training" only.
    """
    hashes = np.concatenate(summary.isomers)
    found = {**mark_figures(summary.marks), "uniqueness": share(len(set(hashes)), len(hashes))}
    model = shipped_stereo(source)
    found["novelty"] = (
        None if model is None or training is None else isomer_novelty(summary, training)
    )
    known = None if model is None else model.metadata.get("marks")
    if known is not None:
        from scipy.spatial.distance import jensenshannon

        own, theirs = (np.array(f["marks"]) for f in (found, known))
        most = max(len(own), len(theirs))
        pair = (np.pad(part, (0, most - len(part))) for part in (own, theirs))
        found |= {"training": known, "marks_jsd": float(jensenshannon(*pair, base=2))}
    return found


def isomer_novelty(summary: Summary, hashes: np.ndarray) -> float:
    """Return the share of stereoisomers that are no training molecules of ZINC250k.

    To parse all of ZINC250k would take minutes, so this is an estimate. Molecules are looked at in
    their order, until 2,000 of them (`MEASURED`) have a graph that is among the training molecules.
    Of the data set, only lines with the composition of one of these are parsed.
    """
    plain = list(summary.head["smiles"][summary.head["strict"]])
    known = contains(hashes, hash_each(plain))
    known = known[: np.searchsorted(known.cumsum(), MEASURED, "right")]
    letters = {_letters(s) for s, there in zip(plain, known, strict=False) if there}
    lines = [s for s in zinc250k_table().smiles() if _letters(s) in letters]
    theirs = np.unique(hash_each(count_marks(lines)[1]))
    isomers = np.concatenate(summary.isomers)[: len(known)]
    return 1 - share(int((known & contains(theirs, isomers)).sum()), len(known))


def _letters(smiles: str) -> str:
    """Return a key that is equal for molecules of one composition, and cheap to compute."""
    return "".join(sorted(re.sub("[^A-GI-Za-z]", "", smiles)))


def _note_unreadable(records: Records, summary: Summary) -> None:
    """Print a note if records are unreadable: how many, which is the first, and why."""
    if summary.first_unreadable is None:
        return
    count, (place, text) = summary.sums["unreadable"], summary.first_unreadable
    reason = f"no molecule: {text[:60]!a}"
    try:
        with quiet():
            parse(text, sanitize=False)
    except UnparsableSmiles as error:
        reason = str(error)
    if count == records.count:
        raise UserError(f"{records.name} holds no molecules; {place}: {reason}")
    say(
        f"note: {count:,} of {records.count:,} records of {records.name} are no SMILES and count "
        f"as invalid, the first is {place}: {reason}",
    )


def draw_part(
    model: GraphModel,
    drawn: ModelSamples,
    seed: int,
    wanted: tuple[Statistic, ...],
    records: range,
) -> Summary:
    """Draw a block of a model's raw samples and summarize it; worker processes call it.

    With the first seed, stereo marks are drawn as well if the options ask for them.

    It is equal for equal model, options, seed and numbers.
    """
    flow = MoleculeModel(model)
    stereo = drawn.stereo and seed == drawn.seeds[0]
    _, molecules = flow.draw_records(
        records, seed=seed, temperature=drawn.temperature, stereo=stereo
    )
    summary = summarize(evaluate_records(molecules, first=records.start), wanted)
    if stereo and flow.stereo is not None:
        summary.add_marks([molecule.isomer for molecule in molecules if molecule.isomer])
    return summary


def _evaluate_model(
    model: GraphModel, reference: Reference, name: str, drawn: ModelSamples
) -> Evaluation:
    """Evaluate a model: its raw samples, its reconstruction and its likelihood."""
    vocabulary_of(model)
    source, dataset = reference.load(model)
    test = reference.held_out(dataset)
    hashes = model.training_hashes
    if dataset is not None and (hashes is None or reference.name not in (None, "none")):
        hashes = dataset.training_hashes()
    wanted, seeds = reference.statistics(dataset), list(drawn.seeds)
    summaries = [
        summarize_blocks(
            partial(draw_part, model, drawn, seed, wanted),
            first_blocks(drawn.samples, together_on(model.device)),
            total=drawn.samples,
            label=f"sampling, seed {seed}",
            workers=sampling_processes(model, drawn.samples, reference.workers),
        )
        for seed in seeds
    ]
    runs = [summary.figures(hashes) for summary in summaries]
    marks = [stereo_figures(own, source, hashes) for own in summaries if own.marks]
    notes = _notes_of_model(model, hashes)
    result = Evaluation({}, None, notes, summaries[0].head, training_hashes=hashes)
    if dataset is not None:
        compared = _compare_with_training(result, reference, dataset, seeds[0], summaries, test)
        runs = [{**run, **found} for run, found in zip(runs, compared, strict=True)]
    training = model.metadata.get("training", {})
    result.figures = {
        "name": name,
        **mean_and_sd(runs),
        **_held_out_figures(model, dataset, drawn, notes),
        "temperature": drawn.temperature,
        "seed": seeds[0] if len(seeds) == 1 else ",".join(map(str, seeds)),
        "decoding": "argmax" if draws_raw(model) else f"argmax, {model.redraw_check}",
        "reference": source,
        "architecture": model.config["architecture"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_minutes": training.get("minutes"),
        "training_steps": training.get("steps"),
        "failures": dict(summaries[0].failures.most_common()),
        **({"stereo": marks[0]} if marks else {}),
    }
    if len(seeds) > 1:
        result.figures["runs"] = [{"seed": s, **run} for s, run in zip(seeds, runs, strict=True)]
        notes.append(f"means and standard deviations over {len(seeds)} seeds.")
    return result


def _notes_of_model(model: GraphModel, hashes: np.ndarray | None) -> list[str]:
    """Return footnotes about conventions, training molecules, and rules that the model draws by."""
    notes = list(NOTES)
    made_with, installed = model.metadata.get("rdkit"), version("rdkit")
    if hashes is not None:
        notes.append(f"training molecules: {len(hashes):,} distinct ones.")
        if hashes is model.training_hashes and made_with not in (None, installed):
            notes.append(
                f"training molecules: hashed with RDKit {made_with}, here is {installed}; "
                "where their canonical SMILES differ, novelty is overstated."
            )
    return notes + notes_of_rules(model, has_rules(model))


def _compare_with_training(
    result: Evaluation,
    reference: Reference,
    dataset: Rows,
    seed: int,
    summaries: Sequence[Summary],
    test: list[str],
) -> list[dict[str, Any]]:
    """Add to an evaluation the figures of training data, and distances to held-out molecules."""
    hashes = result.training_hashes
    assert hashes is not None
    count = summaries[0].sums["samples"]
    figures, training = reference.data_row(dataset, count, seed, hashes)
    result.data = dict(figures)
    if not reference.metrics:
        return [{} for _ in summaries]
    result.distances = reference.distances(dataset, summaries, training, test)
    result.data |= result.distances.floor.values
    result.notes += result.distances.notes()
    with_count = "fcd" in reference.metrics
    return [
        {**found.values, **({"fcd_molecules": found.generated} if with_count else {})}
        for found in result.distances.samples
    ]


def _held_out_figures(
    model: GraphModel, dataset: Rows | None, drawn: ModelSamples, notes: list[str]
) -> dict[str, Any]:
    """Measure reconstruction and bits of a model on held-out molecules."""
    figures: dict[str, Any] = dict.fromkeys(ON_HELD_OUT)
    if dataset is None:
        return figures
    if problem := codec_problem(model):
        notes.append(f"{problem}.")
        return figures
    held = dataset.take(held_out(dataset, max(drawn.reconstruct, drawn.likelihood)))
    known = np.zeros(0, np.uint64) if model.training_hashes is None else model.training_hashes
    if seen := int(contains(known, held.hashes).sum()):
        notes.append(
            f"{seen:,} of {len(held):,} held-out molecules are training molecules of this model, "
            "which was trained on another split."
        )
    chosen = held.graphs.subset(range(len(held))[: drawn.reconstruct])
    if len(chosen):
        figures["reconstruction"] = reconstruction(model, chosen)
        figures["reconstruction_molecules"] = len(chosen)
        notes.append(
            "reconstruction: the share of held-out molecules whose latents decode to the same "
            f"graph, in float64; of the data: {_ROUND_TRIP}."
        )
    chosen = held.graphs.subset(range(len(held))[: drawn.likelihood])
    if len(chosen):
        figures |= bits(model, chosen)
        count = figures["bits_molecules"]
        notes.append(
            f"bits: upper bounds for {count:,} held-out molecules, given the number of atoms."
        )
        if count < len(chosen):
            notes[-1] += f" {len(chosen) - count:,} more have the probability 0 and do not count."
    return figures


def bits(model: GraphModel, graphs: PackedGraphs) -> dict[str, float]:
    """Measure the negative log2-likelihood of graphs, given their numbers of nodes.

    If the model's log-likelihood is a lower bound, one draw of it is taken, and the bits are upper
    bounds. For an order-agnostic model, the bits per molecule are those of the molecule without
    node numbers, whose probability is the sum over all its orderings. Its bits per node are those
    of one ordering, as in publications.

    Returns:
        - "bits_per_node": mean over the graphs of their bits divided by their number of nodes.
        - "bits_per_molecule": mean of their bits.
        - "bits_molecules": number of graphs in these means, those with a probability above 0.
    """
    noise = RecordNoise(0, np.arange(len(graphs)))
    total = -model.log_prob(graphs, noise=noise).numpy() / np.log(2)
    possible = np.flatnonzero(total != np.inf)
    total, graphs = total[possible], graphs.subset(possible)
    spent = 0 if model.ordered else labelling_bits(graphs).mean()
    return {
        "bits_molecules": len(graphs),
        "bits_per_node": float((total / graphs.node_counts).mean()),
        "bits_per_molecule": float(total.mean() - spent),
    }


def reconstruction(model: GraphModel, graphs: PackedGraphs, *, double: bool = True) -> float:
    """Return the share of graphs that come back unchanged from their latents, in [0, 1]."""
    exact, same = copy.deepcopy(model), 0
    if double and model.device.type == "mps":  # MPS has no float64
        exact = exact.cpu()
    exact = exact.double() if double else exact.float()
    with _fixed_noise(model):
        for chosen in batches(graphs.node_counts, ENCODED_TOGETHER):
            batch = GraphBatch.collate(graphs, chosen).to(exact.device)
            decoded = exact.decode(exact.encode(batch), batch.mask).clear_padding()
            nodes = ((decoded.node_types == batch.node_types) & (decoded.mask == batch.mask)).all(1)
            equal = nodes & (decoded.edge_labels == batch.edge_labels).flatten(1).all(1)
            one, other = batch.to_packed(), decoded.to_packed()
            same += sum(
                yes or isomorphic(one.graph(k), other.graph(k))
                for k, yes in enumerate(equal.tolist())
            )
    return same / len(graphs)


@contextmanager
def _fixed_noise(model: GraphModel) -> Iterator[None]:
    """Context without gradients in which torch's random generators start from the seed 0."""
    devices = [model.device] if model.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(0)
        yield
