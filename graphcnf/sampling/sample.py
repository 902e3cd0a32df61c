"""Drawing of a sample, record by record, into a stream or a file that can be continued.

A record is a function of model, seed and number. `graphcnf.graphs.record_blocks` defines blocks.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np
import pandas as pd
from rdkit import Chem

from graphcnf.compute.cpu import environment
from graphcnf.compute.parallel import Cluster, WorkerDied, Workers, available_cores, ordered_map
from graphcnf.compute.partial_file import PartialFile, fingerprint, partial_file
from graphcnf.compute.progress import progress_bar
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError, say
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.record_blocks import BLOCK, RecordNoise, blocks, one_thread, together_on
from graphcnf.molecules.filters import (
    NO_FILTERS,
    Filters,
    Reminder,
    passing_shares,
    passing_text,
)
from graphcnf.molecules.hashing import HashSet
from graphcnf.molecules.molecule_flow import draw_block, stereo_of
from graphcnf.molecules.properties import properties_of
from graphcnf.molecules.standardize import protonation_hash
from graphcnf.pretrained import model_digest
from graphcnf.sampling.writers import WRITERS, Conversion, entries, header

AGAIN = "the same command goes on from there"

PATIENCE = 10_000
"""Consecutive records without a new valid molecule after which drawing is given up."""

PATIENCE_FACTOR = 10
"""Multiplies `PATIENCE` when a filter is active."""

WORTHWHILE = 1000
"""Records that are worth another process, which takes as long to start as 500 records to draw."""


@dataclass(frozen=True)
class Recipe:
    """Options that, with the model and the number of a record, determine its text."""

    seed: int
    temperature: float
    sizes: tuple[int, int] | None  # lowest and highest number of atoms
    kind: str  # "smi", "csv", "sdf" or "jsonl"
    columns: tuple[str, ...]
    everything: bool  # True to write invalid graphs and repeats as well
    properties: tuple[str, ...] = ()  # properties of molecules, also among the columns
    targets: tuple[float | None, ...] | None = None  # conditions of `GraphModel.sample_records`
    best_of: int = 1  # candidates per record; the one nearest to the targets is kept
    filters: Filters = NO_FILTERS
    stereo: str = ""  # digest of the model that draws stereo marks, "" to draw none

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values; equal values determine equal records."""
        return json.loads(json.dumps({**vars(self), "filters": self.filters.identity}))


class Record(NamedTuple):
    """A drawn record."""

    number: int
    strict: bool  # True for a connected valid molecule
    refusal: str  # `Filters.refusal` of a valid molecule, else ""
    hash: int | None  # `protonation_hash`; None if repeats are written
    text: str  # "" for a graph that is not written
    reached: dict[str, tuple[float, float]]  # target and value of each conditioned property


class Exhausted(UserError):
    """Drawing was given up: no new molecules appeared for a long time."""


@dataclass
class SampleCounts:
    """Counts of a sample so far, stored in its journal and in the descriptions of shards.

    `reached` holds four numbers for each conditioned property: the target value; over the written
    molecules with a finite value, their number, the sum of values, and the sum of absolute errors.
    """

    first: int = 0  # number of the first record
    record: int = 0  # number of the next record
    written: int = 0  # records written
    valid: int = 0
    last: int = 0  # number of the record after the last one written
    seconds: float = 0.0
    outcomes: dict[str, int] = field(default_factory=dict)  # valid molecules by `Filters.refusal`
    reached: dict[str, list[float]] = field(default_factory=dict)

    @property
    def sampled(self) -> int:
        """Number of records drawn so far."""
        return self.record - self.first

    def add(self, record: Record, written: bool) -> None:
        """Count the next record; if it is `written`, also update `reached` by its properties."""
        self.record = record.number + 1
        if record.strict:
            self.valid += 1
            self.outcomes[record.refusal] = self.outcomes.get(record.refusal, 0) + 1
        if not written:
            return
        self.written += 1
        self.last = self.record
        for name, (asked, value) in record.reached.items():
            _, count, total, distance = self.reached.get(name, (asked, 0, 0.0, 0.0))
            self.reached[name] = [asked, count + 1, total + value, distance + abs(value - asked)]

    def figures(self, distinct: bool, filters: Collection[str]) -> dict[str, Any]:
        """Return counts of graphs, and the shares in [0, 1] that are valid and pass the filters.

        `asked` holds target, mean and mean absolute error of each conditioned property.

        Args:
            distinct: False if repeats are written; `distinct` of the result is 0 then.
            filters: Names of `Filters.checks`.
        """
        asked = {
            name: {"value": value, "mean": total / count, "mae": distance / count}
            for name, (value, count, total, distance) in self.reached.items()
        }
        accepted = self.outcomes.get("", 0)
        return {
            **({"asked": asked} if asked else {}),
            "sampled": self.sampled,
            "strict_valid": self.valid,
            "strict_validity": self.valid / max(self.sampled, 1),
            "accepted": accepted,
            "acceptance": accepted / max(self.valid, 1),
            **({"filters": passing_shares(filters, self.outcomes)} if filters else {}),
            "written": self.written,
            "distinct": self.written if distinct else 0,
            "seconds": round(self.seconds, 3),
        }

    def summary(self, distinct: bool, filters: Collection[str]) -> str:
        """Return a one-line summary, with the share of molecules that passes each filter."""
        figures = self.figures(distinct, filters)
        passed = passing_text(filters, self.outcomes)
        shown = f", of these {passed}" if passed else ""
        shown += f", {self.written:,} distinct" if distinct and self.written else ""
        shown += asked_text(figures)
        return (
            f"sampled {self.sampled:,} graphs in {self.seconds:.1f} s: "
            f"{figures['strict_validity']:.1%} strictly valid{shown}"
        )


def asked_text(figures: dict[str, Any]) -> str:
    """Return the properties in the `SampleCounts.figures` of a sample that were asked for."""
    return "".join(
        f"; {name}={found['value']:g} requested, mean {found['mean']:.4g}, "
        f"mean absolute error {found['mae']:.3g}"
        for name, found in figures.get("asked", {}).items()
    )


class Sample:
    """A sample of a molecule model; `counts` are those of the records so far.

    Args:
        model: Model to draw from.
        recipe: Options that determine the records and their text.
        records: Numbers of the records to draw from.
        number: Records to write, after which drawing stops; None to draw all of `records`.
        workers: Processes, or a cluster; None for a number that suits the size of the sample.
    """

    def __init__(
        self,
        model: GraphModel,
        recipe: Recipe,
        records: range,
        number: int | None = None,
        workers: Workers = None,
    ) -> None:
        self.model, self.recipe, self.workers = model, recipe, workers
        self.records, self.number = records, number
        recipe.filters.check_sizes(model.max_nodes)
        self._total = len(records) if number is None else number
        self._restart()

    def _restart(self) -> None:
        first = self.records.start
        self.counts, self._seen = SampleCounts(first=first, record=first, last=first), HashSet()

    def _done(self) -> int:
        return self.counts.sampled if self.number is None else self.counts.written

    def _progress(self) -> str:
        unit = "graphs" if self.number is None else "molecules"
        return f"{self._done():,} of {self._total:,} {unit}"

    def _is_filled(self) -> bool:
        return self.counts.record >= self.records.stop or self.counts.written == self.number

    def write(self, stream: TextIO) -> None:
        """Draw the sample into a text stream, which is flushed after each block.

        Raises:
            Exhausted: Drawing was given up before `number` records were written.
        """

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        # A progress bar would be mixed up with molecules on the same terminal.
        self._write(write, hidden=stream.isatty())

    def save(
        self,
        out: Path,
        *,
        convert: Conversion = None,
        beside: Callable[[Path], None] | None = None,
        force: bool = False,
    ) -> None:
        """Draw the sample into a file, continuing what an interrupted process has drawn.

        The file is replaced once the sample is complete.

        Args:
            out: File to write.
            convert: See `PartialFile.finish`.
            beside: See `PartialFile.finish`.
            force: Delete unfinished samples of this file with other options.

        Raises:
            UserError: The file cannot be written, a process died, or drawing was given up.
        """
        # Samples of different `number` share a partial file, since one begins with the other.
        last = self.records.stop if self.number is None else None
        name = fingerprint(
            {
                "model": model_digest(self.model),
                "recipe": self.recipe.to_dict(),
                "records": [self.records.start, last],
                **environment(str(self.model.device)),
            }
        )
        with termination_raises(), partial_file(out, name) as file:
            self._resume(file, out, force)
            try:
                if not self._is_filled():
                    self._write(lambda text: file.commit(text, asdict(self.counts)))
                file.finish(convert, beside)
            except Exhausted as error:
                if not self.counts.written:
                    file.restart()
                    raise
                raise Exhausted(f"{error} (what was found is kept; --force drops it)") from None
            except WorkerDied as error:
                raise UserError(f"{error}; {AGAIN}") from None
            except (KeyboardInterrupt, SystemExit):
                if file.entry:
                    self.counts = SampleCounts(**file.entry)
                    say(f"interrupted after {self._progress()} of {out}; {AGAIN}")
                raise

    def _write(self, write: Callable[[str], None], *, hidden: bool = False) -> None:
        began = time.perf_counter() - self.counts.seconds
        bar = progress_bar("generating", self._total, hidden=hidden)
        with closing(self._texts()) as drawn, bar as show:
            for text in drawn:
                self.counts.seconds = time.perf_counter() - began
                write(text)
                show(self._done())

    def _texts(self) -> Generator[str]:
        """Yield the text of block after block until the sample is complete; update `counts`."""
        recipe, counts, remind = self.recipe, self.counts, Reminder(self.recipe.filters)
        patience = PATIENCE * (PATIENCE_FACTOR if recipe.filters else 1)
        beginning = "" if counts.sampled else header(recipe.kind, recipe.columns)
        with closing(self._blocks()) as drawn:
            for records in drawn:
                parts, beginning = [beginning], ""
                for record in records:
                    if record.number < counts.record:
                        continue
                    is_new = record.hash is not None and self._seen.add(record.hash)
                    written = recipe.everything or is_new
                    counts.add(record, written)
                    parts += [record.text] if written else []
                    if self._is_filled():
                        break
                yield "".join(parts)
                if self._is_filled():
                    return
                remind(counts.last > records[0].number, counts.outcomes)
                if self.number is not None and counts.record - counts.last >= patience:
                    raise Exhausted(_advice(counts, recipe.filters.checks))

    def _blocks(self) -> Generator[list[Record]]:
        """Yield drawn blocks; this process draws the first, since others take time to start."""
        counts, stop = self.counts, self.records.stop
        draw = partial(block_records, self.model, self.recipe)
        together = together_on(self.model.device)
        there = blocks(counts.record, together)
        todo: Iterator[range] = takewhile(lambda block: block.start < stop, there)
        if together > 1:
            low = counts.record
            todo = (range(max(low, block.start), min(stop, block.stop)) for block in todo)
        if counts.record == 0:
            yield draw(next(todo))
        left: float = self._total - self._done()
        if self.number is not None:
            left *= max(counts.sampled, 1) / max(counts.written, 1)
        processes = sampling_processes(self.model, left, self.workers)
        with ordered_map(draw, todo, workers=processes) as drawn:
            yield from drawn

    def _resume(self, file: PartialFile, out: Path, force: bool) -> None:
        """Restore the counts of the unfinished file, and the hashes of its molecules."""
        recipe, number, damaged = self.recipe, self.number, file.damaged
        self._restart()
        try:
            if file.entry:
                self.counts = SampleCounts(**file.entry)
        except TypeError:  # the journal is not one of this program
            file.restart()
            damaged = True
        if file.others() and not force:
            raise UserError(
                f"a command with other options, versions or on another kind of processor left an "
                f"unfinished {out}: repeat that command, or delete its part with --force"
            )
        if damaged:
            say(f"note: what an interrupted command left of {out} is damaged; starting afresh")
        elif number is not None and self.counts.written > number:
            if not force:
                raise UserError(
                    f"what an interrupted command left of {out} has {self.counts.written:,} "
                    f"molecules, more than -n {number}: ask for more, or start afresh with --force"
                )
            file.restart()
            self._restart()
        elif file.entry:
            say(f"note: going on with {out}: {self._progress()} are there")
            if not recipe.everything:
                with open(file.path, encoding="utf-8", newline="") as lines:
                    for _, smiles in entries(lines, recipe.kind, recipe.columns):
                        self._seen.add(protonation_hash(smiles))


def _advice(counts: SampleCounts, filters: Collection[str]) -> str:
    """Return the message of `Exhausted`: what was found, and what to change."""
    if filters and counts.valid:
        return (
            f"of {counts.valid:,} valid molecules {passing_text(filters, counts.outcomes)}, "
            f"{counts.written:,} of them distinct, and no further one comes up: ask for -n "
            f"{counts.written}, for less, or for other sizes"
        )
    if not counts.written:
        return (
            f"none of {counts.sampled:,} sampled graphs is a valid molecule: train the model for "
            "longer, or lower --temperature"
        )
    return (
        f"only {counts.written:,} distinct valid molecules among {counts.sampled:,} sampled "
        f"graphs: ask for -n {counts.written}, other sizes or another --temperature"
    )


def block_records(model: GraphModel, recipe: Recipe, block: range) -> list[Record]:
    """Draw a block of records, and convert each to its text."""
    graphs, frame = draw_block(
        model,
        block,
        seed=recipe.seed,
        temperature=recipe.temperature,
        sizes=recipe.sizes,
        targets=recipe.targets,
        best_of=recipe.best_of,
        conventions=(),
        stereo=stereo_of(model) if recipe.stereo else None,
    )
    if "log_likelihood" in recipe.columns:
        frame["log_likelihood"] = molecule_log_likelihoods(
            model, graphs, block, frame, recipe.seed, recipe.targets
        )
    write, records = WRITERS[recipe.kind], []
    names = [table["name"] for table in model.conditions]
    asked = {k: v for k, v in zip(names, recipe.targets or (), strict=False) if v is not None}
    chemistry = bool(recipe.properties or recipe.filters or asked)
    for row in frame.to_dict("records"):
        mol = Chem.MolFromSmiles(row["smiles"]) if chemistry and row["strict"] else None
        refusal = "" if mol is None else recipe.filters.refusal(mol)
        hash_, text, reached = None, "", {}
        if recipe.everything or (row["strict"] and not refusal):
            hash_ = None if recipe.everything else protonation_hash(row["smiles"])
            if mol is not None:
                row |= properties_of(mol, recipe.properties)
            row["smiles"] = row["isomer"]
            text = write({name: row.get(name) for name in recipe.columns})
            found = {} if mol is None else properties_of(mol, asked)
            reached = {k: (asked[k], v) for k, v in found.items() if math.isfinite(v)}
        records.append(Record(row["record"], row["strict"], refusal, hash_, text, reached))
    return records


def molecule_log_likelihoods(
    model: GraphModel,
    graphs: PackedGraphs,
    block: range,
    frame: pd.DataFrame,
    seed: int,
    targets: Sequence[float | None] | None = None,
) -> np.ndarray:
    """Return lower bounds on log p(molecule | number of atoms, targets) of a block, (M,) nats.

    Each bound is one draw, with noise that is a function of the seed and the record's number; the
    graph keeps the numbering in which it was drawn.

    Under a model without a node order, all labellings of a molecule are equally probable, and the
    molecule has their sum. Such a model gives None for graphs that are no valid molecules, since
    counting the symmetries of an arbitrary graph may take forever.
    """

    def noise(chosen: np.ndarray) -> RecordNoise:
        return RecordNoise(seed, [block[k] for k in chosen])

    with one_thread(model.device):
        nats = model.log_probs(graphs, noise, conditions=targets)
    known = frame["strict"].to_numpy() | model.ordered
    if not model.ordered:
        # Imports networkx, which would delay the first molecule of ordered models.
        from graphcnf.graphs.isomorphism import labelling_bits

        nats[known] += labelling_bits(graphs.subset(known)) * math.log(2)
    shown = [
        round(float(value), 4) if there and math.isfinite(value) else None
        for value, there in zip(nats, known, strict=True)
    ]
    return np.array(shown, dtype=object)


def first_blocks(number: int, together: int = 1) -> Iterator[range]:
    """Yield the blocks of the first `number` records; the last block may be shorter."""
    needed = takewhile(lambda block: block.start < number, blocks(0, together))
    return (range(block.start, min(block.stop, number)) for block in needed)


def sampling_processes(model: GraphModel, records: float, workers: Workers = None) -> int | Cluster:
    """Return the number of processes to draw about `records` records with, or the given cluster.

    One process for a model on a GPU, and never more processes than blocks.
    """
    if workers is not None and not isinstance(workers, int):
        return workers
    if model.device.type != "cpu":
        return 1
    if workers is None:
        return max(1, min(available_cores(), round(records / WORTHWHILE)))
    return max(1, min(workers, math.ceil(records / BLOCK)))
