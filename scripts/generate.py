"""The `generate` command."""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from graphcnf.errors import UserError

KINDS = ("smi", "csv", "sdf", "jsonl")
COLUMNS = ("record", "smiles")
ALL_COLUMNS = ("record", "smiles", "strict", "largest_fragment", "atoms")

PATIENCE = 10_000
"""Records in a row without a further valid molecule after which the search is given up."""


def generate(
    number: Annotated[
        int, typer.Option("--number", "-n", min=1, help="Molecules to write (graphs with --all).")
    ] = 100,
    out: Annotated[
        Path | None,
        typer.Option(help="File to write: .smi, .csv, .sdf or .jsonl.", show_default="stdout"),
    ] = None,
    model: Annotated[
        str, typer.Option(metavar="NAME|DIR", help="Shipped weights, or a folder with a model.")
    ] = "zinc250k",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sample.")] = 0,
    temperature: Annotated[
        float, typer.Option(help="Below 1 for more probable molecules, above 1 for less.")
    ] = 1.0,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="LO-HI",
            help="Number of atoms, 20-30 or 25.",
            show_default="as in the training data",
        ),
    ] = None,
    everything: Annotated[
        bool,
        typer.Option("--all", help="Write every sampled graph, valid or not, repeats included."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line instead of SMILES.")
    ] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Graphs that are drawn at once.")] = 128,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
) -> None:
    """Draw molecules: distinct, valid SMILES, the same ones for the same seed.

    A graph counts as valid when RDKit sanitizes it as it is and it is in one piece; nothing is
    repaired. A larger -n begins with the same molecules.
    """
    from graphcnf.scripts._output import open_output, output_kind, progress_bar
    from graphcnf.scripts._sampling import check_temperature, load_model, parse_sizes

    kind = output_kind(out, KINDS)
    if as_json and kind not in (None, "jsonl"):
        raise typer.BadParameter(f"--json writes .jsonl files, not {out}", param_hint="'--out'")
    kind = kind or ("jsonl" if as_json else "csv" if everything else "smi")
    sizes = parse_sizes(size)
    check_temperature(temperature)

    columns = ALL_COLUMNS if everything else COLUMNS
    write_row, began = WRITERS[kind], time.perf_counter()
    with open_output(out) as stream:
        network = load_model(model, device)
        options = dict(seed=seed, temperature=temperature, sizes=sizes, batch_size=batch_size)
        if kind == "csv":
            stream.write(",".join(columns) + "\n")
        counts, written = Counts(), 0
        with progress_bar("generating", number) as show:
            for row in _rows(network, counts, number, everything, options):
                stream.write(write_row({name: row[name] for name in columns}))
                written += 1
                if written % 50 == 0 and out is None:
                    stream.flush()
                show(written)
    print(counts.summary(time.perf_counter() - began), file=sys.stderr)


@dataclass
class Counts:
    """What was sampled up to the last molecule that was written."""

    sampled: int = 0
    valid: int = 0
    seen: set[int] = field(default_factory=set)

    def summary(self, seconds: float) -> str:
        """One line."""
        share = self.valid / max(self.sampled, 1)
        distinct = f", {len(self.seen):,} distinct" if self.seen else ""
        return (
            f"sampled {self.sampled:,} graphs in {seconds:.1f} s: {share:.1%} strictly valid"
            f"{distinct}"
        )


def _rows(
    model, counts: Counts, number: int, everything: bool, options: dict
) -> Iterator[dict[str, Any]]:
    """The first `number` rows that count, in the order of their records."""
    from graphcnf.molecules.hashing import smiles_hash
    from graphcnf.molecules.metrics import evaluate_records
    from graphcnf.scripts._sampling import record_blocks, vocabulary_of

    vocabulary = vocabulary_of(model)
    found = last = 0
    for first, graphs in record_blocks(model, **options):
        frame = evaluate_records(graphs, vocabulary, first=first)
        for row in frame.to_dict("records"):
            counts.sampled += 1
            counts.valid += row["strict"]
            fresh = False
            if row["strict"] and not everything:
                # 8-byte hashes: little memory, however many molecules are wanted.
                mark = smiles_hash(row["smiles"])
                fresh = mark not in counts.seen
                counts.seen.add(mark)
                last = counts.sampled if fresh else last
            if everything or fresh:
                yield row
                found += 1
            if found == number:
                return
        if not everything and counts.sampled - last >= PATIENCE:
            raise UserError(_exhausted(found, counts.sampled))


def _exhausted(found: int, sampled: int) -> str:
    if not found:
        return (
            f"none of {sampled:,} sampled graphs is a valid molecule: train the model for longer, "
            "or lower --temperature"
        )
    return (
        f"only {found:,} distinct valid molecules among {sampled:,} sampled graphs: ask for "
        f"-n {found}, other sizes or another --temperature"
    )


def _smi(row: dict[str, Any]) -> str:
    return f"{row['smiles'] or ''}\n"


def _csv(row: dict[str, Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row.values())
    return buffer.getvalue()


def _jsonl(row: dict[str, Any]) -> str:
    return json.dumps(row) + "\n"


def _sdf(row: dict[str, Any]) -> str:
    """A record with 2D coordinates; what does not sanitize is drawn as it is."""
    from rdkit import Chem
    from rdkit.Chem import rdDepictor

    from graphcnf.molecules.codec import quiet

    valid = row.get("strict", True)
    with quiet():
        mol = Chem.MolFromSmiles(row["smiles"] or "", sanitize=valid)
        if valid:
            # Flat coordinates would otherwise say cis or trans.
            for place in Chem.FindPotentialStereo(mol):
                if place.type == Chem.StereoType.Bond_Double:
                    bond = mol.GetBondWithIdx(place.centeredOn)
                    bond.SetStereo(Chem.BondStereo.STEREOANY)
        else:
            mol.UpdatePropertyCache(strict=False)
            Chem.FastFindRings(mol)
        rdDepictor.Compute2DCoords(mol)
        mol.SetProp("_Name", str(row["record"]))
        for name, value in row.items():
            mol.SetProp(name, "" if value is None else str(value))
        return Chem.SDWriter.GetText(mol, kekulize=valid)


WRITERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "smi": _smi, "csv": _csv, "jsonl": _jsonl, "sdf": _sdf,
}  # fmt: skip
