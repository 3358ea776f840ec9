"""Calibrating a bundle: from rows to its manifest, its card, its scores and its policies; or nothing is changed."""

from __future__ import annotations

import csv
import json
import math
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tiny_bundle import write_bundle
from typer.testing import CliRunner

from safeguard_sdk import Bundle, Guard, Policy
from safeguard_sdk.bundle import EMBEDDED
from safeguard_sdk.calibration import Calibration, IsotonicCalibration, text_sha256
from safeguard_sdk.cli import app as safeguard
from safeguard_sdk.cli.printing import outline
from training.__main__ import app
from training.calibration import calibrate as module
from training.calibration.calibrate import calibrate
from training.calibration.logits import rule_logits
from training.calibration.rows import Row, read_rows
from training.calibration.thresholds import Wish
from training.errors import TrainingError

SHOP = """
name: shop
rules:
  - {id: weapons, forbids: [guns], review_at: 0.3, unsafe_at: 0.7}
  - {id: tobacco, forbids: [cigarettes]}
"""
FPR = Wish(max_fpr=0.05)
TRUE = {"weapons": (0.5, -1.0), "tobacco": (2.0, 1.0)}  # scale and shift that the labels are drawn by


# Rows of which the bundle's logits are known

@pytest.fixture
def bundle(tmp_path) -> Path:
    """Scale 2, shift −1, which is wrong for both rules."""
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle/README.md").write_text("# tiny\n\n## Quality\n\nGood.\n", encoding="utf-8")
    return write_bundle(tmp_path / "bundle")


@pytest.fixture
def rows(tmp_path, monkeypatch) -> Path:
    """400 rows about each rule. The logit of a photo is the number in its name."""
    (tmp_path / "shop.yaml").write_text(SHOP, encoding="utf-8")
    rng = np.random.default_rng(0)
    entries = []
    for rule, (scale, shift) in TRUE.items():
        for logit in np.round(rng.normal(0, 3, 400), 6):
            broken = rng.random() < 1 / (1 + math.exp(-(scale * logit + shift)))
            (tmp_path / f"{logit}.jpg").write_text(str(logit), encoding="utf-8")
            entries.append({"path": f"{logit}.jpg", "policy": "shop.yaml", "label": "unsafe" if broken else "safe",
                            "rule": rule})
    write_csv(tmp_path / "rows.csv", entries)
    monkeypatch.setattr(module, "rule_logits", played)
    return tmp_path / "rows.csv"


def played(bundle: Bundle, rows: list[Row]) -> list[dict[str, float]]:
    return [{rule.canonical_text: float(row.photo.stem) for rule in row.rules} for row in rows]


def write_csv(path: Path, entries: list[dict]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, entries[0].keys())
        writer.writeheader()
        writer.writerows(entries)


def read_csv(path: Path) -> list[dict]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Into the manifest

@pytest.mark.parametrize("method, kind", [("platt", Calibration), ("temperature", Calibration),
                                          ("isotonic", IsotonicCalibration)])
def test_the_manifest_holds_the_fit_and_what_it_is_worth(bundle, rows, method, kind):
    before, sha256 = contents(bundle), Bundle.open(bundle).sha256
    entry = calibrate(bundle, rows, method=method)
    opened = Bundle.open(bundle)
    assert isinstance(opened.calibration, kind)
    written = opened.manifest["calibration"]
    assert (written["method"], written["rows"]) == (method, 800)
    assert written["data"] == entry["data"]
    assert entry["data"].startswith("800 rows of ") and " photos, rows.csv (sha256 " in entry["data"]
    assert written["ece"] < written["ece_before"] and written["brier"] < written["brier_before"]
    assert written["exported"] == {"scale": 2.0, "shift": -1.0}
    assert opened.sha256 != sha256
    changed = {name for name, data in contents(bundle).items() if before.get(name) != data}
    assert changed == {"manifest.json", "README.md"}
    assert opened.manifest["files"] == json.loads(before["manifest.json"])["files"]


def test_what_the_export_wrote_is_kept_through_all_later_calibrations(bundle, rows):
    calibrate(bundle, rows, method="temperature")
    entry = calibrate(bundle, rows, method="isotonic")
    assert entry["exported"] == {"scale": 2.0, "shift": -1.0}


def test_a_rule_has_its_own_calibration_and_that_of_all_rules_stays(bundle, rows):
    entry = calibrate(bundle, rows, per_rule=True)
    opened = Bundle.open(bundle)
    for rule in Policy.load(rows.parent / "shop.yaml").rules:
        scale, shift = TRUE[rule.id]
        found = opened.calibration_of(rule.canonical_text)
        assert found.scale == pytest.approx(scale, rel=0.35) and found.shift == pytest.approx(shift, abs=0.5)
        assert entry["rules"][text_sha256(rule.canonical_text)]["rule"] == rule.id
    assert opened.calibration == opened.calibration_of("Rule: another") == Calibration(2.0, -1.0)


def test_a_rule_with_too_few_rows_is_named_with_the_reason(bundle, rows):
    entries = read_csv(rows)
    write_csv(rows, entries[:430])
    entry = calibrate(bundle, rows, per_rule=True)
    assert [one["rule"] for one in entry["rules"].values()] == ["weapons"]
    assert "platt needs at least 20 safe" in entry["rules_left_out"]["tobacco"]
    assert "rules_left_out" not in Bundle.open(bundle).manifest["calibration"]


def test_a_label_about_a_policy_is_about_its_worst_rule(bundle, rows, monkeypatch):
    monkeypatch.setattr(module, "rule_logits", lambda bundle, rows: [
        {rule.canonical_text: float(row.photo.stem) - 100 * (rule.id == "tobacco") for rule in row.rules}
        for row in rows])
    entries = read_csv(rows)[:400]
    write_csv(rows, [{key: value for key, value in entry.items() if key != "rule"} for entry in entries])
    calibrate(bundle, rows)
    found = Bundle.open(bundle).calibration  # the rule tobacco is 100 lower, so the labels are about weapons
    assert (found.scale, found.shift) == (pytest.approx(0.5, abs=0.15), pytest.approx(-1, abs=0.5))


# Thresholds

def test_a_threshold_is_written_with_its_counts_and_intervals(bundle, rows):
    calibrate(bundle, rows, wish=FPR)
    entry = Bundle.open(bundle).manifest["calibration"]
    k, n = entry["threshold"]["false_positive_rate"]["of"]
    low, high = entry["threshold"]["false_positive_rate"]["interval"]
    assert k / n <= 0.05 and n == 800 - entry["unsafe_rows"] and low < k / n < high
    assert entry["unsafe_at_for"] == "false-positive rate at most 0.05"


def test_keep_chooses_a_threshold_and_changes_no_score(bundle, rows):
    entry = calibrate(bundle, rows, method="keep", wish=FPR)
    opened = Bundle.open(bundle)
    assert opened.calibration == Calibration(2.0, -1.0)
    assert opened.unsafe_at_of("any words") == entry["unsafe_at"] > 0.5


def test_policies_are_written_with_the_thresholds_of_their_rules(bundle, rows, tmp_path):
    entry = calibrate(bundle, rows, per_rule=True, wish=FPR, policies_out=tmp_path / "policies")
    (file,) = (tmp_path / "policies").iterdir()
    policy, before = Policy.load(file), Policy.load(tmp_path / "shop.yaml")
    assert [rule.canonical_text for rule in policy.rules] == [rule.canonical_text for rule in before.rules]
    unsafe_at = {one["rule"]: one["unsafe_at"] for one in entry["rules"].values()}
    assert {rule.id: rule.unsafe_at for rule in policy.rules} == unsafe_at
    weapons, tobacco = policy.rules
    assert weapons.review_at == 0.3 < weapons.unsafe_at  # the band begins where it did
    assert tobacco.review_at == tobacco.unsafe_at        # and where there was none there is none


def test_the_card_tells_of_it_once(bundle, rows):
    calibrate(bundle, rows, method="temperature", wish=FPR)
    calibrate(bundle, rows, method="isotonic", wish=FPR)
    card = (bundle / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny\n\n## Quality\n\nGood.\n\n## Calibration\n")
    assert card.count("## Calibration") == 1
    assert "| all rules | isotonic | 800, " in card and "false-positive rate at most 0.05" in card


def test_info_shows_what_a_bundle_recommends():
    calibration = {"method": "isotonic", "points": {"logits": [0, 1], "scores": [0.1, 0.9]}, "unsafe_at": 0.62,
                   "unsafe_at_for": "recall at least 0.9", "rules": {"00": {}}, "exported": {"scale": 1.0, "shift": 0}}
    lines = [" ".join(line.split()) for line in outline({"bundle": {"calibration": calibration}})]
    assert {"unsafe at 0.62", "unsafe at for recall at least 0.9", "points 2 values, see --json"} <= set(lines)


def test_a_rule_of_its_own_is_named_where_a_threshold_for_all_rules_is_not_for_it(bundle, rows, tmp_path):
    calibrate(bundle, rows, per_rule=True)
    entry = calibrate(bundle, rows, method="keep", wish=FPR, policies_out=tmp_path / "policies")
    assert entry["rules_left_out"].keys() == {"weapons", "tobacco"}
    assert "choose one with --per-rule" in entry["rules_left_out"]["weapons"] and not entry["rules_deleted"]
    (file,) = (tmp_path / "policies").iterdir()
    assert [rule.unsafe_at for rule in Policy.load(file).rules] == [0.7, 0.5]  # as they were


def test_a_rule_of_its_own_that_a_fit_for_all_rules_deletes_is_named(bundle, rows):
    calibrate(bundle, rows, per_rule=True)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    for one in manifest["calibration"]["rules"].values():
        one["scale"] = 9.0  # so that a fit for all rules is better
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    entry = calibrate(bundle, rows)
    assert entry["rules_deleted"].keys() == {"weapons", "tobacco"} and "rules" not in entry
    assert "fit it anew with --per-rule" in entry["rules_deleted"]["tobacco"]
    assert "rules_deleted" not in Bundle.open(bundle).manifest["calibration"]


# The plot

@pytest.mark.parametrize("method", ["platt", "keep"])
@pytest.mark.parametrize("name", ["plot.png", "plot.svg"])
def test_a_plot_is_drawn_and_is_the_same_for_the_same_rows(bundle, rows, tmp_path, name, method):
    for copy in ("one", "two"):
        shutil.copytree(bundle, tmp_path / copy)
        (tmp_path / f"{copy}-plots").mkdir()
        calibrate(tmp_path / copy, rows, method=method, wish=FPR, plot=tmp_path / f"{copy}-plots" / name)
    one, two = (tmp_path / f"{copy}-plots" / name for copy in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    if name.endswith("svg"):
        assert ElementTree.parse(one).getroot().tag.endswith("svg")
    else:
        with Image.open(one) as image:
            assert image.format == "PNG" and len(image.convert("RGB").getcolors(1 << 20)) > 10


def test_a_plot_without_matplotlib_is_refused_before_the_work(bundle, rows, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(TrainingError, match=r"needs matplotlib .* or leave --plot out"):
        calibrate(bundle, rows, plot=Path("plot.svg"))


# Refusals: one line, and the bundle is as it was

def opposite(line: str) -> str:
    return line.replace(",unsafe,", ",safe,") if ",unsafe," in line else line.replace(",safe,", ",unsafe,")


REFUSED = {
    "rows of one class": (lambda text: text.replace(",unsafe,", ",safe,"), {}, "0 photos are unsafe"),
    "a few rows": (lambda text: "\n".join(text.splitlines()[:12]), {}, "platt needs at least 20 safe"),
    "labels turned round": (lambda text: text.replace(",unsafe,", ",X,").replace(",safe,", ",unsafe,").replace(
        ",X,", ",safe,"), {}, "higher logits are no sign of a broken policy"),
    "a label of another protocol": (lambda text: text.replace(",unsafe,", ",yes,"), {}, "label is 'yes', must be"),
    "no label": (lambda text: text.replace(",unsafe,", ",,"), {}, "label is '', must be"),
    "a line with a cell too few": (lambda text: text.replace(",tobacco", ""), {}, r"line \d+: has 3 cells, there a"),
    "a line with a cell too many": (lambda text: text.replace(",tobacco", ",tobacco,guns"), {}, "has 5 cells, there"),
    "a photo without a name": (lambda text: text.replace("jpg", "").replace("\n", "\n,shop.yaml,safe,weapons\n", 1), {},
                               "line 2: path is ''; name a photo"),
    "a photo that is not there": (lambda text: text.replace(".jpg", ".png"), {}, r"line 2: .*\.png: no such file"),
    "a row that comes twice": (lambda text: text + text.splitlines()[1] + "\n", {},
                               r"line 802: repeats .*line 2: the photo .* under the rule weapons"),
    "a row and its opposite": (lambda text: text + opposite(text.splitlines()[1]) + "\n", {},
                               "line 802: contradicts"),
    "a plot in a folder that is not there": (None, {"plot": Path("nodir/x.svg")}, "nodir is no folder that you may wr"),
    "policies in a folder below a file": (None, {"wish": FPR, "policies_out": Path(__file__) / "x"},
                                          "test_calibrate.py/x: cannot be made a folder"),
    "a rule that is not there": (lambda text: text.replace(",tobacco", ",drugs"), {}, "has no rule 'drugs'"),
    "a policy that is not there": (lambda text: text.replace("shop.yaml", "gone.yaml"), {}, "gone.yaml: no such file"),
    "no policy": (lambda text: text.replace("shop.yaml", ""), {}, "policy is ''"),
    "a missing column": (lambda text: text.replace("policy,label", "policy,verdict"), {}, "it needs path, label"),
    "nothing": (lambda text: "path,policy,label\n", {}, "holds no rows"),
    "a wish that cannot be met": (None, {"wish": Wish(max_fpr=0.01, min_recall=0.99)}, "no threshold has"),
    "a plot of an unknown kind": (None, {"plot": Path("plot.gif")}, "is a .png or .svg file"),
    "keep without a wish": (None, {"method": "keep"}, "no threshold is wished for"),
    "policies without a wish": (None, {"policies_out": Path("x")}, "no threshold is wished for"),
    "policies for rows that name theirs": (None, {"policies": ["general"]}, "leave --policy out"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_a_bundle_stays_as_it_was_on(bundle, rows, wrong):
    change, how, says = REFUSED[wrong]
    if change:
        rows.write_text(change(rows.read_text(encoding="utf-8")), encoding="utf-8")
    before = contents(bundle)
    with pytest.raises(TrainingError, match=says) as caught:
        calibrate(bundle, rows, **how)
    assert "\n" not in str(caught.value)
    assert contents(bundle) == before


def test_a_calibration_that_is_no_better_than_the_one_there_is_not_written(bundle, rows):
    calibrate(bundle, rows, method="isotonic")
    before = contents(bundle)
    with pytest.raises(TrainingError, match="temperature makes no better scores than the calibration that is there"):
        calibrate(bundle, rows, method="temperature")
    assert contents(bundle) == before


def test_a_photo_that_cannot_be_judged_is_an_error_and_never_safe(tmp_path, photos):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    write_csv(tmp_path / "rows.csv", [{"path": "broken.jpg", "policy_text": "No cats.", "label": "safe"}])
    with pytest.raises(TrainingError, match=r"broken\.jpg: .* mend the photo or take its rows out"):
        calibrate(nano_at(tmp_path), tmp_path / "rows.csv")


# Files of rows

def test_parquet_and_csv_rows_are_read_alike(bundle, rows, tmp_path):
    entries = read_csv(rows)
    pq.write_table(pa.Table.from_pylist(entries), tmp_path / "rows.parquet")
    shutil.copytree(bundle, tmp_path / "other")
    one, other = calibrate(bundle, rows), calibrate(tmp_path / "other", tmp_path / "rows.parquet")
    assert one.pop("data") != other.pop("data") and one == other


def test_copies_of_a_photo_are_one_photo(bundle, rows, tmp_path):
    """Rows about one rule, and about the other of the same photos under other names."""
    entries = read_csv(rows)[:400]
    (tmp_path / "copies").mkdir()
    for number, entry in enumerate(entries[:]):
        copy = f"copies/{entry['path']}" if number % 2 else f"./{entry['path']}"
        if number % 2:
            shutil.copy(tmp_path / entry["path"], tmp_path / copy)
        entries.append(entry | {"path": copy, "rule": "tobacco"})
    write_csv(rows, entries)
    assert calibrate(bundle, rows, method="temperature")["data"].startswith("800 rows of 400 photos")


def test_a_policy_may_stand_in_the_row_in_its_own_words(bundle, rows, monkeypatch):
    entries = [{"path": entry["path"], "policy_text": "No guns.", "label": entry["label"].title()}
               for entry in read_csv(rows)]
    write_csv(rows, entries)
    calibrate(bundle, rows, per_rule=True)
    assert Bundle.open(bundle).rule_calibrations.keys() == {text_sha256("No guns.")}


# The real bundle

KINDS = {"cats": "chelsea.png", "motorcycles": "motorcycle_left.png", "vehicles": "motorcycle_right.png",
         "rockets": "rocket.jpg", "coffee": "coffee.png", "coins": "coins.png", "people": "astronaut.png",
         "cameras": "camera.png", "flowers": "flower.jpg", "buildings": "china.jpg", "horses": "horse.png"}


def nano_at(folder: Path) -> Path:
    """The embedded bundle with its files linked, and a manifest and a card of its own."""
    bundle = folder / "nano"
    bundle.mkdir()
    for path in EMBEDDED.iterdir():
        if path.name in ("manifest.json", "README.md"):
            shutil.copy(path, bundle)
        else:
            (bundle / path.name).symlink_to(path)
    return bundle


def test_nano_is_calibrated_on_photos_and_a_guard_gives_the_new_scores_and_labels(tmp_path, photos):
    """Every photo once under a policy that it breaks and once under one that it does not."""
    bundle, names = nano_at(tmp_path), list(KINDS)
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    manifest["calibration"] |= {"scale": 0.01, "shift": 3.0}  # everything is unsafe
    (bundle / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    entries = []
    for number, (kind, photo) in enumerate(KINDS.items()):
        for rule, label in ((kind, "unsafe"), (names[(number + 4) % len(names)], "safe")):
            entries.append({"path": str(photos[photo]), "policy": "kinds.yaml", "label": label, "rule": rule})
    write_csv(tmp_path / "rows.csv", entries)
    rules = "".join(f"  - {{id: {kind}, forbids: [{kind}]}}\n" for kind in KINDS)
    (tmp_path / "kinds.yaml").write_text(f"name: kinds\nrules:\n{rules}", encoding="utf-8")
    before = Guard(Policy.load(tmp_path / "kinds.yaml"), bundle).check(photos["chelsea.png"])

    result = CliRunner().invoke(app, ["calibrate", str(bundle), str(tmp_path / "rows.csv"), "--method", "temperature",
                                      "--max-fpr", "0.2", "--policies-out", str(tmp_path / "policies")])
    assert result.exit_code == 0, result.output
    entry = json.loads(result.stdout)
    assert entry["ece"] < entry["ece_before"] and entry["brier"] < entry["brier_before"]

    (policy,) = (tmp_path / "policies").iterdir()
    guard = Guard(Policy.load(policy), bundle)
    after = guard.check(photos["chelsea.png"])
    assert after.bundle_sha256 == Bundle.open(bundle).sha256 != before.bundle_sha256
    for rule, score in after.rules.items():
        logit = (math.log(before.rules[rule] / (1 - before.rules[rule])) - 3.0) / 0.01
        assert score == pytest.approx(Calibration(entry["scale"], entry["shift"]).score(logit), abs=1e-6)
    assert after.label == ("unsafe" if max(after.rules.values()) >= guard.policy.rules[0].unsafe_at else "safe")
    rows = read_rows(tmp_path / "rows.csv")
    logits = [logit for one in rule_logits(guard.bundle, rows) for logit in one.values()]
    flagged = [row.broken for row, logit in zip(rows, logits, strict=True)
               if guard.bundle.calibration.score(logit) >= guard.policy.rules[0].unsafe_at]
    counts = entry["threshold"]
    assert flagged.count(False) == counts["false_positive_rate"]["of"][0] <= 0.2 * 11
    assert flagged.count(True) == counts["recall"]["of"][0]
    checked = CliRunner().invoke(safeguard, ["policy", "check", str(policy), "--bundle", str(bundle)])
    assert f"unsafe from {entry['unsafe_at']:g} (nano recommends {entry['unsafe_at']:.4g})" in checked.output


def test_the_command_says_in_one_line_why_it_cannot(bundle, rows):
    result = CliRunner().invoke(app, ["calibrate", str(bundle), str(rows), "--max-fpr", "2"])
    assert result.exit_code == 2
    assert result.stderr == "error: --max-fpr is 2.0, must lie between 0 and 1; neither never nor always can be told " \
                            "from a number of rows\n"
