"""The demo's page: one file that needs no other, whatever the policy is called."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from demo.__main__ import HERE, POLICIES, SAMPLES, locate
from demo.report import Judged, write_report
from safeguard_sdk import Bundle, Policy, Verdict
from safeguard_sdk.calibration import Calibration
from safeguard_sdk.image import SquareGeometry
from safeguard_sdk.prompt import PROMPTS

VOID = {"meta", "img"}


class Page(HTMLParser):
    """Collects the tags and checks that they close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags = [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def bundle(tmp_path) -> Bundle:
    return Bundle(tmp_path, "nano", "<1>", "tags", PROMPTS["direct"], SquareGeometry(32, (0.5,) * 3, (0.5,) * 3),
                  Calibration(1.0, 0.0), 512, {}, "0" * 64)


@pytest.fixture
def page(bundle, tmp_path, photos) -> str:
    """Two samples: the first judged as the policies say, the second not."""
    policies = [Policy.from_text("No <b>guns</b> & knives.", "first & <last>"), Policy.from_text("All is allowed.")]
    verdicts = {name: Verdict(label, score, "policy" if label == "unsafe" else None, {"policy": score}, "", "", "",
                              ms={"vision": 30.0, "prefill": 11.4})
                for name, label, score in zip(POLICIES, ("safe", "unsafe"), (0.25, 0.875), strict=True)}
    right, wrong = (next(sample for sample in SAMPLES if sample.breaks == name) for name in reversed(POLICIES))
    judged = [Judged(sample, photos[sample.file], verdicts, "Seen: <cat>.") for sample in (right, wrong)]
    write_report(tmp_path / "report.html", bundle, policies, judged)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_page_refers_to_nothing_outside_itself(page):
    assert not re.search(r"https?://|url\(|@import|<script|<link", page)
    sources = [attributes["src"] for _, attributes in Page(page).tags if "src" in attributes]
    assert len(sources) == 2 and all(source.startswith("data:image/jpeg;base64,") for source in sources)


def test_words_of_policies_and_models_are_text_and_never_markup(page):
    assert {tag for tag, _ in Page(page).tags}.isdisjoint({"cat", "last", "1"})
    assert "No &lt;b&gt;guns&lt;/b&gt; &amp; knives." in page and "first &amp; &lt;last&gt;" in page


def test_the_page_says_which_verdicts_are_wrong(page):
    assert page.count('class="wrong"') == 2  # both of the second sample
    assert "2 of 4 verdicts are as the policies say" in page


def test_score_threshold_and_time_stand_beside_every_verdict(page):
    assert page.count('style="width:87.5%"') == page.count('style="width:25.0%"') == 2
    assert page.count('style="left:50.0%"') == 4
    assert page.count("41 ms") == 2


def test_the_demo_judges_every_sample_twice_and_says_where_its_page_is(tmp_path):
    out = tmp_path / "report.html"
    run = subprocess.run([sys.executable, "-m", "demo", "--out", str(out)], cwd=HERE.parent, check=True,
                         stdout=subprocess.PIPE, text=True, encoding="utf-8", env=os.environ | {"COLUMNS": "100"})
    assert f"of {2 * len(SAMPLES)} verdicts" in run.stdout and str(out) in run.stdout
    assert all(sample.shows in run.stdout for sample in SAMPLES)
    assert len([tag for tag, _ in Page(out.read_text(encoding="utf-8")).tags if tag == "img"]) == len(SAMPLES)


def test_every_sample_lies_in_an_installed_package_and_breaks_one_of_the_policies(photos):
    for sample in SAMPLES:
        assert locate(sample) == photos[sample.file]
        assert sample.breaks in POLICIES


def test_both_policies_of_the_demo_load():
    assert len({Policy.load(HERE / "policies" / f"{name}.yaml").sha256 for name in POLICIES}) == 2
