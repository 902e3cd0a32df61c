"""The `generate` command."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from graphcnf.errors import say
from graphcnf.limits import LARGEST_COUNT
from graphcnf.scripts.generation import growth, options
from graphcnf.scripts.generation.shards import Shard, named_parts, parse_shard
from graphcnf.scripts.generation.target import check_target, conversion, plain_kind, target_kind
from graphcnf.scripts.generation.writing import to_file, to_stdout

COLUMNS = ("record", "smiles")
ALL_COLUMNS = ("record", "smiles", "strict", "largest_fragment", "atoms")

PATIENCE = 10_000
"""Records in a row without a further valid molecule after which the search is given up."""

RARE = 10
"""So many times as many where molecules are selected."""


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
    first: options.First = 0,
    shard: options.Shard = None,
    temperature: options.Temperature = 1.0,
    size: options.Size = None,
    support: options.Support = True,
    wanted: options.Wanted = None,
    best_of: options.BestOf = 1,
    properties: options.Properties = None,
    require: options.Require = None,
    smarts: options.Smarts = None,
    scaffold: options.Scaffold = None,
    grow: options.Grow = None,
    link: options.Link = None,
    decorate: options.Decorate = None,
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
    from graphcnf.scripts._sampling import (
        check_cluster_options,
        load_model,
        parse_selection,
        parse_sizes,
        parse_wanted,
    )

    kind = target_kind(out, as_json, "csv" if everything else "smi")
    if everything and (require or smarts):
        raise typer.BadParameter("--all writes every graph: leave out --require and --smarts")
    ways = {"scaffold": scaffold, "grow": grow, "link": link, "decorate": decorate}
    others = {"--all": everything, "--likelihood": likelihood, "--workers": workers,
              "--require": require, "--smarts": smarts,
              "--first": first, "--shard": shard, "--cluster": cluster,
              "--property": wanted}  # fmt: skip
    way = growth.chosen_way(ways, others)
    if way is None and particles is not None:
        raise typer.BadParameter(
            "there are walks around a fragment only: name one", param_hint="'--particles'"
        )
    if best_of > 1 and not wanted:
        raise typer.BadParameter(
            "the best is the nearest to a --property", param_hint="'--best-of'"
        )
    sizes = parse_sizes(size)
    part = parse_shard(shard)
    if part and out is None:
        raise typer.BadParameter("it is a file: name it with --out", param_hint="'--shard'")
    if part is None or part[0]:
        check_target(out, kind, force or part is not None)
    chosen = parse_selection(properties, require or [], smarts or [])
    check_cluster_options(cluster, workers, device)
    network = load_model(model, device, support=support)

    from graphcnf.molecules.asked import asked_of, outside_training

    if not network.is_raw:
        say("note: valency check on: bonds that do not fit are drawn again (not with --no-support)")
    targets = asked_of(network, parse_wanted(wanted or []))
    for sentence in outside_training(targets, network.conditions) if targets else ():
        say(f"note: {sentence}")
    if workers is not None and workers > 1 and network.device.type != "cpu":
        raise typer.BadParameter("on a GPU one process draws", param_hint="'--workers'")

    from graphcnf.compute.cluster import open_workers
    from graphcnf.scripts.generation.records import Recipe
    from graphcnf.scripts.generation.stream import Goal

    plain = plain_kind(kind)
    columns = ALL_COLUMNS if everything else ("smiles",) if plain == "smi" else COLUMNS
    columns = (*columns, "log_likelihood") if likelihood else columns
    if plain == "smi":  # whoever reads the file takes what comes first
        columns = ("smiles", *columns)
    recipe = Recipe(
        seed=seed,
        temperature=temperature,
        sizes=sizes,
        kind=plain,
        columns=tuple(dict.fromkeys([*columns, *chosen["properties"]])),
        everything=everything,
        targets=targets,
        best_of=best_of,
        **chosen,
    )
    if way is not None:
        convert = conversion(kind, recipe.columns)
        growth.write_grown(
            network, recipe, number, out, way, particles or options.PARTICLES, convert, as_json
        )
        return
    selective = bool(require or smarts)
    patience = RARE * PATIENCE if selective else PATIENCE
    how: dict[str, Any] = {"patience": patience}
    records = range(first, first + (number if everything or part else LARGEST_COUNT))
    convert = conversion(kind, recipe.columns)
    named = named_parts(out, part, records)
    todo: list[tuple] = []
    if part and not part[0] and out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    for target, one in named:
        found = Shard.of(network, recipe, records, one) if one else None
        if found and found.is_complete(target):
            which = f"shard {found.part[0]}/{found.part[1]} as asked for"
            say(f"note: {target} is there already, {which}")
            continue
        if found:
            check_target(target, kind, force)
        todo.append((target, found))
    if not todo:
        return
    with open_workers(cluster, workers) as how["workers"]:
        for target, found in todo:
            goal = Goal(range(*found.records) if found else records, None if part else number)
            if target is None:
                progress, distinct = to_stdout(network, recipe, goal, how)
            else:
                progress, distinct = to_file(
                    network, recipe, goal, how, target, convert, force, found
                )
            shown = (
                json.dumps(progress.figures(distinct))
                if as_json
                else progress.summary(distinct, selective=selective)
            )
            say(shown)
