"""The page: everything that was measured is on it, everything else is named, nothing leaks in."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from siliforce.errors import DataError
from siliforce.indicators.base import Result
from siliforce.report import write_report
from siliforce.report.figures import parity, parity_ranges
from siliforce.report.load import load_runs
from siliforce.report.numbers import shown
from siliforce.report.page import missing

VOID = {"meta", "br", "img", "link", "hr", "input"}


class Outline(HTMLParser):
    """Collects text and attributes, and checks that tags close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attributes += attrs
        self.ids += [v for k, v in attrs if k == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text += data


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> str:
    return write_report(finished, tmp_path_factory.mktemp("out") / "both.html").read_text()


def copied(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / run.name))


def test_every_section_has_its_numbers(page, finished):
    outline = Outline(page)
    assert len(set(outline.ids)) == len(outline.ids)
    sections = "overview data training errors eos dynamics timing configuration conclusions"
    assert set(sections.split()) <= set(outline.ids)
    for run in finished:
        result = Result.load(run / "results" / "errors-test.json")
        for name in ("energy_rmse", "forces_rmse", "forces_mae", "stress_rmse"):
            assert shown(result.value(name)) in outline.text
        bulk_modulus = Result.load(run / "results" / "eos-Cu_fcc.json").value("B0")
        assert shown(bulk_modulus) in outline.text
    for fact in ("0123456789abcdef", "by group", "CC0", "300 to 900 K", "train 1", "Test CPU"):
        assert fact in outline.text
    for unit in ("meV/atom", "meV/Å", "GPa", "Å³/atom", "µs/atom", "meV/atom/ps"):
        assert unit in outline.text


def test_nothing_is_fetched_and_nothing_of_the_data_is_code(page):
    outline = Outline(page)
    loading = {"src", "href", "srcset", "action", "data", "poster", "background"}
    for name, value in outline.attributes:
        assert name not in loading or (value or "").startswith("#"), (name, value)
        assert not name.startswith("on")
    assert "url(" not in page
    assert "@import" not in page
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "PBE &lt;test&gt; &amp; more" in page
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', page).group(1)
    assert policy.startswith("default-src 'none'")
    assert page.count("<script>") == 1


def test_file_is_small(page):
    assert len(page.encode()) < 600_000


def test_charts_hold_what_was_measured(page, finished):
    svg = re.search(r'<svg[^>]*aria-label="Forces \(eV/Å\): morse-toy.*?</svg>', page, re.S).group()
    low, high, start, length, _ = map(float, re.search(r'data-x="([^"]+)"', svg).group(1).split())
    drawn = [float(x) for x in re.findall(r"M(-?[\d.]+) -?[\d.]+h0", svg)]
    arrays = Result.load(finished[0] / "results" / "errors-test.json").arrays
    truth = sorted(arrays["forces_ref"].ravel().astype(float))
    assert len(drawn) == len(truth)
    back = sorted(low + (x - start) / length * (high - low) for x in drawn)
    assert back == pytest.approx(truth, abs=(high - low) / length * 0.06)


def test_wild_answers_do_not_squeeze_the_panels_of_other_models(finished):
    sane, wild = (Result.load(run / "results" / "errors-test.json") for run in finished)
    wild.arrays["forces"] = wild.arrays["forces"] * 50
    together, alone = parity_ranges([sane, wild])["forces"], parity_ranges([sane])["forces"]
    assert together[1] - together[0] < 3.2 * (alone[1] - alone[0])
    run = load_runs(finished)[1]
    svg = parity(run, wild, parity_ranges([sane, wild]))[1].svg
    high = float(re.search(r'data-x="(\S+) (\S+)', svg).group(2))
    assert high > wild.arrays["forces"].max()


def test_one_run_goes_into_its_folder(finished, tmp_path):
    run = copied(finished[0], tmp_path)
    path = write_report(run)
    assert path == run / "report.html"
    text = Outline(path.read_text()).text
    assert "is more accurate than" not in text
    assert "epoch" in text


def test_parts_that_were_not_measured_are_named_with_their_command(finished, tmp_path):
    run = copied(finished[0], tmp_path)
    shutil.rmtree(run / "results")
    text = Outline(write_report(run).read_text()).text
    assert "No errors were measured." in text
    assert f"siliforce evaluate {run}" in text
    assert f"siliforce simulate eos {run} STRUCTURE" in text
    assert "Nothing can be recommended for morse-toy yet" in text


def test_damaged_parts_are_named_and_the_rest_is_shown(finished, tmp_path):
    run = copied(finished[0], tmp_path)
    (run / "results" / "eos-Cu_fcc.json").write_text('{"indicator": "eos"')
    (run / "best.safetensors").write_bytes(b"not a model")
    (run / "run.json").write_text("{")
    (run / "config.yaml").write_text("a: [1,")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 13, "valid_fo')
    problems = [what for _, what, _ in missing(load_runs([run]))]
    for expected in ("eos-Cu_fcc.json", "no usable model file", "run.json is damaged"):
        assert any(expected in p for p in problems)
    assert any("config.yaml is damaged" in p for p in problems)
    assert any("1 unreadable line" in p for p in problems)
    text = Outline(write_report(run).read_text()).text
    assert "no usable model file" in text
    assert "force RMSE" in text


def test_empty_run_folder_says_what_is_missing(tmp_path):
    run = tmp_path / "bare"
    run.mkdir()
    (run / "run.json").write_text(json.dumps({"model": "mace"}))
    text = Outline(write_report(run).read_text()).text
    for part in ("metrics.jsonl is missing", "config.yaml is missing", "no usable model file"):
        assert part in text
    assert "Not measured." in text


def test_folders_that_are_no_runs_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such run folder; train first"):
        write_report(tmp_path / "nothing")
    with pytest.raises(DataError, match="not a run folder"):
        write_report(tmp_path)
    with pytest.raises(DataError, match="at least one"):
        write_report([])


def test_training_frames_are_never_taken_for_held_out_ones(finished, tmp_path):
    run = copied(finished[0], tmp_path)
    result = Result.load(run / "results" / "errors-test.json")
    result.provenance["n_trained_on"] = 5
    result.save(run / "results")
    text = Outline(write_report(run).read_text()).text
    assert "5 of the 18 frames of the set test were trained on" in text
    assert "Errors on held-out frames have not been measured." in text
    assert "Nothing can be recommended" in text
    result.provenance["n_trained_on"] = 0
    result.save(run / "results")
    assert "none of them was trained on" in Outline(write_report(run).read_text()).text


def test_failed_dynamics_is_shown_as_failed(finished, tmp_path):
    run = copied(finished[0], tmp_path)
    path = next((run / "results").glob("dynamics*.json"))
    result = Result.load(path)
    result.failure = "close contact after 0.020 ps: two atoms 0.40 Å apart"
    result.save(run / "results")
    text = Outline(write_report(run).read_text()).text
    assert text.count("close contact after 0.020 ps") >= 2  # at the run and in the conclusions
    assert "ran to the end" not in text


def test_rough_and_far_equations_of_state_are_remarked(finished, tmp_path):
    run = copied(finished[0], tmp_path)
    result = Result.load(run / "results" / "eos-Cu_fcc.json")
    assert "scatter by" not in Outline(write_report(run).read_text()).text
    result.metric("fit_residual").value = 4.2
    result.metric("V0_per_atom").value = 19.0
    result.save(run / "results")
    text = Outline(write_report(run).read_text()).text
    assert "the energies scatter by 4.2 meV/atom around the fit" in text
    assert "its V0 lies outside the volumes of the training data" in text


def test_two_runs_of_one_model_keep_apart(finished, tmp_path):
    other = Path(shutil.copytree(finished[0], tmp_path / "second"))
    runs = load_runs([finished[0], other])
    assert [r.name for r in runs] == ["morse-toy (close)", "morse-toy (second)"]
    assert [r.style for r in runs] == [0, 1]
