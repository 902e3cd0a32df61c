"""Reference molecules: the row of the training data, and distances to held-out molecules."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.datasets.references import HELD_OUT, OFFICIAL, Rows, held_out, load_reference
from graphcnf.datasets.smiles_file import load_smiles_file
from graphcnf.errors import UserError, require, say
from graphcnf.evaluation.metrics import COMPARED, Metric, chosen_metrics
from graphcnf.evaluation.statistics import Comparison, SetStatistics, compare, set_statistics
from graphcnf.evaluation.summary import Summary, share, summarize
from graphcnf.molecules.validity import evaluate_records

if TYPE_CHECKING:
    from graphcnf.compute.parallel import Cluster
    from graphcnf.graphs import GraphCNF


@dataclass
class Distances:
    """Figures of sets of samples against held-out molecules.

    The floor has the figures of about as many training molecules as there are samples in the first
    set: what finite sets of the same molecules differ by.
    """

    metrics: tuple[Metric, ...]
    samples: list[Comparison]  # one per seed
    floor: Comparison
    training: str  # name of the data that the training molecules are from
    generated: SetStatistics  # of the first set
    reference: SetStatistics  # of the held-out molecules

    def notes(self) -> list[str]:
        """Return the footnotes of the table."""
        notes = [
            f"distances: of the {self.generated.size:,} strictly valid samples"
            + (" (first seed)" if len(self.samples) > 1 else "")
            + f", repeats included, and of {self.floor.generated:,} training molecules, the floor, "
            f"to {self.reference.size:,} held-out ones, all without stereo; lower is better for "
            "distances, higher for SNN, Frag, Scaf and alerts; IntDiv should be that of the "
            "training molecules."
        ]
        missing: dict[str, str] = {}
        for result in (self.floor, *reversed(self.samples)):
            missing |= result.missing
        for reason in dict.fromkeys(missing.values()):
            titles = [m.title for m in self.metrics if missing.get(m.name) == reason]
            notes.append(f"not computed: {', '.join(titles)}: {reason}.")
        return notes


@dataclass(frozen=True)
class Reference:
    """Molecules that samples are held against; several sets may share one.

    Attributes:
        name: One of `OFFICIAL`, "none", or a file of training molecules; None for a model's own
            data, or zinc250k.
        test: File of molecules to compare distributions with, None for the reference's held-out
            part.
        metrics: Names of distribution metrics.
        device: Device of ChemNet.
        workers: Processes that draw and describe molecules, or a cluster; None for as many as pay.
    """

    name: str | None = None
    test: str | None = None
    metrics: Sequence[str] = ()
    device: str = "cpu"
    workers: int | Cluster | None = None
    _known: dict[tuple, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self):
        chosen_metrics(self.metrics)

    def load(self, model: GraphCNF | None = None) -> tuple[str, Rows | None]:
        """Return name and training data ("none", None), loaded once for all sets in one vocabulary.

        Without a name, a model's own data is meant; the data have the vocabulary of the model.

        Raises:
            UserError: There is no such data, or the model has other categories.
        """
        name = self.name or "zinc250k"
        if self.name is None and model is not None:
            own = model.metadata.get("dataset")
            name = str(own) if own in OFFICIAL else "none"
            if name == "none":
                say(
                    "note: without the training data, named with --reference, there is no data "
                    "row, reconstruction or likelihood"
                )
        if name == "none":
            return name, None
        coding = None if model is None else (str(model.metadata["vocabulary"]), model.max_nodes)
        key = ("data", name, coding)
        return name, self._once(key, lambda: load_reference(name, model, by_row=True))

    def held_out(self, dataset: Rows | None) -> list[str]:
        """Return the molecules that distributions are compared with, at most `HELD_OUT`.

        Raises:
            UserError: There are none, or a package is missing without which there is no figure.
        """
        if self.test is None and not self.metrics:
            return []
        flag = "--fcd" if tuple(self.metrics) == ("fcd",) else "--metrics"
        if self.test is not None and not Path(self.test).exists():
            raise UserError(f"no such file: {self.test}")
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

    def data_row(
        self, dataset: Rows, count: int, seed: int, hashes: np.ndarray
    ) -> tuple[dict[str, Any], list[str]]:
        """Return the figures of training molecules, which no model in their vocabulary can beat.

        At most `COMPARED` of them are taken, and their SMILES returned as well; `reconstruction` is
        the share that come back from their graphs as they were.
        """

        def compute() -> tuple[dict[str, Any], list[str]]:
            train = dataset.split("train")
            chosen = dataset.take(np.random.default_rng(seed).permutation(train)[:count])
            records = evaluate_records(chosen.graphs, chosen.vocabulary)
            same = (records["strict"] & (records["smiles"] == chosen.smiles)).sum()
            return {
                "name": "training data through the same pipeline",
                **summarize(records, hashes),
                "reconstruction": share(int(same), len(records)),
                "reconstruction_molecules": len(records),
                "reference": dataset.name,
            }, chosen.smiles

        count = min(count, COMPARED)
        return self._once(("ceiling", id(dataset), count, seed), compute)

    def distances(
        self, dataset: Rows, summaries: Sequence[Summary], training: list[str], test: list[str]
    ) -> Distances:
        """Compare samples of each seed, and training molecules, with held-out molecules."""

        def describe(label: str, smiles: list[str], *, use_cache: bool) -> SetStatistics:
            return set_statistics(
                smiles, metrics=self.metrics, workers=self.workers, device=self.device,
                label=label, use_cache=use_cache,
            )  # fmt: skip

        def floor() -> Comparison:
            statistics = describe("training molecules", training[:count], use_cache=False)
            return compare(statistics, reference, metrics=self.metrics)

        label = f"{'file' if self.test else dataset.name}-test"
        reference = describe(label, test, use_cache=True)
        generated = [summary.statistics for summary in summaries]
        # Distances fall with the number of molecules: the floor is of as many, if not too many.
        count, key = min(len(training), generated[0].size), ("floor", dataset.name)
        # Sets that differ in size by less than 5 % share the figures of the first one.
        sizes = [known[2] for known in self._known if known[:2] == key]
        near = next((n for n in sizes if abs(n - count) < 0.05 * n), count)
        compared = [compare(own, reference, metrics=self.metrics) for own in generated]
        metrics, own_floor = chosen_metrics(self.metrics), self._once((*key, near), floor)
        return Distances(metrics, compared, own_floor, dataset.name, generated[0], reference)

    def _once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """Return `compute()`, computed for the first of several sets that ask for `key`."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]
