"""The command line: verbs only. Each parses its options and calls the function that does it."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.errors import SiliforceError

app = typer.Typer(
    name="siliforce",
    help="Machine-learned force fields for semiconductors: train, compare and trust them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(help="Import, inspect, check, split and fetch frames.", no_args_is_help=True)
simulate_app = typer.Typer(
    help="Molecular dynamics, equation of state, relaxation.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
app.add_typer(simulate_app, name="simulate")

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Source = Annotated[Path, typer.Argument(help="File (compressed too), store or DeePMD folder.")]
Sources = Annotated[list[Path], typer.Argument(help="Files (compressed too), stores, folders.")]
Run = Annotated[Path, typer.Argument(help="Run folder or model file.")]
Repeat = Annotated[int, typer.Option(min=1, help="Supercell: so often along each vector.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Set = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. train.lr=1e-3."),
]


def main() -> None:
    """Entry point: what input caused is said in one line, not in a traceback."""
    warnings.formatwarning = lambda message, *_args, **_kw: f"warning: {message}\n"
    try:
        app()
    except SiliforceError as error:
        typer.secho(f"error: {error}", fg=typer.colors.RED, err=True)
        sys.exit(2)
    except OSError as error:
        typer.secho(
            f"error: {error}; nothing that was finished is lost", fg=typer.colors.RED, err=True
        )
        sys.exit(2)


def _show(renderable: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(renderable)


def _json(content: Any) -> None:
    typer.echo(json.dumps(content, indent=1))


# -- data -------------------------------------------------------------------------------------


@data_app.command("import")
def data_import(
    files: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Store: made, or appended to.")],
    energy_key: Optional[str] = None,
    forces_key: Optional[str] = None,
    stress_key: Optional[str] = None,
    group_key: Annotated[Optional[str], typer.Option(help="Info key that names the run.")] = None,
    energy_unit: str = "eV",
    length_unit: str = "A",
    stress_unit: Annotated[str, typer.Option(help="e.g. GPa, -kbar (VASP's sign).")] = "eV/A^3",
    skip_bad: Annotated[bool, typer.Option(help="Leave unusable frames out.")] = False,
    level_of_theory: str = "",
    licence: str = "",
    as_json: Json = False,
) -> None:
    """Read frames of any supported format into one store on disk."""
    from siliforce.data import ReadOptions, import_files
    from siliforce.data.tables import import_table

    options = ReadOptions(
        energy_key=energy_key,
        forces_key=forces_key,
        stress_key=stress_key,
        group_key=group_key,
        energy_unit=energy_unit,
        length_unit=length_unit,
        stress_unit=stress_unit,
        skip_bad=skip_bad,
    )
    facts = {"level_of_theory": level_of_theory, "licence": licence}
    report = import_files(files, out, options, **{k: v for k, v in facts.items() if v})
    _json(report.to_json()) if as_json else _show(import_table(report, out))


@data_app.command("info")
def data_info(source: Sources, as_json: Json = False) -> None:
    """Composition, sizes, ranges of the labels, reference energies."""
    from siliforce.data import load_dataset
    from siliforce.data.info import summarise
    from siliforce.data.tables import info_table

    summary = summarise(load_dataset(source))
    _json(summary.to_json()) if as_json else _show(info_table(summary))


@data_app.command("doctor")
def data_doctor(
    source: Sources,
    against: Annotated[
        Optional[list[Path]], typer.Option(help="Other sets (test, OOD) to look for copies in.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for what spoils a training: units, energy zeros, copies, outliers, split traps."""
    from siliforce.data import load_dataset
    from siliforce.data.doctor import doctor
    from siliforce.data.tables import findings_table

    others = {str(path): load_dataset(path) for path in against or []}
    findings = doctor(load_dataset(source), others)
    _json([f.to_json() for f in findings]) if as_json else _show(findings_table(findings))


@data_app.command("split")
def data_split(
    source: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the parts.")],
    method: Annotated[str, typer.Option(help="auto, group or random.")] = "auto",
    valid: float = 0.1,
    test: float = 0.1,
    ood: Annotated[
        Optional[list[str]],
        typer.Option(metavar="NAME:TAG=VALUE[,VALUE]", help="Set aside, e.g. hot:temperature=1200"),
    ] = None,
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Divide frames by trajectory (default where known), at random, or by tag."""
    from siliforce.data import load_dataset
    from siliforce.data.split import write_split

    answer = write_split(load_dataset(source), out, method, valid, test, ood or [], seed)
    if as_json:
        _json(answer)
        return
    typer.echo(f"split {answer['method']} (hash {answer['hash']})")
    for name, part in answer["parts"].items():
        typer.echo(f"  {name:<10} {part['frames']:>7} frames  {part['path']}")


@data_app.command("get")
def data_get(
    name: Annotated[Optional[str], typer.Argument(help="Name of a set; none lists them.")] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o")] = None,
    source: Annotated[Optional[Path], typer.Option("--from", help="A copy already here.")] = None,
    as_json: Json = False,
) -> None:
    """Bring a public set (SAMD23 and others), or one that is part of the package."""
    from siliforce.data import catalog

    if name is None:
        rows = catalog.entries().values()
        for entry in rows:
            where = "in the package" if entry.embedded else "download"
            typer.echo(f"{entry.name:<22} {where:<15} {entry.licence:<16} {entry.title}")
        return
    fetched = catalog.get(name, out, source)
    if as_json:
        _json(
            {
                "path": str(fetched.path),
                "frames": fetched.n_frames,
                "licence": fetched.licence,
                "notes": fetched.notes,
            }
        )
        return
    typer.echo(f"{fetched.n_frames} frames in {fetched.path}; licence: {fetched.licence}")
    for note in fetched.notes:
        typer.echo(f"  {note}")


# -- training and judging ---------------------------------------------------------------------


@app.command()
def train(
    source: Annotated[
        Optional[list[Path]], typer.Argument(help="Configuration (.yaml), or data.")
    ] = None,
    model: Annotated[Optional[str], typer.Option(help="See `siliforce models`.")] = None,
    preset: Annotated[Optional[str], typer.Option(help="tiny, small, paper or auto.")] = None,
    data: Annotated[Optional[list[Path]], typer.Option(help="Frames to train on.")] = None,
    valid: Annotated[Optional[list[Path]], typer.Option(help="Frames to validate on.")] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Run folder.")] = None,
    max_time: Annotated[Optional[str], typer.Option(help="Budget: 90s, 30m, 2h.")] = None,
    epochs: Optional[int] = None,
    seeds: Annotated[Optional[int], typer.Option(help="Train so many, as an ensemble.")] = None,
    device: Annotated[Optional[str], typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    dtype: Annotated[Optional[str], typer.Option(help="float32 or float64.")] = None,
    restart: Annotated[str, typer.Option(help="never, or auto: go on where it stopped.")] = "never",
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """Train a potential; frames alone suffice, everything else is chosen and said."""
    from siliforce.config import load_config
    from siliforce.errors import ConfigError
    from siliforce.training import train as run_training

    positional = list(source or [])
    config_file = None
    if positional and positional[0].suffix in (".yaml", ".yml"):
        config_file = positional.pop(0)
    frames = [str(p) for p in [*positional, *(data or [])]]
    held = [str(p) for p in valid or []]
    values = {
        "data": {"source": frames or None, "valid": held or None},
        "model": {"name": model, "preset": preset},
        "train": {
            "max_time": max_time,
            "epochs": epochs,
            "seeds": seeds,
            "device": device,
            "dtype": dtype,
        },
    }
    config = load_config(config_file, changes or [], values)
    if config.data is None:
        raise ConfigError("nothing to train on: siliforce train FRAMES, or data.source in a file")
    if restart not in ("never", "auto"):
        raise ConfigError(f"--restart {restart}: allowed are never, auto")
    result = run_training(
        config.data,
        config.model,
        config=config.train,
        out=out,
        restart="auto" if restart == "auto" else "never",
        quiet=as_json,
    )
    if as_json:
        _json(
            {
                "run": str(result.run_dir),
                "stop_reason": result.stop_reason,
                "best": result.best,
                "n_parameters": result.n_parameters,
            }
        )
    elif not result.interrupted:
        typer.echo(f"next: siliforce evaluate {result.run_dir}; siliforce report {result.run_dir}")


@app.command()
def evaluate(
    run: Run,
    data: Annotated[
        Optional[list[Path]], typer.Argument(help="Frames; the run's own sets if none are named.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the frames are: test, ood:NAME.")] = "test",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Energy, force and stress errors, in total and by element, kind and temperature."""
    from siliforce.data import load_dataset
    from siliforce.indicators.errors import evaluate_sets
    from siliforce.indicators.tables import errors_table
    from siliforce.potential import Potential
    from siliforce.simulation.calculator import resolve_device
    from siliforce.training.sets import recorded_sets

    potential = Potential.load(run, resolve_device(device))
    sets = {name: load_dataset(data)} if data else recorded_sets(run)
    results = evaluate_sets(potential, sets)
    if run.is_dir():
        for result in results:
            result.save(run / "results")
    if as_json:
        _json([json.loads(r.model_dump_json()) for r in results])
    else:
        _show(errors_table(results))


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Run folders; several are compared.")],
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="HTML file.")] = None,
) -> None:
    """One self-contained HTML file: data, errors, simulations, and what to trust."""
    from siliforce.report import write_report

    typer.echo(write_report(runs, out or runs[0] / "report.html"))


@app.command()
def models(as_json: Json = False) -> None:
    """The ten architectures of the benchmark, and which of them work."""
    from siliforce.models.table import model_rows, models_table

    rows = model_rows()
    _json(rows) if as_json else _show(models_table(rows))


@app.command()
def info(model: Run, as_json: Json = False) -> None:
    """What a model file says of itself: data, level of theory, range, errors."""
    from siliforce.potential import read_header
    from siliforce.report.card import card_table

    path = model / "best.safetensors" if model.is_dir() else model
    header = read_header(path)
    _json(header) if as_json else _show(card_table(header, path))


# -- use --------------------------------------------------------------------------------------


@simulate_app.command("md")
def simulate_md(
    run: Run,
    structure: Annotated[Path, typer.Argument(help="POSCAR, CIF, extended XYZ ...")],
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


@simulate_app.command("eos")
def simulate_eos(
    run: Run,
    structure: Annotated[Path, typer.Argument(help="POSCAR, CIF, extended XYZ ...")],
    repeat: Repeat = 1,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Energy against volume, bulk modulus and equilibrium volume."""
    from siliforce.indicators.eos import equation_of_state

    potential = _potential(run, device)
    _finish(run, equation_of_state(potential, _structure(structure, repeat)), as_json)


@simulate_app.command("relax")
def simulate_relax(
    run: Run,
    structure: Annotated[Path, typer.Argument(help="POSCAR, CIF, extended XYZ ...")],
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
    _json(json.loads(result.model_dump_json())) if as_json else _show(result_table(result))


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o")] = Path("runs/quickstart"),
    config: Annotated[Optional[Path], typer.Argument(help="Another quickstart.yaml.")] = None,
) -> None:
    """The main job on real DFT data inside the package: train, test, simulate, report."""
    from siliforce.quickstart import run_quickstart

    run_quickstart(lambda words: app(words, standalone_mode=False), out, config)


@app.command()
def version() -> None:
    """Versions of siliforce and of what it computes with, and the hardware."""
    from siliforce.hardware import hardware_stamp
    from siliforce.training.record import versions

    _json({**versions(), "hardware": hardware_stamp("cpu")})


if __name__ == "__main__":
    main()
