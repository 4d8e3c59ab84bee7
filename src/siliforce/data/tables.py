"""What `siliforce data ...` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from siliforce.data.doctor.findings import Finding, Severity
from siliforce.data.info import Range, Summary
from siliforce.data.read import ImportReport

COLOURS: dict[Severity, str] = {"error": "red", "warning": "yellow", "note": "cyan", "ok": "green"}
UNITS = {"energy": "eV/atom", "force": "eV/Å", "pressure": "GPa"}
SHOWN = 6


def import_table(report: ImportReport, store: Path) -> RenderableType:
    """Frames of each file, and which key every label was taken from."""
    lines = [f"{report.n_frames} frames from {len(report.files)} files into {store}"]
    lines += [f"  {name}: {_counts(keys, len(keys))}" for name, keys in report.labels.items()]
    lines += [f"  {note}" for note in report.notes]
    if report.skipped:
        lines.append(f"  left out {len(report.skipped)}: {'; '.join(report.skipped[:SHOWN])}")
    return Text("\n".join(lines))


def info_table(summary: Summary) -> RenderableType:
    """Composition, sizes, ranges of the labels, reference energies."""
    low, high = summary.atoms_per_frame
    sizes = f"{low}" if low == high else f"{low} to {high}"
    rows = {
        "frames": f"{summary.n_frames} of {sizes} atoms, {summary.periodic} fully periodic",
        "compositions": _counts(summary.compositions),
        "config types": _counts(summary.config_types),
        "trajectories": f"{summary.n_groups} named" if summary.n_groups else "none named",
        "tags": ", ".join(summary.tags),
        **{name: _range(r, UNITS[name], summary.n_frames) for name, r in summary.labels.items()},
        "label keys": "; ".join(f"{k}: {_counts(v)}" for k, v in summary.label_keys.items()),
        "E0 (eV)": ", ".join(f"{s} {e:.4f}" for s, e in summary.atomic_energies.items())
        + f" ({summary.e0_method}, rank {summary.e0_rank} of {len(summary.elements)})",
        "E0 undetermined": "; ".join(summary.e0_undetermined)
        and f"no frame fixes {'; '.join(summary.e0_undetermined)}",
        "level of theory": summary.facts.get("level_of_theory", "not stated"),
        "licence": summary.facts.get("licence", "not stated"),
        "data hash": summary.data_hash,
    }
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in rows.items():
        if text:
            table.add_row(name, text)
    return table


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """One paragraph per finding, in the given order."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        lines = [Text(finding.title, style="bold"), Text(finding.evidence)]
        if finding.advice:
            lines.append(Text(f"→ {finding.advice}"))
        if finding.frames:
            lines.append(Text(f"frames: {_first(finding.frames)}", style="dim"))
        colour = COLOURS[finding.severity]
        table.add_row(Text(finding.severity, style=f"bold {colour}"), Group(*lines))
    return table


def _counts(counts: Mapping[str, int], shown: int = SHOWN) -> str:
    texts = [f"{name} ({n})" for name, n in counts.items()]
    return _first(texts, shown)


def _first(texts: Sequence[str], shown: int = SHOWN) -> str:
    more = f" and {len(texts) - shown} more" if len(texts) > shown else ""
    return ", ".join(texts[:shown]) + more


def _range(label: Range, unit: str, n_frames: int) -> str:
    if label.smallest is None or label.largest is None or label.mean is None:
        return "no frame has it"
    part = "" if label.frames == n_frames else f" ({label.frames} of {n_frames} frames)"
    numbers = f"{label.smallest:.5g} to {label.largest:.5g}, mean {label.mean:.5g} {unit}"
    return numbers + part
