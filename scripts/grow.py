"""The `graphcnf grow` command: draws molecules that contain a given fragment."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from graphcnf.limits import LIKELIEST, MOST_CANDIDATES, PARTICLES
from graphcnf.messages import say
from graphcnf.scripts import _options as options
from graphcnf.scripts._output import show_molecules, write_found, written_kind


@options.grouped
def grow(
    *,
    around: options.Fragment,
    added: options.Added,
    particles: options.Particles = PARTICLES,
    likeliest: Annotated[
        int | None,
        options.option(
            "Find K times as many molecules, and write those with the highest log-probability per "
            "atom; 1 for all.",
            metavar="K",
            min=1,
            max=MOST_CANDIDATES,
            show_default=f"{LIKELIEST} with --link, else 1",
        ),
    ] = None,
    stereo: options.Stereo = None,
    wanted: options.Targets = None,
    draw: options.Draw,
    chosen: options.Filter,
) -> None:
    """Draw distinct valid molecules that contain a fragment, with its stereo marks.

    The seed determines the molecules; a larger -n begins with the same ones.
    """
    chosen_task = around.task()
    if chosen_task is None:
        raise typer.BadParameter(
            "name the fragment: --scaffold, --grow, --link, --close or --decorate"
        )
    task, text = chosen_task
    kind, network = written_kind(draw), options.load_model(draw.model, draw.device)
    filters = chosen.filters(network, reactive=True)

    from graphcnf.chemistry.filters import passing_shares, passing_text, removed_by_alerts
    from graphcnf.design.fragments import TASKS, read_fragment
    from graphcnf.design.growing import Growth, found, known_rings
    from graphcnf.molecule_flow import MoleculeFlow

    flow = MoleculeFlow(network)
    marked = options.draws_stereo(network, draw.model, stereo)
    fragment = read_fragment(text, task, flow.vocabulary, added.limits())
    options.say_deviations([text], None, marked=marked)
    search = draw.search(particles, filters, wanted)
    search["likeliest"] = likeliest or TASKS[task].likeliest
    growth = Growth(network, flow.vocabulary, fragment, **search)
    distinct = {name: set() for name, _ in fragment.points}

    def groups(mol):
        found = fragment.groups(mol)
        for name, part in found.items():
            distinct[name].add(part)
        return found

    rows = write_found(
        found(flow, growth, marked), draw, kind, dict.fromkeys(distinct, "string"), groups
    )
    show_molecules(flow, rows, draw, f"{len(rows)} molecules with {text}", fragment.match)
    share, accuracy = growth.valid / max(growth.placed, 1), growth.accuracy()
    passed = passing_text(filters.checks, growth.outcomes)
    figures = {
        "written": draw.number,
        "distinct": draw.number,
        "likeliest": growth.likeliest,
        "found": growth.found,
        "particles": growth.drawn,
        "placed": growth.placed,
        "valid": growth.valid,
        **accuracy,
    }
    kind_of = "samples of the model" if growth.common else "particles"
    fit = "valid and within the limits" if fragment.added.given() else "valid"
    nearer, of_found = "more --particles", ""
    if growth.likeliest > 1:
        nearer += " and --likeliest 1"
        of_found = f", the likeliest per atom of {growth.found:,}"
    sentence = (
        f"{draw.number:,} distinct molecules with {text}{of_found}; {growth.placed:,} of "
        f"{growth.drawn:,} {kind_of} contain all of it, {share:.1%} of these are {fit}"
        f"{passed and f', of which {passed}'}"
    )
    if accuracy:
        sentence += (
            f"; effective number of particles {accuracy['effective']:,.0f}; "
            f"{accuracy['atoms']:.1f} atoms on average, {accuracy['atoms_weighted']:.1f} by weight "
            f"(nearer with {nearer})"
        )
    if fragment.fragment.closed_ring:
        figures["largest_ring"], advice = known_rings(network)
        sentence += f"; {advice}"
    if filters:
        figures["filters"] = passing_shares(filters.checks, growth.outcomes)
        figures["removed"] = removed_by_alerts(growth.outcomes)
    if distinct:
        figures["groups"] = {name: len(parts) for name, parts in distinct.items()}
        shown = ", ".join(f"{len(parts):,} {name}" for name, parts in distinct.items())
        sentence += f"; distinct groups: {shown}"
    say(json.dumps(figures) if draw.as_json else sentence)
