"""`adapt`: a potential for a new dopant or alloy from one that is there, and whether it pays."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.cli.options import Json, Set, show, show_json

Frames = Optional[list[Path]]

OF_STUDIES = ("frames", "draws", "workers")
OF_ACTIVE = ("members", "method", "below")
USELESS = {
    "one adaptation": (*OF_STUDIES, *OF_ACTIVE),
    "--study": (*OF_ACTIVE, "control", "restart"),
    "--active": ("replay", "source_test", "control", "restart"),
    "--family": (
        *OF_STUDIES, *OF_ACTIVE, "study", "active", "data", "policy", "replay", "test",
        "source_test", "control", "restart",
    ),
}  # fmt: skip
"""Options that mean nothing to what is asked for."""


def adapt(
    context: typer.Context,
    source: Annotated[
        Optional[Path], typer.Argument(help="Potential to start from, or configuration (.yaml).")
    ] = None,
    data: Annotated[Frames, typer.Argument(help="Frames of the target.")] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Folder.")] = None,
    policy: Annotated[
        Optional[list[str]],
        typer.Option(
            help="What is trained: all, last, readout, species, first_last, low_rank, or a name in "
            "adapt.policies."
        ),
    ] = None,
    replay: Annotated[Frames, typer.Option(help="Frames of the source to mix in.")] = None,
    test: Annotated[Frames, typer.Option(help="Target frames for the test; else a fifth.")] = None,
    source_test: Annotated[
        Frames, typer.Option(help="Frames of the source: what does it forget?")
    ] = None,
    control: Annotated[
        bool, typer.Option("--control/--no-control", help="Train it from scratch too.")
    ] = True,
    study: Annotated[
        bool, typer.Option("--study", help="Learning curves: how many frames are saved?")
    ] = False,
    frames: Annotated[str, typer.Option(help="With --study: numbers of frames.")] = "5,10,20,50",
    draws: Annotated[int, typer.Option(min=1, help="With --study: draws of the frames.")] = 3,
    workers: Annotated[int, typer.Option(min=1, help="With --study: processes.")] = 1,
    active: Annotated[
        bool, typer.Option("--active", help="With --study: frames chosen by uncertainty, or drawn?")
    ] = False,
    members: Annotated[int, typer.Option(min=2, help="With --active: of the ensemble.")] = 3,
    method: Annotated[
        str, typer.Option(help="With --active: ensemble or last-layer.")
    ] = "ensemble",
    below: Annotated[
        Optional[str], typer.Option(help="With --active: stop below this force error, 50meV.")
    ] = None,
    family: Annotated[
        Optional[Path], typer.Option(help="family.yaml: a catalogue of compositions.")
    ] = None,
    max_time: Annotated[Optional[str], typer.Option(help="Budget of each training.")] = None,
    epochs: Optional[int] = None,
    device: Annotated[Optional[str], typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    restart: Annotated[str, typer.Option(help="never, or auto: go on where it stopped.")] = "never",
    changes: Set = None,
    as_json: Json = False,
) -> None:
    """Adapt a potential to a dopant or an alloy, beside a control from scratch."""
    from siliforce.config import load_config
    from siliforce.errors import ConfigError

    if active and not study and family is None:
        raise ConfigError("--active is a kind of --study: give both, or see siliforce choose")
    kind = "--active" if active else "--study" if study else "one adaptation"
    _refuse(context, "--family" if family is not None else kind)
    values = {"train": {"max_time": max_time, "epochs": epochs, "device": device}}
    given = source if source is not None and source.suffix in (".yaml", ".yml") else None
    config = load_config(given, changes or [], values)
    if family is not None:
        if given is None and source is not None:
            raise ConfigError(f"--family names source and frames: leave {source} out")
        _family(family, out, config, as_json)
        return
    frames_given: Any = [str(p) for p in data or []] or config.data
    if given is not None:
        source = None if config.adapt.source is None else Path(config.adapt.source)
    if source is None or not frames_given:
        raise ConfigError("adapt what to what? siliforce adapt SOURCE FRAMES --out FOLDER")
    if restart not in ("never", "auto"):
        raise ConfigError(f"--restart {restart}: allowed are never, auto")
    common: dict[str, Any] = {
        "test": test,
        "source_test": source_test,
        "config": config.adapt,
        "train": config.train,
        "replay": replay,
        "quiet": as_json,
    }
    policies = policy or []
    if study:
        counts = _numbers(frames)
        if not data:
            raise ConfigError("--study draws its frames itself: name them as FRAMES")
        if active:
            choices = {"members": members, "method": method, "frames": counts, "draws": draws}
            _active(source, data, out, policies, below, choices, workers, common, as_json)
            return
        _study(source, data, out, policies, counts, draws, workers, common, as_json)
        return
    if len(policies) > 1:
        raise ConfigError("one adaptation has one --policy; --study compares several")
    _compare(source, frames_given, out, policies, control, restart, common, as_json)


def _refuse(context: typer.Context, kind: str) -> None:
    """What was given and would be passed over is a mistake."""
    from siliforce.errors import ConfigError

    for parameter in context.command.params:
        name = parameter.name or ""
        given = context.get_parameter_source(name)
        if name in USELESS[kind] and given is not None and given.name == "COMMANDLINE":
            said = "FRAMES" if name == "data" else (*parameter.opts, *parameter.secondary_opts)[-1]
            where = "; the family file says it" if kind == "--family" else ""
            raise ConfigError(f"{said} means nothing to {kind}: leave it out{where}")


def _compare(
    source: Path,
    data: Any,
    out: Path | None,
    policies: list[str],
    control: bool,
    restart: str,
    common: dict[str, Any],
    as_json: bool,
) -> None:
    from siliforce.indicators.tables import result_table
    from siliforce.transfer.compare import compare

    first = data[0] if isinstance(data, list) else Path(str(data.source)).name
    folder = out or Path("runs") / f"{Path(first).name.split('.')[0]}-adapted"
    found = compare(
        source,
        data,
        policy=policies[0] if policies else None,
        control=control,
        out=folder,
        restart="auto" if restart == "auto" else "never",
        **common,
    )
    if as_json:
        show_json(found.result.model_dump(mode="json"))
        return
    show(result_table(found.result))
    if found.sentence:
        typer.echo(found.sentence)
    if found.alarm:
        typer.secho(f"WARNING: {found.alarm}", fg=typer.colors.RED, err=True)
    typer.echo(f"next: siliforce report {folder}")


def _study(
    source: Path,
    data: list[Path],
    out: Path | None,
    policies: list[str],
    counts: list[int],
    draws: int,
    workers: int,
    common: dict[str, Any],
    as_json: bool,
) -> None:
    from siliforce.transfer.study import study

    folder = out or Path("runs") / f"{data[0].name.split('.')[0]}-study"
    found = study(
        source,
        data,
        policies=policies or None,
        frames=counts,
        draws=draws,
        workers=workers,
        out=folder,
        **common,
    )
    _answer(found, folder, as_json)


def _answer(found: Any, folder: Path, as_json: bool) -> None:
    """What a study says."""
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    for line in found.provenance["sentences"]:
        typer.echo(line)
    if found.provenance["alarm"]:
        typer.secho(f"WARNING: {found.provenance['alarm']}", fg=typer.colors.RED, err=True)
    typer.echo(f"next: siliforce report {folder}")


def _active(
    source: Path,
    data: list[Path],
    out: Path | None,
    policies: list[str],
    below: str | None,
    choices: dict[str, Any],
    workers: int,
    common: dict[str, Any],
    as_json: bool,
) -> None:
    from siliforce.active.rule import force_error
    from siliforce.active.study import DEFAULT_POLICY, study
    from siliforce.errors import ConfigError

    if len(policies) > 1:
        raise ConfigError("--active compares selections: name one --policy")
    folder = out or Path("runs") / f"{data[0].name.split('.')[0]}-active"
    kept = {name: common[name] for name in ("test", "config", "train", "quiet")}
    found = study(
        source,
        data,
        policy=policies[0] if policies else DEFAULT_POLICY,
        below=None if below is None else force_error(below),
        workers=workers,
        out=folder,
        **choices,
        **kept,
    )
    _answer(found, folder, as_json)


def _family(path: Path, out: Path | None, config: Any, as_json: bool) -> None:
    from siliforce.indicators.tables import result_table
    from siliforce.transfer.family import load_family, work_on_family

    folder = out or Path("runs") / path.stem
    found = work_on_family(load_family(path), folder, config.adapt, config.train, quiet=as_json)
    if as_json:
        show_json(found.model_dump(mode="json"))
        return
    show(result_table(found))
    for name in found.provenance["failed"]:
        typer.secho(f"failed: {name}", fg=typer.colors.RED, err=True)
    typer.echo(f"next: siliforce report {folder}")


def _numbers(text: str) -> list[int]:
    from siliforce.errors import ConfigError

    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError:
        raise ConfigError(f"--frames {text}: numbers separated by commas, e.g. 5,10,20") from None
