"""The command line: verbs only. Each parses its options and calls the function that does it."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Optional

import typer

from siliforce.cli import (
    adapt,
    benchmark,
    choose,
    data,
    deploy,
    generate,
    learn,
    reference,
    simulate,
    transfer,
)
from siliforce.cli.options import show_json
from siliforce.errors import SiliforceError

app = typer.Typer(
    name="siliforce",
    help="Machine-learned force fields for semiconductors: train, compare and trust them.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data.app, name="data")
app.add_typer(generate.app, name="generate")
for verb in (learn.train, adapt.adapt, learn.evaluate, learn.report, learn.models, learn.info):
    app.command()(verb)
app.command()(choose.choose)
app.command()(benchmark.benchmark)
app.command()(benchmark.recommend)
app.command("import")(deploy.import_model)
app.add_typer(simulate.app, name="simulate")
app.add_typer(transfer.app, name="transfer")
app.add_typer(reference.app, name="reference")


def main() -> None:
    """Entry point: what input caused is said in one line, not in a traceback."""
    # Read when torch is imported: threads that wait for each other sleep, others may use the core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
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

    show_json({**versions(), "hardware": hardware_stamp("cpu")})
