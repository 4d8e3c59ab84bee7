"""The tables of the report: rows of cells that show a text and sort by a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from siliforce.hardware import describe_hardware
from siliforce.indicators.base import Metric, Result
from siliforce.indicators.tables import by_structure, headlines
from siliforce.models import get_model
from siliforce.report.load import Run
from siliforce.report.numbers import duration, interval, shown


@dataclass(frozen=True)
class Cell:
    """What is shown, what it sorts by, a remark for hovering, and whether it is the best."""

    text: str
    value: float | str | None = None
    note: str = ""
    best: bool = False
    style: int | None = None


@dataclass
class Table:
    """Columns are (heading, unit); `rows` of cells."""

    columns: list[tuple[str, str]]
    rows: list[list[Cell]]
    caption: str = ""
    sortable: bool = field(init=False)

    def __post_init__(self) -> None:
        self.sortable = len(self.rows) > 1


ROUGH_FIT = 1.0
"""Residual of a fit, meV/atom, beyond which energy against volume is not smooth."""
SETS = ("train", "valid", "test")

COLUMNS: dict[str, tuple[str, str]] = {
    "energy_rmse": ("energy RMSE", "meV/atom"),
    "energy_mae": ("energy MAE", "meV/atom"),
    "energy_rmse_shifted": ("energy RMSE, constant removed", "meV/atom"),
    "forces_rmse": ("force RMSE", "meV/Å"),
    "forces_mae": ("force MAE", "meV/Å"),
    "forces_relative": ("force RMSE / typical force", "%"),
    "stress_rmse": ("stress RMSE", "GPa"),
    "ef": ("EF", "eV/atom + eV/Å"),
}


def overview(runs: Sequence[Run]) -> Table:
    """One line per model: size, training, errors on held-out frames, speed."""
    shown_metrics = ("energy_rmse", "energy_mae", "forces_rmse", "forces_mae", "stress_rmse")
    metrics = [m for m in shown_metrics if any(_held(run, m) is not None for run in runs)]
    columns = [("model", ""), ("parameters", ""), ("epochs", ""), ("training", "")]
    columns += [COLUMNS[m] for m in metrics]
    timed = any(run.of("speed") for run in runs)
    columns += [("energy + forces", "µs/atom")] if timed else []
    rows = []
    for run in runs:
        record = run.record
        wall = record.get("wall_s")
        row = [
            Cell(_labelled(run), run.name, _title(run), style=run.style),
            Cell(shown(record.get("n_parameters")), record.get("n_parameters")),
            Cell(shown(record.get("epochs")), record.get("epochs")),
            Cell(duration(wall), wall, describe_hardware(record.get("hardware", {}))),
        ]
        row += [_cell(_held(run, m)) for m in metrics]
        fast = next((r.metric("energy_forces") for r in run.of("speed")), None)
        rows.append([*row, _cell(fast)] if timed else row)
    _mark_best(rows, first=4)
    return Table(columns, rows, _tested_on(runs))


def _held(run: Run, name: str) -> Metric | None:
    found = run.held_out.metric(name) if run.held_out else None
    return None if found is None or found.value is None else found


def _labelled(run: Run) -> str:
    return f"{run.name} (non-conservative)" if run.direct else run.name


def _title(run: Run) -> str:
    name = str(run.record.get("model") or (run.header or {}).get("model") or "")
    try:
        model = get_model(name)
    except Exception:
        return name
    return f"{model.title}: {model.reference}"


def _cell(metric: Metric | None, digits: int = 3) -> Cell:
    if metric is None:
        return Cell("–", None, "not measured")
    between = interval(metric.low, metric.high)
    note = f"95 %: {between}" if between else metric.note
    return Cell(shown(metric.value, digits), metric.value, note)


def _mark_best(rows: list[list[Cell]], first: int) -> None:
    """The smallest value of each column from `first` on, where several are compared."""
    for column in range(first, len(rows[0]) if rows else 0):
        values = [r[column].value for r in rows]
        numbers = [v for v in values if isinstance(v, int | float)]
        if len(numbers) < 2:
            continue
        for row in rows:
            cell = row[column]
            if cell.value == min(numbers):
                row[column] = Cell(cell.text, cell.value, cell.note, best=True)


def _tested_on(runs: Sequence[Run]) -> str:
    """Which frames the errors are of, and whether the models are known not to know them."""
    results = [r for run in runs if (r := run.held_out)]
    if not results:
        return "Errors on held-out frames have not been measured."
    sets = {
        (r.split, r.provenance.get("n_frames"), r.provenance.get("n_atoms"), r.dataset)
        for r in results
    }
    kinds = {"test": "test frames", "valid": "validation frames, which chose the best weights"}
    parts = [
        f"{shown(frames)} {kinds[split]} ({shown(atoms)} atoms)"
        for split, frames, atoms, _ in sorted(sets, key=str)
    ]
    unseen = all("n_trained_on" in r.provenance for r in results)
    end = "; none of them was trained on" if unseen else ""
    return f"Errors on {' and '.join(parts)}{end}."


def error_sets(runs: Sequence[Run]) -> Table | None:
    """Errors of every model on every set, with 95 % intervals below the numbers."""
    rows = []
    metrics = [m for m in COLUMNS if m != "forces_relative"]
    for run in runs:
        for result in sorted(run.of("errors"), key=_order):
            cells = [_with_interval(result.metric(m)) for m in metrics]
            frames = result.provenance.get("n_frames")
            head = [
                Cell(run.name, run.name, style=run.style),
                Cell(result.split.replace(":", ": "), _order(result)[0]),
                Cell(shown(frames), frames),
            ]
            rows.append(head + cells)
    kept = [k for k in range(len(metrics)) if any(r[3 + k].value is not None for r in rows)]
    if not rows:
        return None
    columns = [("model", ""), ("set", ""), ("frames", "")] + [COLUMNS[metrics[k]] for k in kept]
    rows = [r[:3] + [r[3 + k] for k in kept] for r in rows]
    return Table(columns, rows)


def _order(result: Result) -> tuple[int, str]:
    return (*SETS, result.split).index(result.split), result.split


def _with_interval(metric: Metric | None) -> Cell:
    cell = _cell(metric)
    if metric is None or metric.low is None:
        return cell
    return Cell(cell.text, cell.value, interval(metric.low, metric.high))


def gaps(runs: Sequence[Run]) -> Table | None:
    """OOD sets against the test set."""
    rows = []
    for run in runs:
        inside = run.errors("test")
        for result in run.ood:
            row = [Cell(run.name, run.name, style=run.style), Cell(result.split[4:], result.split)]
            for name in ("energy_rmse", "forces_rmse"):
                one, two = inside.value(name) if inside else None, result.value(name)
                ratio = two / one if one and two is not None else None
                row += [Cell(shown(one), one), Cell(shown(two), two)]
                row.append(Cell("–" if ratio is None else f"{shown(ratio, 2)} ×", ratio))
            rows.append(row)
    columns = [("model", ""), ("set", "")]
    for name, unit in (("energy", "meV/atom"), ("forces", "meV/Å")):
        columns += [(f"{name}, test", unit), (f"{name}, OOD", unit), ("ratio", "")]
    return Table(columns, rows) if rows else None


def bulk(entries: Sequence[tuple[Run, Result]]) -> Table:
    """B0 and V0 of one structure, with the reference's if there is one."""
    rows: list[list[Cell]] = []
    truth: dict[str, Any] = {}
    n_atoms = 1
    for run, result in entries:
        truth = result.curves.get("reference_fit", truth)
        n_atoms = result.curves["n_atoms"]
        cells = [Cell(run.name, run.name, style=run.style)]
        for name, shown_as, digits in (("V0", "V0_per_atom", 4), ("B0", "B0", 3)):
            cells.append(_cell(result.metric(shown_as), digits))
            wrong = result.value(f"{name}_error")
            cells.append(Cell("–" if wrong is None else f"{wrong:+.1f}".replace("-", "−"), wrong))
        rows.append(cells)
    columns = [("model", ""), ("V0", "Å³/atom"), ("error", "%"), ("B0", "GPa"), ("error", "%")]
    if truth:
        values = [
            Cell(shown(truth["V0"] / n_atoms, 4)),
            Cell(""),
            Cell(shown(truth["B0"])),
            Cell(""),
        ]
        rows.append([Cell("DFT", style=9), *values])
    else:
        rows = [[r[0], r[1], r[3]] for r in rows]
        columns = [columns[0], columns[1], columns[3]]
    return Table(columns, rows)


def bulk_remarks(entries: Sequence[tuple[Run, Result]]) -> list[str]:
    """What keeps a fitted equation of state from being taken at its word."""
    found = []
    for run, result in entries:
        scatter = result.value("fit_residual")
        if scatter is not None and scatter > ROUGH_FIT:
            found.append(
                f"{run.name}: the energies scatter by {shown(scatter, 2)} meV/atom around the fit, "
                "so its B0 is rough."
            )
        volume, card = result.value("V0_per_atom"), run.card
        if volume is None or card is None or card.atoms_per_volume is None:
            continue
        low, high = card.atoms_per_volume
        if not low <= 1 / volume <= high:
            found.append(f"{run.name}: its V0 lies outside the volumes of the training data.")
    return found


def dynamics(entries: Sequence[tuple[Run, Result]]) -> Table:
    """What happened in the runs of one structure."""
    columns = [
        ("model", ""),
        ("outcome", ""),
        ("time reached", "ps"),
        ("mean temperature", "K"),
        ("energy drift", "meV/atom/ps"),
        ("shortest distance", "Å"),
        ("speed", "µs/atom/step"),
    ]
    names = ("survived", "temperature_mean", "energy_drift", "min_distance", "md_speed")
    rows = [
        [
            Cell(run.name, run.name, style=run.style),
            Cell("failed" if result.failure else "completed", result.failure, result.failure),
            *(_cell(result.metric(name)) for name in names),
        ]
        for run, result in entries
    ]
    config = entries[0][1].provenance.get("config", {})
    caption = (
        f"Averages over {config.get('production', 0):g} ps of production after "
        f"{config.get('equilibration', 0):g} ps of equilibration, steps of "
        f"{config.get('timestep', 0):g} fs; temperatures over 3N−3 degrees of freedom."
    )
    return Table(columns, rows, caption)


def against_reference(runs: Sequence[Run], indicators: Sequence[str]) -> Table | None:
    """What simulations and scans gave, a line per structure and model; None if nothing did."""
    own = {run.path: [r for name in indicators for r in run.of(name)] for run in runs}
    columns = headlines([result for results in own.values() for result in results])
    rows = []
    for run in runs:
        for split, metrics in by_structure(own[run.path]).items():
            if columns.keys() & metrics.keys():
                cells = [_cell(metrics.get(name)) for name in columns]
                rows.append([Cell(split, split), Cell(run.name, run.name, style=run.style), *cells])
    rows.sort(key=lambda row: str(row[0].value))
    named = [(name.replace("_", " "), unit) for name, unit in columns.items()]
    caption = "Hover a number for its interval or a remark."
    return Table([("structure", ""), ("model", ""), *named], rows, caption) if rows else None


def timing(runs: Sequence[Run]) -> Table | None:
    """Training and inference times with the machine they were measured on."""
    columns = [("model", ""), ("what", ""), ("time", ""), ("on", ""), ("hardware", "")]
    rows = []
    for run in runs:
        name = Cell(run.name, run.name, style=run.style)
        rows += [[name, *cells] for cells in (*_training_time(run), *_inference_times(run))]
    return Table(columns, rows) if rows else None


def _training_time(run: Run) -> list[list[Cell]]:
    record = run.record
    if record.get("wall_s") is None:
        return []
    torch_version = record.get("versions", {}).get("torch", "unknown")
    machine = describe_hardware(record.get("hardware", {}) | {"torch": torch_version})
    epochs = record.get("epochs")
    plural = "" if epochs == 1 else "s"
    work = f"{shown(epochs)} epoch{plural} of {shown(record.get('n_train'))} frames"
    time = Cell(duration(record["wall_s"]), record["wall_s"])
    return [[Cell("training"), time, Cell(work), Cell(machine)]]


TIMES = {
    "energy_forces": "energy and forces",
    "neighbour_search": "neighbour search",
    "md_speed": "a step of dynamics, through ASE",
}


def _inference_times(run: Run) -> list[list[Cell]]:
    rows = []
    for result in (*run.of("speed"), *run.of("dynamics")):
        where = f"{result.dataset}, {shown(result.provenance.get('n_atoms'))} atoms"
        where += f", {result.provenance['dtype']}" if "dtype" in result.provenance else ""
        for name, what in TIMES.items():
            metric = result.metric(name)
            if metric is not None:
                text = f"{shown(metric.value)} {metric.unit}"
                cells = [Cell(what), Cell(text, metric.value, _cell(metric).note), Cell(where)]
                rows.append([*cells, Cell(describe_hardware(result.hardware))])
    return rows
