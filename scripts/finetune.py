"""The `graphcnf finetune` command: continues the training of a model on a user's molecules."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from graphcnf.data_files import read_data
from graphcnf.errors import UserError
from graphcnf.evaluation.layout import json_text, markdown, text
from graphcnf.file_reading import expand_user, inside
from graphcnf.file_writing import write_file
from graphcnf.limits import MAX_NODES, check_minutes, check_seed
from graphcnf.messages import say
from graphcnf.run_folder import claim
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import Role
from graphcnf.scripts._options import option
from graphcnf.scripts._output import write_text
from graphcnf.training.folder import remove_unused
from graphcnf.training.settings import apply_overrides

COPY = "molecules.txt"
"""File in the run's folder with what standard input held."""


def finetune(
    file: Annotated[
        Path,
        typer.Argument(
            help="Molecules: .smi, .csv, .sdf, .jsonl, .parquet, also .gz; - for stdin, of which "
            "the run keeps a copy."
        ),
        Role.FILE,
    ],
    column: options.Column = None,
    weights: options.Model = "zinc250k",
    out: Annotated[
        Path | None, option("Folder of the run.", show_default="runs/finetune-FILE"), Role.RUN
    ] = None,
    standardize: options.Standardize = False,
    learn: Annotated[
        list[str] | None,
        option(
            "Column of measured numbers, such as pIC50, that molecules can then be asked for "
            "(generate --property pIC50=8). Cells may be empty. Repeatable.",
            metavar="COLUMN",
        ),
    ] = None,
    smarts: Annotated[
        list[str] | None,
        option("Report the share of molecules with this pattern. Repeatable."),
    ] = None,
    properties: Annotated[
        list[str] | None,
        option(
            "Report the mean of a property, or the share of molecules in a range: logp, qed>=0.6, "
            "tpsa<90. Repeatable.",
            "--property",
            metavar="NAME|NAME>=X",
        ),
    ] = None,
    samples: Annotated[
        int,
        option("Samples to draw before and after, 0 for none.", "--samples", "-n", min=0),
    ] = 1000,
    as_json: Annotated[bool, option("Figures as JSON.", "--json")] = False,
    atoms: Annotated[
        int | None,
        option(
            "Atoms of the largest molecule to learn and to draw; the file contains one like it.",
            min=1,
            max=MAX_NODES,
            show_default="that of the file",
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        option("Approximate limit of minutes.", check=check_minutes),
    ] = None,
    steps: Annotated[
        int | None,
        option("Largest number of steps.", min=1, show_default="12 epochs, fewer for many"),
    ] = None,
    seed: Annotated[int, option("Seed of everything random.", check=check_seed)] = 0,
    threads: Annotated[int | None, option("CPU threads of torch.", min=1, show_default="1")] = None,
    assignments: Annotated[
        list[str] | None,
        option(
            "Another setting of training, such as learning_rate=3e-4. Repeatable.",
            "--set",
            metavar="KEY=VALUE",
        ),
    ] = None,
    accelerator: Annotated[str, option("auto, cpu, cuda, mps ...")] = "cpu",
) -> None:
    """Fine-tune trained weights on your own molecules.

    One molecule in ten is held out; with few molecules, cross-validation takes its place. Training
    stops when the held-out likelihood no longer improves, and returns the best weights, which may
    be the given ones. Elements, charges, sizes and rings that the weights lack are added. After a
    kill, the same command resumes.
    """
    config = apply_overrides({"model": {}, "data": {}, "training": {}}, assignments or [])
    if config["model"] or config["data"]:
        raise UserError("--set: only settings of training can be set here, such as learning_rate")
    given = {"steps": steps, "threads": threads, "accelerator": accelerator}
    given = {key: value for key, value in given.items() if value is not None}
    for key in config["training"]:
        if key in ("seed", "minutes", *given):
            raise typer.BadParameter(f"{key}: give it as --{key} alone", param_hint="'--set'")
    piped = str(file) == "-"
    name = "stdin" if piped else file.name.partition(".")[0]
    out = expand_user(out or Path("runs") / f"finetune-{name}")

    say("loading data and libraries ...")
    from graphcnf.chemistry.properties import has_pattern, has_property
    from graphcnf.datasets.smiles_file import load_smiles_file, read_smiles
    from graphcnf.molecule_flow import MoleculeFlow
    from graphcnf.training.finetuning import finetune as fine_tune

    features = [*map(has_pattern, smarts or []), *map(has_property, properties or [])]
    flow = MoleculeFlow(options.load_model(weights))
    content = _piped(out) if piped else None
    states = flow.charge_states if standardize else None
    most = atoms or MAX_NODES
    data = load_smiles_file(
        file,
        column=column,
        standardize=states,
        max_atoms=most,
        columns=learn or (),
        content=content,
    )
    if atoms and (largest := int(data.graphs.node_counts.max())) < atoms:
        raise UserError(
            f"{file}: the largest molecule has {largest} atoms, not {atoms}: give --atoms "
            f"{largest}, or larger molecules (graphcnf datasets join makes some)"
        )
    smiles = read_smiles(file, column=column, content=content).smiles
    marked = flow.stereo is not None
    options.say_deviations(smiles, None if standardize else flow.charge_states, marked=marked)
    if not standardize and any("separate fragments" in s.reason for s in data.skipped):
        say("note: --standardize keeps the largest fragment of salts and mixtures")
    with _kept(content, out):
        result = fine_tune(
            flow,
            data,
            out,
            minutes=minutes,
            seed=seed,
            settings={**config["training"], **given},
            features=features,
            samples=samples,
            say=say,
        )
    if result.signal is not None:
        say(f"the same command continues the run in {out}")
        raise typer.Exit(128 + result.signal)
    for sentence in result.summary:
        say(sentence)
    say(f"model in {out / 'model'}: graphcnf generate --model {out}")
    figures = {**result.figures, "left_out": len(data.skipped)}
    source = out / COPY if piped else file
    report = {"weights": weights, "file": str(source), "model": str(out), **figures}
    write_text(json_text(report), out / "report.json")
    write_text(json_text(report) if as_json else _table(figures), None)


def _piped(out: Path) -> bytes:
    """Read the molecules from standard input, or if empty from the run's folder."""
    from graphcnf.datasets.smiles_file import read_stdin

    copy = inside(out, COPY)
    if not copy.exists():
        return read_stdin()
    kept = read_data(copy)
    content = kept if sys.stdin is not None and sys.stdin.isatty() else read_stdin()
    if content.strip() and content != kept:
        raise UserError(f"{out} holds a run that learns from other molecules: choose another --out")
    return kept


@contextmanager
def _kept(content: bytes | None, out: Path) -> Iterator[None]:
    """Return a context for a fine-tuning; it first copies standard input to the run's folder."""
    if content is not None:
        claim(out, "training")
        write_file(inside(out, COPY), content)
    try:
        yield
    except UserError:
        if content is not None:
            remove_unused(out, COPY)
        raise


def _table(figures: dict[str, Any]) -> str:
    """Return a Markdown table of figures before and after fine-tuning, and of the data."""
    held_out = f" of {figures['folds']} folds" if figures["folds"] else ""
    bits = f"bits per molecule, {figures['evaluated']:,} held out{held_out}, number of atoms given"
    rows = [(bits, figures["bits_per_molecule"], "{:.2f}")]
    rows += [("bits per atom", figures["bits_per_node"], "{:.3f}")]
    if "stereo" in figures:
        bits = figures["stereo"]["bits_per_element"]
        rows += [("bits per stereo element, held out", bits, "{:.3f}")]
    if "samples" in figures:
        labels = {
            "copied": "copies of the molecules learned from",
            "strict_validity": f"valid (strict) of {figures['samples']:,} samples",
            "uniqueness": "distinct, of the valid",
        }
        before, after = figures["before"], figures["after"]
        shares = [
            (label, {"before": before[key], "after": after[key]}, "{:.2%}")
            for key, label in labels.items()
        ]
        rows = [*shares, *rows]
    for one in figures.get("columns", ()):
        means = {"before": one["without"], "after": one["asked"]} if "target" in one else {}
        label = f"{one['name']}, measured"
        if means:
            label += f"; of samples without and with {one['name']}={one['target']:.4g}, predicted"
        rows.append((label, {**means, "data": one["mean"]}, "{:.3f}"))
    for feature in figures.get("features", ()):
        rows.append((feature["name"], feature, "{:.2%}" if feature["share"] else "{:.3f}"))
    columns = ("before", "after", "data")
    lines = []
    for name, values, show in rows:
        known = {k: values[k] for k in columns if math.isfinite(values.get(k, math.nan))}
        shown = {k: show.format(value).replace("%", " %") for k, value in known.items()}
        lines.append({"": name, **shown})
    return markdown(lines, [(name, text(name)) for name in ("", *columns)])
