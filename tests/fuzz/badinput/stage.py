"""Small models and data that commands are given, and the running of one case among them."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TextIO

import numpy as np
import torch
import typer
from torch_states import variables

from badinput.case import Case, Outcome
from graphcnf.scripts.cli import app
from graphcnf.scripts.cli import run as run_command

PLACES = ("molecules", "preset", "model", "shard", "images", "photos", "run", "optimized", "work")
"""Parts of a stage, by the names that cases call them."""

HEAVY = ("graphcnf.training.loop", "graphcnf.images", "pandas", "graphcnf.molecule_flow",
         "pyarrow.parquet")  # fmt: skip
PATIENCE = 180
"""Seconds that a case may take; a refusal takes one, and more where others use the machine."""

MEMORY = 6 << 30
"""Bytes that a case may take: more, and the machine would be in danger."""

SMILES = [
    f"{head}{chain}{tail}"
    for head in ("C", "O", "N", "F", "c1ccccc1", "[O-]C(=O)", "C1CC1")
    for chain in ("C", "CC", "C(C)C", "OC", "N(C)C", "C=C")
    for tail in ("", "C", "O")
]


class Hung(BaseException):
    """A case did not end in time; no `Exception`, or a command would make a message of it."""


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
        self.command = typer.main.get_command(app)
        self.molecules = root / "molecules.smi"
        self.molecules.write_text("\n".join(SMILES) + "\n")
        self.preset = root / "mine.toml"
        self.preset.write_text(
            f'[model]\nwidth = 16\nlayers = 1\nheads = 2\ntable_rows = 64\n\n[data]\n'
            f'name = "smiles_file"\npath = "{self.molecules}"\n\n[training]\nsteps = 2\n'
            "batch_size = 8\neval_batches = 1\nfinal_eval_batches = 1\naccelerator = \"cpu\"\n"
        )  # fmt: skip

    def fill(self, text: str) -> str:
        """Return the text with the names of places put in."""
        for name in PLACES:
            if f"{{{name}}}" in text:
                text = text.replace(f"{{{name}}}", str(getattr(self, name)))
        return text

    def _made(self, *arguments: str) -> Path:
        """Run a command that makes its last argument, and return that."""
        with (
            _environment(self.root / "cache"),
            contextlib.redirect_stderr(io.StringIO()),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.suppress(SystemExit),
        ):
            run_command(self.command, [*arguments])
        assert Path(arguments[-1]).exists()
        return Path(arguments[-1])

    @cached_property
    def run(self) -> Path:
        """Return a finished training run, with snapshots."""
        settings = ("--set", "snapshots=true")
        return self._made("train", str(self.preset), *settings, "--out", str(self.root / "run"))

    @cached_property
    def model(self) -> Path:
        """Return a model of molecules after two steps."""
        return self.run / "model"

    @cached_property
    def shard(self) -> Path:
        """Return all of a sample, with the file that lies beside a shard."""
        return self._made("generate", "--model", str(self.model), "-n", "9", "--shard", "1/1",
                          "--out", str(self.root / "shard.smi"))  # fmt: skip

    @cached_property
    def photos(self) -> Path:
        """Return a folder of 30 pictures of 4 x 4 pixels."""
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
        """Return a model of the photographs after one step."""
        options = ("model.width=4", "model.couplings=2", "model.layers=1", "data.bits=2",
                   f"data.path={self.photos}", "batch_size=4", "accelerator=cpu")  # fmt: skip
        settings = [text for option in options for text in ("--set", option)]
        return self._made("train", "images-simple", "--steps", "1", *settings, "--out",
                          str(self.root / "images")) / "model"  # fmt: skip

    @cached_property
    def optimized(self) -> Path:
        """Return the folder of an optimisation of three calls."""
        return self._made("optimize", "--score", "qed", "--budget", "3", "--workers", "0",
                          "--model", str(self.model), "--folder",
                          str(self.root / "optimized"))  # fmt: skip

    def play(self, case: Case) -> Outcome:
        """Run a case in this process, in a working folder of its own."""
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir()
        arguments = [self.fill(a) for a in case.arguments]
        with contextlib.chdir(self.work), _environment(self.root / "cache", case.environment):
            if case.prepare is not None:
                case.prepare(self)
            before = _content(self.work)
            out = io.BytesIO()
            # A file, since commands hand it on to processes that they start.
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as err:
                code, crash = self._run(case, arguments, out, err)
                err.seek(0)
                told = err.read()
            after = _content(self.work)
        changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
        text = out.getvalue().decode(errors="replace")
        return Outcome(code, text, told, crash, changed)

    def _run(self, case: Case, arguments: list[str], out, err) -> tuple[int | None, str]:
        """Exit code, None where it did not end in time, and what exception came through."""
        with _streams(case, out, err):
            try:
                with _limits():
                    run_command(self.command, arguments)
            except SystemExit as end:
                return end.code or 0, ""
            except Hung:
                return None, ""
            except BaseException as error:
                return 1, f"{type(error).__name__}: {error}"
        return 1, "nothing: a command does not return"


def _content(folder: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = f"link to {os.readlink(path)}"
        else:
            size = path.stat().st_size
            small = path.is_file() and size < 1 << 30
            found[name] = path.read_bytes() if small else f"{size} bytes, or none"
    return found


def _environment(cache: Path, more: Sequence[tuple[str, str]] = ()):
    own = {"GRAPHCNF_CACHE": str(cache), "COLUMNS": "100", "GRAPHCNF_DEBUG": ""}
    return variables(**own | dict(more))


@contextlib.contextmanager
def _streams(case: Case, out: io.BytesIO, err: TextIO):
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
    # Again and again, should something catch it.
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, 5)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGALRM, handler)
        torch.set_num_threads(threads)
        torch.set_rng_state(state)
