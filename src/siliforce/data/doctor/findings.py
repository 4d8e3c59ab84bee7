"""What the doctor says, for people and for scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np

Severity = Literal["error", "warning", "note", "ok"]
ORDER: tuple[Severity, ...] = ("error", "warning", "note", "ok")


@dataclass(frozen=True)
class Finding:
    """One observation.

    Attributes:
        check: short name of the check, the same in every version.
        severity: `error`: training on this is wrong; `warning`: probably, look at it; `note`: worth
            knowing; `ok`: looked at and found right.
        title: what is the matter.
        evidence: the numbers it rests on.
        advice: what to do; empty if nothing.
        frames: sources of the frames concerned.
    """

    check: str
    severity: Severity
    title: str
    evidence: str
    advice: str = ""
    frames: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain types."""
        return asdict(self)


def worst_first(findings: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, notes, and what is in order."""
    return sorted(findings, key=lambda f: ORDER.index(f.severity))


def spaced(n: int, limit: int) -> np.ndarray:
    """All of `n` rows, or `limit` of them at even spacing."""
    return np.unique(np.linspace(0, n - 1, min(n, limit)).astype(int))
