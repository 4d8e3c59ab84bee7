"""Comparing models: `benchmark` and `recommend`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from siliforce.cli.options import Json, show_json


def benchmark(
    campaign: Annotated[Path, typer.Argument(help="Campaign file (.yaml), or its folder.")],
    plan: Annotated[bool, typer.Option("--plan", help="Say what it will cost, and stop.")] = False,
    workers: Annotated[int, typer.Option(min=1, help="Local processes.")] = 1,
    cluster: Annotated[
        Optional[Path], typer.Option(help="Pilot jobs instead: see Making data.")
    ] = None,
    out: Annotated[Optional[Path], typer.Option("--out", "-o", help="Folder of results.")] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Try failed jobs again.")] = False,
    as_json: Json = False,
) -> None:
    """Models x materials x seeds x studies: train, simulate, score; the same command goes on."""
    from siliforce.benchmark.campaign import plan_campaign as make_plan
    from siliforce.benchmark.campaign import run_campaign, stored_campaign
    from siliforce.benchmark.config import load_campaign
    from siliforce.report.campaign import write_campaign_report
    from siliforce.workers import load_cluster

    config = stored_campaign(campaign) if campaign.is_dir() else load_campaign(campaign)
    folder = out or (campaign if campaign.is_dir() else Path("runs") / campaign.stem)
    if plan:
        typer.echo(make_plan(config, folder).text())
        return
    nodes = None if cluster is None else load_cluster(cluster)
    opened, cost = run_campaign(config, folder, workers, nodes, _progress, _say, retry)
    page = write_campaign_report(opened)
    failed = [job for job in opened.jobs if job.key in opened.shop.folder.failed_keys()]
    if as_json:
        show_json({"folder": str(folder), "report": str(page), "failed": len(failed)})
        return
    typer.echo(cost.text())
    for job in failed:
        why = opened.shop.folder.reason(job.key)
        typer.echo(f"failed: {job.payload.variant.name}, {job.payload.kind}: {why}")
    typer.echo(str(page))


def _quantity(option: str, text: str, units: dict[str, float]) -> float:
    """A number with its unit, `10ns`, in the unit whose factor is 1."""
    from siliforce.errors import ConfigError

    match = re.fullmatch(r"([\d.]+(?:e[+-]?\d+)?)\s*([a-z]+)", text.lower())
    if match is None or match[2] not in units:
        raise ConfigError(f"{option} {text}: write a number and one of {', '.join(units)}")
    return float(match[1]) * units[match[2]]


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _progress(progress: Any) -> None:
    typer.echo(progress.line(), err=True)


def recommend(
    results: Annotated[Path, typer.Argument(help="Folder of a campaign.")],
    atoms: Annotated[int, typer.Option(min=1, help="Of the structure.")] = 1000,
    time: Annotated[str, typer.Option(help="10ns, 500ps")] = "1ns",
    temperature: Annotated[float, typer.Option(min=0, help="K")] = 300.0,
    timestep: Annotated[float, typer.Option(min=0.01, help="fs")] = 1.0,
    conserve: Annotated[bool, typer.Option("--conserve", help="Energy must be conserved.")] = False,
    memory: Annotated[Optional[str], typer.Option(help="8GB")] = None,
    material: Annotated[str, typer.Option(help="Of the campaign; all if not given.")] = "",
    ood: Annotated[bool, typer.Option("--ood", help="Unlike the training data.")] = False,
    as_json: Json = False,
) -> None:
    """Which model for this simulation, and why."""
    from dataclasses import asdict

    from siliforce.benchmark.campaign import open_campaign, stored_campaign
    from siliforce.benchmark.findings import findings
    from siliforce.benchmark.recommend import Needs
    from siliforce.benchmark.recommend import recommend as choose

    needs = Needs(
        atoms=atoms,
        time=_quantity("--time", time, {"fs": 1e-6, "ps": 1e-3, "ns": 1.0, "us": 1e3}),
        temperature=temperature,
        timestep=timestep,
        conserve=conserve,
        memory=None if memory is None else _quantity("--memory", memory, {"mb": 2**-10, "gb": 1.0}),
        material=material,
        ood=ood,
    )
    choices = choose(findings(open_campaign(stored_campaign(results), results)), needs)
    if as_json:
        show_json([asdict(choice) for choice in choices])
        return
    for choice in choices:
        place = f"{choice.rank}." if choice.rank is not None else "not"
        typer.echo(f"{place:>4} {choice.label}: {'; '.join(choice.reasons)}")
