"""The `graphcnf generate` command: draws molecules and writes them, at once or in shards.

A *record* is one graph of a sample, by its number. A *shard* is a part of a sample in a file of its
own, which another process or machine may draw.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from graphcnf.compute.parallel import open_workers
from graphcnf.limits import CANDIDATES, LARGEST_COUNT, MOST_CANDIDATES
from graphcnf.messages import say
from graphcnf.sampling.writers import columns_of, conversion, entries, open_lines, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._files import check_outputs
from graphcnf.scripts._options import option
from graphcnf.scripts._output import (
    LISTED,
    check_shown,
    check_target,
    molecule_kind,
    open_output,
    show_molecules,
)

if TYPE_CHECKING:
    from graphcnf.compute.parallel import Workers
    from graphcnf.graphs.graph_model import GraphModel
    from graphcnf.sampling.sample import Recipe
    from graphcnf.sampling.shards import Shard


class ShardNumber(NamedTuple):
    """The value of --shard: which of several parts of a sample is drawn.

    Attributes:
        number: Number of the shard, counted from 1; 0 for all shards, one after another.
        parts: Number of shards in all.
    """

    number: int
    parts: int

    @classmethod
    def parse(cls, text: str) -> ShardNumber:
        """Read the value of --shard, such as "3/20" or "all/20".

        Args:
            text: "I/N" for shard I of N, with I from 1 to N; or "all/N" for all N shards.

        Returns:
            (I, N), or (0, N) for all shards.

        Raises:
            typer.BadParameter: The text has another form, or I is not from 1 to N.
        """
        found = re.fullmatch(r"(all|0*[1-9][0-9]{0,8})/([0-9]{1,9})", text.strip())
        part = cls(0 if found[1] == "all" else int(found[1]), int(found[2])) if found else cls(0, 0)
        if part.parts < max(part.number, 1):
            raise typer.BadParameter(
                f"shard must be 1/20 to 20/20 for the parts of 20, or all/20, got {text!r}"
            )
        return part


First = Annotated[
    int, option("Number of the first graph of the sample to draw.", min=0, max=LARGEST_COUNT)
]
ShardOption = Annotated[
    ShardNumber | None,
    option(
        "Shard I of N, from 1 on, or all shards one after the other, in numbered files. -n is then "
        "the number of graphs in all shards; graphcnf merge merges their files.",
        metavar="I/N|all/N",
        parser=ShardNumber.parse,
    ),
]
BestOf = Annotated[
    int | None,
    option(
        "Candidates per molecule, of which the one nearest to the values of --property is kept.",
        min=1,
        max=MOST_CANDIDATES,
        show_default=f"{CANDIDATES} with --property, but 1 with --all",
    ),
]
Everything = Annotated[
    bool,
    option(
        "Write all sampled graphs, also invalid ones and repeats; -n is then their number.", "--all"
    ),
]
Likelihood = Annotated[
    bool,
    option(
        "Also write log_likelihood: a lower bound on log p(molecule | number of atoms), nats, "
        "without stereo marks; from a model without a node order, the sum over all labellings.",
        "--likelihood",
    ),
]


@options.grouped
def generate(
    *,
    draw: options.Draw,
    first: First = 0,
    shard: ShardOption = None,
    support: options.Support = True,
    stereo: options.Stereo = None,
    wanted: options.Targets = None,
    best_of: BestOf = None,
    chosen: options.Filter,
    everything: Everything = False,
    likelihood: Likelihood = False,
    workers: options.Workers = None,
    cluster: options.Cluster = None,
) -> None:
    """Draw distinct valid molecules as SMILES; the seed determines them.

    They are written to the file of --out, or else to standard output.

    A graph counts as valid if RDKit sanitizes it as it is and it is connected; nothing is repaired.
    A larger -n begins with the same molecules, and filters only select among them. After an
    interruption, the same command continues where it stopped.
    """
    kind = molecule_kind(draw.out, draw.as_json, "csv" if everything else "smi")
    if everything and chosen.is_given():
        raise typer.BadParameter("--all writes every graph: leave the filters out")
    if best_of is None:
        best_of = CANDIDATES if wanted and not everything else 1
    if best_of > 1 and not wanted:
        raise typer.BadParameter("--best-of keeps the one nearest to a --property")
    if shard and draw.out is None:
        raise typer.BadParameter("it is a file: name it with --out", param_hint="'--shard'")
    if shard is None or shard.number:
        check_target(draw.out, kind, draw.force or shard is not None)
    if (draw.picture or draw.html) and (everything or shard):
        raise typer.BadParameter("--picture and --html do not go with --all and --shard")
    check_shown(draw)
    options.check_cluster_options(cluster, workers, draw.device)
    network = options.load_model(draw.model, draw.device, support=support)
    filters = chosen.filters(network)
    if workers is not None and workers > 1 and network.device.type != "cpu":
        raise typer.BadParameter("on a GPU one process draws", param_hint="'--workers'")

    from graphcnf.chemistry.properties import conditions_of, outside_training
    from graphcnf.graphs.building import draws_raw
    from graphcnf.molecules.molecule_model import stereo_of
    from graphcnf.pretrained import model_digest
    from graphcnf.sampling.sample import Recipe
    from graphcnf.sampling.shards import shards_of

    if not draws_raw(network):
        say(f"note: {network.redraw_check} on (not with --no-support)")
    targets = conditions_of(network, dict(wanted or ()))
    for sentence in outside_training(targets, network.conditions) if targets else ():
        say(f"note: {sentence}")
    marked = options.draws_stereo(network, draw.model, stereo)
    plain, more = plain_kind(kind), (("log_likelihood",) if likelihood else ())
    properties = tuple(draw.properties or ())
    recipe = Recipe(
        draw.seed,
        draw.temperature,
        draw.size,
        plain,
        columns_of(plain, (*more, *properties), everything=everything),
        everything,
        properties,
        targets,
        best_of,
        filters,
        model_digest(stereo_of(network)) if marked else "",
    )
    records = range(first, first + (draw.number if everything or shard else LARGEST_COUNT))
    parts: Sequence[tuple[Path | None, Shard | None]] = [(draw.out, None)]
    if shard:
        parts = shards = shards_of(network, recipe, records, draw.out, *shard)
        check_outputs([("--out", out) for out, _ in shards], chosen.files())
        draw.out.parent.mkdir(parents=True, exist_ok=True)
    with open_workers(cluster, workers) as engine:
        _write_samples(network, recipe, engine, records, parts, kind, draw)


def _write_samples(
    network: GraphModel,
    recipe: Recipe,
    engine: Workers,
    records: range,
    parts: Sequence[tuple[Path | None, Shard | None]],
    kind: str,
    draw: options.Draw,
) -> None:
    """Write a sample, or its missing shards, and print a summary of each."""
    from graphcnf.chemistry.properties import properties_of
    from graphcnf.molecule_flow import MoleculeFlow
    from graphcnf.molecules.codec import parse
    from graphcnf.sampling.sample import Sample
    from graphcnf.sampling.shards import is_complete, write_description

    shown = draw.picture or draw.html
    todo = [(out, shard) for out, shard in parts if not (shard and is_complete(out, shard))]
    for out, shard in parts:
        if (out, shard) in todo:
            check_target(out, kind, draw.force)
        else:
            say("note: {} is there already, shard {}/{} as asked for".format(out, *shard["part"]))
    for out, shard in todo:
        own, number = (range(*shard["records"]), None) if shard else (records, draw.number)
        sample = Sample(network, recipe, own, number, engine)
        text = io.StringIO()
        if out is None:
            with open_output(None) as stream:
                sample.write(text if shown else stream)
                stream.write(text.getvalue())
                text.seek(0)
        else:
            beside = partial(write_description, out, shard, sample) if shard else None
            sample.save(
                out, convert=conversion(kind, recipe.columns), beside=beside, force=draw.force
            )
        how = not recipe.everything, recipe.filters.checks, recipe.best_of
        counts = sample.counts
        say(json.dumps(counts.figures(*how)) if draw.as_json else counts.summary(*how))
        if shown:
            with open_lines(out) if out else text as lines:
                smiles = [s for _, s in islice(entries(lines, recipe.kind, recipe.columns), LISTED)]
            rows = [{"smiles": s, **properties_of(parse(s), recipe.properties)} for s in smiles]
            show_molecules(MoleculeFlow(network), rows, draw, f"{len(rows)} molecules")
