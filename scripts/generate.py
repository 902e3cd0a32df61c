"""The `generate` command."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from graphcnf.errors import UserError, say
from graphcnf.limits import LARGEST_COUNT, MOST_CANDIDATES
from graphcnf.sampling.formats import columns_of, conversion, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_target, molecule_kind, open_output, write_pieces

if TYPE_CHECKING:
    from graphcnf.graphs import GraphCNF
    from graphcnf.sampling.records import Recipe


class ShardNumber(NamedTuple):
    """Number of a part, 0 for all of them, and the number of parts."""

    number: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> ShardNumber:
        """Read "3/20" or "all/20"."""
        found = re.fullmatch(r"(all|0*[1-9][0-9]{0,8})/([0-9]{1,9})", text.strip())
        part = cls(0 if found[1] == "all" else int(found[1]), int(found[2])) if found else cls(0, 0)
        if part.parts < max(part.number, 1):
            raise typer.BadParameter(
                f"shard must be 1/20 to 20/20 for the parts of 20, or all/20, got {text!r}"
            )
        return part


def _parse_requirements(texts: list[str]) -> list[str]:
    """Return the requirements in the one form that each has."""
    from graphcnf.molecules.properties import Selection

    return list(map(str, Selection(texts).requirements))


def _parse_patterns(texts: list[str]) -> list[str]:
    from graphcnf.molecules.properties import Selection

    Selection(patterns=texts)
    return texts


def _parse_values(texts: list[str]) -> list[tuple[str, float]]:
    """Return names and values of properties, written as "logp=2.5"."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, value = (part.strip() for part in text.partition("="))
        if name in found:
            raise UserError(f"{name} is there twice")
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f"{text!r}: write logp=2.5") from None
    return list(found.items())


def generate(
    context: typer.Context,
    number: Annotated[
        int,
        option(
            "Molecules to write (graphs with --all).", "-n", "--number", min=1, max=LARGEST_COUNT
        ),
    ] = 100,
    out: Annotated[
        Path | None,
        option(
            "File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet. After an "
            "interruption the same command goes on where it stopped.",
            show_default="stdout",
        ),
    ] = None,
    force: Annotated[
        bool,
        option("Replace a file that exists, and what other options left unfinished.", "--force"),
    ] = False,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    first: Annotated[
        int, option("Number of the first graph of the sample to draw.", min=0, max=LARGEST_COUNT)
    ] = 0,
    shard: Annotated[
        ShardNumber | None,
        option(
            "Part I of N, from 1 on, or all of them, one after the other, in numbered files. -n "
            "then counts the graphs that all parts draw together; graphcnf merge makes one file "
            "of theirs.",
            metavar="I/N|all/N",
            parser=ShardNumber.parse,
        ),
    ] = None,
    temperature: options.Temperature = 1.0,
    size: Annotated[
        options.Sizes | None,
        option("Number of atoms, 20-30 or 25.", metavar="LO-HI", parser=options.Sizes.parse),
    ] = None,
    support: options.Support = True,
    wanted: Annotated[
        list[str] | None,
        option(
            "Ask a model that was trained with properties (preset zinc250k-properties) for "
            "molecules near it: logp=2.5, qed=0.8. Repeatable.",
            "--property",
            metavar="NAME=VALUE",
            parse=_parse_values,
        ),
    ] = None,
    best_of: Annotated[
        int,
        option(
            "Draw so many for each molecule and keep the one nearest to what --property asks for.",
            min=1,
            max=MOST_CANDIDATES,
        ),
    ] = 1,
    properties: options.Properties = None,
    require: Annotated[
        list[str] | None,
        option(
            "Write only molecules that meet it: 'qed > 0.6', '200 <= weight < 400'; names as in "
            "--properties. Repeatable.",
            metavar="COMPARISON",
            parse=_parse_requirements,
        ),
    ] = None,
    smarts: Annotated[
        list[str] | None,
        option(
            "Write only molecules that contain it. Repeatable.",
            metavar="PATTERN",
            parse=_parse_patterns,
        ),
    ] = None,
    scaffold: Annotated[
        str | None,
        option("Build around it: new atoms and rings anywhere.", metavar="SMILES|SMARTS"),
    ] = None,
    grow: Annotated[
        str | None,
        option(
            "Grow from its attachment points, as in [*:1]c1ccccc1, or from its hydrogens.",
            metavar="SMILES|SMARTS",
        ),
    ] = None,
    link: Annotated[
        str | None, option("Link two fragments, an attachment point in each.", metavar="A.B")
    ] = None,
    decorate: Annotated[
        str | None,
        option("New parts at its attachment points, nothing elsewhere.", metavar="SMILES"),
    ] = None,
    particles: options.Particles = None,
    everything: Annotated[
        bool, option("Write every sampled graph, valid or not, repeats included.", "--all")
    ] = False,
    likelihood: Annotated[
        bool,
        option(
            "Also write log_likelihood: a lower bound on log p(molecule | number of atoms), nats.",
            "--likelihood",
        ),
    ] = False,
    as_json: options.Json = False,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
    device: options.Device = "cpu",
) -> None:
    """Draw molecules: distinct, valid SMILES, the same ones for the same seed.

    A graph counts as valid when RDKit sanitizes it as it is and it is in one piece; nothing is
    repaired. A larger -n begins with the same molecules. --require and --smarts only select among
    them.
    """
    kind = molecule_kind(out, as_json, "csv" if everything else "smi")
    task = _fragment_task(context)
    if everything and (require or smarts):
        raise typer.BadParameter("--all writes every graph: leave out --require and --smarts")
    if best_of > 1 and not wanted:
        raise typer.BadParameter("--best-of keeps the one nearest to a --property")
    if shard and out is None:
        raise typer.BadParameter("it is a file: name it with --out", param_hint="'--shard'")
    if shard is None or shard.number:
        check_target(out, kind, force or shard is not None)
    options.check_cluster_options(cluster, workers, device)
    network = options.load_model(model, device, support=support)
    if workers is not None and workers > 1 and network.device.type != "cpu":
        raise typer.BadParameter("on a GPU one process draws", param_hint="'--workers'")

    from graphcnf.compute.parallel import open_workers
    from graphcnf.molecules.properties import conditions_of, outside_training
    from graphcnf.sampling.records import Recipe
    from graphcnf.sampling.shards import shards_of

    if not network.is_raw:
        say("note: valency check on: bonds that do not fit are drawn again (not with --no-support)")
    targets = conditions_of(network, dict(wanted or ()))
    for sentence in outside_training(targets, network.conditions) if targets else ():
        say(f"note: {sentence}")
    plain, more = plain_kind(kind), (("log_likelihood",) if likelihood else ())
    columns = columns_of(plain, (*more, *(properties or ())), everything=everything)
    recipe = Recipe(
        seed, temperature, size, plain, columns, everything, tuple(properties or ()),
        tuple(require or ()), tuple(smarts or ()), targets, best_of,
    )  # fmt: skip
    if task is not None:
        _write_grown(network, recipe, task, particles, number, out, kind, as_json)
        return
    records = range(first, first + (number if everything or shard else LARGEST_COUNT))
    parts = shards_of(network, recipe, records, out, *shard) if shard else [(out, None)]
    if shard and not shard.number:
        out.parent.mkdir(parents=True, exist_ok=True)
    count = None if shard else number
    with open_workers(cluster, workers) as engine:
        _write_samples(network, recipe, engine, records, count, parts, kind, force, as_json)


def _fragment_task(context: typer.Context) -> tuple[str, str] | None:
    """Return the one option that names a fragment, and its text; None without any.

    Raises:
        typer.BadParameter: Several were given, or an option that does not go together with one.
    """
    values = context.params
    given = [name for name in ("scaffold", "grow", "link", "decorate") if values[name] is not None]
    if not given and values["particles"] is not None:
        raise typer.BadParameter(
            "there are walks around a fragment only: name one", param_hint="'--particles'"
        )
    if not given:
        return None
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name in given)
        raise typer.BadParameter(f"{names} exclude each other", param_hint=f"'--{given[1]}'")
    others = {"everything": "all", "wanted": "property"}
    for name in ("everything", "likelihood", "workers", "require", "smarts", "first", "shard",
                 "cluster", "wanted"):  # fmt: skip
        if values[name]:
            raise typer.BadParameter(
                f"not together with --{given[0]}", param_hint=f"'--{others.get(name, name)}'"
            )
    return given[0], values[given[0]]


def _write_samples(
    network: GraphCNF, recipe: Recipe, engine, records: range, number: int | None, parts,
    kind: str, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write a sample, or the shards of one that are missing, each with a summary to stderr."""
    from graphcnf.sampling.sample import Sample
    from graphcnf.sampling.shards import is_complete, write_description

    todo = [(out, shard) for out, shard in parts if not (shard and is_complete(out, shard))]
    for out, shard in parts:
        if (out, shard) in todo:
            check_target(out, kind, force)
        else:
            say("note: {} is there already, shard {}/{} as asked for".format(out, *shard["part"]))
    for out, shard in todo:
        own = range(*shard["records"]) if shard else records
        sample = Sample(network, recipe, own, number, engine)
        if out is None:
            with open_output(None) as stream:
                sample.write(stream)
        else:
            beside = partial(write_description, out, shard, sample) if shard else None
            sample.save(out, convert=conversion(kind, recipe.columns), beside=beside, force=force)
        counts, distinct = sample.counts, not recipe.everything
        summary = counts.summary(distinct, recipe.selective)
        say(json.dumps(counts.figures(distinct)) if as_json else summary)


def _write_grown(
    network: GraphCNF, recipe: Recipe, task: tuple[str, str], particles: int | None, number: int,
    out: Path | None, kind: str, as_json: bool,
) -> None:  # fmt: skip
    """Write molecules around a fragment, then a summary to stderr."""
    from graphcnf.molecules.growth import Growth, read_fragment
    from graphcnf.molecules.standardize import deviations
    from graphcnf.molecules.vocabulary import MoleculeVocabulary
    from graphcnf.sampling.records import found_texts

    vocabulary, (name, text) = MoleculeVocabulary.of_model(network), task
    options.say_deviations(deviations([text], None), 1)
    growth = Growth(
        network, vocabulary, read_fragment(text, name, vocabulary), seed=recipe.seed,
        temperature=recipe.temperature, atoms=recipe.sizes,
        particles=particles or options.PARTICLES,
    )  # fmt: skip
    pieces = found_texts(growth.molecules(), recipe, number)
    write_pieces(pieces, out, conversion(kind, recipe.columns), "drawing", number)
    share = growth.valid / max(growth.ended, 1)
    figures = {
        "written": number, "distinct": number, "walks": growth.walks, "placed": growth.ended,
        "valid": growth.valid,
    }  # fmt: skip
    sentence = (
        f"{number:,} distinct molecules with {text}; {growth.ended:,} of {growth.walks:,} walks "
        f"placed all of it, {100 * share:.1f} % of these are valid"
    )
    if groups := [len(parts) for parts in growth.substituents.values()]:
        figures["substituents"] = groups
        shown = " and ".join(f"{count:,}" for count in groups)
        sentence += f"; {shown} distinct substituents at its attachment points"
    say(json.dumps(figures) if as_json else sentence)
