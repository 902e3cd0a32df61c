"""The row of `benchmark speed`: what a model takes in training and in sampling."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from graphcnf.errors import UserError
from graphcnf.evaluation.formats import Column, number, percent, text
from graphcnf.files import at_home
from graphcnf.parallel import available_cores
from graphcnf.scripts.benchmarks import speed
from graphcnf.scripts.benchmarks.runs import TrainedRun, molecules_of
from graphcnf.training.configuration import load_preset, preset_names
from graphcnf.training.machine import keep_kernels

if TYPE_CHECKING:
    from graphcnf.datasets.molecules import MoleculeDataset
    from graphcnf.graphs import GraphCNF


def measure(
    name: str,
    reference: str | None,
    *,
    batch_size: int,
    steps: int,
    repeats: int,
    bf16: bool | None,
    threads: int | None,
    seconds: float,
    workers: int | None,
    device: str,
) -> dict[str, Any]:
    """Measure a model.

    Args:
        name: Shipped weights, or a folder.
        reference: Molecules to train on; None for those that the model was trained on.
        batch_size: Molecules per training step.
        steps: Training steps per repeat.
        repeats: Repeats of training.
        bf16: Whether to train under bfloat16 autocast; None for what the model's run or preset did.
        threads: Of training on a CPU; None for torch's choice.
        seconds: How long to measure sampling at least.
        workers: Processes that sample; None for one per core, or one for a GPU.
        device: Where to work.

    Raises:
        UserError: There is no such model, device or data.
        typer.BadParameter: Several processes on a GPU.
    """
    import torch

    from graphcnf.scripts._sampling import load_model

    keep_kernels()
    network = load_model(name, device)
    on_cpu = network.device.type == "cpu"
    if not on_cpu and (workers or 1) > 1:
        raise typer.BadParameter("on a GPU one process draws", param_hint="'--workers'")
    run = _run_of(name)
    _check_reference(reference, run, network)
    processes = (workers or available_cores()) if on_cpu else 1

    # Before the data are loaded: they take memory that sampling does not need.
    one = speed.sampling_speed(network, processes=1, seconds=seconds)
    several = one
    if processes > 1:
        several = speed.sampling_speed(network, processes=processes, seconds=seconds)
    molecules = speed.sampling_speed(
        network, processes=processes, seconds=seconds, molecules=True
    )  # fmt: skip

    if threads is not None:
        torch.set_num_threads(threads)
    lower = _trained_in_bf16(name, run) if bf16 is None else bf16
    if not on_cpu:
        torch.cuda.reset_peak_memory_stats(network.device)
    training = speed.training_rate(
        network,
        _dataset(reference, run, network),
        batch_size=batch_size,
        steps=steps,
        repeats=repeats,
        bf16=lower,
    )
    return {
        "model": Path(name).name or name,
        "parameters": sum(p.numel() for p in network.parameters()),
        "device": speed.device_name(device),
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
        "bf16": lower,
        "training_molecules_per_second": training,
        "training_memory_mib": speed.peak_memory(device),
        "processes": processes,
        "sampled_graphs_per_second": several.samples_per_second,
        "sampled_graphs_per_second_one_process": one.samples_per_second,
        "valid_molecules_per_second": molecules.valid_per_second,
        "strict_validity": molecules.strict_validity,
        "sampling_memory_mib": molecules.memory_mib,
        "repeats": repeats,
        "seconds": seconds,
    }


def speed_columns(row: dict[str, Any]) -> list[Column]:
    """Columns of the table of `measure`."""
    kinds = _counted(row["processes"], "process", "processes")
    return [
        ("model", text("model")),
        ("parameters", text("parameters", "{:,}")),
        ("device", text("device")),
        ("training molecules/s", number("training_molecules_per_second", 1)),
        ("training memory (MiB)", number("training_memory_mib", 0)),
        (f"raw samples/s, {kinds}", number("sampled_graphs_per_second", 1)),
        *(
            [("raw samples/s, 1 process", number("sampled_graphs_per_second_one_process", 1))]
            if row["processes"] > 1
            else []
        ),
        (f"valid molecules/s, {kinds}", number("valid_molecules_per_second", 1)),
        ("strict", percent("strict_validity")),
        ("sampling memory (MiB)", number("sampling_memory_mib", 0)),
    ]


def notes(row: dict[str, Any]) -> list[str]:
    """What a reader of the table has to know."""
    on_gpu = not row["device"].startswith("CPU")
    arithmetic = "bfloat16 autocast" if row["bf16"] else "float32"
    threads = "" if on_gpu else f", {_counted(row['threads'], 'thread')}"
    memory = (
        "memory: peak of what torch has allocated on the GPU."
        if on_gpu
        else "training memory: peak of the process, its data included; sampling memory: sum of the "
        "peaks of the main process and of those that draw, shared libraries counted in each."
    )
    return [
        f"training: whole steps on real batches of {row['batch_size']}, {arithmetic}{threads}; "
        f"median of {_counted(row['repeats'], 'repeat')}.",
        "sampling: blocks of records as graphcnf generate draws them, one thread per process, for "
        f"at least {row['seconds']:g} s in which all processes draw, without their start; valid "
        "molecules/s: RDKit's sanitization and SMILES included.",
        memory,
    ]


def _counted(number: int, one: str, more: str | None = None) -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _run_of(name: str) -> TrainedRun | None:
    """The run that a folder with a model belongs to, None for shipped weights or a lone model."""
    from graphcnf.pretrained import WEIGHTS

    if (WEIGHTS / name / "config.json").is_file():
        return None
    folder = at_home(name).resolve()
    places = [folder]
    if folder.name == "model":
        places.append(folder.parent)
    if folder.parent.name == "snapshots":
        places.append(folder.parent.parent)
    found = [p for p in places if (p / "config.toml").is_file() and (p / "metrics.csv").is_file()]
    return TrainedRun(found[0]) if found else None


def _trained_in_bf16(name: str, run: TrainedRun | None) -> bool:
    if run is not None:
        return run.settings.bf16
    known = name in preset_names()
    return bool(load_preset(name)["training"].get("bf16", False)) if known else False


def _check_reference(reference: str | None, run: TrainedRun | None, network: GraphCNF) -> None:
    """Raise what can be known of the data before the long work."""
    from graphcnf.datasets.smiles_file import read_smiles
    from graphcnf.scripts.evaluation.named_data import OFFICIAL

    if reference is None and run is not None:
        return
    named = network.metadata.get("dataset") if reference is None else reference
    if named in OFFICIAL:
        return
    if reference is None:
        raise UserError("what the model was trained on is not known: name it with --reference")
    if not reference or not Path(reference).exists():
        raise UserError(
            f"no reference {reference!r}: give {', '.join(OFFICIAL)} or a file of SMILES"
        )
    read_smiles(reference)


def _dataset(
    reference: str | None, run: TrainedRun | None, network: GraphCNF
) -> MoleculeDataset:  # fmt: skip
    from graphcnf.scripts.evaluation.named_data import load_reference

    if reference is None and run is not None:
        return molecules_of(run)
    return load_reference(reference or network.metadata["dataset"], network)
