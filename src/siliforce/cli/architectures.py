"""The ten architectures of the benchmark, which of them are alive here, and any others."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from siliforce.models import get_model, list_models

BENCHMARK = {
    "bpnn": "BPNN",
    "dpa1": "DPA-1",
    "schnet": "SchNet",
    "dimenet_pp": "DimeNet++",
    "gemnet_t": "GemNet-T",
    "gemnet_dt": "GemNet-dT",
    "nequip": "NequIP",
    "allegro": "Allegro",
    "mace": "MACE",
    "scn": "SCN",
}
"""Those of SAMD23, in its order."""


def model_rows() -> list[dict[str, Any]]:
    """One row per architecture: what it is, and its presets if it works."""
    available = list_models()
    rows: list[dict[str, Any]] = []
    for name in [*BENCHMARK, *(n for n in available if n not in BENCHMARK)]:
        if name not in available:
            rows.append({"name": name, "title": BENCHMARK[name], "works": False})
            continue
        cls = get_model(name)
        rows.append(
            {
                "name": name,
                "title": cls.title,
                "works": True,
                "forces": cls.force_mode,
                "stress": cls.force_mode == "gradient",
                "cutoff": {p: c.cutoff for p, c in cls.presets.items()},
                "parameters": {p: n_parameters(name, p) for p in cls.presets},
                "reference": cls.reference,
            }
        )
    return rows


def n_parameters(name: str, preset: str, n_species: int = 2) -> int:
    """Trained numbers of a preset."""
    cls = get_model(name)
    model = cls(cls.presets[preset], n_species)
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def models_table(rows: list[dict[str, Any]]) -> Table:
    """For a terminal."""
    table = Table(title="Architectures (parameters for two elements)", title_justify="left")
    for column in ("name", "architecture", "forces", "presets: parameters", "published"):
        table.add_column(column)
    for row in rows:
        if row["works"]:
            presets = "\n".join(f"{p}: {n:,}" for p, n in row["parameters"].items())
            forces = "gradient,\nstress" if row["stress"] else "direct,\nno stress"
            table.add_row(row["name"], row["title"], forces, presets, row["reference"])
        else:
            table.add_row(row["name"], row["title"], "[dim]not yet[/]", "", "", style="dim")
    return table
