"""The configuration file: the sections of data, model and training in one closed document.

Each section is defined beside the code it configures. What a section leaves out comes from the
architecture's preset, and what that leaves out from the section's own defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from siliforce.errors import ConfigError
from siliforce.training.adapted import AdaptConfig
from siliforce.training.build import ModelChoice
from siliforce.training.inputs import DataConfig
from siliforce.training.options import (
    Options,
    did_you_mean,
    merged,
    numbers,
    parse,
    read_yaml,
)
from siliforce.training.settings import TrainConfig


class RunConfig(Options):
    """A whole configuration file."""

    data: DataConfig | None = None
    model: ModelChoice = ModelChoice()
    train: TrainConfig = TrainConfig()
    adapt: AdaptConfig = AdaptConfig()
    benchmark: list[str] = Field(default_factory=list)


def load_config(
    path: str | Path | None = None,
    overrides: Sequence[str] = (),
    values: Mapping[str, Any] | None = None,
) -> RunConfig:
    """Read a configuration file and change it.

    Args:
        path: YAML; None for an empty one.
        overrides: `section.key=value`, the value as in YAML.
        values: further changes as nested mappings, applied before `overrides`; None values are
            left out, so that options of a command line can be passed as they are.

    Raises:
        ConfigError: file not readable, unknown keys, impossible values; all in one line.
    """
    content = read_yaml(path) if path is not None else {}
    content = merged(content, _given(values or {}))
    for text in overrides:
        content = merged(content, parse_override(text))
    config = parse(RunConfig, content)
    config.model.checked()
    return config


def parse_override(text: str) -> dict[str, Any]:
    """`train.loss.energy=10` as a nested mapping.

    Raises:
        ConfigError: not of this form.
    """
    parts, value = _assignment(text)
    sections = list(RunConfig.model_fields)
    if parts[0] not in sections:
        hint = did_you_mean(parts[0], sections) or _owner(parts[0])
        raise ConfigError(f"--set {text}: {hint}sections are {', '.join(sections)}")
    return _nested(parts, value)


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """`key=value` of a verb whose options are no sections of a configuration file, as a mapping.

    Raises:
        ConfigError: not of this form.
    """
    result: dict[str, Any] = {}
    for text in texts:
        result = merged(result, _nested(*_assignment(text)))
    return result


def _assignment(text: str) -> tuple[list[str], Any]:
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set {text}: write section.key=value, e.g. --set train.lr=1e-4")
    return parts, _value(value)


def _nested(parts: Sequence[str], value: Any) -> dict[str, Any]:
    for part in reversed(parts):
        value = {part: value}
    return dict(value)


def _value(text: str) -> Any:
    """As YAML reads it, and 1e-4 as the number it is meant to be."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set: '{text}' is not a value ({error})") from None
    return numbers(value)


def _owner(key: str) -> str:
    """Where a key that was written without its section belongs."""
    for name, section in (("train", TrainConfig), ("model", ModelChoice), ("data", DataConfig)):
        if key in section.model_fields:
            return f"did you mean '{name}.{key}'? "
    return ""


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    """Without None, and without sections that are empty then."""
    result = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            value = _given(value) or None
        if value is not None:
            result[key] = value
    return result
