"""Scores of saved models by their samples, drawn by several processes and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from graphcnf.evaluation import measures
from graphcnf.evaluation.draw import WORTHWHILE, draw_block, first_blocks
from graphcnf.files import replace_file
from graphcnf.parallel import OrderedMap, available_cores, chunked, parallel_map
from graphcnf.pretrained import load_array
from graphcnf.scripts._output import progress_bar
from graphcnf.scripts.benchmarks.runs import (
    TrainedRun,
    data_key,
    molecules_of,
    read_json,
    saved_metadata,
)
from graphcnf.scripts.evaluation import named_data

if TYPE_CHECKING:
    import pandas as pd

    from graphcnf.graphs import GraphCNF
    from graphcnf.molecules.distributions import SetStatistics


class Job(NamedTuple):
    """A saved model to score.

    Attributes:
        run: Its run: the data that it was trained on.
        folder: The saved model.
        cache: File of its scores.
    """

    run: TrainedRun
    folder: Path
    cache: Path


class Scorer:
    """Scores models by their samples, and keeps the scores beside them.

    Args:
        samples: Raw samples to draw, at temperature 1 with argmax decoding.
        seed: Seed of the samples; None for the one that a run was trained with.
        fcd: Whether to compute the Frechet ChemNet distance to held-out molecules.
        device: Where models and ChemNet run.
        workers: Processes that draw; None for as many as pay. A model on a GPU takes one.

    Raises:
        UserError: `fcd` without its package.
    """

    def __init__(
        self,
        samples: int,
        seed: int | None,
        *,
        fcd: bool,
        device: str = "cpu",
        workers: int | None = None,
    ):
        if fcd:
            named_data.check_chemnet_installed()
        self.samples, self.seed, self.fcd, self.device = samples, seed, fcd, device
        self.workers = workers
        self._references: dict[str, SetStatistics] = {}

    def __call__(self, jobs: Sequence[Job]) -> Iterator[dict[str, Any]]:
        """Figures of each model's samples; nothing for a model of other data than molecules.

        Scores that are known, for the same weights, are not computed again. Models are drawn from
        ahead of what is asked for.

        Yields:
            As `metrics.summarize`, and `connected`, `valence`, `parameters` and `fcd`.

        Raises:
            UserError: A model or its data are not usable.
        """
        known = [self._known(job) for job in jobs]
        missing = [job for job, found in zip(jobs, known, strict=True) if found is None]
        parts = first_blocks(self.samples)
        tasks = [
            (str(job.folder), _fingerprint(job.folder), self._seed(job.run), part)
            for job in missing
            for part in parts
        ]
        draw = partial(score_part, self.device)
        with OrderedMap(draw, tasks, workers=self._processes(len(tasks), len(missing))) as drawn:
            drawn = iter(drawn)
            for job, found in zip(jobs, known, strict=True):
                if found is None:
                    found = self._score(job, islice(drawn, len(parts)))
                unwanted = {"fingerprint"} if self.fcd else {"fingerprint", "fcd"}
                yield {name: value for name, value in found.items() if name not in unwanted}

    def data_figures(self, run: TrainedRun) -> dict[str, Any]:
        """Figures of as many random training molecules, taken through their graphs.

        No model of these graphs is better, but for novelty. FCD is of what the graphs stand for,
        where that is valid.
        """
        import numpy as np

        from graphcnf.molecules.metrics import CONVENTIONS, evaluate_records, summarize

        dataset = molecules_of(run)
        train = np.random.default_rng(self.seed or 0).permutation(dataset.split("train"))
        graphs = [dataset.graphs.subset(part) for part in chunked(train[: self.samples], 500)]
        score = partial(evaluate_records, vocabulary=dataset.vocabulary, conventions=CONVENTIONS)
        workers = self.workers or min(available_cores(), max(1, self.samples // (4 * WORTHWHILE)))
        frame = _joined(parallel_map(score, graphs, workers=workers, label="scoring the data"))
        return {
            **summarize(frame, dataset.training_hashes()),
            "connected": measures.connected_share(frame),
            "valence": measures.valence_share(frame),
            **self._distance(run, frame),
        }

    def _seed(self, run: TrainedRun) -> int:
        return run.settings.seed if self.seed is None else self.seed

    def _processes(self, tasks: int, jobs: int) -> int:
        if self.device != "cpu":
            return 1
        pay = min(available_cores(), round(jobs * self.samples / WORTHWHILE))
        return max(1, min(tasks, pay if self.workers is None else self.workers))

    def _known(self, job: Job) -> dict[str, Any] | None:
        """Scores that need no sampling, None where they have to be computed."""
        if "vocabulary" not in saved_metadata(job.folder):
            return {}
        found = read_json(job.cache).get(self._key(job), {})
        stale = found.get("fingerprint") != _fingerprint(job.folder)
        return None if stale or (self.fcd and "fcd" not in found) else found

    def _key(self, job: Job) -> str:
        return f"{self.samples} samples, seed {self._seed(job.run)}"

    def _score(self, job: Job, drawn: Iterator[tuple[pd.DataFrame, int]]) -> dict[str, Any]:
        from graphcnf.molecules.metrics import summarize

        frames, parameters = [], None
        with progress_bar(f"sampling {job.folder}", self.samples) as show:
            for part in drawn:
                frames.append(part[0])
                parameters = part[1]
                show(sum(map(len, frames)))
        frame = _joined(frames)
        # A snapshot has none of its own.
        hashes = load_array(job.run.path / "model", "training_hashes")
        if hashes is None:
            hashes = molecules_of(job.run).training_hashes()
        figures = {
            "fingerprint": _fingerprint(job.folder),
            **summarize(frame, hashes),
            "connected": measures.connected_share(frame),
            "valence": measures.valence_share(frame),
            "parameters": parameters,
            **self._distance(job.run, frame),
        }
        content = {**read_json(job.cache), self._key(job): figures}
        replace_file(job.cache, (json.dumps(content, indent=1) + "\n").encode())
        return figures

    def _distance(self, run: TrainedRun, frame: pd.DataFrame) -> dict[str, float | None]:
        """FCD of the strictly valid records, None for fewer than two; nothing if not wanted."""
        if not self.fcd:
            return {}
        from graphcnf.datasets.references import cached_statistics
        from graphcnf.molecules.distributions import compare

        options = {"metrics": ("fcd",), "device": self.device, "workers": 1}
        data = data_key(run)
        if data not in self._references:
            dataset = molecules_of(run)
            chosen = named_data.held_out(dataset, named_data.REFERENCE)
            held_out = [dataset.smiles[k] for k in chosen]
            self._references[data] = cached_statistics(f"{dataset.name}-test", held_out, **options)
        valid = list(frame["smiles"][frame["strict"]])
        samples = cached_statistics("samples", valid, use_cache=False, **options)
        return {"fcd": compare(samples, self._references[data], metrics=("fcd",)).values["fcd"]}


def score_part(device: str, task: tuple[str, str, int, range]) -> tuple[pd.DataFrame, int]:
    """Draw and score some records; `first_blocks` says which belong together.

    Args:
        device: Where the model runs.
        task: Folder of the model, its fingerprint, the seed of the sample, and the records.

    Returns:
        Their `evaluate_records`, and the number of the model's parameters.
    """
    folder, fingerprint, seed, part = task
    model = _loaded(folder, fingerprint, device)
    _, frame = draw_block(model, part, seed=seed)
    return frame, sum(p.numel() for p in model.parameters())


@lru_cache(maxsize=1)
def _loaded(folder: str, fingerprint: str, device: str) -> GraphCNF:
    from graphcnf.scripts._sampling import load_model

    return load_model(folder, device)


def _fingerprint(folder: Path) -> str:
    """Of a saved model, and of what its samples are scored with."""
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes())
    return f"{digest.hexdigest()[:16]}, RDKit {version('rdkit')}"


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    import pandas as pd

    return pd.concat(frames, ignore_index=True)
