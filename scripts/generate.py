"""The `generate` command."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from graphcnf.errors import UserError
from graphcnf.scripts.generation import growth, options
from graphcnf.scripts.generation.target import check_target, conversion, plain_kind, target_kind

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.scripts.generation.partial import PartialFile
    from graphcnf.scripts.generation.records import Recipe
    from graphcnf.scripts.generation.stream import Marks, Progress

COLUMNS = ("record", "smiles")
ALL_COLUMNS = ("record", "smiles", "strict", "largest_fragment", "atoms")

PATIENCE = 10_000
"""Records in a row without a further valid molecule after which the search is given up."""

RARE = 10
"""So many times as many where molecules are selected."""

AGAIN = "the same command goes on from there"


def generate(
    number: options.Number = 100,
    out: options.Out = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace a file that exists, and what other options left unfinished."
        ),
    ] = False,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    temperature: options.Temperature = 1.0,
    size: options.Size = None,
    support: Annotated[
        bool,
        typer.Option(
            "--support/--no-support",
            help="Whether an atom may get as many bonds only as its category has in the training "
            "data.",
        ),
    ] = True,
    properties: options.Properties = None,
    require: options.Require = None,
    smarts: options.Smarts = None,
    scaffold: options.Scaffold = None,
    grow: options.Grow = None,
    link: options.Link = None,
    decorate: options.Decorate = None,
    particles: options.Particles = 4,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Write every sampled graph, valid or not, repeats included."),
    ] = False,
    likelihood: Annotated[
        bool,
        typer.Option(
            "--likelihood",
            help="Also write log_likelihood: a lower bound on log p(molecule | number of atoms) "
            "in nats.",
        ),
    ] = False,
    as_json: Annotated[
        bool,
        typer.Option(
            "--json",
            help="One JSON object per line instead of SMILES, and one with the figures of the "
            "summary as the last line of stderr.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes that draw, one thread each; without influence on what is drawn.",
            show_default="one per core, where many molecules are wanted",
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Graphs to draw at least from one write to the next; without influence on what "
            "is drawn. An interruption costs what came after the last write.",
            show_default="one block, 128 or 512 graphs",
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ... On a GPU one process draws.")
    ] = "cpu",
) -> None:
    """Draw molecules: distinct, valid SMILES, the same ones for the same seed.

    A graph counts as valid when RDKit sanitizes it as it is and it is in one piece; nothing is
    repaired. A larger -n begins with the same molecules. --require and --smarts only select among
    them.
    """
    from graphcnf.scripts._sampling import (
        check_temperature,
        load_model,
        parse_selection,
        parse_sizes,
        valency_checked,
    )

    kind = target_kind(out, as_json, "csv" if everything else "smi")
    if everything and (require or smarts):
        raise typer.BadParameter("--all writes every graph: leave out --require and --smarts")
    ways = {"scaffold": scaffold, "grow": grow, "link": link, "decorate": decorate}
    others = {"--all": everything, "--likelihood": likelihood, "--workers": workers,
              "--batch-size": batch_size, "--require": require, "--smarts": smarts}  # fmt: skip
    way = growth.chosen_way(ways, others)
    sizes = parse_sizes(size)
    check_temperature(temperature)
    check_target(out, kind, force)
    chosen = parse_selection(properties, require or [], smarts or [])
    network = load_model(model, device, support=support)
    if valency_checked(network):
        print(
            "note: valency check on: bonds that do not fit are drawn again (not with --no-support)",
            file=sys.stderr,
        )
    if workers is not None and workers > 1 and network.device.type != "cpu":
        raise typer.BadParameter("on a GPU one process draws", param_hint="'--workers'")

    from graphcnf.scripts.generation.records import Recipe

    plain = plain_kind(kind)
    columns = ALL_COLUMNS if everything else ("smiles",) if plain == "smi" else COLUMNS
    columns = (*columns, "log_likelihood") if likelihood else columns
    recipe = Recipe(
        seed=seed,
        temperature=temperature,
        sizes=sizes,
        kind=plain,
        columns=tuple(dict.fromkeys([*columns, *chosen["properties"]])),
        everything=everything,
        **chosen,
    )
    if way is not None:
        convert = conversion(kind, recipe.columns)
        growth.write_grown(network, recipe, number, out, way, particles, convert)
        return
    selective = bool(require or smarts)
    patience = RARE * PATIENCE if selective else PATIENCE
    how = {"workers": workers, "patience": patience, "least": batch_size or 1}
    if out is None:
        progress, distinct = _to_stdout(network, recipe, number, how)
    else:
        convert = conversion(kind, recipe.columns)
        with _orderly_end():
            progress, distinct = _to_file(network, recipe, number, how, out, convert, force)
    shown = (
        json.dumps(progress.figures(distinct))
        if as_json
        else progress.summary(distinct, selective=selective)
    )
    print(shown, file=sys.stderr)


def _to_stdout(
    network: GraphCNF, recipe: Recipe, number: int, how: dict[str, Any]
) -> tuple[Progress, int]:
    from graphcnf.scripts._output import open_output
    from graphcnf.scripts.generation.records import header
    from graphcnf.scripts.generation.stream import Marks, Progress

    progress, seen = Progress(), Marks()
    with open_output(None) as stream:

        def write(text: str) -> None:
            stream.write(text)
            stream.flush()

        stream.write(header(recipe))
        # A bar and molecules on one terminal would run into each other.
        bar = not sys.stdout.isatty()
        _draw(network, recipe, number, how, progress, seen, write, bar=bar)
    return progress, len(seen)


def _to_file(
    network: GraphCNF,
    recipe: Recipe,
    number: int,
    how: dict[str, Any],
    out: Path,
    convert: Callable[[Path, Path], None] | None,
    force: bool,
) -> tuple[Progress, int]:
    from graphcnf.parallel import WorkerDied
    from graphcnf.scripts.generation.partial import partial_file
    from graphcnf.scripts.generation.records import header
    from graphcnf.scripts.generation.stream import Exhausted

    with partial_file(out, _identity(network, recipe)) as file:
        progress, seen = _resume(file, recipe, number, out, force)

        def write(text: str) -> None:
            beginning = header(recipe) if file.entry is None else ""
            file.commit(beginning + text, asdict(progress))

        try:
            if progress.written < number:
                _draw(network, recipe, number, how, progress, seen, write, bar=True)
            file.finish(convert)
        except Exhausted:
            file.restart()
            raise
        except WorkerDied as error:
            raise UserError(f"{error}; {AGAIN}") from None
        except (KeyboardInterrupt, SystemExit):
            if file.entry:
                print(
                    f"interrupted after {file.entry['written']:,} of {number:,} molecules of "
                    f"{out}; {AGAIN}",
                    file=sys.stderr,
                )
            raise
    return progress, len(seen)


def _draw(
    network: GraphCNF,
    recipe: Recipe,
    number: int,
    how: dict[str, Any],
    progress: Progress,
    seen: Marks,
    write: Callable[[str], None],
    *,
    bar: bool,
) -> None:
    from graphcnf.scripts.generation.stream import texts
    from graphcnf.terminal import progress_bar

    began = time.perf_counter() - progress.seconds
    stream = texts(network, recipe, number, progress, seen, **how)
    with closing(stream), progress_bar("generating", number, hidden=not bar) as show:
        for text in stream:
            progress.seconds = time.perf_counter() - began
            write(text)
            show(progress.written)


def _identity(network: GraphCNF, recipe: Recipe) -> str:
    """Fingerprint of everything that determines the molecules, apart from their number."""
    import hashlib

    import numpy
    import rdkit
    import torch

    from graphcnf import __version__
    from graphcnf.scripts.generation.partial import fingerprint

    weights = hashlib.sha256(json.dumps([network.config, network.metadata]).encode())
    for name, value in sorted(network.state_dict().items()):
        weights.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        weights.update(value.detach().cpu().contiguous().numpy().tobytes())
    gpu = network.device.type == "cuda"
    device = torch.cuda.get_device_name(network.device) if gpu else network.device.type
    return fingerprint(
        {
            "model": weights.hexdigest(),
            "recipe": asdict(recipe),
            # Other versions and processors may round otherwise.
            "versions": [m.__version__ for m in (numpy, rdkit, torch)] + [__version__],
            "processor": [device, torch.backends.cpu.get_cpu_capability()],
        }
    )


def _resume(
    file: PartialFile, recipe: Recipe, number: int, out: Path, force: bool
) -> tuple[Progress, Marks]:
    """Where the file stands, and the molecules that it has."""
    from graphcnf.molecules.hashing import smiles_hash
    from graphcnf.scripts.generation.records import written_smiles
    from graphcnf.scripts.generation.stream import Marks, Progress

    progress, seen, damaged = Progress(), Marks(), file.damaged
    try:
        progress = Progress(**file.entry or {})
    except TypeError:  # the journal is not one of this program
        file.restart()
        damaged = True
    if file.others() and not force:
        raise UserError(
            f"a command with other options left an unfinished {out}: give those options again, or "
            "delete what it left with --force"
        )
    if damaged:
        print(
            f"note: what an interrupted command left of {out} is damaged; starting afresh",
            file=sys.stderr,
        )
    elif progress.written > number:
        if not force:
            raise UserError(
                f"what an interrupted command left of {out} has {progress.written:,} molecules, "
                f"more than -n {number}: ask for more, or start afresh with --force"
            )
        file.restart()
        return Progress(), seen
    elif file.entry:
        print(
            f"note: going on with {out}: {progress.written:,} of {number:,} molecules are there",
            file=sys.stderr,
        )
        if not recipe.everything:
            for smiles in written_smiles(file.path, recipe.kind):
                seen.add(smiles_hash(smiles))
    return progress, seen


@contextmanager
def _orderly_end() -> Iterator[None]:
    """SIGTERM raises SystemExit, as Ctrl-C raises KeyboardInterrupt."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(signal_number: int, frame) -> None:
        raise SystemExit(128 + signal_number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
