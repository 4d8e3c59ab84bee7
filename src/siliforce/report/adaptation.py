"""Pages and sections about adapted potentials: was it worth it, how many frames, which family."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from siliforce.indicators.base import Metric, Result, load_results
from siliforce.report import choosing
from siliforce.report.figures import Figure, Key
from siliforce.report.numbers import duration, interval, listed, shown
from siliforce.report.svg import Row, Series, chart, dot_chart
from siliforce.report.tables import Cell, Table

COMPARISON, STUDY, FAMILY = "transfer", "transfer_study", "transfer_family"
CONTROL_STYLE = 9


def study_folder(path: str | Path) -> list[Result]:
    """Results of a folder that holds studies and is no run folder; else nothing."""
    path = Path(path)
    if not path.is_dir() or (path / "run.json").exists():
        return []
    results, _ = load_results(path / "results")
    return [r for r in results if r.indicator in PARTS]


def page_content(results: Sequence[Result]) -> dict[str, Any]:
    """What the template `study.html` shows of studies, families and choices of frames."""
    content: dict[str, Any] = {"answer": [], "figures": [], "tables": [], "notes": []}
    for result in results:
        for name, values in PARTS[result.indicator](result).items():
            content[name] += values
    return content


def page_title(results: Sequence[Result]) -> str:
    """Heading of such a page."""
    models = listed(sorted({r.model for r in results}))
    found = next(name for name in TITLES if any(r.indicator == name for r in results))
    return f"{models}: {TITLES[found]}"


# -- learning curves ------------------------------------------------------------------------------


def study_part(result: Result) -> dict[str, list[Any]]:
    """Curves, the sentence, frames at equal error, policies."""
    facts = result.provenance
    answer = [*facts.get("sentences", [])]
    if facts.get("alarm"):
        answer.append(f"Warning: {facts['alarm']}.")
    draws, tested = shown(facts.get("draws")), shown(facts.get("n_test"))
    notes = [
        f"{draws} nested draws of the frames, {tested} test frames that nothing was trained on. "
        "Lines are geometric means over the draws, bars their 95 % intervals. The control is the "
        "same model from scratch on the same frames with the same budget, its learning rate chosen "
        "by validation for each number of frames. Between numbers of frames errors are "
        "interpolated on logarithmic scales, beyond them nothing is said.",
    ]
    if facts.get("failed"):
        notes.append(f"{facts['failed']} trainings failed and are left out.")
    return {
        "answer": answer,
        "figures": curve_figures(result),
        "tables": [
            ("Frames at equal force error", equal_table(result)),
            ("Policies", policy_table(result)),
        ],
        "notes": notes,
    }


def curve_figures(result: Result) -> list[Figure]:
    """Force error on the target, and on the source where it was measured."""
    series, legend = _curves(result, "mean")
    if not series:
        return []
    svg = chart(series, "DFT frames of the target", "meV/Å (RMSE)", "Force error on the target",
                log_x=True, log_y=True)  # fmt: skip
    figures = [Figure("Force error on unseen frames of the target", svg, legend)]
    series, legend = _curves(result, "source")
    if series:
        before = result.provenance.get("source_forces_rmse")
        svg = chart(series, "DFT frames of the target", "meV/Å (RMSE)", "Force error on the source",
                    log_x=True, log_y=True, levels=[before] if before else [])  # fmt: skip
        caption = f"horizontal line: before, {shown(before)} meV/Å" if before else ""
        figures.append(Figure("What it forgets: force error on the source", svg, legend, caption))
    return figures


def _curves(result: Result, name: str) -> tuple[list[Series], list[Key]]:
    series = []
    for k, curve in enumerate(result.curves.get("series", [])):
        if name not in curve:
            continue
        style = CONTROL_STYLE if curve["kind"] == "scratch" else k
        banded = name == "mean" and None not in curve["low"]
        low, high = (curve["low"], curve["high"]) if banded else ((), ())
        series.append(
            Series(curve["name"], curve["n"], curve[name], style, "both", low=low, high=high)
        )
    return series, [(s.name, s.style, "line") for s in series]


def equal_table(result: Result) -> Table:
    """How many frames from scratch give the error that transfer has with n."""
    columns = [
        ("policy", ""),
        ("frames", "with transfer"),
        ("force RMSE", "meV/Å"),
        ("from scratch", "meV/Å"),
        ("frames from scratch", "for the same error"),
        ("saved", ""),
    ]
    rows = []
    for row in result.tables.get("equal", []):
        bound = f"{row['bound']} " if row.get("bound") else ""
        rows.append(
            [
                Cell(row["policy"], row["policy"]),
                Cell(shown(row["n"]), row["n"]),
                Cell(shown(row["error"]), row["error"]),
                Cell(shown(row["control"]), row["control"]),
                Cell(f"{bound}{shown(row.get('needed'), 2)}", row.get("needed")),
                Cell(row.get("text", "–"), row.get("ratio")),
            ]
        )
    return Table(
        columns,
        rows,
        "> : scratch never came down to that error with the frames tried, < : it was below with "
        "the fewest. Intervals: 95 % over the draws; an end with a sign is only a bound.",
    )


def policy_table(result: Result) -> Table:
    """Errors of every policy beside the control, the smallest of each number of frames marked."""
    source = result.provenance.get("source_forces_rmse")
    columns = [("frames", ""), ("policy", ""), ("trained", "numbers"), ("force RMSE", "meV/Å")]
    columns += [("energy RMSE", "meV/atom")]
    columns += [("force RMSE, source", "meV/Å")] if source else []
    columns += [("time", "")]
    lines = result.tables.get("policies", [])
    best = {
        n: min(row["forces_rmse"] for row in lines if row["n"] == n)
        for n in {row["n"] for row in lines}
    }
    rows = []
    for row in lines:
        error = row["forces_rmse"]
        cells = [
            Cell(shown(row["n"]), row["n"]),
            Cell(row["policy"], row["policy"]),
            Cell(shown(row["n_parameters"]), row["n_parameters"]),
            Cell(shown(error), error, best=error == best[row["n"]]),
            Cell(shown(row["energy_rmse"]), row["energy_rmse"]),
        ]
        forgot = row.get("source_forces_rmse")
        cells += [Cell(shown(forgot), forgot)] if source else []
        rows.append([*cells, Cell(duration(row["seconds"]), row["seconds"])])
    caption = (
        f"The source's own force RMSE on its frames is {shown(source)} meV/Å." if source else ""
    )
    return Table(columns, rows, caption)


# -- families -------------------------------------------------------------------------------------


def family_part(result: Result) -> dict[str, list[Any]]:
    """The catalogue, its cost, and which members should not be used."""
    facts = result.provenance
    n, frames = facts["n_compositions"], facts["source_frames"]
    answer = [
        f"{n} composition{'s' if n != 1 else ''} from one source of {shown(frames)} DFT frames."
    ]
    measured, formula = result.metric("R_measured"), result.metric("R_formula")
    if measured is not None:
        answer.append(f"Measured over the family, R = {measured.note}.")
    if formula is not None:
        note = f"{shown(formula.value)}: {formula.note}"
        answer.append(f"By the formula N_SL / N_TL, R = {note}.")
    answer += [f"Warning: {text}." for text in facts.get("alarms", [])]
    answer += [f"Failed: {name}; see jobs/failed." for name in facts.get("failed", [])]
    rows = result.tables.get("catalogue", [])
    return {
        "answer": answer,
        "figures": [family_figure(rows)] if rows else [],
        "tables": [("Catalogue", catalogue_table(rows))],
        "notes": [
            "The control of each composition is the same model from scratch on the same frames; "
            "both are judged on frames that neither has seen."
        ],
    }


def family_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Force errors with transfer and from scratch of every composition."""
    lines = [
        Row(
            row["name"],
            f"{row['n_frames']} frames",
            [
                ("adapted", row.get("adapted_forces_rmse"), None, None, 0),
                ("from scratch", row.get("scratch_forces_rmse"), None, None, CONTROL_STYLE),
            ],
        )
        for row in rows
    ]
    title = "Force error of every composition"
    legend: list[Key] = [("adapted", 0, "dot"), ("from scratch", CONTROL_STYLE, "dot")]
    return Figure(title, dot_chart(lines, "force RMSE (meV/Å)", title), legend)


def catalogue_table(rows: Sequence[dict[str, Any]]) -> Table:
    """One line per composition."""
    studied = any(row.get("at_equal_error") for row in rows)
    columns = [
        ("composition", ""),
        ("concentration", "%"),
        ("DFT frames", ""),
        ("energy RMSE", "meV/atom"),
        ("force RMSE", "meV/Å"),
        ("from scratch: energy", "meV/atom"),
        ("from scratch: force", "meV/Å"),
    ]
    columns += [("frames saved", "")] if studied else []
    columns += [("training", ""), ("model file", "")]
    return Table(columns, [_catalogue_row(row, studied) for row in rows])


def _catalogue_row(row: dict[str, Any], studied: bool) -> list[Cell]:
    what = f"{row['count']} {row['element']} on {row['site']}"
    cells = [
        Cell(row["name"], row["name"], what),
        Cell(shown(100 * row["concentration"]), row["concentration"]),
        Cell(shown(row["n_frames"]), row["n_frames"]),
    ]
    for name in ("adapted_energy_rmse", "adapted_forces_rmse"):
        cells.append(Cell(shown(row.get(name)), row.get(name)))
    for name in ("scratch_energy_rmse", "scratch_forces_rmse"):
        cells.append(Cell(shown(row.get(name)), row.get(name)))
    if studied:
        saved = row.get("at_equal_error")
        cells.append(Cell(saved["text"] if saved else "–"))
    return [
        *cells,
        Cell(duration(row["seconds"]), row["seconds"]),
        Cell(row["model"], row["model"]),
    ]


# -- one adapted potential ------------------------------------------------------------------------


def comparison_part(result: Result) -> tuple[list[str], Table]:
    """Of a run that was adapted: sentences, and the adaptation beside its control."""
    sentences = []
    gain, forgetting = result.metric("gain"), result.metric("forgetting")
    if gain is not None:
        sentences.append(
            f"Its force error is that of training from scratch on the same "
            f"{shown(result.provenance.get('n_frames'))} frames divided by {_ratio(gain)}."
        )
    if forgetting is not None:
        before, after = (result.value(f"source_{w}_forces_rmse") for w in ("before", "after"))
        sentences.append(
            f"On frames of the source its force error was {shown(before)} meV/Å before and is "
            f"{shown(after)} meV/Å now."
        )
    if result.provenance.get("alarm"):
        sentences.append(f"Warning: {result.provenance['alarm']}.")
    columns = [
        ("", ""),
        ("learning rate", ""),
        ("trained", "numbers"),
        ("steps", ""),
        ("best epoch", ""),
        ("force RMSE", "meV/Å"),
        ("energy RMSE", "meV/atom"),
        ("time", ""),
    ]
    rows = [
        [
            Cell("adapted" if row["kind"] == "adapted" else "from scratch", row["kind"]),
            Cell(shown(row["lr"]), row["lr"]),
            Cell(shown(row["n_parameters"]), row["n_parameters"]),
            Cell(shown(row["steps"]), row["steps"]),
            Cell(shown(row["best_epoch"]), row["best_epoch"]),
            Cell(shown(row["forces_rmse"]), row["forces_rmse"]),
            Cell(shown(row["energy_rmse"]), row["energy_rmse"]),
            Cell(duration(row["seconds"]), row["seconds"]),
        ]
        for row in result.tables.get("runs", [])
    ]
    return sentences, Table(columns, rows, _tested(result))


def _tested(result: Result) -> str:
    frames = shown(result.provenance.get("n_test"))
    return f"Errors on {frames} frames of the target that neither was trained on."


def _ratio(metric: Metric) -> str:
    between = interval(metric.low, metric.high, 2)
    return f"{shown(metric.value, 2)}" + (f" (95 %: {between})" if between else "")


PARTS = {
    STUDY: study_part,
    FAMILY: family_part,
    choosing.STUDY: choosing.study_part,
    choosing.POOL: choosing.pool_part,
}
TITLES = {
    FAMILY: "a family of compositions",
    STUDY: "what transfer saves",
    choosing.STUDY: "choosing frames by uncertainty",
    choosing.POOL: "frames to label next",
}
