"""`siliforce data`: import, inspect, check, split and fetch frames."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from siliforce.cli.options import Json, Sources, show, show_json

app = typer.Typer(help="Import, inspect, check, split and fetch frames.", no_args_is_help=True)


@app.command("import")
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
    show_json(report.to_json()) if as_json else show(import_table(report, out))


@app.command("info")
def data_info(source: Sources, as_json: Json = False) -> None:
    """Composition, sizes, ranges of the labels, reference energies."""
    from siliforce.data import load_dataset
    from siliforce.data.info import summarise
    from siliforce.data.tables import info_table

    summary = summarise(load_dataset(source))
    show_json(summary.to_json()) if as_json else show(info_table(summary))


@app.command("doctor")
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
    show_json([f.to_json() for f in findings]) if as_json else show(findings_table(findings))


@app.command("split")
def data_split(
    source: Sources,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the parts.")],
    method: Annotated[str, typer.Option(help="auto, group or random.")] = "auto",
    by: Annotated[str, typer.Option(help="Tag that names the run, e.g. config_type.")] = "group",
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

    answer = write_split(load_dataset(source), out, method, valid, test, ood or [], seed, by)
    if as_json:
        show_json(answer)
        return
    typer.echo(f"split {answer['method']} (hash {answer['hash']})")
    for name, part in answer["parts"].items():
        typer.echo(f"  {name:<10} {part['frames']:>7} frames  {part['path']}")


@app.command("get")
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
        show_json(
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
