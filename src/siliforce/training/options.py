"""Closed configuration models, and errors that say what was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from siliforce.errors import ConfigError


class Options(BaseModel):
    """Base of all configuration sections: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


M = TypeVar("M", bound=BaseModel)


def parse(cls: type[M], values: Mapping[str, Any], where: str = "") -> M:
    """Validate `values` as a `cls`.

    Args:
        where: the section's name, put before every key in error messages.

    Raises:
        ConfigError: one line naming the key, what was given, what is allowed, and for an unknown
            key the nearest known one.
    """
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(cls, e, where) for e in error.errors())) from None


def as_options(cls: type[M], values: M | Mapping[str, Any] | None, where: str) -> M:
    """`values` as they are if they are a `cls` already, else parsed; None: all left out."""
    return values if isinstance(values, cls) else parse(cls, values or {}, where)  # type: ignore[arg-type]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` on top, nested sections merged key by key."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Sections of a configuration file; an empty file has none.

    Raises:
        ConfigError: not readable, not YAML, or not sections.
    """
    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({' '.join(str(error).split())})") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: holds a {type(content).__name__}; sections are expected")
    return numbers(content)


def numbers(value: Any) -> Any:
    """YAML 1.1 takes 1e-4 for a text; nobody else does."""
    if isinstance(value, dict):
        return {k: numbers(v) for k, v in value.items()}
    if isinstance(value, list):
        return [numbers(v) for v in value]
    if isinstance(value, str) and "e" in value.lower():
        try:
            return float(value)
        except ValueError:
            return value
    return value


def did_you_mean(word: str, known: list[str]) -> str:
    """`did you mean 'x'? ` or an empty string."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean '{near[0]}'? " if near else ""


def _explain(cls: type[BaseModel], error: Any, where: str) -> str:
    path = [str(part) for part in error["loc"]]
    name = ".".join([where, *path] if where else path)
    if error["type"] == "extra_forbidden":
        known = _keys_at(cls, path[:-1])
        hint = did_you_mean(path[-1], known)
        return f"unknown key '{name}'; {hint}allowed here: {', '.join(known)}"
    given = "" if error["type"] == "missing" else f" (given: {error['input']!r})"
    return f"'{name}': {error['msg'].removeprefix('Value error, ')}{given}"


def _keys_at(cls: type[BaseModel], path: list[str]) -> list[str]:
    """Keys of the section that `path` leads to."""
    for part in path:
        field = cls.model_fields.get(part)
        if field is None:
            continue
        candidates = [field.annotation, *get_args(field.annotation)]
        nested = [c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)]
        if nested:
            cls = nested[0]
    return list(cls.model_fields)


_DURATION = re.compile(
    r"(?:(?P<d>[\d.]+)d)?(?:(?P<h>[\d.]+)h)?(?:(?P<m>[\d.]+)m(?:in)?)?(?:(?P<s>[\d.]+)s?)?"
)
_CLOCK = re.compile(r"(?:(\d+):)?(\d+):(\d+)")


def seconds(value: Any) -> Any:
    """`90`, `45s`, `30m`, `1h30m`, `2d` or `01:30:00` in seconds."""
    if not isinstance(value, str):
        return value
    text = value.replace(" ", "")
    if clock := _CLOCK.fullmatch(text):
        h, m, s = (int(part or 0) for part in clock.groups())
        return float(h * 3600 + m * 60 + s)
    match = _DURATION.fullmatch(text)
    if not text or match is None:
        raise ValueError("a duration reads 90, 45s, 30m, 1h30m, 2d or 01:30:00")
    parts = {unit: float(number or 0) for unit, number in match.groupdict().items()}
    return parts["d"] * 86400 + parts["h"] * 3600 + parts["m"] * 60 + parts["s"]


def show_seconds(value: float) -> str:
    """`12 s`, `3 min 20 s`, `2 h 05 min`."""
    if value < 100:
        return f"{value:.2g} s" if value < 10 else f"{value:.0f} s"
    if value < 6000:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{int(value // 3600)} h {int(value % 3600 // 60):02d} min"


Seconds = Annotated[float, BeforeValidator(seconds)]
