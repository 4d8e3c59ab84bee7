"""Models from and for other programs: `import`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from siliforce.cli.options import Json, show_json


def import_model(
    file: Annotated[
        Path, typer.Argument(help="NAME.model of mace-torch, .ckpt of nequip or allegro.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Model file to write.")],
    as_json: Json = False,
) -> None:
    """Take a model that its authors' package trained; nothing in the file is run."""
    from siliforce.deploy.load import import_model as read

    potential = read(file)
    potential.save(out)
    header = potential.header()
    if as_json:
        show_json({"file": str(out), **header})
    else:
        typer.echo(
            f"{out}: {potential.model.title} for {' '.join(potential.species.symbols)}, "
            f"cutoff {potential.cutoff:g} Å, {header['dtype']}; next: siliforce info {out}"
        )
