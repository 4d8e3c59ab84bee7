"""What a campaign's folder holds, potential by potential."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from siliforce.benchmark.graph import BASELINE, Variant, result_keys, variants
from siliforce.benchmark.tasks import Workshop, load_finished
from siliforce.hardware import choose_device
from siliforce.indicators.base import Result


@dataclass(frozen=True)
class Entry:
    """One potential on one material, with one seed.

    Attributes:
        label: of the model.
        study, value: `baseline`, or what is varied.
        results: of all indicators that are finished.
        failures: kind of job -> why it failed.
        unfinished: kinds of jobs that are neither done nor failed.
        facts: of the training: parameters, frames, time.
        notes: what a reader should know.
        trained: False for calculators that bring their own weights.
        preset: of the model, `auto` resolved; empty where it is not known.
    """

    label: str
    material: str
    seed: int
    study: str = BASELINE
    value: str = ""
    results: list[Result] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    trained: bool = True
    preset: str = ""

    def of(self, indicator: str) -> list[Result]:
        """Results of one indicator."""
        return [result for result in self.results if result.indicator == indicator]

    def value_of(self, indicator: str, metric: str, split: str = "") -> float | None:
        """A metric of one split; of the first result that has it if no split is named."""
        found = [r.value(metric) for r in self.of(indicator) if not split or r.split == split]
        return next((v for v in found if v is not None), None)

    @property
    def direct(self) -> bool:
        """Whether its forces are predicted and conserve no energy."""
        return any(r.provenance.get("force_mode") == "direct" for r in self.results)


def collect(shop: Workshop) -> list[Entry]:
    """Entries of a campaign, in the order of its file."""
    device = choose_device(shop.campaign.device)
    found = []
    for name in shop.campaign.materials:
        material = shop.material(name)
        for variant in variants(shop.campaign, device, len(material.sets["train"])):
            keys = result_keys(shop.campaign, material, variant)
            found.append(_entry(shop, name, variant, keys))
    return found


def _entry(shop: Workshop, material: str, variant: Variant, keys: dict[str, str]) -> Entry:
    folder = shop.folder
    done, failed = folder.done_keys(), folder.failed_keys()
    entry = Entry(
        variant.label,
        material,
        variant.seed,
        variant.study,
        variant.value,
        trained=variant.engine is None,
        preset=variant.choice.preset if variant.choice else "",
    )
    for kind, key in keys.items():
        if key in done:
            finished = load_finished(folder, key)
            entry.results.extend(finished.results)
            entry.notes.extend(finished.notes)
            entry.facts.update(finished.facts)
        elif key in failed:
            entry.failures[kind] = folder.reason(key)
        else:
            entry.unfinished.append(kind)
    for result in entry.results:
        result.model = variant.label
    return entry


def baselines(entries: Sequence[Entry]) -> list[Entry]:
    """Entries that are ranked."""
    return [entry for entry in entries if entry.study == BASELINE]
