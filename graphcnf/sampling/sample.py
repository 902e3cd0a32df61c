"""Draw a sample of molecules, record by record, into a stream or a file.

It is used by `graphcnf generate`. A file that was interrupted is continued. The nouns:

- *Record*: one molecule of a sample, a function of model, seed and its number.
- *Block*: a range of records that are drawn together, see `graphcnf.graphs.record_blocks`.
- *Recipe*: the options that determine what is written of each record.
- A record is *written* if its molecule is valid, new in the sample and passes the filters, or if
  the recipe asks for everything.
- *Condition*: a property that the model was trained with, so that a target value can be given.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, islice, takewhile
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from rdkit import Chem

from graphcnf.chemistry.descriptors import PROPERTIES
from graphcnf.chemistry.filters import (
    NO_FILTERS,
    PATIENCE,
    Filters,
    Funnel,
    passing_shares,
    passing_text,
    removed_by_alerts,
)
from graphcnf.chemistry.properties import properties_of
from graphcnf.chemistry.standardize import protonation_hash
from graphcnf.chemistry.surrogate import draw_nearest, surrogates_of
from graphcnf.compute.cpu import environment
from graphcnf.compute.parallel import Cluster, WorkerDied, Workers, available_cores, ordered_map
from graphcnf.compute.progress import progress_bar
from graphcnf.compute.signals import termination_raises
from graphcnf.errors import UserError
from graphcnf.file_writing import output_lock, replacing
from graphcnf.flows.transform import RecordNoise
from graphcnf.graphs.batch import PackedGraphs
from graphcnf.graphs.graph_model import GraphModel
from graphcnf.graphs.records import BLOCK, blocks, condition_row, one_thread, together_on
from graphcnf.messages import say
from graphcnf.molecules.conventions import validity_row
from graphcnf.molecules.molecule_model import MoleculeModel
from graphcnf.pretrained import model_digest
from graphcnf.sampling.blocks import Blocks, DrawnBlock, Record
from graphcnf.sampling.writers import WRITERS, Conversion, header, open_text

AGAIN = "the same command goes on from there"

WORTHWHILE = 1000
"""Records that are worth another process, which takes as long to start as 500 records to draw."""


@dataclass(frozen=True)
class Recipe:
    """Options that, with the model and the number of a record, determine the text of the record.

    Attributes:
        sizes: Lowest and highest number of atoms; None for those of the training data.
        kind: Kind of text: "smi", "csv", "sdf" or "jsonl".
        columns: Names of the values that are written of a record.
        everything: True to write invalid graphs and repeats as well.
        targets: Target value of each condition of the model, in their order and units; the value is
            None for a condition without a target. None instead of the tuple for no targets at all.
        best_of: Number of graphs that are drawn for each record, of which the one nearest to the
            targets is kept.
        filters: What a valid molecule has to meet to be written, such as bounds of properties.
        stereo: Digest of the model that draws stereo marks; "" to draw none.
    """

    seed: int
    temperature: float
    sizes: tuple[int, int] | None
    kind: str
    columns: tuple[str, ...]
    everything: bool
    properties: tuple[str, ...] = ()
    targets: tuple[float | None, ...] | None = None
    best_of: int = 1
    filters: Filters = NO_FILTERS
    stereo: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values; equal dictionaries determine equal records."""
        return json.loads(json.dumps({**vars(self), "filters": self.filters.identity}))


class Exhausted(UserError):
    """Raised if drawing is given up, since none of many records in a row was a new molecule.

    They are 10,000 (`graphcnf.chemistry.filters.PATIENCE`), or ten times as many if the filters
    refuse most molecules.
    """


@dataclass
class SampleCounts:
    """Counts of a sample so far; also stored in the descriptions of shards.

    `sampled` counts all records, `valid` the connected valid molecules; `seconds` is the wall time
    of drawing, over all interrupted runs.

    Attributes:
        outcomes: Counter of the valid molecules by the filter that refused them, `{refusal:
            number}`; the key "" counts those that pass. See `Filters.refusal`.
        reached: `{property with a target: [target, number, sum of values, sum of absolute
            errors]}`; number and sums are over the written molecules with a finite value.
    """

    sampled: int = 0
    valid: int = 0
    written: int = 0
    seconds: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    reached: dict[str, list[float]] = field(default_factory=dict)

    def add(self, record: Record) -> None:
        """Count a record that was drawn, in place, whether or not it is written.

        For a record that is written, call `add_written` as well.
        """
        self.sampled += 1
        self.valid += record.strict
        if record.strict:
            self.outcomes[record.refusal] += 1

    def add_written(self, record: Record) -> None:
        """Count a record that is written, and how far its properties are from their targets."""
        self.written += 1
        for name, (asked, value) in record.reached.items():
            self._add_reached(name, [asked, 1, value, abs(value - asked)])

    def add_counts(self, other: SampleCounts) -> None:
        """Add the counts of another part of the sample, in place.

        With the same targets. A molecule that both parts have written counts twice, in `written`
        and in the sums of `reached`.
        """
        self.sampled += other.sampled
        self.valid += other.valid
        self.written += other.written
        self.seconds += other.seconds
        self.outcomes.update(other.outcomes)
        for name, numbers in other.reached.items():
            self._add_reached(name, numbers)

    def _add_reached(self, name: str, numbers: list[float]) -> None:
        asked, *sums = numbers
        known = self.reached.get(name, [asked, 0, 0.0, 0.0])
        self.reached[name] = [asked, *(a + b for a, b in zip(known[1:], sums, strict=True))]

    def figures(self, distinct: bool, filters: Collection[str], best_of: int = 1) -> dict[str, Any]:
        """Return the counts, and shares of them, by name, as in JSON.

        `filters` are the keys of `Filters.checks`; `distinct` is False if repeats are written.

        Returns:
            - "sampled", "strict_valid", "accepted" (valid and passing all filters), "written",
              "distinct": numbers of graphs; "distinct" is 0 if repeats are written.
            - "seconds": wall time.
            - "strict_validity": share of valid graphs, in [0, 1].
            - "acceptance": share of the valid ones that pass all filters; "filters": `{filter:
              share that passes it}`.
            - "removed": numbers of molecules by filter and structural alert.
            - "asked", if a written molecule has a property with a target: for each such property
              the target as "value", the "mean" over the written molecules, and the mean absolute
              error "mae". Then also "best_of", and "drawn", the number of graphs drawn for all
              records.
        """
        asked = {
            name: {"value": value, "mean": total / count, "mae": distance / count}
            for name, (value, count, total, distance) in self.reached.items()
        }
        accepted, removed = self.outcomes.get("", 0), removed_by_alerts(self.outcomes)
        return {
            **({"asked": asked} if asked else {}),
            **({"best_of": best_of, "drawn": best_of * self.sampled} if asked else {}),
            "sampled": self.sampled,
            "strict_valid": self.valid,
            "strict_validity": self.valid / max(self.sampled, 1),
            "accepted": accepted,
            "acceptance": accepted / max(self.valid, 1),
            **({"filters": passing_shares(filters, self.outcomes)} if filters else {}),
            **({"removed": removed} if removed else {}),
            "written": self.written,
            "distinct": self.written if distinct else 0,
            "seconds": round(self.seconds, 3),
        }

    def summary(self, distinct: bool, filters: Collection[str], best_of: int = 1) -> str:
        """Return a one-line summary, with the share of molecules that passes each filter."""
        figures = self.figures(distinct, filters, best_of)
        passed = passing_text(filters, self.outcomes)
        shown = f", of these {passed}" if passed else ""
        shown += f", {self.written:,} distinct" if distinct and self.written else ""
        shown += asked_text(figures)
        return (
            f"sampled {self.sampled:,} graphs in {self.seconds:.1f} s: "
            f"{figures['strict_validity']:.1%} strictly valid{shown}"
        )


def asked_text(figures: dict[str, Any]) -> str:
    """Return phrases for a summary: how near the sample came to the targets, and at what cost.

    Such as "; logp=2.5 requested, mean 2.48, mean absolute error 0.11", and how many draws each
    molecule is the nearest of; "" without targets.
    """
    asked = "".join(
        f"; {name}={found['value']:g} requested, mean {found['mean']:.4g}, "
        f"mean absolute error {found['mae']:.3g}"
        f"{'' if name in PROPERTIES else ' (as its surrogate predicts)'}"
        for name, found in figures.get("asked", {}).items()
    )
    if figures.get("best_of", 1) == 1:
        return asked
    cost = f"each the nearest of {figures['best_of']} candidates, {figures['drawn']:,} in all"
    return f"{asked}; {cost}"


class Sample:
    """A sample of a molecule model. Call `write` or `save`, once, to draw it.

    Args:
        number: Number of records to write, after which drawing stops; None to draw all of
            `records`.
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
        self.counts = SampleCounts()
        self._total = len(records) if number is None else number

    def _done(self) -> int:
        return self.counts.sampled if self.number is None else self.counts.written

    def write(self, stream: TextIO) -> None:
        """Draw the sample into a text stream, which is flushed after each block.

        `Exhausted` is raised if drawing is given up before `number` records are written.
        """
        # A progress bar would be mixed up with molecules on the same terminal.
        self._write(stream, self._drawn(self._ranges()), hidden=stream.isatty())

    def save(
        self,
        out: Path,
        *,
        convert: Conversion = None,
        beside: Callable[[Path], None] | None = None,
        force: bool = False,
    ) -> None:
        """Draw the sample into a file, continuing what an interrupted process has drawn.

        Finished blocks are kept beside the file (`Blocks`). The file is replaced once the sample is
        complete, and the blocks are deleted.

        Args:
            convert: Function that converts the text (first path) into the file (second path), such
                as `conversion` returns; None if the file is the text.
            beside: Function that is called with the temporary path of the whole file before it gets
                its name `out`, to write something beside it.
            force: True to delete an unfinished sample of this file with other options.
        """
        manifest = {
            "model": model_digest(self.model),
            "recipe": self.recipe.to_dict(),
            **environment(str(self.model.device)),
        }
        with termination_raises(), output_lock(out):
            store = Blocks(out, manifest, force)
            with replacing(out) as whole:
                try:
                    with open_text(whole, convert) as stream:
                        self._write(stream, self._stored(store, out))
                except Exhausted as error:
                    if not self.counts.written:
                        store.clear()
                        raise
                    raise Exhausted(f"{error} (it is kept in {store.folder})") from None
                except WorkerDied as error:
                    raise UserError(f"{error}; {AGAIN}") from None
                except (KeyboardInterrupt, SystemExit):
                    if store.graphs:
                        say(f"interrupted after {store.graphs:,} graphs of {out}; {AGAIN}")
                    raise
                if beside is not None:
                    beside(whole)
            store.clear()

    def _write(self, stream: TextIO, drawn: Generator[DrawnBlock], *, hidden: bool = False) -> None:
        """Write the text of a sample."""
        recipe = self.recipe
        funnel = Funnel(recipe.filters, math.inf if self.number is None else PATIENCE)
        self.counts = counts = SampleCounts(outcomes=funnel.outcomes)
        bar = progress_bar("generating", self._total, hidden=hidden)

        def records() -> Iterator[Record]:
            for block in drawn:
                counts.seconds += block.seconds
                for record in block.records:
                    if record.number in self.records:
                        counts.add(record)
                        yield record
                stream.flush()
                show(self._done())

        def molecules() -> Iterator[list[tuple[int, Record]]]:
            for record in records():
                yield [] if record.hash is None else [(record.hash, record)]

        stream.write(header(recipe.kind, recipe.columns))
        with closing(drawn), bar as show:
            for record in records() if recipe.everything else funnel.distinct(molecules()):
                counts.add_written(record)
                stream.write(record.text)
                if counts.written == self.number:
                    return
        if self.number is not None and counts.sampled < len(self.records):
            advice = f"ask for -n {counts.written}, other sizes or another --temperature"
            if not counts.written:
                advice = "ask for other sizes or less strict filters"
            if not counts.valid:
                advice = "train the model for longer, or lower --temperature"
            raise Exhausted(f"{funnel.ending()}; {advice}")

    def _stored(self, store: Blocks, out: Path) -> Generator[DrawnBlock]:
        """Yield all blocks: the stored ones up to the first missing one, then drawn ones."""
        todo = self._ranges()
        for numbers in todo:
            block = store.get(numbers)
            if block is not None:
                yield block
                continue
            if store.graphs:
                say(f"note: going on with {out}: {store.graphs:,} graphs are there")
            with closing(self._drawn(chain([numbers], todo))) as drawn:
                for block in drawn:
                    store.put(block)
                    yield block

    def _drawn(self, todo: Iterator[range]) -> Generator[DrawnBlock]:
        """Draw blocks; this process draws the first one, since others take time to start."""
        draw = partial(block_records, self.model, self.recipe)
        if not self.counts.sampled:
            yield from _timed(map(draw, islice(todo, 1)))
        left: float = self._total - self._done()
        if self.number is not None:
            left *= max(self.counts.sampled, 1) / max(self.counts.written, 1)
        left *= self.recipe.best_of
        processes = sampling_processes(self.model, left, self.workers)
        with ordered_map(draw, todo, workers=processes) as drawn:
            yield from _timed(drawn)

    def _ranges(self) -> Iterator[range]:
        """Yield the numbers of records that are drawn together, until all of the sample are."""
        first, stop = self.records.start, self.records.stop
        together = together_on(self.model.device)
        for numbers in takewhile(lambda block: block.start < stop, blocks(first, together)):
            part = range(max(first, numbers.start), min(stop, numbers.stop))
            yield numbers if together == 1 else part


def _timed(drawn: Iterable[list[Record]]) -> Iterator[DrawnBlock]:
    """Measure how long blocks take."""
    since = time.perf_counter()
    for records in drawn:
        before, since = since, time.perf_counter()
        yield DrawnBlock(records, since - before)


def block_records(model: GraphModel, recipe: Recipe, block: range) -> list[Record]:
    """Draw a block of records; worker processes call it.

    The text is "" for graphs that the recipe does not let through. A repeat of a molecule has a
    text, since repeats are only found when the text is written.
    """
    graphs, molecules = draw_nearest(
        MoleculeModel(model),
        block,
        seed=recipe.seed,
        temperature=recipe.temperature,
        atoms=recipe.sizes,
        targets=recipe.targets,
        best_of=recipe.best_of,
        stereo=bool(recipe.stereo),
    )
    rows = [
        {"record": record, **validity_row(molecule)}
        for record, molecule in zip(block, molecules, strict=True)
    ]
    if "log_likelihood" in recipe.columns:
        strict = np.array([row["strict"] for row in rows])
        nats = molecule_log_likelihoods(model, graphs, block, strict, recipe.seed, recipe.targets)
        for row, value in zip(rows, nats, strict=True):
            row["log_likelihood"] = value
    write, records = WRITERS[recipe.kind], []
    names = [table["name"] for table in model.conditions]
    predictors = surrogates_of(model) if recipe.targets else {}
    asked = {
        name: value
        for name, value in zip(names, recipe.targets or (), strict=False)
        if value is not None and (name in predictors or name in PROPERTIES)
    }
    chemistry = bool(recipe.properties or recipe.filters or asked)
    for row, molecule in zip(rows, molecules, strict=True):
        mol = Chem.MolFromSmiles(row["smiles"]) if chemistry and row["strict"] else None
        refusal = "" if mol is None else recipe.filters.refusal(mol)
        hash_, text, reached = None, "", {}
        if recipe.everything or (row["strict"] and not refusal):
            hash_ = None if recipe.everything else protonation_hash(row["smiles"])
            if mol is not None:
                row |= properties_of(mol, recipe.properties)
            row["smiles"] = molecule.isomer or row["smiles"]
            text = write({name: row.get(name) for name in recipe.columns})
            found = {} if mol is None else properties_of(mol, asked, predictors)
            reached = {k: (asked[k], v) for k, v in found.items() if math.isfinite(v)}
        records.append(Record(row["record"], row["strict"], refusal, hash_, text, reached))
    return records


def molecule_log_likelihoods(
    model: GraphModel,
    graphs: PackedGraphs,
    block: range,
    strict: np.ndarray,
    seed: int,
    targets: Sequence[float | None] | None = None,
) -> np.ndarray:
    """Return lower bounds on log p(molecule | number of atoms, targets) of the records of a block.

    For an order-agnostic model, all node orderings of a molecule are equally probable, and the
    bound is for their sum. The value is None then for graphs that are no valid molecules, since
    counting the symmetries of an arbitrary graph may take forever. For other models it is the bound
    of the ordering in which the graph was drawn.

    Each bound is one draw, with noise that is a function of the seed and the record's number.

    The result is (M,) object: nats, rounded to four decimals, or None, also where a bound is not
    finite. `targets` has None for a condition without a target.
    """
    with one_thread(model.device):
        row = None if targets is None else condition_row(targets).expand(len(graphs), -1)
        noise = RecordNoise(seed, np.asarray(block))
        nats = model.log_prob(graphs, condition_values=row, noise=noise).numpy()
    known = strict | model.ordered
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
    """Yield the blocks of the first `number` records; the last one may be shorter.

    With `together`, so many blocks become one range, to be drawn together.
    """
    needed = takewhile(lambda block: block.start < number, blocks(0, together))
    return (range(block.start, min(block.stop, number)) for block in needed)


def sampling_processes(model: GraphModel, records: float, workers: Workers = None) -> int | Cluster:
    """Return with how many processes to draw, or the given cluster.

    It is one process for a model on a GPU, and never more processes than blocks.

    `workers` is the largest number of processes, or a cluster; None for one per core, if there are
    at least `WORTHWHILE` (1,000) records for each.
    """
    if workers is not None and not isinstance(workers, int):
        return workers
    if model.device.type != "cpu":
        return 1
    if workers is None:
        return max(1, min(available_cores(), round(records / WORTHWHILE)))
    return max(1, min(workers, math.ceil(records / BLOCK)))
