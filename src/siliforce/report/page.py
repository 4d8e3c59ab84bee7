"""The report: one HTML file that opens from disk, without a network, and prints."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from siliforce import __version__
from siliforce.files import write_atomic
from siliforce.indicators.base import Result
from siliforce.report import adaptation, choosing, figures, structure, tables
from siliforce.report.facts import data_facts
from siliforce.report.load import Run, load_runs
from siliforce.report.numbers import listed
from siliforce.report.structure import Shown
from siliforce.report.verdict import compare, judge

HOW = {
    "errors": "siliforce evaluate {run}",
    "eos": "siliforce simulate eos {run} STRUCTURE",
    "dynamics": "siliforce simulate md {run} STRUCTURE",
    "rdf": "siliforce reference compare REFERENCE {run}",
    "speed": "",
}
"""Command that makes what a report may lack."""
WHAT = {
    "errors": "energy, force and stress errors",
    "eos": "equation of state",
    "dynamics": "molecular dynamics",
    "rdf": "structure of the trajectories against a reference",
    "speed": "inference speed",
}

AGAINST = ("eos", "rdf", "adf", "vdos", "pressure", "survival", "pec")
"""Indicators that are held against a reference."""
DRAWN: dict[str, Callable[[Sequence[Shown]], list[figures.Figure]]] = {
    "rdf": structure.distributions,
    "adf": structure.distributions,
    "vdos": structure.vibrations,
    "survival": lambda entries: [structure.survival(entries)],
    "pec": lambda entries: [structure.energy_curves(entries)],
}


def write_report(
    runs: str | Path | Sequence[str | Path], out: str | Path | None = None, title: str = ""
) -> Path:
    """Write one HTML file about one run folder, or comparing several; or about studies.

    Args:
        runs: run folders, in the order of their colours; or folders of transfer studies.
        out: file to write; `report.html` in the (first) run folder if not given.
        title: heading.

    Returns:
        The file.

    Raises:
        DataError: a folder does not exist or is not a run folder.
    """
    folders = [runs] if isinstance(runs, str | Path) else list(runs)
    studies = [result for folder in folders for result in adaptation.study_folder(folder)]
    if studies and all(adaptation.study_folder(folder) for folder in folders):
        target = Path(out) if out is not None else Path(folders[0]) / "report.html"
        heading = title or adaptation.page_title(studies)
        return write_atomic(target, fill("study.html", heading, adaptation.page_content(studies)))
    loaded = load_runs(folders)
    target = Path(out) if out is not None else loaded[0].path / "report.html"
    return write_atomic(target, render(loaded, title))


def render(runs: Sequence[Run], title: str = "") -> str:
    """The page as text: a pure function of what was loaded, but for the time of writing."""
    title = title or f"{listed([run.name for run in runs])}: siliforce report"
    return fill("report.html", title, _content(runs))


def fill(template: str, title: str, content: Mapping[str, Any]) -> str:
    """A page from a template: content with the style and script that all pages share."""
    environment = Environment(
        loader=PackageLoader("siliforce.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    script, style = _asset("report.js"), _asset("report.css")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(
        title=title,
        written=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        version=__version__,
        script=Markup(script),
        script_hash=digest,
        style=Markup(style),
        **content,
    )


def _asset(name: str) -> str:
    return files("siliforce.report").joinpath("templates", name).read_text(encoding="utf-8")


def _content(runs: Sequence[Run]) -> dict[str, Any]:
    held = [run for run in runs if run.held_out and run.held_out.arrays]
    ranges = figures.parity_ranges([run.held_out for run in held if run.held_out])
    return {
        "runs": runs,
        "overview": tables.overview(runs),
        "facts": data_facts(runs),
        "learning": figures.learning_curves(runs),
        "parity": [
            (run, figures.parity(run, run.held_out, ranges)) for run in held if run.held_out
        ],
        "error_sets": tables.error_sets(runs),
        "intervals": _intervals(runs),
        "breakdowns": figures.breakdowns(runs, lambda run: run.held_out),
        "gaps": tables.gaps(runs),
        "eos": [
            (
                figures.equation_of_state(name, entries),
                tables.bulk(entries),
                tables.bulk_remarks(entries),
                _failures(entries),
            )
            for name, entries in _by_split(runs, "eos").items()
        ],
        "dynamics": [
            (
                _heading(entries[0][1]),
                figures.dynamics(entries),
                tables.dynamics(entries),
                _failures(entries),
            )
            for entries in _by_split(runs, "dynamics").values()
        ],
        "against": tables.against_reference(runs, AGAINST),
        "curves": _curves(runs),
        "transfer": [
            (run, *adaptation.comparison_part(result))
            for run in runs
            for result in run.of(adaptation.COMPARISON)
        ],
        "choosing": [
            (run, choosing.pool_part(result)) for run in runs for result in run.of(choosing.POOL)
        ],
        "timing": tables.timing(runs),
        "verdicts": [judge(run) for run in runs],
        "comparison": compare(runs),
        "missing": missing(runs),
    }


def _by_split(runs: Sequence[Run], indicator: str) -> dict[str, list[tuple[Run, Result]]]:
    """Results of all runs by structure (and temperature)."""
    found: dict[str, list[tuple[Run, Result]]] = {}
    for run in runs:
        for result in run.of(indicator):
            found.setdefault(result.split, []).append((run, result))
    return found


def _curves(runs: Sequence[Run]) -> list[tuple[str, list[figures.Figure]]]:
    """Figures of what simulations and scans gave, by structure."""
    found: dict[str, list[figures.Figure]] = {}
    for indicator, draw in DRAWN.items():
        for split, entries in _by_split(runs, indicator).items():
            shown = [Shown(run.name, result, run.style) for run, result in entries if result.curves]
            found.setdefault(split, []).extend(draw(shown) if shown else [])
    return [(split, panels) for split, panels in found.items() if panels]


def _heading(result: Result) -> str:
    config = result.provenance.get("config", {})
    ensemble = str(config.get("ensemble", "")).upper()
    return f"{result.dataset} at {config.get('temperature', 0):g} K, {ensemble}"


def _failures(entries: Sequence[tuple[Run, Result]]) -> list[str]:
    return [f"{run.name}: {result.failure}" for run, result in entries if result.failure]


def _intervals(runs: Sequence[Run]) -> str:
    kinds = {str(r.provenance.get("intervals", "none")) for run in runs for r in run.of("errors")}
    stated = sorted(kinds - {"none"})
    return f"Small numbers: {' or '.join(stated)}." if stated else ""


def missing(runs: Sequence[Run]) -> list[tuple[str, str, str]]:
    """What the report lacks: run, what, and the command or the reason."""
    found = []
    for run in runs:
        found += [(run.name, problem, "") for problem in run.problems]
        for indicator, how in HOW.items():
            stepped = indicator == "speed" and run.of("dynamics")  # dynamics is timed as well
            if not run.of(indicator) and not stepped:
                command = how.format(run=run.path)
                found.append((run.name, f"{WHAT[indicator]}: not measured", command))
    return found
