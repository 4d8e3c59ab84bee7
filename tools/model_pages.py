"""Documentation pages of the architectures, made from their files when the site is built.

A page is the file's docstring (citation, idea, symbols, deviations), then the presets with the
meaning of every hyper-parameter. Registered in `mkdocs.yml` under `hooks`.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from siliforce.cli.architectures import BENCHMARK, n_parameters
from siliforce.models import MODELS, get_model


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give the pages their place in the navigation."""
    names = sorted(MODELS, key=lambda n: n not in BENCHMARK)  # the benchmark's ten come first
    pages = [{get_model(n).title: f"models/{n}.md"} for n in names]
    assert config.nav is not None
    config.nav.insert(5, {"Models": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name in MODELS:
        files.append(File.generated(config, f"models/{name}.md", content=page(name)))
    return files


def page(name: str) -> str:
    """Markdown of one architecture."""
    model = get_model(name)
    docstring = inspect.getdoc(sys.modules[model.__module__]) or ""
    summary, _, text = docstring.partition("\n")
    forces = (
        "derivatives of the energy; stress too"
        if model.force_mode == "gradient"
        else "predicted directly: they conserve no energy, and there is no stress"
    )
    return "\n".join(
        [
            f"# {model.title}",
            f"**{summary.partition(': ')[2].capitalize()}** `--model {name}`. Forces: {forces}.",
            text,
            "## Presets",
            *presets(name),
            "",
            *training(name),
        ]
    )


def presets(name: str) -> list[str]:
    """Table of hyper-parameters."""
    model = get_model(name)
    rows = [
        "| | " + " | ".join(f"`{p}`" for p in model.presets) + " | |",
        "|---" * (len(model.presets) + 2) + "|",
    ]
    for key, field in model.Config.model_fields.items():
        values = [cell(getattr(config, key)) for config in model.presets.values()]
        scaled = " (scaled by `width`)" if key in model.widths else ""
        rows.append(f"| `{key}` | {' | '.join(values)} | {field.description or ''}{scaled} |")
    counts = " | ".join(f"{n_parameters(name, p):,}" for p in model.presets)
    return [*rows, f"| parameters | {counts} | for two elements |"]


def cell(value: Any) -> str:
    """A value in a table; long tuples by their length."""
    if isinstance(value, tuple) and len(str(value)) > 40:
        return f"{len(value)} values"
    return "" if value is None else str(value)


def training(name: str) -> list[str]:
    """What the presets want of the trainer."""
    options = get_model(name).training_presets
    if not options:
        return []
    rows = [
        f"| `{preset}` | {', '.join(f'{k} {v}' for k, v in wants.items())} |"
        for preset, wants in options.items()
    ]
    return ["Training options that come with a preset:", "", "| | |", "|---|---|", *rows]
