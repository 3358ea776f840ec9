"""Rows → logits → calibration and thresholds → the bundle's manifest and card, and policies with the thresholds.

The manifest is the only file of a bundle that changes, and it is replaced in one step; the hashes of all other files
stay, and the bundle's own hash, that of the manifest, says that it gives other scores than before.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from safeguard_sdk import Bundle, Policy
from safeguard_sdk.bundle import MANIFEST, file_sha256
from safeguard_sdk.calibration import AnyCalibration, Calibration, text_sha256
from safeguard_sdk.durable import write_durably
from safeguard_sdk.policy import Rule
from training.calibration.card import with_calibration
from training.calibration.fit import KEEP, fit, held_out_scores, measure, require_rows
from training.calibration.logits import rule_logits
from training.calibration.plot import check_plot, draw_reliability
from training.calibration.rows import Row, read_rows
from training.calibration.thresholds import Threshold, Wish, choose_threshold
from training.calibration.truth import rows_of_photos
from training.errors import TrainingError

NO_WISH = Wish()


@dataclass(frozen=True)
class Evidence:
    """Rows about one rule, or about all."""

    what: str                  # for messages: "all rules" or "rule 'weapons'"
    data: str                  # where the rows are from
    logits: np.ndarray         # (n,) float64: the highest of the row's rules
    scores_before: np.ndarray  # (n,) by the calibration that the bundle has
    broken: np.ndarray         # (n,) bool
    photos: list[Path]         # n; rows of one photo are never on both sides of a split


@dataclass(frozen=True)
class Outcome:
    """What was made of the evidence."""

    evidence: Evidence
    scores: np.ndarray  # (n,) by a calibration that had not seen the row
    entry: dict         # for the manifest


def calibrate(folder: Path, source: Path, *, policies: Sequence[str] = (), split: str = "validation",
              assets: Path = Path("runs/assets"), method: str = "platt", per_rule: bool = False, wish: Wish = NO_WISH,
              plot: Path | None = None, policies_out: Path | None = None) -> dict:
    """Calibrate the bundle in a folder, in place; returns the new entry of its manifest, and as `rules_left_out` the
    rules without an entry of their own, with the reason.

    source        a file of rows (rows.py), or a folder of labelled photos for `policies` (truth.py)
    split         of such a folder: "train", "validation", "test" or "all"
    method        a key of fit.METHODS, or "keep" to choose thresholds only
    per_rule      a calibration for each rule with enough rows of its own; that of all rules stays
    wish          what the thresholds shall do; none are chosen without
    plot          a .png or .svg file for the reliability plot
    policies_out  a folder for the policies, with the thresholds written into their rules
    raises        TrainingError, BundleError, PolicyError; the bundle is then as it was
    """
    if plot is not None:
        check_plot(plot)
    if not wish.bounds and (policies_out is not None or method == KEEP):
        raise TrainingError("no threshold is wished for, so there is none to choose or to write; wish for one with "
                            "--max-fpr, --min-precision or --min-recall")
    bundle = Bundle.open(folder)
    rows, data = _rows(source, policies, split, assets)
    logits = rule_logits(bundle, rows)
    now, left_out = bundle.manifest["calibration"], {}
    if per_rule:
        outcomes, left_out = _per_rule(bundle, data, method, rows, logits, wish)
        entry = now | {"rules": now.get("rules", {}) | {text: one.entry for text, one in outcomes.items()}}
    else:
        whole = _outcome(method, _evidence(bundle, "all rules", data, rows, logits), wish)
        outcomes, entry = {"": whole}, (now if method == KEEP else {}) | whole.entry
    entry |= {"exported": now.get("exported", now)}
    if plot is not None:
        draw_reliability(plot, f"{bundle.name} {bundle.version}", *_curves(method, list(outcomes.values())))
    written = _write(bundle, entry)
    if policies_out is not None:
        _write_policies(written, rows, policies_out)
    return entry | {"rules_left_out": left_out}


def _rows(source: Path, policies: Sequence[str], split: str, assets: Path) -> tuple[list[Row], str]:
    """Rows, and where they are from in words."""
    if source.is_dir() != bool(policies):
        raise TrainingError(f"{source}: " + ("a folder of photos needs the policies to judge them by; name some with "
                                             "--policy" if source.is_dir() else
                                             "names its policies itself; leave --policy out"))
    if not source.is_dir():
        return read_rows(source), f"{source.name} (sha256 {file_sha256(source)[:12]}…)"
    from training.assets import fetch_wordnet
    from training.policyflip.concepts import Concepts
    from training.wordnet import WordNet
    loaded = [Policy.load(name) for name in policies]
    rows = rows_of_photos(source, loaded, Concepts.read(WordNet.read(fetch_wordnet(assets))), split)
    return rows, f"photos of the split '{split}' under {', '.join(policy.name for policy in loaded)}"


def _evidence(bundle: Bundle, what: str, data: str, rows: list[Row], logits: list[dict[str, float]]) -> Evidence:
    before = [max(bundle.calibration_of(text).score(logit) for text, logit in one.items()) for one in logits]
    photos = [row.photo for row in rows]
    return Evidence(what, f"{len(rows)} rows of {len(set(photos))} photos, {data}",
                    np.array([max(one.values()) for one in logits]), np.array(before),
                    np.array([row.broken for row in rows]), photos)


def _outcome(method: str, evidence: Evidence, wish: Wish) -> Outcome:
    """A calibration, or the one there is, and its threshold. Raises TrainingError where rows are too few, nothing would
    be won, or no threshold meets the wish."""
    what, broken = evidence.what, evidence.broken
    require_rows(method, broken, evidence.photos, what)
    if method == KEEP:
        threshold = choose_threshold(evidence.scores_before, broken, wish, what)
        return Outcome(evidence, evidence.scores_before, _threshold_json(threshold, evidence.data))
    calibration = fit(method, evidence.logits, broken, what)
    held_out = held_out_scores(method, evidence.logits, broken, evidence.photos, what)
    before, after = measure(evidence.scores_before, broken), measure(held_out, broken)
    if after.brier >= before.brier:
        raise TrainingError(f"{what}: {method} makes no better scores than the calibration that is there (Brier "
                            f"{after.brier:.5f} on rows held out of the fit, now {before.brier:.5f}); give more rows, "
                            "or choose thresholds alone with --method keep")
    entry = _as_json(calibration) | {
        "method": method, "data": evidence.data, "rows": len(broken), "unsafe_rows": int(broken.sum()),
        "ece": round(after.ece, 4), "ece_before": round(before.ece, 4), "brier": round(after.brier, 5),
        "brier_before": round(before.brier, 5)}
    if wish.bounds:
        scores = np.array([calibration.score(logit) for logit in evidence.logits])
        entry |= _threshold_json(choose_threshold(scores, broken, wish, what), evidence.data)
    return Outcome(evidence, held_out, entry)


def _per_rule(bundle: Bundle, data: str, method: str, rows: list[Row], logits: list[dict[str, float]],
              wish: Wish) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Outcomes by the hash of the rule's words; and the rules that have none, by id, with the reason."""
    numbers_of: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if len(row.rules) == 1:
            numbers_of.setdefault(row.rules[0].canonical_text, []).append(number)
    outcomes, left_out = {}, {}
    for text, numbers in numbers_of.items():
        rule, now = rows[numbers[0]].rules[0], bundle.calibration_of(text)
        evidence = _evidence(bundle, f"rule '{rule.id}'", data, [rows[number] for number in numbers],
                             [logits[number] for number in numbers])
        try:
            outcome = _outcome(method, evidence, wish)
        except TrainingError as error:
            left_out[rule.id] = str(error)
            continue
        entry = {"rule": rule.id} | (_as_json(now) if method == KEEP else {}) | outcome.entry
        outcomes[text_sha256(text)] = replace(outcome, entry=entry)
    if not outcomes:
        raise TrainingError(next(iter(left_out.values()), "no row names a rule, and no policy has one rule only; give "
                                                          "the column rule, or leave --per-rule out"))
    return outcomes, left_out


def _as_json(calibration: AnyCalibration) -> dict:
    if isinstance(calibration, Calibration):
        return {"method": "platt"} | asdict(calibration)
    return {"method": "isotonic", "points": asdict(calibration)}


def _threshold_json(threshold: Threshold, data: str) -> dict:
    """What `safeguard info` shows stands in front, one value a line; the counts lie deeper."""
    fields = threshold.as_json() | {"data": data}
    return {"unsafe_at": fields.pop("unsafe_at"), "unsafe_at_for": fields.pop("unsafe_at_for"), "threshold": fields}


def _curves(method: str, outcomes: list[Outcome]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What to draw: scores before, and after if there is an after; and the truth."""
    broken = np.concatenate([one.evidence.broken for one in outcomes])
    before = np.concatenate([one.evidence.scores_before for one in outcomes])
    curves = {f"as it was, ECE {measure(before, broken).ece:.3f}": before}
    if method != KEEP:
        after = np.concatenate([one.scores for one in outcomes])
        curves[f"{method}, held out, ECE {measure(after, broken).ece:.3f}"] = after
    return curves, broken


def _write(bundle: Bundle, entry: dict) -> Bundle:
    """Replace the manifest and the section of the card; returns the bundle as it opens then."""
    manifest = bundle.manifest | {"calibration": entry}
    write_durably(bundle.path / MANIFEST, (json.dumps(manifest, indent=1, ensure_ascii=False) + "\n").encode())
    card = bundle.path / "README.md"
    if card.is_file():
        card.write_text(with_calibration(card.read_text(encoding="utf-8"), entry), encoding="utf-8")
    return Bundle.open(bundle.path)


def _write_policies(bundle: Bundle, rows: list[Row], folder: Path) -> None:
    """The policies of the rows, each rule with the threshold that the bundle recommends for it, if any."""
    folder.mkdir(parents=True, exist_ok=True)
    for policy in {row.policy.sha256: row.policy for row in rows}.values():
        rules = tuple(_with_threshold(rule, bundle.unsafe_at_of(rule.canonical_text)) for rule in policy.rules)
        name = "".join(c if c.isalnum() else "-" for c in policy.name)
        path = folder / f"{name}-{policy.sha256[:8]}.yaml"
        path.write_text(Policy(policy.name, policy.version, rules).to_yaml(), encoding="utf-8")


def _with_threshold(rule: Rule, unsafe_at: float | None) -> Rule:
    """A band for review stays where it begins below the new threshold; else there is none."""
    if unsafe_at is None:
        return rule
    has_band = rule.review_at < min(rule.unsafe_at, unsafe_at)
    return replace(rule, unsafe_at=unsafe_at, review_at=rule.review_at if has_band else unsafe_at)
