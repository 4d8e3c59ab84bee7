"""Write docs/reproduce.md from the folders of campaigns: python tools/reproduce.py [FOLDER ...]"""

from __future__ import annotations

import sys
from pathlib import Path

from siliforce.benchmark.campaign import open_campaign, stored_campaign
from siliforce.benchmark.claims import reproduction_page
from siliforce.benchmark.findings import findings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reproduce.md"


def main() -> None:
    """Read the campaigns and write the page."""
    found = [findings(open_campaign(stored_campaign(path), path)) for path in sys.argv[1:]]
    PAGE.write_text(reproduction_page(found))


if __name__ == "__main__":
    main()
