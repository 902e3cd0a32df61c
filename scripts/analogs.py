"""The `analogs` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from graphcnf.errors import say
from graphcnf.sampling.formats import columns_of, conversion, plain_kind
from graphcnf.scripts import _options as options
from graphcnf.scripts._options import option
from graphcnf.scripts._output import check_target, molecule_kind, write_pieces


def analogs(
    molecule: Annotated[str, typer.Argument(metavar="SMILES", help="The molecule.")],
    keep: Annotated[
        Literal["skeleton", "bonds", "scaffold"],
        option(
            "What stays: which atoms are bonded; that and the orders of the bonds; the "
            "Bemis-Murcko scaffold."
        ),
    ] = "skeleton",
    similar: Annotated[
        float,
        option(
            "Least Tanimoto similarity to the molecule (ECFP4, 2,048 bits).",
            min=0,
            max=1,
            show_default="none",
        ),
    ] = 0.0,
    number: Annotated[int, option("Analogues to write.", "--number", "-n", min=1)] = 100,
    out: Annotated[
        Path | None,
        option(
            "File to write: .smi, .csv, .sdf or .jsonl, also with .gz, or .parquet.",
            show_default="stdout",
        ),
    ] = None,
    force: options.Force = False,
    model: options.Model = "zinc250k",
    seed: options.Seed = 0,
    temperature: options.Temperature = 1.0,
    size: Annotated[
        options.Sizes | None,
        option(
            "Number of atoms, 20-30 or 25, with --keep scaffold.",
            metavar="LO-HI",
            parser=options.Sizes.parse,
            show_default="that of the molecule, three more or less",
        ),
    ] = None,
    standardize: options.Standardize = False,
    properties: options.Properties = None,
    particles: options.Particles = None,
    as_json: Annotated[
        bool, option("One JSON object per line instead of SMILES.", "--json")
    ] = False,
    device: options.Device = "cpu",
) -> None:
    """Draw analogues of a molecule: some of its atoms and bonds anew, given the others.

    They are distinct and valid, never the molecule itself, and the same ones for the same seed; a
    larger -n begins with the same analogues.
    """
    kind = molecule_kind(out, as_json)
    check_target(out, kind, force)
    network = options.load_model(model, device)

    from graphcnf.molecules.analogs import analogs_of
    from graphcnf.molecules.flow import MoleculeFlow
    from graphcnf.molecules.standardize import deviations
    from graphcnf.sampling.records import Recipe, found_texts

    flow, plain = MoleculeFlow(network), plain_kind(kind)
    states = None if standardize else flow.charge_states
    options.say_deviations(deviations([molecule], states), 1)
    found = analogs_of(
        flow, flow.standardized(molecule) if standardize else molecule, keep=keep, similar=similar,
        seed=seed, temperature=temperature, atoms=size, particles=particles or options.PARTICLES,
    )  # fmt: skip
    more, names = () if plain == "smi" else ("similarity",), tuple(properties or ())
    recipe = Recipe(
        seed=seed, temperature=temperature, sizes=size, kind=plain, properties=names,
        columns=columns_of(plain, (*more, *names)), everything=False,
    )  # fmt: skip
    origin = found.origin
    pieces = found_texts(found.molecules(), recipe, number, {"similarity": origin.similarity})
    write_pieces(pieces, out, conversion(kind, recipe.columns), "drawing", number)
    share = origin.similar_ones / max(origin.others, 1)
    rate = (
        f"; {share:.1%} of {origin.others:,} valid ones reach {similar:g}"
        if similar
        else f", of {origin.others:,} valid ones that were drawn"
    )
    say(f"{number:,} distinct analogues of {origin.smiles} with its {keep}{rate}")
