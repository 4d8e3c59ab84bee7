"""`siliforce reference`: what simulations and scans of a potential are held against."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

app = typer.Typer(help="Reference data: made from your own DFT, or shown.", no_args_is_help=True)

Named = Optional[list[str]]


@app.command("make")
def reference_make(
    name: Annotated[str, typer.Argument(help="Of the material.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")],
    aimd: Annotated[Named, typer.Option(metavar="START=FILE", help="Trajectory.")] = None,
    eos: Annotated[Named, typer.Option(metavar="NAME=FILE", help="Scaled cells.")] = None,
    pec: Annotated[Named, typer.Option(metavar="NAME=FILE", help="Dimer or cluster.")] = None,
    skip: Annotated[int, typer.Option(min=0, help="First frames left out of averages.")] = 0,
    temperature: Annotated[Optional[float], typer.Option(help="K, if names do not say.")] = None,
    ood: Annotated[Named, typer.Option(metavar="NAME", help="Outside the training data.")] = None,
    level_of_theory: str = "not stated",
    licence: str = "not stated",
) -> None:
    """RDF and ADF with their noise from AIMD trajectories, and DFT scans, into one folder."""
    from siliforce.indicators.make_reference import make_reference, summary

    given = {"aimd": _named(aimd), "eos": _named(eos), "pec": _named(pec)}
    if not any(given.values()):
        raise typer.BadParameter("give at least one of --aimd, --eos, --pec")
    facts = {"licence": licence, "level_of_theory": level_of_theory}
    reference = make_reference(
        name,
        given["aimd"],
        given["eos"],
        given["pec"],
        skip=skip,
        temperature=temperature,
        ood=ood or [],
        **facts,
    )
    reference.save(out)
    typer.echo("\n".join([*summary(reference), f"written to {out}"]))


@app.command("show")
def reference_show(folder: Annotated[Path, typer.Argument(help="Folder of one material.")]) -> None:
    """What a reference holds."""
    from siliforce.data.reference import Reference
    from siliforce.indicators.make_reference import summary

    typer.echo("\n".join(summary(Reference.load(folder))))


def _named(given: list[str] | None) -> dict[str, Path]:
    """`NAME=FILE` pairs; a file alone is named after itself."""
    found: dict[str, Path] = {}
    for text in given or []:
        name, mark, path = text.partition("=")
        file = Path(path if mark else name)
        found[name if mark else file.name.split(".")[0]] = file
    return found
