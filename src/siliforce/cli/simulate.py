"""`siliforce simulate`: one structure under a potential."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.cli.options import Device, Json, Repeat, Run, Structure, show, show_json

app = typer.Typer(help="Molecular dynamics, equation of state, relaxation.", no_args_is_help=True)


@app.command("md")
def simulate_md(
    run: Run,
    structure: Structure,
    temperature: Annotated[float, typer.Option(help="K")] = 300.0,
    time: Annotated[float, typer.Option(help="ps of production")] = 1.0,
    timestep: Annotated[float, typer.Option(help="fs")] = 1.0,
    equilibration: Annotated[float, typer.Option(help="ps, with the thermostat")] = 0.5,
    ensemble: Annotated[str, typer.Option(help="nvt or nve")] = "nvt",
    repeat: Repeat = 1,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Trajectory.")] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Molecular dynamics of one structure; a failed run says when and why."""
    from siliforce.indicators.dynamics import dynamics
    from siliforce.simulation.md import MDConfig
    from siliforce.training.options import parse

    config = parse(
        MDConfig,
        {
            "temperature": temperature,
            "equilibration": equilibration,
            "production": time,
            "timestep": timestep,
            "ensemble": ensemble,
        },
        "md",
    )
    potential = _potential(run, device)
    _finish(run, dynamics(potential, _structure(structure, repeat), config, out), as_json)


@app.command("eos")
def simulate_eos(
    run: Run,
    structure: Structure,
    repeat: Repeat = 1,
    reference: Annotated[
        Optional[Path],
        typer.Option(help="DFT points: text columns scale, volume (Å³), energy (eV)."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Energy against volume, bulk modulus and equilibrium volume."""
    from siliforce.indicators.eos import equation_of_state, read_reference

    points = read_reference(reference) if reference is not None else None
    atoms = _structure(structure, repeat)
    _finish(run, equation_of_state(_potential(run, device), atoms, reference=points), as_json)


@app.command("speed")
def simulate_speed(
    run: Run,
    structure: Structure,
    repeat: Repeat = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time of one call for energy and forces, with the hardware's name."""
    from siliforce.indicators.speed import speed

    _finish(run, speed(_potential(run, device), _structure(structure, repeat)), as_json)


@app.command("relax")
def simulate_relax(
    run: Run,
    structure: Structure,
    cell: Annotated[bool, typer.Option(help="Relax the cell as well.")] = False,
    fmax: Annotated[float, typer.Option(help="eV/Å")] = 0.01,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Relaxed structure.")] = None,
    device: Device = "auto",
) -> None:
    """Move atoms (and cell) to the nearest minimum."""
    from siliforce.simulation.calculator import SiliforceCalculator
    from siliforce.simulation.relax import relax

    calculator = SiliforceCalculator(run, device)
    found = relax(_structure(structure), calculator, fmax=fmax, cell=cell)
    state = "converged" if found.converged else "NOT converged"
    typer.echo(
        f"{state} after {found.steps} steps: {found.energy:.6f} eV, "
        f"largest force {found.max_force:.4f} eV/Å"
    )
    if out is not None:
        found.atoms.write(out)


def _potential(run: Path, device: str) -> Any:
    from siliforce.potential import Potential
    from siliforce.simulation.calculator import resolve_device

    return Potential.load(run, resolve_device(device))


def _structure(path: Path, repeat: int = 1) -> Any:
    """The first frame of a file, compressed ones too."""
    from siliforce.data.read import read_structure

    return read_structure(path).repeat(repeat)


def _finish(run: Path, result: Any, as_json: bool) -> None:
    """Keep a result with its run and show it."""
    from siliforce.indicators.tables import result_table

    if run.is_dir():
        result.save(run / "results")
    show_json(json.loads(result.model_dump_json())) if as_json else show(result_table(result))
