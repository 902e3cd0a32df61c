"""Small models and data that commands are given, and the running of one case among them."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
from functools import cached_property
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import typer

from badinput.case import Case, Outcome
from graphcnf.scripts.benchmarks import cli as benchmarks
from graphcnf.scripts.cli import app
from graphcnf.scripts.cli import run as run_command
from graphcnf.scripts.figures import cli as figures

PROGRAMS = {"graphcnf": app, "benchmarks": benchmarks.app, "figures": figures.app}
HEAVY = ("graphcnf.training.loop", "graphcnf.coloring.flow", "graphcnf.images", "pandas",
         "graphcnf.molecules.flow", "pyarrow.parquet")  # fmt: skip
PATIENCE = 120
MEMORY = 6 << 30
"""Bytes that a case may take: more, and the machine would be in danger."""

SMILES = [
    f"{head}{chain}{tail}"
    for head in ("C", "O", "N", "F", "c1ccccc1", "[O-]C(=O)", "C1CC1")
    for chain in ("C", "CC", "C(C)C", "OC", "N(C)C", "C=C")
    for tail in ("", "C", "O")
]


class Hung(BaseException):
    """A case did not end in time."""


class Stage:
    """A folder with models and data of every kind, and a working folder for one case at a time.

    Args:
        root: An empty folder.
    """

    def __init__(self, root: Path):
        # What is interrupted while it is imported stays broken.
        for name in HEAVY:
            import_module(name)
        self.root, self.work = root, root / "work"
        self.programs = {name: typer.main.get_command(found) for name, found in PROGRAMS.items()}
        self.molecules = root / "molecules.smi"
        self.molecules.write_text("\n".join(SMILES) + "\n")
        self.preset = root / "mine.toml"
        self.preset.write_text(
            f'[model]\nwidth = 16\nlayers = 1\nheads = 2\ntable_rows = 64\n\n[data]\n'
            f'name = "smiles_file"\npath = "{self.molecules}"\n\n[training]\nsteps = 2\n'
            "batch_size = 8\neval_batches = 1\nfinal_eval_batches = 1\naccelerator = \"cpu\"\n"
        )  # fmt: skip

    def fill(self, text: str) -> str:
        """The text with the names of places put in."""
        for name in ("molecules", "preset", "model", "images", "photos", "coloring", "run", "work"):
            if f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", str(getattr(self, name)))
        return text

    @cached_property
    def model(self) -> Path:
        """A model of molecules with random weights."""
        from graphcnf.datasets.molecules import encode
        from graphcnf.graphs import GraphCNF

        data = encode("mine", SMILES, workers=1)
        model = GraphCNF.for_graphs(
            data.graphs,
            node_categories=len(data.vocabulary.atoms),
            bond_categories=len(data.vocabulary.bonds),
            metadata={
                "dataset": "mine",
                "vocabulary": data.vocabulary.to_dict(),
                "size_histogram": data.size_histogram("all").tolist(),
            },
            training_hashes=np.unique(data.hashes),
            width=16, layers=1, heads=2, table_rows=64,
        )  # fmt: skip
        return self._saved(model, "model")

    @cached_property
    def photos(self) -> Path:
        """A folder of 30 pictures of 4 x 4 pixels."""
        from PIL import Image

        folder = self.root / "photos"
        folder.mkdir()
        dice = np.random.default_rng(0)
        for k in range(30):
            pixels = dice.integers(0, 256, (4, 4), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{k:02}.png")
        return folder

    @cached_property
    def images(self) -> Path:
        """A model of images, of the photographs."""
        from graphcnf.datasets.images import load_images
        from graphcnf.images import ImageFlow

        data = {"path": str(self.photos), "bits": 2}
        dataset = load_images(**data)
        model = ImageFlow(
            architecture="simple", shape=dataset.shape, levels=4, couplings=2, width=4, layers=1
        )
        model.metadata = {"dataset": "photos", "data": data, "checksum": dataset.checksum}
        return self._saved(model, "images")

    @cached_property
    def coloring(self) -> Path:
        """A model of colourings."""
        from graphcnf.coloring import ColoringFlow

        model = ColoringFlow(3, width=8, heads=2, encoder_layers=1, ahead=4, rounds=1)
        model.metadata = {"dataset": "coloring", "data": {"size": "small", "graphs": 40}}
        return self._saved(model, "coloring")

    @cached_property
    def run(self) -> Path:
        """A finished training run."""
        folder = self.root / "run"
        with contextlib.redirect_stderr(io.StringIO()), contextlib.suppress(SystemExit):
            arguments = ["train", str(self.preset), "--out", str(folder)]
            run_command(self.programs["graphcnf"], arguments)
        assert (folder / "checkpoints" / "last.ckpt").exists()
        return folder

    def _saved(self, model, name: str) -> Path:
        model.save_pretrained(self.root / name)
        return self.root / name

    def play(self, case: Case) -> Outcome:
        """Run a case in this process, in a working folder of its own."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        arguments = [self.fill(a) for a in case.arguments]
        with contextlib.chdir(self.work), _environment(case, self.root / "cache"):
            if case.prepare is not None:
                case.prepare(self)
            before = _content(self.work)
            out, err = io.BytesIO(), io.StringIO()
            code, crash = 1, ""
            with _streams(case, out, err), _limits():
                try:
                    run_command(self.programs[case.program], arguments, case.program)
                except SystemExit as end:
                    code = end.code or 0
                except Hung:
                    code = None
                except BaseException as error:
                    crash = f"{type(error).__name__}: {error}"
            after = _content(self.work)
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        text = out.getvalue().decode(errors="replace")
        return Outcome(code, text, err.getvalue(), crash, changed)


def _content(folder: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            found[name] = path.read_bytes() if path.is_file() else "other"
    return found


@contextlib.contextmanager
def _environment(case: Case, cache: Path):
    before = dict(os.environ)
    os.environ.update({"GRAPHCNF_CACHE": str(cache), "COLUMNS": "100", **dict(case.environment)})
    os.environ.pop("GRAPHCNF_DEBUG", None)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _streams(case: Case, out: io.BytesIO, err: io.StringIO):
    stdout = open("/dev/full", "w") if case.stdout == "full" else None
    if case.stdout is None:
        stdout = io.TextIOWrapper(out, "utf-8", write_through=True)
    stdin = None if case.stdin is None else io.TextIOWrapper(io.BytesIO(case.stdin), "utf-8")
    before = sys.stdin, sys.stdout, sys.stderr
    sys.stdin, sys.stdout, sys.stderr = stdin, stdout, err
    try:
        yield
    finally:
        sys.stdin, sys.stdout, sys.stderr = before
        if case.stdout == "full":
            with contextlib.suppress(OSError):
                stdout.close()
        elif stdout is not None:
            stdout.detach()


@contextlib.contextmanager
def _limits():
    """An end after some time, and no more memory than the machine has to spare."""

    def stop(number, frame):
        raise Hung

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    handler = signal.signal(signal.SIGALRM, stop)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, hard))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
