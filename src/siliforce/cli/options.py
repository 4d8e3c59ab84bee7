"""Options that several verbs share, and how answers are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")]
Source = Annotated[Path, typer.Argument(help="File (compressed too), store or DeePMD folder.")]
Sources = Annotated[list[Path], typer.Argument(help="Files (compressed too), stores, folders.")]
Run = Annotated[Path, typer.Argument(help="Run folder or model file.")]
Structure = Annotated[Path, typer.Argument(help="POSCAR, CIF, extended XYZ ...")]
Supercell = Annotated[
    str, typer.Option("--supercell", "--repeat", help="Along the cell's vectors: 2, or 2x2x1.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
Set = Annotated[
    Optional[list[str]],
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting, e.g. train.lr=1e-3."),
]


def show(renderable: Any) -> None:
    """For people."""
    from rich.console import Console

    Console().print(renderable)


def show_json(content: Any) -> None:
    """For scripts."""
    typer.echo(json.dumps(content, indent=1))


def supercell(text: str) -> tuple[int, int, int]:
    """`2` or `2x2x1` as three numbers.

    Raises:
        ConfigError: neither of the two.
    """
    from siliforce.errors import ConfigError

    parts = text.lower().split("x")
    if len(parts) not in (1, 3) or not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise ConfigError(f"--supercell {text}: write 2, or 2x2x1")
    a, b, c = (int(p) for p in (parts * 3 if len(parts) == 1 else parts))
    return a, b, c


def load_members(run: Path, device: str) -> list[Any]:
    """Potentials of a run: one, or the members of an ensemble."""
    from siliforce.hardware import choose_device
    from siliforce.potential import Potential
    from siliforce.simulation.calculator import members_of

    return [Potential.load(str(m), choose_device(device)) for m in members_of(run)]
