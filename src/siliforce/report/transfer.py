"""Pages about transfer: learning curves and what they say."""

from __future__ import annotations

from pathlib import Path

from siliforce.files import write_atomic
from siliforce.indicators.base import Result
from siliforce.report.figures import Figure
from siliforce.report.numbers import interval, shown
from siliforce.report.page import fill
from siliforce.report.svg import Series, chart
from siliforce.report.tables import Cell, Table
from siliforce.transfer.demo import CLAIM


def samples_figure(result: Result, title: str, y_label: str, x_label: str) -> Figure:
    """Error against samples of every curve of a result, with intervals."""
    series = [
        Series(name, c["samples"], c["mean"], style, "both", low=c["low"], high=c["high"])
        for style, (name, c) in enumerate(result.curves.items())
    ]
    svg = chart(series, x_label, y_label, title, log_x=True, log_y=True)
    legend = [(s.name, s.style, "line") for s in series]
    return Figure(title, svg, legend, str(result.provenance.get("intervals", "")))


def claim_sentences(result: Result) -> list[str]:
    """What came out of the paper's claim, in words.

    Args:
        result: of `siliforce.transfer.demo.demonstrate`.
    """
    found = {m.name: m for m in result.metrics}
    few, many = found["transfer_energy_rmse"], found["scratch_energy_rmse"]
    assert few.value is not None
    assert many.value is not None
    sentences = [
        f"With {few.note} transfer reaches {shown(few.value)} meV/atom "
        f"({interval(few.low, few.high)}), training from scratch with {many.note} "
        f"{shown(many.value)} meV/atom ({interval(many.low, many.high)}).",
    ]
    if (few.note, many.note) == tuple(f"{n} samples" for n in CLAIM):
        holds = few.value <= many.value
        sentences.append(
            f"The paper's claim, that {CLAIM[0]} samples with transfer do what takes {CLAIM[1]} "
            + ("without, holds here." if holds else "without, does not hold here.")
        )
    return [
        *sentences,
        f"Samples saved: {found['samples_saved'].note}.",
    ]


def molecules_page(result: Result) -> str:
    """The demonstration on molecules as a page."""
    methods = list(result.curves)
    units = ["meV/atom"] * len(methods)
    rows = [
        [Cell(shown(row["samples"]), row["samples"])]
        + [Cell(shown(row[m]), row[m]) for m in methods]
        + [Cell(row["saved"])]
        for row in result.tables["saved"]
    ]
    columns = [("samples", ""), *zip(methods, units, strict=True), ("saved", "")]
    tuning = [
        [
            Cell(str(row["method"])),
            Cell(shown(row["samples"]), row["samples"]),
            Cell(f"{row['decay']:.0e}", row["decay"]),
            Cell(shown(100 * row["converged"]), row["converged"]),
        ]
        for row in result.tables["tuning"]
    ]
    heads = [("method", ""), ("samples", ""), ("weight decay", ""), ("converged", "%")]
    figure = samples_figure(result, "Energy error on unseen H2S", "meV/atom (RMSE)", "H2S samples")
    error = shown(result.provenance["source_energy_rmse"])
    content = {
        "answer": claim_sentences(result),
        "figures": [figure],
        "tables": [
            ("Error and samples saved", Table(columns, rows)),
            ("Tuning, the same for all", Table(heads, tuning)),
        ],
        "notes": [
            "Saved: samples that training from scratch needs for the same error, over the samples "
            "of transfer; interpolated between measured sizes, never beyond them. Intervals are of "
            "Student's t over the draws; where such an end is only a bound, it has a sign.",
            *result.provenance.get("shared_draws", []),
            f"The source's own error on H2O frames it has not seen is {error} meV/atom.",
        ],
    }
    return fill("study.html", "From H2O to H2S: transfer as published", content)


def write_molecules_page(result: Result, out: str | Path) -> Path:
    """Write the page; atomic."""
    return write_atomic(Path(out), molecules_page(result))
