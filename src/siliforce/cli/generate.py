"""`siliforce generate`: frames with labels, from a protocol or from a file of structures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.cli.options import Json, show_json

app = typer.Typer(help="Make and label frames with DFT or another engine.", no_args_is_help=True)

Protocol = Annotated[Path, typer.Argument(help="Protocol, as in configs/generate/.")]
Frames = Annotated[Path, typer.Argument(help="Structures, in any format ASE reads.")]
Engine = Annotated[Path, typer.Option(help="Settings, as in configs/generate/engines/.")]
Folder = Annotated[Path, typer.Option("--run", help="Run folder; the same call goes on in it.")]
Workers = Annotated[int, typer.Option(min=1, help="Local processes.")]
Retry = Annotated[bool, typer.Option("--retry-failed", help="Try what failed again.")]
Cluster = Annotated[
    Optional[Path], typer.Option(help="Workers as pilot jobs of a cluster; see docs.")
]


@app.command()
def plan(
    protocol: Protocol,
    seconds: Annotated[
        Optional[float], typer.Option("--seconds-per-frame", help="Measured on a few frames.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What a protocol would compute, and how long that takes."""
    from siliforce.generate import load_protocol
    from siliforce.generate import plan as make_plan

    answer = make_plan(load_protocol(protocol), seconds)
    show_json(asdict(answer)) if as_json else typer.echo(answer.table())


@app.command()
def run(
    protocol: Protocol,
    folder: Folder,
    workers: Workers = 1,
    cluster: Cluster = None,
    retry_failed: Retry = False,
) -> None:
    """Sample and label; after any stop the same command goes on."""
    from siliforce.generate import failures, load_cluster, load_protocol
    from siliforce.generate import run as run_protocol

    nodes = None if cluster is None else load_cluster(cluster)
    content = load_protocol(protocol)
    try:
        sets = run_protocol(content, folder, workers, _say, nodes, retry_failed)
    finally:
        for line in failures(folder):
            typer.echo(line, err=True)
    typer.echo(f"labelled frames in {sets}")


@app.command()
def label(
    frames: Frames,
    engine: Engine,
    folder: Folder,
    out: Annotated[Path, typer.Option("--out", "-o", help="Extended XYZ, .xz to compress.")],
    workers: Workers = 1,
    cluster: Cluster = None,
    retry_failed: Retry = False,
) -> None:
    """Label the structures of a file."""
    from siliforce.generate import failures, load_cluster, load_engine
    from siliforce.generate import label as label_frames

    nodes = None if cluster is None else load_cluster(cluster)
    settings = load_engine(engine)
    progress = label_frames(frames, settings, folder, out, workers, _say, nodes, retry_failed)
    for line in failures(folder):
        typer.echo(line, err=True)
    typer.echo(f"{progress.done} frames in {out}, {progress.failed} failed")


@app.command()
def converge(
    frames: Frames,
    engine: Engine,
    vary: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=VALUE", help="A better setting to compare with, e.g. settings.ecut=900."
        ),
    ],
    folder: Annotated[
        Optional[Path], typer.Option("--run", help="Run folder; the same call goes on in it.")
    ] = None,
    workers: Workers = 1,
) -> None:
    """Error of an engine's settings, against better ones, on some frames."""
    import yaml

    from siliforce.errors import ConfigError
    from siliforce.generate import converge as measure
    from siliforce.generate import load_engine, read_frames

    variations: dict[str, dict[str, Any]] = {}
    for text in vary:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"--vary {text}: write KEY=VALUE, e.g. --vary ecutwfc=100")
        variations[text] = {key: yaml.safe_load(value)}
    content, settings = read_frames(frames), load_engine(engine)
    for deviation in measure(content, settings, variations, folder, workers, _say):
        typer.echo(deviation.line())


def _say(progress: Any) -> None:
    typer.echo(progress.line(), err=True)
