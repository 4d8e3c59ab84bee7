"""`siliforce reference`: what simulations and scans of a potential are held against."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.cli.options import Device, Json, load_members, show, show_json

app = typer.Typer(
    help="Reference data: made from your own DFT, shown, or a potential held against it.",
    no_args_is_help=True,
)

Named = Optional[list[str]]
ENGINE_FILES = (".yaml", ".yml")


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
    interval: Annotated[
        Optional[float],
        typer.Option(min=0.01, help="fs between frames of trajectories: gives their vibrations."),
    ] = None,
    level_of_theory: str = "not stated",
    licence: str = "not stated",
) -> None:
    """RDF, ADF, pressure and vibrations of AIMD, with their noise, and DFT scans, in one folder."""
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
        interval=interval,
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


@app.command("compare")
def reference_compare(
    folder: Annotated[Path, typer.Argument(help="Reference of one material.")],
    model: Annotated[
        Path, typer.Argument(help="Run folder, model file, or an engine's settings (YAML).")
    ],
    only: Annotated[
        Optional[list[str]],
        typer.Option(metavar="INDICATOR", help="eos, pec, rdf, adf, survival, pressure, vdos."),
    ] = None,
    start: Annotated[Named, typer.Option(help="Start of dynamics; all if not given.")] = None,
    changes: Annotated[
        Optional[list[str]],
        typer.Option("--set", metavar="KEY=VALUE", help="Dynamics, e.g. production=5 (ps)."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Hold a potential, or an ensemble, against a reference: errors of what is simulated."""
    from siliforce.benchmark.config import Simulation
    from siliforce.benchmark.held_against import FROM_REFERENCE, hold_against
    from siliforce.cli.progress import SimulationProgress
    from siliforce.config import parse_settings
    from siliforce.data.reference import Reference
    from siliforce.indicators.tables import indicators_table
    from siliforce.training.options import parse

    md = parse(Simulation, parse_settings(changes or []), "md")
    reference = Reference.load(folder)
    if start:
        reference = replace(reference, starts=[reference.start(name) for name in start])
    place = model if model.is_dir() else Path(model.stem)
    with SimulationProgress(quiet=as_json) as progress:
        results, notes = hold_against(
            _sources(model, device),
            reference,
            only or FROM_REFERENCE,
            md,
            place / "simulations",
            progress,
        )
    for result in results:
        if model.suffix in ENGINE_FILES:
            result.model = model.stem
        if model.is_dir():
            result.save(model / "results")
    if as_json:
        show_json([r.checked().model_dump(mode="json") for r in results])
        return
    show(indicators_table(results))
    for note in notes:
        typer.echo(note, err=True)


def _sources(model: Path, device: str) -> list[Any]:
    """A potential, the members of an ensemble, or a calculator that was not trained here."""
    if model.suffix not in ENGINE_FILES:
        return load_members(model, device)
    from siliforce.generate import load_engine
    from siliforce.generate.sampling import EngineCalculator

    return [EngineCalculator(load_engine(model))]


def _named(given: list[str] | None) -> dict[str, Path]:
    """`NAME=FILE` pairs; a file alone is named after itself."""
    found: dict[str, Path] = {}
    for text in given or []:
        name, mark, path = text.partition("=")
        file = Path(path if mark else name)
        found[name if mark else file.name.split(".")[0]] = file
    return found
