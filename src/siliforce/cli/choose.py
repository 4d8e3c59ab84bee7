"""`choose`: the next frames to label, and whether it is time to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from siliforce.cli.options import Device, Json, show_json


def choose(
    pool: Annotated[list[Path], typer.Argument(help="Frames to choose from; labels not needed.")],
    model: Annotated[
        list[Path],
        typer.Option(help="Run folder, or an ensemble's; several models: name it several times."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Chosen frames, extended XYZ.")],
    n: Annotated[int, typer.Option("--n", min=1, help="How many frames.")] = 20,
    below: Annotated[
        Optional[str], typer.Option(help="Stop when the force error is below this: 50meV.")
    ] = None,
    calibrate: Annotated[
        Optional[list[Path]],
        typer.Option(help="Labelled frames no model was trained on; else the run's held-out ones."),
    ] = None,
    method: Annotated[str, typer.Option(help="auto, ensemble or last-layer.")] = "auto",
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Choose frames to label by predicted force error, or say that it is time to stop."""
    from siliforce.active.choose import choose as choose_frames
    from siliforce.active.rule import force_error
    from siliforce.hardware import choose_device

    found = choose_frames(
        pool,
        model,
        n,
        below=None if below is None else force_error(below),
        calibrate_on=calibrate,
        method=method,  # type: ignore[arg-type]
        device=choose_device(device),
    )
    folder = model[0]
    if folder.is_dir():
        found.result.save(folder / "results")
    if found.frames:
        found.write(out)
    if as_json:
        show_json(found.result.model_dump(mode="json"))
        return
    for line in found.result.provenance["sentences"]:
        typer.echo(line)
    if found.frames:
        typer.echo(f"next: siliforce generate label {out} --engine ENGINE.yaml ...")
