"""Training and judging: `train`, `evaluate`, `report`, `models`, `info`."""

from __future__ import annotations

import json
import warnings
from itertools import product
from pathlib import Path
from typing import Annotated, Optional

import typer

from siliforce.cli.options import Device, Json, Run, Set, show, show_json

PAPER_NEIGHBORS = 50
"""Cap of the 2023 benchmark's graphs, where atoms have 60 to 124 neighbours."""


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
    paper_graph: Annotated[
        bool, typer.Option("--paper-graph", help="At most 50 neighbours, as the 2023 benchmark.")
    ] = False,
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
        "model": {
            "name": model,
            "preset": preset,
            "max_neighbors": PAPER_NEIGHBORS if paper_graph else None,
        },
        "train": {
            "max_time": max_time,
            "epochs": epochs,
            "seeds": seeds,
            "device": device,
            "dtype": dtype,
        },
    }
    config = load_config(config_file, changes or [], values)
    if config.adapt.source is not None:
        raise ConfigError(f"{config_file} adapts a potential: siliforce adapt {config_file}")
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
        show_json(
            {
                "run": str(result.run_dir),
                "stop_reason": result.stop_reason,
                "best": result.best,
                "n_parameters": result.n_parameters,
            }
        )
    elif not result.interrupted:
        typer.echo(f"next: siliforce evaluate {result.run_dir}; siliforce report {result.run_dir}")


def evaluate(
    run: Run,
    data: Annotated[
        Optional[list[Path]], typer.Argument(help="Frames; the run's own sets if none are named.")
    ] = None,
    name: Annotated[str, typer.Option(help="What the frames are: test, ood:NAME.")] = "test",
    by: Annotated[
        Optional[list[str]],
        typer.Option(metavar="TAG", help="Errors by a tag too; temperature,strain crosses two."),
    ] = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Energy, force and stress errors, in total and by element, kind and temperature."""
    from siliforce.data import load_dataset
    from siliforce.errors import DataError
    from siliforce.hardware import choose_device
    from siliforce.indicators.errors import BY, check_tags, evaluate_sets
    from siliforce.indicators.tables import breakdown_table, errors_table
    from siliforce.potential import Potential
    from siliforce.training.sets import recorded_sets

    potential = Potential.load(run, choose_device(device))
    recorded = {}
    if run.is_dir():
        try:
            recorded = recorded_sets(run)
        except DataError as error:
            if not data:
                raise
            text = f"whether these frames were trained on is not known: the run's own data, {error}"
            warnings.warn(text, stacklevel=1)
    sets = {name: load_dataset(data)} if data else recorded
    if not sets:
        raise DataError(f"{run} is a model file: name the frames to evaluate it on")
    asked = by or []
    check_tags(sets, asked)
    results = evaluate_sets(potential, sets, by=(*BY, *asked), trained_on=recorded.get("train"))
    if run.is_dir():
        for result in results:
            result.save(run / "results")
    if as_json:
        show_json([json.loads(r.model_dump_json()) for r in results])
    else:
        show(errors_table(results))
        for result, names in product(results, asked):
            if f"by_{names}" in result.tables:
                show(breakdown_table(result, names))


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="Run folders; several are compared. Or a campaign's folder."),
    ],
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="HTML file.")] = None,
) -> None:
    """One self-contained HTML file: data, errors, simulations, and what to trust."""
    from siliforce.benchmark.campaign import CAMPAIGN, open_campaign, stored_campaign
    from siliforce.report import write_report
    from siliforce.report.campaign import write_campaign_report

    if len(runs) == 1 and (runs[0] / CAMPAIGN).is_file():
        opened = open_campaign(stored_campaign(runs[0]), runs[0])
        typer.echo(write_campaign_report(opened, out))
        return
    typer.echo(write_report(runs, out or runs[0] / "report.html"))


def models(as_json: Json = False) -> None:
    """The ten architectures of the benchmark, which of them work, and any others."""
    from siliforce.cli.architectures import model_rows, models_table

    rows = model_rows()
    show_json(rows) if as_json else show(models_table(rows))


def info(model: Run, as_json: Json = False) -> None:
    """What a model file says of itself: data, level of theory, range, errors."""
    from siliforce.potential import BEST, read_header
    from siliforce.report.card import card_table

    path = model / BEST if model.is_dir() else model
    header = read_header(path)
    show_json(header) if as_json else show(card_table(header, path))
