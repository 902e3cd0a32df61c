"""What samples are held against: the row of the training data, and distribution metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from graphcnf.datasets.references import cached_statistics
from graphcnf.errors import UserError
from graphcnf.evaluation.distances import measure
from graphcnf.evaluation.tables import Evaluation
from graphcnf.molecules.distributions import Comparison, SetStatistics, compare
from graphcnf.molecules.metrics import data_ceiling
from graphcnf.molecules.similarity import LARGEST
from graphcnf.scripts.evaluation import metric_names, named_data

if TYPE_CHECKING:
    from graphcnf.compute.cluster import Cluster
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.datasets.zinc250k import Zinc250kRows
    from graphcnf.evaluation.summary import Summary
    from graphcnf.graphs import GraphCNF

    Rows = MoleculeDataset | Zinc250kRows

DATA = "training data through the same pipeline"


@dataclass(frozen=True)
class Against:
    """What samples are held against.

    Attributes:
        reference: One of `named_data.OFFICIAL`, "none" or a file of training molecules; None for a
            model's own data, or zinc250k.
        test: File of molecules to compare distributions with, None for the reference's held-out
            part.
        metrics: Names of distribution metrics.
        device: Where models and ChemNet run.
        workers: Processes that draw and describe molecules, or a cluster; None for as many as pay.
    """

    reference: str | None = None
    test: str | None = None
    metrics: tuple[str, ...] = ()
    device: str = "cpu"
    workers: int | Cluster | None = None
    _known: dict[tuple, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, key: tuple, compute: Callable[[], Any]) -> Any:
        """What `compute()` gives; computed for the first of several sets that ask for `key`."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def load(self, reference: str, model: GraphCNF | None = None) -> Rows:
        """`named_data.load_rows`, once for all sets in one coding."""
        coding = None if model is None else (str(model.metadata["vocabulary"]), model.max_nodes)
        return self.once(
            ("data", reference, coding), lambda: named_data.load_rows(reference, model)
        )

    def describe(
        self, name: str, smiles: Sequence[str], *, use_cache: bool = True
    ) -> SetStatistics:
        """`cached_statistics` for the metrics, by the workers that there are."""
        return cached_statistics(
            name, smiles, metrics=self.metrics, workers=self.workers, device=self.device,
            use_cache=use_cache,
        )  # fmt: skip

    def floor(self, dataset: Rows, training: Sequence[str], reference: SetStatistics) -> Comparison:
        """How far training molecules are from the reference.

        Sets that differ in size by less than 5 % share the figures of the first one.
        """

        def compared() -> Comparison:
            statistics = self.describe("training molecules", training, use_cache=False)
            return compare(statistics, reference, metrics=self.metrics)

        count = len(training)
        sizes = [key[3] for key in self._known if key[:3] == ("floor", dataset.name, self.test)]
        near = next((n for n in sizes if abs(n - count) < 0.05 * n), count)
        return self.once(("floor", dataset.name, self.test, near), compared)


def held_out_smiles(dataset: Rows | None, against: Against) -> list[str]:
    """The molecules that distributions are compared with, at most `named_data.REFERENCE`."""
    if against.test is not None:
        from graphcnf.datasets.smiles_file import load_smiles_file

        if not Path(against.test).exists():
            raise UserError(f"no such file: {against.test}")
        if dataset is None:
            raise UserError("--test needs the training data as well: name them with --reference")
        smiles = load_smiles_file(against.test).smiles
        if against.metrics and len(smiles) < 2:
            raise UserError(f"{against.test} holds too few molecules to compare with")
        chosen = np.random.default_rng(0).permutation(len(smiles))[: named_data.REFERENCE]
        return [smiles[k] for k in chosen]
    metric_names.check_needs(against.metrics, dataset)
    if tuple(against.metrics) == ("fcd",):
        named_data.check_chemnet_installed()
    if dataset is None or not against.metrics:
        return []
    return dataset.take(named_data.held_out(dataset, named_data.REFERENCE)).smiles


def add_data(
    result: Evaluation, dataset: Rows, seed: int, summaries: Sequence[Summary],
    held_out: Sequence[str], against: Against,
) -> None:  # fmt: skip
    """Add the row of the training data, and the distribution metrics."""
    count = min(summaries[0].tally.samples, LARGEST)
    figures, smiles = against.once(
        ("ceiling", id(dataset), count, seed),
        lambda: _ceiling(dataset, count, seed, result.training_hashes),
    )
    # Loaders leave out what is not in one piece.
    result.data = {
        "name": DATA,
        **figures,
        "reference": dataset.name,
        "connected": 1.0,
        "reconstruction_molecules": figures["samples"],
    }
    if against.metrics:
        # Distances fall with the number of molecules: the floor is of as many, if not too many.
        smiles = smiles[: summaries[0].statistics.size]
        reference = against.describe(f"{'file' if against.test else dataset.name}-test", held_out)
        result.distances = measure(
            against.metrics,
            [summary.statistics for summary in summaries],
            reference,
            against.floor(dataset, smiles, reference),
            dataset.name,
        )
        result.data |= result.distances.floor
        result.notes += result.distances.notes


def _ceiling(
    dataset: Rows, number: int, seed: int, hashes: np.ndarray
) -> tuple[dict[str, Any], list[str]]:
    """The row "training data through the same pipeline", of random training molecules.

    Returns:
        Its figures, and the SMILES of the molecules.
    """
    train = dataset.split("train")
    chosen = dataset.take(np.random.default_rng(seed).permutation(train)[:number])
    figures = data_ceiling(chosen.graphs, chosen.smiles, chosen.vocabulary, training_hashes=hashes)
    return figures, chosen.smiles


def with_count(found: dict, summary: Summary, against: Against) -> dict[str, Any]:
    """Distances, and the number of molecules that FCD is of."""
    return {
        **found,
        **({"fcd_molecules": summary.statistics.size} if "fcd" in against.metrics else {}),
    }
