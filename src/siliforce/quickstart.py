"""`siliforce quickstart`: the ordinary verbs, one after the other."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from pathlib import Path

import yaml
from rich.console import Console

from siliforce.errors import ConfigError

DEFAULT = Path(__file__).parent / "configs" / "quickstart.yaml"


def run_quickstart(
    verb: Callable[[list[str]], object], out: Path, config: Path | None = None
) -> None:
    """Run the steps of a file.

    Args:
        verb: runs one command line, without the program's name.
        out: folder for everything; what it holds from an earlier quickstart is replaced.
        config: YAML with `steps`, each a `run` and an optional `say`.

    Raises:
        ConfigError: not such a file, or `out` holds something else.
    """
    path = config or DEFAULT
    try:
        steps = yaml.safe_load(path.read_text())["steps"]
        commands = [(step.get("say", ""), step["run"]) for step in steps]
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not a quickstart configuration ({error})") from error
    _clear(out)
    console = Console()
    started = time.monotonic()
    for say, command in commands:
        if say:
            console.print(f"\n[bold]{say}[/]")
        words = [w.format(out=out, configs=path.parent) for w in shlex.split(command)]
        console.print(f"[cyan]$ siliforce {shlex.join(words)}[/]", soft_wrap=True)
        verb(words)
    console.print(f"\n{time.monotonic() - started:.0f} s in all. Open {(out / 'report.html')}")


def _clear(out: Path) -> None:
    """Remove an earlier quickstart, and only that."""
    marker = out / ".quickstart"
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise ConfigError(f"{out} is not empty and not from a quickstart; choose another --out")
        for item in sorted(out.rglob("*"), reverse=True):
            item.rmdir() if item.is_dir() and not item.is_symlink() else item.unlink()
    out.mkdir(parents=True, exist_ok=True)
    marker.touch()
