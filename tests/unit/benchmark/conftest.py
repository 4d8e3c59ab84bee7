"""A campaign of two tiny models on ten embedded frames, run once for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from siliforce.benchmark.campaign import Opened, run_campaign
from siliforce.benchmark.config import Campaign, load_campaign
from siliforce.benchmark.plan import Plan
from siliforce.training.options import parse

MINIATURE = Path(__file__).resolve().parents[3] / "configs" / "reproduce" / "miniature.yaml"


def miniature(**changes: Any) -> Campaign:
    """The packaged miniature with one seed, and with other sections."""
    values = load_campaign(MINIATURE).model_dump(mode="json", exclude_unset=True)
    return parse(Campaign, values | {"seeds": [0]} | changes)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Opened, Plan, list[str]]:
    """Folder, campaign, plan with true costs, and what was said."""
    root, said = tmp_path_factory.mktemp("campaign"), []
    opened, plan = run_campaign(miniature(), root, say=said.append)
    return root, opened, plan, said
