"""Comparing models: `benchmark` and `recommend`."""

from __future__ import annotations

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
    from siliforce.benchmark.campaign import run_campaign, stored_campaign
    from siliforce.benchmark.campaign import plan_campaign as make_plan
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


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _progress(progress: Any) -> None:
    typer.echo(progress.line(), err=True)
