"""The `graphcnf analogs` command: draws molecules that differ from a given one in a part."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from graphcnf.limits import PARTICLES, SIMILAR
from graphcnf.messages import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import show_molecules, write_found, written_kind


@options.grouped
def analogs(
    *,
    molecule: Annotated[str, typer.Argument(metavar="SMILES", help="The molecule.")],
    keep: Annotated[
        Literal["skeleton", "bonds", "scaffold"],
        option(
            "What to retain: which atoms are bonded; that and the bond orders; the Bemis-Murcko "
            "scaffold."
        ),
    ] = "skeleton",
    similar: Annotated[
        float,
        option(
            "Lowest Tanimoto similarity to the molecule (ECFP4, 2,048 bits); 0 for any.",
            min=0,
            max=1,
        ),
    ] = SIMILAR,
    standardize: options.Standardize = False,
    particles: options.Particles = PARTICLES,
    stereo: options.Stereo = None,
    wanted: options.Targets = None,
    draw: options.Draw,
    chosen: options.Filter,
) -> None:
    """Draw distinct valid analogues of a molecule: redraw some atoms and bonds, given the others.

    Unchanged atoms keep their stereo marks. The seed determines the analogues; a larger -n begins
    with the same ones.
    """
    kind, network = written_kind(draw), options.load_model(draw.model, draw.device)
    filters = chosen.filters(network, reactive=True)

    from graphcnf.chemistry.filters import passing_text
    from graphcnf.chemistry.properties import DECIMALS
    from graphcnf.design.analogues import analogs_of
    from graphcnf.design.growing import found as molecules_found
    from graphcnf.molecule_flow import MoleculeFlow

    flow = MoleculeFlow(network)
    marked = options.draws_stereo(network, draw.model, stereo)
    states = None if standardize else flow.charge_states
    given = flow.standardized(molecule) if standardize else molecule
    search = draw.search(particles, filters, wanted)
    found = analogs_of(flow, given, keep=keep, similar=similar, **search)
    options.say_deviations([molecule], states, marked=marked)
    origin = found.origin

    def compared(mol):
        changed = " ".join(map(str, origin.changed(mol)))
        return {"similarity": round(origin.similarity(mol), DECIMALS), "changed": changed}

    rows = write_found(
        molecules_found(flow, found, marked),
        draw,
        kind,
        {"similarity": "float64", "changed": "string"},
        compared,
    )
    title = f"{len(rows)} analogues of {origin.smiles}"
    show_molecules(flow, rows, draw, title, origin.changed, [origin.smiles])
    share = origin.similar_ones / max(origin.others, 1)
    rate = (
        f"; {share:.1%} of {origin.others:,} valid ones reach {similar:g}"
        if similar
        else f", of {origin.others:,} valid ones that were drawn"
    )
    if filters:
        rate += f", of these {passing_text(filters.checks, found.outcomes)}"
    say(f"{draw.number:,} distinct analogues of {origin.smiles} with its {keep}{rate}")
