"""The report in a real browser: its script runs, nothing is fetched or overlaps, it prints."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from siliforce.report import write_report
from tests.run_folders import make_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # the browser's own calls home go nowhere
    "--force-device-scale-factor=1",
)

PROBE = """
const answer = {};
const table = document.querySelector("table.sortable");
const heads = [...table.tHead.rows[0].cells];
const column = heads.findIndex((c) => c.textContent.includes("force RMSE"));
const order = () => [...table.tBodies[0].rows].map((r) => Number(r.cells[column].dataset.value));
heads[column].click();
answer.up = order();
heads[column].click();
answer.down = order();
answer.sorted = heads[column].getAttribute("aria-sort");
const svg = document.querySelector("svg.chart");
const first = /M(-?[\\d.]+) (-?[\\d.]+)/.exec(svg.querySelector("[data-name]").getAttribute("d"));
const box = svg.getBoundingClientRect(), scale = box.width / svg.viewBox.baseVal.width;
svg.dispatchEvent(new PointerEvent("pointermove", {
  clientX: box.left + first[1] * scale, clientY: box.top + first[2] * scale }));
const tip = document.getElementById("tip");
answer.tip = tip.hidden ? "" : tip.textContent;
answer.overflow = document.documentElement.scrollWidth - window.innerWidth;
answer.width = window.innerWidth;
answer.fetched = performance.getEntriesByType("resource").map((entry) => entry.name);
answer.overlaps = [];
for (const chart of document.querySelectorAll("svg.chart")) {
  const texts = [...chart.querySelectorAll("text")].filter((t) => t.textContent);
  const frame = chart.getBoundingClientRect();
  texts.forEach((text, i) => {
    const a = text.getBoundingClientRect();
    if (a.left < frame.left - 1 || a.right > frame.right + 1 || a.bottom > frame.bottom + 1)
      answer.overlaps.push(`${chart.getAttribute("aria-label")}: ${text.textContent} leaves it`);
    for (const other of texts.slice(i + 1)) {
      const b = other.getBoundingClientRect();
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 3)
        answer.overlaps.push(`${text.textContent} | ${other.textContent}`);
    }
  });
}
const probe = document.createElement("pre");
probe.id = "probe";
probe.textContent = JSON.stringify(answer);
document.body.append(probe);
"""


def browser() -> str:
    """The browser's path; skips the test where there is none."""
    given = os.environ.get("CHROMIUM")
    found = given or next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("no Chromium here; set CHROMIUM to its path")
    return found


def run_browser(folder: Path, page: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Open a page from disk in a fresh profile."""
    profile = folder / f"profile-{len(list(folder.glob('profile-*')))}"
    command = [browser(), *FLAGS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report that compares two runs."""
    browser()
    root = tmp_path_factory.mktemp("report")
    runs = [make_run(root / "close", frames=12), make_run(root / "far", 0.6, "other", frames=12)]
    return write_report(runs, root / "report.html")


def probed(page: Path, folder: Path, *options: str) -> dict:
    """What a script finds that is let into a copy of the page."""
    text = page.read_text()
    text = re.sub(r"script-src 'sha256-[^']+'", "script-src 'unsafe-inline'", text)
    copy = folder / "probed.html"
    copy.write_text(text.replace("</body>", f"<script>{PROBE}</script></body>"))
    dom = run_browser(folder, copy, "--dump-dom", *options).stdout
    return json.loads(html.unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom, re.S).group(1)))


def test_script_runs_under_the_policy_without_complaint(page, tmp_path):
    done = run_browser(tmp_path, page, "--dump-dom", "--enable-logging=stderr", "--v=0")
    assert '<button type="button">' in done.stdout  # made by the page's own script
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []


def test_policy_stops_foreign_scripts(page, tmp_path):
    copy = tmp_path / "injected.html"
    text = page.read_text()
    copy.write_text(text.replace("</body>", "<script>document.title = 'owned'</script></body>"))
    done = run_browser(tmp_path, copy, "--dump-dom", "--enable-logging=stderr", "--v=0")
    assert "<title>owned" not in done.stdout
    assert "Content Security Policy" in done.stderr


@pytest.mark.parametrize("width", [1280, 500])
def test_tables_sort_tips_show_and_nothing_overlaps(page, tmp_path, width):
    found = probed(page, tmp_path, f"--window-size={width},900")
    assert found["width"] == width
    assert found["up"] == sorted(found["up"])
    assert found["down"] == found["up"][::-1]
    assert found["sorted"] == "descending"
    assert "morse-toy" in found["tip"]
    assert "meV/Å" in found["tip"]
    assert found["fetched"] == []
    assert found["overlaps"] == []
    assert found["overflow"] <= 0


def test_it_prints(page, tmp_path):
    target = tmp_path / "report.pdf"
    run_browser(tmp_path, page, "--no-pdf-header-footer", f"--print-to-pdf={target}")
    content = target.read_bytes()
    assert content.startswith(b"%PDF")
    assert 3 <= len(re.findall(rb"/Type\s*/Page\b", content)) <= 12
    if shutil.which("pdftotext"):
        text = subprocess.run(
            ["pdftotext", "-layout", str(target), "-"], capture_output=True, text=True, check=True
        ).stdout
        for words in ("Equation of state", "Conclusions", "Do not use morse-toy", "meV/atom"):
            assert words in text
