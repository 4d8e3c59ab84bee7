"""`siliforce simulate`: structures under a potential."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.cli.options import (
    Device,
    Json,
    Run,
    Structure,
    Supercell,
    load_members,
    show,
    show_json,
)

app = typer.Typer(
    help="Molecular dynamics, relaxation, equation of state, reaction paths.",
    no_args_is_help=True,
)

Out = Annotated[
    Optional[Path],
    typer.Option("--out", "-o", help="Folder; by default under RUN/simulations, or here."),
]


@app.command("md")
def simulate_md(
    context: typer.Context,
    run: Run,
    structure: Structure,
    temperature: Annotated[float, typer.Option(help="K")] = 300.0,
    time: Annotated[float, typer.Option(help="ps of production")] = 1.0,
    timestep: Annotated[float, typer.Option(help="fs")] = 1.0,
    equilibration: Annotated[float, typer.Option(help="ps, with the thermostat")] = 0.5,
    ensemble: Annotated[str, typer.Option(help="nvt, nve or npt")] = "nvt",
    thermostat: Annotated[str, typer.Option(help="bussi, nose-hoover or langevin")] = "bussi",
    pressure: Annotated[float, typer.Option(help="GPa, for npt")] = 0.0,
    coupling: Annotated[
        str, typer.Option(help="How an npt cell may change: isotropic, axes, z or free.")
    ] = "isotropic",
    replicas: Annotated[int, typer.Option(min=1, help="Runs with seeds of their own.")] = 1,
    supercell: Supercell = "1",
    seed: Annotated[int, typer.Option(help="Of the first replica.")] = 0,
    paper: Annotated[
        bool, typer.Option("--paper", help="The protocol of the 2023 benchmark: 9 ps at 3 fs.")
    ] = False,
    out: Out = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Molecular dynamics, replicas side by side; a failed run says when and why.

    The same command after an interruption goes on where it stopped.
    """
    from siliforce.cli.plots import dynamics_page
    from siliforce.cli.progress import SimulationProgress
    from siliforce.indicators.dynamics import dynamics_batch
    from siliforce.simulation.md import MDConfig
    from siliforce.training.options import parse

    if paper:
        _refuse_beside_paper(context)
        config = MDConfig.paper(temperature, seed=seed)
    else:
        config = parse(
            MDConfig,
            {
                "temperature": temperature,
                "equilibration": equilibration,
                "production": time,
                "timestep": timestep,
                "ensemble": ensemble,
                "thermostat": thermostat,
                "pressure": pressure,
                "coupling": coupling,
                "seed": seed,
            },
            "md",
        )
    atoms = _structure(structure, supercell)
    settings = f"{config.model_dump_json()} {supercell} {replicas}"
    folder = out or _folder(run, structure, f"{config.temperature:g}K", settings)
    with SimulationProgress(quiet=as_json) as progress:
        results = dynamics_batch(
            _source(run, device), [atoms] * replicas, config, folder, None, progress
        )
    page = dynamics_page(folder / "plot.html", results)
    _finish(run, folder, results, page, as_json)


def _refuse_beside_paper(context: typer.Context) -> None:
    """The benchmark's protocol fixes these; an option that would do nothing is an error."""
    from siliforce.errors import ConfigError

    fixed = ("time", "timestep", "equilibration", "ensemble", "thermostat", "pressure", "coupling")
    sources = {name: context.get_parameter_source(name) for name in fixed}
    given = [name for name, source in sources.items() if source and source.name == "COMMANDLINE"]
    if given:
        raise ConfigError(
            f"--paper fixes --{', --'.join(given)}; leave them out, or leave --paper out"
        )


@app.command("eos")
def simulate_eos(
    run: Run,
    structure: Structure,
    supercell: Supercell = "1",
    reference: Annotated[
        Optional[Path],
        typer.Option(help="DFT points: text columns scale, volume (Å³), energy (eV)."),
    ] = None,
    out: Out = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Energy against volume, bulk modulus and equilibrium volume."""
    from siliforce.cli.plots import eos_page, table_csv
    from siliforce.indicators.eos import equation_of_state, read_reference

    points = read_reference(reference) if reference is not None else None
    atoms = _structure(structure, supercell)
    result = equation_of_state(_potential(run, device), atoms, reference=points)
    folder = out or _folder(run, structure, "eos", supercell)
    table_csv(folder / "eos.csv", {n: result.curves[n] for n in ("scale", "volume", "energy")})
    _finish(run, folder, [result], eos_page(folder / "plot.html", result), as_json)


@app.command("speed")
def simulate_speed(
    run: Run,
    structure: Structure,
    supercell: Supercell = "1",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Time of one call for energy and forces, with the hardware's name."""
    from siliforce.indicators.speed import speed

    result = speed(_potential(run, device), _structure(structure, supercell))
    _finish(run, None, [result], None, as_json)


@app.command("relax")
def simulate_relax(
    run: Run,
    structure: Structure,
    cell: Annotated[bool, typer.Option("--cell", help="Relax the cell as well.")] = False,
    fmax: Annotated[float, typer.Option(help="eV/Å")] = 0.01,
    max_steps: Annotated[int, typer.Option(min=1)] = 500,
    supercell: Supercell = "1",
    out: Out = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Move atoms (and cell) to the nearest minimum."""
    from ase.io import write

    from siliforce.cli.plots import figure, table_csv, write_page
    from siliforce.report.svg import Series
    from siliforce.simulation.relax import relax

    atoms = _structure(structure, supercell)
    found = relax(atoms, _calculator(run, device), fmax, max_steps, cell)
    folder = out or _folder(run, structure, "relax", f"{cell} {fmax} {max_steps} {supercell}")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "relaxed.xyz", found.atoms, format="extxyz")
    write(folder / "relaxed.vasp", found.atoms, format="vasp", direct=True, sort=True)
    write(folder / "path.xyz", found.path, format="extxyz")
    table_csv(folder / "log.csv", found.log)
    state = "converged" if found.converged else "NOT converged"
    text = (
        f"{state} after {found.steps} steps: {found.energy:.6f} eV, "
        f"largest force {found.max_force:.4f} eV/Å"
    )
    titles = {
        "energy": ("Energy", "energy (eV)", False),
        "max_force": ("Largest force", "eV/Å", True),
        "volume": ("Volume", "volume (Å³)", False),
    }
    charts = [
        figure(title, [Series(title, found.log["step"], found.log[n], 0, "both")], "step", label,
               log_y=log)
        for n, (title, label, log) in titles.items()
        if n in found.log and (n != "volume" or cell)
    ]  # fmt: skip
    title = f"Relaxation of {found.atoms.get_chemical_formula()}"
    page = write_page(folder / "plot.html", title, [text], charts)
    if as_json:
        show_json(
            {
                "converged": found.converged,
                "steps": found.steps,
                "energy": found.energy,
                "max_force": found.max_force,
                "cell": found.atoms.cell.array.tolist(),
                "folder": str(folder),
            }
        )
    else:
        typer.echo(text)
        typer.echo(f"written: {folder}; look at {page}")


@app.command("neb")
def simulate_neb(
    run: Run,
    start: Annotated[Path, typer.Argument(help="One minimum.")],
    end: Annotated[Path, typer.Argument(help="The other; the same atoms in the same order.")],
    images: Annotated[int, typer.Option(min=1, help="Between the ends.")] = 5,
    fmax: Annotated[float, typer.Option(help="eV/Å")] = 0.05,
    max_steps: Annotated[int, typer.Option(min=1)] = 300,
    out: Out = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Minimum energy path and barrier: nudged elastic band with a climbing image."""
    from ase.io import write

    from siliforce.cli.plots import figure, table_csv, write_page
    from siliforce.report.svg import Series
    from siliforce.simulation.neb import reaction_path

    ends = _structure(start), _structure(end)
    found = reaction_path(*ends, _calculator(run, device), images, fmax, max_steps)
    folder = out or _folder(run, start, "neb", f"{_digest(end)} {images} {fmax} {max_steps}")
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "path.xyz", found.images, format="extxyz")
    write(folder / "saddle.xyz", found.images[found.saddle], format="extxyz")
    relative = found.energies - found.energies[0]
    table_csv(folder / "path.csv", {"distance": found.distance, "energy": found.energies})
    state = "converged" if found.converged else "NOT converged"
    text = (
        f"{state} after {found.steps} steps: barrier {found.barrier:.3f} eV forwards, "
        f"{found.reverse_barrier:.3f} eV backwards, highest image {found.saddle} of "
        f"{len(found.images) - 1}"
    )
    series = [Series("band", found.distance, relative, 0, "both")]
    drawn = figure("Energy along the path", series, "distance along the path (Å)",
                   "energy above the start (eV)", levels=[0.0])  # fmt: skip
    page = write_page(folder / "plot.html", f"Path of {start.stem}", [text], [drawn])
    content = {
        "converged": found.converged,
        "steps": found.steps,
        "barrier": found.barrier,
        "reverse_barrier": found.reverse_barrier,
        "saddle": found.saddle,
        "energies": found.energies.tolist(),
        "distance": found.distance.tolist(),
        "folder": str(folder),
    }
    (folder / "result.json").write_text(json.dumps(content, indent=1) + "\n")
    if as_json:
        show_json(content)
    else:
        typer.echo(text)
        typer.echo(f"written: {folder}; look at {page}")


def _potential(run: Path, device: str) -> Any:
    from siliforce.hardware import choose_device
    from siliforce.potential import Potential

    return Potential.load(run, choose_device(device))


def _calculator(run: Path, device: str) -> Any:
    from siliforce.simulation.calculator import SiliforceCalculator

    return SiliforceCalculator(run, device)


def _source(run: Path, device: str) -> Any:
    """The potential, or the members of an ensemble's folder."""
    members = load_members(run, device)
    return members[0] if len(members) == 1 else members


def _structure(path: Path, repeat: str = "1") -> Any:
    """The first frame of a file, compressed ones too."""
    from siliforce.cli.options import supercell
    from siliforce.data.read import read_structure

    return read_structure(path).repeat(supercell(repeat))


def _folder(run: Path, structure: Path, what: str, settings: str) -> Path:
    """Where a simulation is kept: one place for one model, structure and set of settings."""
    model = run / "best.safetensors" if run.is_dir() else run
    key = hashlib.sha256(f"{settings} {_digest(structure)} {_digest(model)}".encode())
    name = f"{structure.name.split('.')[0]}-{what}-{key.hexdigest()[:6]}"
    return run / "simulations" / name if run.is_dir() else Path(name)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else str(path)


def _finish(
    run: Path, folder: Path | None, results: list[Any], page: Path | None, as_json: bool
) -> None:
    """Keep results with their run and their files, and show them."""
    from siliforce.indicators.tables import replica_table, result_table

    for result in results:
        if run.is_dir():
            result.save(run / "results")
        if folder is not None:
            result.save(folder)
    if as_json:
        content = [json.loads(r.model_dump_json()) for r in results]
        show_json(content[0] if len(content) == 1 else content)
        return
    show(result_table(results[0]) if len(results) == 1 else replica_table(results))
    if page is not None:
        typer.echo(f"written: {page.parent}; look at {page}")
