"""Measure speed, and train presets for equal time: `python -m graphcnf.scripts.benchmark`."""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer

from graphcnf.errors import UserError

app = typer.Typer(
    help="Benchmarks of GraphCNF models.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip

Csv = Annotated[bool, typer.Option("--csv", help="CSV instead of Markdown.")]
Out = Annotated[
    Path | None, typer.Option(help="File to write: .md, .txt or .csv.", show_default="stdout")
]


@app.command()
def speed(
    model: Annotated[str, typer.Option(metavar="NAME|DIR", help="Model to measure.")] = "zinc250k",
    reference: Annotated[
        str, typer.Option(metavar="zinc250k|FILE", help="Molecules to train on.")
    ] = "zinc250k",
    batch_size: Annotated[int, typer.Option(min=1, help="Molecules per training step.")] = 32,
    steps: Annotated[int, typer.Option(min=1, help="Training steps per repeat.")] = 50,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="Per repeat.")] = 1000,
    sampling_batch: Annotated[int, typer.Option(min=1, help="Graphs drawn at once.")] = 128,
    repeats: Annotated[int, typer.Option(min=1, help="Of which the median counts.")] = 3,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Measure training and sampling, each the median of some repeats after a warm-up."""
    from graphcnf.scripts._tables import number, table_kind, text

    kind = table_kind(out, as_csv, False)
    import torch

    from graphcnf.molecules.metrics import evaluate_records
    from graphcnf.scripts._sampling import load_model, vocabulary_of
    from graphcnf.scripts._scoring import load_reference

    if threads is not None:
        torch.set_num_threads(threads)
    network = load_model(model, device)
    dataset = load_reference(reference, network)
    vocabulary = vocabulary_of(network)
    strict = 0

    def draw(repeat: int, count: int = samples):
        return network.sample_records(repeat * samples, count, seed=0, batch_size=sampling_batch)

    def draw_valid(repeat: int) -> None:
        nonlocal strict
        strict += int(evaluate_records(draw(repeat), vocabulary)["strict"].sum())

    draw(0, min(samples, sampling_batch))
    sampling = _median(lambda k: draw(k), repeats, device)
    valid = _median(draw_valid, repeats, device)
    network.train()
    step = _training_step(network, dataset, batch_size)
    for _ in range(2):
        step()
    training = _median(lambda k: [step() for _ in range(steps)], repeats, device)
    row = {
        "model": Path(model).name or model,
        "parameters": sum(p.numel() for p in network.parameters()),
        "device": _device_name(device),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "training_molecules_per_second": steps * batch_size / training,
        "sampling_batch": sampling_batch,
        "sampled_graphs_per_second": samples / sampling,
        "valid_molecules_per_second": strict / repeats / valid,
        "strict_validity": strict / repeats / samples,
        "peak_memory_mib": _peak_memory(device),
        "repeats": repeats,
    }
    columns = [
        ("model", text("model")),
        ("parameters", text("parameters", "{:,}")),
        ("device", text("device")),
        ("threads", text("threads")),
        ("training molecules/s", number("training_molecules_per_second", 1)),
        ("raw samples/s", number("sampled_graphs_per_second", 1)),
        ("valid molecules/s", number("valid_molecules_per_second", 1)),
        ("peak memory (MiB)", number("peak_memory_mib", 0)),
    ]
    notes = [
        f"training: forward, backward and AdamW step on real batches of {batch_size}; sampling in "
        f"batches of {sampling_batch}; medians of {repeats} repeats.",
        "valid molecules/s: RDKit's sanitization and SMILES included; peak memory: of the whole "
        "process with its data, or on the GPU.",
    ]
    _write(kind, out, [row], columns, notes)


@app.command()
def train(
    presets: Annotated[list[str], typer.Argument(help="Presets or files to compare.")],
    minutes: Annotated[float, typer.Option(help="Wall-clock minutes for each.")],
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to keep the runs.", show_default="a temporary folder"),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", "-n", min=1, help="To score.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of training and sampling.")] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads.", show_default="torch's choice")
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in graphcnf train. Repeatable."),
    ] = None,
    as_csv: Csv = False,
    out: Out = None,
) -> None:
    """Train presets in turn, for equal time, and compare what they have become."""
    from graphcnf.scripts._tables import number, percent, table_kind, text

    kind = table_kind(out, as_csv, False)
    if not minutes > 0:
        raise typer.BadParameter(f"{minutes} is not greater than 0", param_hint="'--minutes'")
    options = ["--minutes", str(minutes), "--seed", str(seed)]
    options += ["--threads", str(threads)] if threads else []
    for assignment in assignments or []:
        options += ["--set", assignment]
    rows = []
    with TemporaryDirectory() as temporary:
        for place, preset in enumerate(presets):
            run = (folder or Path(temporary)) / f"{place + 1}-{Path(preset).stem}"
            _train(preset, run, options)
            rows.append({"preset": Path(preset).stem, **run_figures(run, samples, seed)})
    steps = [name for name in rows[0] if name.startswith("bits_")]
    columns = [
        ("preset", text("preset")),
        ("parameters", text("parameters", "{:,}")),
        ("minutes", number("minutes", 1)),
        ("steps", text("steps", "{:,}")),
        ("molecules/s", number("samples_per_second", 1)),
        *((name.replace("_", " "), number(name, 3)) for name in steps),
        ("strict", percent("strict_validity")),
        ("largest fragment", percent("largest_fragment_validity")),
        ("connected", percent("connected")),
    ]
    notes = [
        f"equal wall-clock time, seed {seed}; validity of {samples:,} raw samples at temperature "
        "1, argmax decoding; bits of held-out molecules, averaged weights.",
    ]
    _write(kind, out, rows, columns, notes)


def run_figures(run: Path, samples: int, seed: int) -> dict[str, Any]:
    """Figures of a finished run: its last evaluation, its speed, and its model's samples.

    Raises:
        UserError: The run has no evaluation.
    """
    with open(run / "metrics.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    last = next((row for row in reversed(rows) if row["phase"] == "eval"), None)
    if last is None:
        raise UserError(f"{run}: the run has no evaluation; was it interrupted?")
    rates = [float(r["samples_per_second"]) for r in rows if r["samples_per_second"]]
    figures: dict[str, Any] = {
        "steps": int(last["step"]),
        "minutes": float(last["minutes"]),
        "samples_per_second": statistics.median(rates),
        **{k: float(v) for k, v in last.items() if k.startswith(("bits_", "accuracy_")) and v},
    }
    # Models of other data than molecules have no samples to score.
    if (run / "model" / "config.json").is_file():
        figures |= _sample_figures(run / "model", samples, seed)
    return figures


def _sample_figures(folder: Path, samples: int, seed: int) -> dict[str, Any]:
    from graphcnf.molecules.metrics import summarize
    from graphcnf.scripts._sampling import load_model
    from graphcnf.scripts._scoring import connected_share, sample_frame

    model = load_model(str(folder))
    frame = sample_frame(
        model, samples, seed=seed, temperature=1.0, batch_size=128, show=lambda done: None
    )
    return {
        **summarize(frame, model.training_hashes),
        "connected": connected_share(frame),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def _train(preset: str, run: Path, options: list[str]) -> None:
    program = "from graphcnf.scripts.cli import main; main()"
    # Everything a run prints is progress: stdout is for the table.
    done = subprocess.run(
        [sys.executable, "-c", program, "train", preset, "--out", str(run), *options],
        stdout=sys.stderr.fileno(),
    )
    if done.returncode:
        raise UserError(f"training {preset} failed (exit code {done.returncode}), see above")


def _training_step(network, dataset, batch_size: int) -> Callable[[], None]:
    import torch

    from graphcnf.datasets.batching import size_bucketed_batches
    from graphcnf.graphs import GraphBatch

    train = dataset.split("train")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def batches():
        epoch = 0
        while True:
            for index in size_bucketed_batches(
                dataset.graphs.node_counts[train], batch_size, 0, epoch
            ):
                if len(index) == min(batch_size, len(train)):
                    yield GraphBatch.collate(dataset.graphs, train[index])
            epoch += 1

    stream = batches()

    def step() -> None:
        loss, _ = network.training_loss(next(stream).to(network.device))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


def _median(work: Callable[[int], Any], repeats: int, device: str) -> float:
    """Median seconds of `work(repeat)`."""
    import torch

    seconds = []
    for repeat in range(repeats):
        began = time.perf_counter()
        work(repeat)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"CPU ({os.cpu_count()} cores)"


def _peak_memory(device: str) -> float | None:
    """MiB of this process, or on the GPU; None where the system does not say."""
    import torch

    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def _write(kind: str, out: Path | None, rows, columns, notes) -> None:
    from graphcnf.scripts._tables import csv_text, json_text, markdown, write_text

    formats = {
        "md": lambda: markdown(rows, columns, notes),
        "csv": lambda: csv_text(rows),
        "json": lambda: json_text(rows),
    }
    write_text(formats[kind](), out)


if __name__ == "__main__":
    from graphcnf.scripts.cli import run as run_command

    run_command(app, name="python -m graphcnf.scripts.benchmark")
