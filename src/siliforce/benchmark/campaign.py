"""Run a campaign, or go on with it: jobs on one machine or a cluster, one campaign per folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ase.data import chemical_symbols

from siliforce.benchmark.config import Campaign
from siliforce.benchmark.graph import jobs_of
from siliforce.benchmark.materials import check_material
from siliforce.benchmark.plan import Plan, make_plan
from siliforce.benchmark.tasks import Workshop, load_finished
from siliforce.data.lock import locked
from siliforce.errors import DataError
from siliforce.files import write_atomic
from siliforce.generate.engines import make_engine
from siliforce.hardware import choose_device
from siliforce.jobs import Job, Progress, work
from siliforce.simulation.md import DRIFT
from siliforce.training.options import parse
from siliforce.workers import Cluster, run_workers

CAMPAIGN = "campaign.json"
LOCK = ".lock"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Opened:
    """A campaign whose data are read, whose input is checked and whose jobs are known."""

    shop: Workshop
    jobs: list[Job]

    @property
    def missing(self) -> list[Job]:
        """Jobs neither done nor failed."""
        folder = self.shop.folder
        over = folder.done_keys() | folder.failed_keys()
        return [job for job in self.jobs if job.key not in over]


def open_campaign(campaign: Campaign, root: str | Path) -> Opened:
    """Read the data, check everything, and find the jobs.

    Raises:
        ConfigError, DataError: something would fail hours later.
    """
    shop = Workshop(Path(root).resolve(), campaign)
    device = choose_device(campaign.device)
    jobs: dict[str, Job] = {}
    for name in campaign.materials:
        material = shop.material(name)
        check_material(material, campaign)
        symbols = {chemical_symbols[z] for z in material.sets["train"].elements}
        for settings in campaign.zero_shot.values():
            make_engine(settings).check(symbols)
        jobs |= {job.key: job for job in jobs_of(campaign, material, device)}
    return Opened(shop, list(jobs.values()))


def stored_campaign(root: str | Path) -> Campaign:
    """The campaign that a folder was made by.

    Raises:
        DataError: not a campaign's folder.
    """
    path = Path(root) / CAMPAIGN
    if not path.is_file():
        raise DataError(f"{root}: not the folder of a campaign (no {CAMPAIGN})")
    return parse(Campaign, json.loads(path.read_bytes()))


def plan_campaign(campaign: Campaign, root: str | Path) -> Plan:
    """What a campaign will cost, measured here; nothing is trained.

    Raises:
        ConfigError, DataError: bad input.
    """
    root = Path(root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    opened = open_campaign(campaign, root)
    return make_plan(opened.shop, opened.jobs)


def run_campaign(
    campaign: Campaign,
    root: str | Path,
    workers: int = 1,
    cluster: Cluster | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    say: Say = lambda text: None,
    retry: bool = False,
) -> tuple[Opened, Plan]:
    """Do what is missing; what is there is not done again.

    Args:
        root: folder of results.
        workers: local processes.
        cluster: pilot jobs that hold the workers instead.
        on_progress: told after every job.
        say: told the plan before the work starts.
        retry: try failed jobs again.

    Returns:
        The campaign, and what it was expected to cost and did cost.

    Raises:
        ConfigError, DataError: bad input, or another campaign is at work in the folder.
        Interrupted: asked to stop; the same call goes on.
        WorkersLost: workers died again and again.
    """
    root = Path(root).resolve()
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / LOCK, busy=_busy(root)):
        write_atomic(root / f"{LOCK}.owner", f"process {os.getpid()} on {socket.gethostname()}")
        if retry:
            shutil.rmtree(root / "failed", ignore_errors=True)
        opened = open_campaign(campaign, root)
        write_atomic(root / CAMPAIGN, campaign.model_dump_json(indent=1, exclude_unset=True))
        _forget_overruled(opened)
        plan = make_plan(opened.shop, opened.jobs)
        say(plan.text())
        folder, number = opened.shop.folder, workers if cluster is None else cluster.workers

        def report(progress: Progress) -> None:
            over = folder.done_keys() | folder.failed_keys()
            left = plan.measured(folder).remaining(over) / number
            on_progress(replace(progress, eta_seconds=left))

        run_workers(
            partial(_work, root, campaign, opened.jobs),
            workers,
            lambda: folder.progress(opened.jobs, number),
            report,
            cluster,
            root / "parsl",
        )
        return opened, plan.measured(folder)


def _forget_overruled(opened: Opened) -> None:
    """Dynamics that was ended for what no longer is a failure is made again, and what needs it."""
    folder, md = opened.shop.folder, opened.shop.campaign.md
    for key in {job.key for job in opened.jobs if job.group == "md"} & folder.done_keys():
        drifted = [r for r in load_finished(folder, key).results if r.failure.startswith(DRIFT)]
        if any(not md.judges_drift(r.value("survived") or 0.0) for r in drifted):
            for job in opened.jobs:
                if key in (job.key, *job.after):
                    folder.done_path(job.key).unlink(missing_ok=True)


def _work(
    root: Path,
    campaign: Campaign,
    jobs: list[Job],
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """One worker. A failure is a result and deterministic: every job has one attempt."""
    shop = Workshop(root, campaign)
    return work(shop.folder, lambda: jobs, shop.perform, attempts=1, on_progress=on_progress)


def _busy(root: Path) -> str:
    owner = root / f"{LOCK}.owner"
    who = owner.read_text() if owner.is_file() else "another process"
    return (
        f"{root}: a campaign is at work here already ({who}); wait for it, stop it, or choose "
        "another folder by --out. For more workers, stop it and start it again with --workers"
    )
