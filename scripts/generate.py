"""The `generate` command."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from graphcnf.errors import UserError, say
from graphcnf.limits import LARGEST_COUNT, MOST_CANDIDATES
from graphcnf.sampling.formats import columns_of, conversion, plain_kind
from graphcnf.scripts import _options as options
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
    from graphcnf.molecules.selection import Selection

    return list(map(str, Selection(texts).requirements))


def _check_patterns(texts: list[str]) -> None:
    from graphcnf.molecules.selection import Selection

    Selection(patterns=texts)


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
    number: Annotated[
        int,
        typer.Option(
            "--number",
            "-n",
            min=1,
            max=LARGEST_COUNT,
            help="Molecules to write (graphs with --all).",
        ),
    ] = 100,
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet. After an "
            "interruption the same command goes on where it stopped.",
            show_default="stdout",
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force", help="Replace a file that exists, and what other options left unfinished."
        ),
    ] = False,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    first: Annotated[
        int,
        typer.Option(
            min=0, max=LARGEST_COUNT, help="Number of the first graph of the sample to draw."
        ),
    ] = 0,
    shard: Annotated[
        ShardNumber | None,
        typer.Option(
            metavar="I/N|all/N",
            parser=ShardNumber.parse,
            help="Part I of N, from 1 on, or all of them, one after the other, in numbered files. "
            "-n then counts the graphs that all parts draw together; graphcnf merge makes one file "
            "of theirs.",
            show_default="all",
        ),
    ] = None,
    temperature: options.Temperature = 1.0,
    size: Annotated[
        options.Sizes | None,
        typer.Option(
            metavar="LO-HI",
            parser=options.Sizes.parse,
            help="Number of atoms, 20-30 or 25.",
            show_default="as in the training data",
        ),
    ] = None,
    support: options.Support = True,
    wanted: Annotated[
        list[str] | None,
        typer.Option(
            "--property",
            metavar="NAME=VALUE",
            callback=options.checked(_parse_values, changed=True),
            help="Ask a model that was trained with properties (preset zinc250k-properties) for "
            "molecules near it: logp=2.5, qed=0.8. May be given several times.",
            show_default="none",
        ),
    ] = None,
    best_of: Annotated[
        int,
        typer.Option(
            min=1,
            max=MOST_CANDIDATES,
            help="Draw so many for each molecule and keep the one nearest to what --property asks "
            "for.",
        ),
    ] = 1,
    properties: options.Properties = None,
    require: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COMPARISON",
            callback=options.checked(_parse_requirements, changed=True),
            help="Write only molecules that meet it: 'qed > 0.6', '200 <= weight < 400'; names as "
            "in --properties. May be given several times.",
            show_default="none",
        ),
    ] = None,
    smarts: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            callback=options.checked(_check_patterns),
            help="Write only molecules that contain it. May be given several times.",
            show_default="none",
        ),
    ] = None,
    scaffold: Annotated[
        str | None,
        typer.Option(
            metavar="SMILES|SMARTS", help="Build around it: new atoms and rings anywhere."
        ),
    ] = None,
    grow: Annotated[
        str | None,
        typer.Option(
            metavar="SMILES|SMARTS",
            help="Grow from its attachment points, as in [*:1]c1ccccc1, or without any from its "
            "hydrogens.",
        ),
    ] = None,
    link: Annotated[
        str | None,
        typer.Option(metavar="A.B", help="Link two fragments, an attachment point in each."),
    ] = None,
    decorate: Annotated[
        str | None,
        typer.Option(
            metavar="SMILES", help="New parts at its attachment points, nothing elsewhere."
        ),
    ] = None,
    particles: options.Particles = None,
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
    cluster: options.Cluster = None,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ... On a GPU one process draws.")
    ] = "cpu",
) -> None:
    """Draw molecules: distinct, valid SMILES, the same ones for the same seed.

    A graph counts as valid when RDKit sanitizes it as it is and it is in one piece; nothing is
    repaired. A larger -n begins with the same molecules. --require and --smarts only select among
    them.
    """
    kind = molecule_kind(out, as_json, "csv" if everything else "smi")
    if everything and (require or smarts):
        raise typer.BadParameter("--all writes every graph: leave out --require and --smarts")
    task = _fragment_task(
        {"scaffold": scaffold, "grow": grow, "link": link, "decorate": decorate},
        {"--all": everything, "--likelihood": likelihood, "--workers": workers,
         "--require": require, "--smarts": smarts, "--first": first, "--shard": shard,
         "--cluster": cluster, "--property": wanted},
    )  # fmt: skip
    if task is None and particles is not None:
        raise typer.BadParameter(
            "there are walks around a fragment only: name one", param_hint="'--particles'"
        )
    if best_of > 1 and not wanted:
        raise typer.BadParameter(
            "the best is the nearest to a --property", param_hint="'--best-of'"
        )
    if shard and out is None:
        raise typer.BadParameter("it is a file: name it with --out", param_hint="'--shard'")
    if shard is None or shard.number:
        check_target(out, kind, force or shard is not None)
    options.check_cluster_options(cluster, workers, device)
    network = options.load_model(model, device, support=support)
    if workers is not None and workers > 1 and network.device.type != "cpu":
        raise typer.BadParameter("on a GPU one process draws", param_hint="'--workers'")

    from graphcnf.compute.cluster import open_workers
    from graphcnf.molecules.asked import asked_of, outside_training
    from graphcnf.sampling.counts import Quota
    from graphcnf.sampling.records import Recipe
    from graphcnf.sampling.sample import Sample
    from graphcnf.sampling.shards import shards_of

    if not network.is_raw:
        say("note: valency check on: bonds that do not fit are drawn again (not with --no-support)")
    targets = asked_of(network, dict(wanted or ()))
    for sentence in outside_training(targets, network.conditions) if targets else ():
        say(f"note: {sentence}")
    plain, more = plain_kind(kind), (("log_likelihood",) if likelihood else ())
    recipe = Recipe(
        seed=seed,
        temperature=temperature,
        sizes=size,
        kind=plain,
        columns=columns_of(plain, (*more, *(properties or ())), everything=everything),
        everything=everything,
        properties=tuple(properties or ()),
        requirements=tuple(require or ()),
        patterns=tuple(smarts or ()),
        targets=targets,
        best_of=best_of,
    )
    convert = conversion(kind, recipe.columns)
    if task is not None:
        growth = _growth(network, recipe, task, particles or options.PARTICLES)
        _write_grown(growth, task[1], recipe, number, out, convert, as_json)
        return
    records = range(first, first + (number if everything or shard else LARGEST_COUNT))
    parts = shards_of(network, recipe, records, out, *shard) if shard else [(out, None)]
    if shard and not shard.number:
        out.parent.mkdir(parents=True, exist_ok=True)
    todo = []
    for file, part in parts:
        if part and part.is_complete(file):
            which = f"shard {part.part[0]}/{part.part[1]} as asked for"
            say(f"note: {file} is there already, {which}")
            continue
        if part:
            check_target(file, kind, force)
        todo.append((file, part))
    if not todo:
        return
    with open_workers(cluster, workers) as engine:
        for file, part in todo:
            quota = Quota(range(*part.records) if part else records, None if part else number)
            sample, distinct = Sample(network, recipe, quota, engine), not everything
            if file is None:
                with open_output(None) as stream:
                    sample.write(stream)
            else:
                sample.save(file, convert=convert, shard=part, force=force)
            figures = sample.counts.figures(distinct)
            summary = sample.counts.summary(distinct, recipe.selective)
            say(json.dumps(figures) if as_json else summary)


def _fragment_task(
    tasks: dict[str, str | None], others: dict[str, object]
) -> tuple[str, str] | None:
    """Return the one option that names a fragment, and its text; None without any.

    Args:
        tasks: Fragments by the names of their options.
        others: Values of options that do not go together with a fragment.

    Raises:
        typer.BadParameter: Several were given, or an option that does not go together with one.
    """
    given = [(name, text) for name, text in tasks.items() if text is not None]
    if not given:
        return None
    if len(given) > 1:
        names = " and ".join(f"--{name}" for name, _ in given)
        raise typer.BadParameter(f"{names} exclude each other", param_hint=f"'--{given[1][0]}'")
    for name, value in others.items():
        if value:
            raise typer.BadParameter(f"not together with --{given[0][0]}", param_hint=f"'{name}'")
    return given[0]


def _growth(network: GraphCNF, recipe: Recipe, task: tuple[str, str], particles: int):
    """Return the search for molecules around a fragment."""
    from graphcnf.molecules.growth import Growth, fragment_of
    from graphcnf.molecules.standardize import deviations
    from graphcnf.molecules.vocabulary import MoleculeVocabulary

    vocabulary = MoleculeVocabulary.of_model(network)
    name, text = task
    options.say_deviations(deviations([text], None), 1)
    return Growth(
        network,
        vocabulary,
        fragment_of(text, name, vocabulary),
        seed=recipe.seed,
        temperature=recipe.temperature,
        atoms=recipe.sizes,
        particles=particles,
    )


def _write_grown(growth, text: str, recipe: Recipe, number: int, out, convert, as_json: bool):
    """Write molecules around a fragment, then a summary to stderr."""
    from graphcnf.sampling.records import found_texts

    pieces = found_texts(growth.molecules(), recipe, number)
    write_pieces(pieces, out, convert, label="drawing", total=number)
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
