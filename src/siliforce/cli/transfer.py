"""`siliforce transfer`: what transfer saves, shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from siliforce.cli.options import Json, Set, show_json

app = typer.Typer(help="Show what transfer saves.", no_args_is_help=True)


@app.callback()
def transfer() -> None:
    """Demonstrations and studies of transfer; `siliforce adapt` does it."""


@app.command()
def molecules(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder.")] = Path("runs/molecules"),
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """From H2O to H2S as published: curves, and the claim of 25 samples against 1000."""
    from siliforce.config import parse_settings
    from siliforce.report.transfer import claim_sentences, write_molecules_page
    from siliforce.training.options import parse
    from siliforce.transfer.demo import demonstrate
    from siliforce.transfer.molecules import DemoConfig

    config = parse(DemoConfig, parse_settings(changes or []), "molecules")
    result = demonstrate(config, (lambda text: None) if as_json else typer.echo)
    result.save(out)
    page = write_molecules_page(result, out / "molecules.html")
    if as_json:
        show_json(json.loads(result.model_dump_json()))
    else:
        typer.echo("\n".join([*claim_sentences(result), str(page)]))
