"""A campaign's results with everything that follows from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from siliforce.benchmark.campaign import Opened
from siliforce.benchmark.collect import Entry, baselines, collect
from siliforce.benchmark.plan import Plan, read_plan
from siliforce.benchmark.ranking import Correlation, Standing, correlations, standings
from siliforce.benchmark.scores import Anchor, Score, anchors, scores
from siliforce.errors import DataError


@dataclass(frozen=True)
class Findings:
    """What a report shows and `recommend` reasons from.

    Attributes:
        entries: every potential with its results.
        anchors: by material.
        about: by material: facts in words, name and text.
        scores: of the baselines.
        standings: models from best to worst, then those that are not finished.
        plan: expected and true cost; None if it was not kept.
        configuration: the campaign's file.
    """

    name: str
    entries: list[Entry]
    anchors: Mapping[str, Sequence[Anchor]]
    about: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    plan: Plan | None = None
    configuration: str = ""
    scores: list[Score] = field(init=False)
    standings: list[Standing] = field(init=False)
    correlations: list[Correlation] = field(init=False)

    def __post_init__(self) -> None:
        found = [s for e in self.ranked for s in scores(e, self.anchors.get(e.material, ()))]
        object.__setattr__(self, "scores", found)
        object.__setattr__(self, "standings", standings(found, self.unfinished))
        object.__setattr__(self, "correlations", correlations(self.entries, found))

    @property
    def ranked(self) -> list[Entry]:
        """Baselines of every model."""
        return baselines(self.entries)

    @property
    def unfinished(self) -> set[str]:
        """Models of which jobs are to come."""
        return {entry.label for entry in self.ranked if entry.unfinished}

    @property
    def labels(self) -> list[str]:
        """Models in the order of the campaign's file."""
        return list(dict.fromkeys(entry.label for entry in self.entries))

    @property
    def materials(self) -> list[str]:
        """In the order of the campaign's file."""
        return list(dict.fromkeys(entry.material for entry in self.entries))

    @property
    def trained(self) -> list[str]:
        """Models that were trained here; calculators that bring their weights are left out."""
        return list(dict.fromkeys(entry.label for entry in self.entries if entry.trained))

    @property
    def presets(self) -> list[str]:
        """Sizes of the trained models."""
        return list(dict.fromkeys(entry.preset for entry in self.ranked if entry.preset))

    def of(self, label: str, material: str = "") -> list[Entry]:
        """Baselines of one model."""
        return [
            e for e in self.ranked if e.label == label and e.material == (material or e.material)
        ]


def findings(opened: Opened) -> Findings:
    """Everything that a campaign's folder holds; it is only read.

    Raises:
        DataError: it holds results, but none of this campaign as this version understands it.
    """
    shop = opened.shop
    entries, kept = collect(shop), shop.folder.done_keys()
    if kept and not any(entry.results or entry.facts for entry in entries):
        raise DataError(
            f"the {len(kept)} results in {shop.root} were made with other settings, or by another "
            f"version of siliforce; `siliforce benchmark {shop.root} --plan` says what is missing"
        )
    about = {}
    for name in shop.campaign.materials:
        material = shop.material(name)
        sizes = ", ".join(f"{key} {len(part)}" for key, part in material.sets.items())
        facts = material.sets["train"].facts
        about[name] = [
            ("frames", sizes),
            ("split", material.split),
            (
                "level of theory",
                _stated(material.config.level_of_theory, facts.get("level_of_theory")),
            ),
            ("licence", _stated(material.config.licence, facts.get("licence"))),
        ]
        if material.reference is not None:
            told = material.reference
            text = f"{told.name}: {told.source}; {told.level_of_theory}; {told.licence}"
            about[name].append(("reference", text))
    return Findings(
        shop.campaign.name,
        entries,
        {name: anchors(shop.material(name)) for name in shop.campaign.materials},
        about,
        read_plan(shop, opened.jobs),
        shop.campaign.model_dump_json(indent=1, exclude_unset=True),
    )


def _stated(given: str, found: str | None) -> str:
    return given if given != "not stated" else str(found or given)
