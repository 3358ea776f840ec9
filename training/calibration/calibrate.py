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
from training.datasets.rows import photo_sha256
from training.errors import TrainingError

NO_WISH = Wish()
OWN_STAYS = "has an entry of its own, which stays with its threshold if it has one; choose one with --per-rule"
OWN_DELETED = "had an entry of its own, which the new one for all rules replaces; fit it anew with --per-rule"


@dataclass(frozen=True)
class Evidence:
    """Rows about one rule, or about all."""

    what: str                  # for messages: "all rules" or "rule 'weapons'"
    data: str                  # where the rows are from
    logits: np.ndarray         # (n,) float64: the highest of the row's rules
    scores_before: np.ndarray  # (n,) by the calibration that the bundle has
    broken: np.ndarray         # (n,) bool
    photos: list[str]          # n hashes of files; rows of one photo are never on both sides of a split


@dataclass(frozen=True)
class Outcome:
    """What was made of the evidence."""

    evidence: Evidence
    scores: np.ndarray  # (n,) by a calibration that had not seen the row
    entry: dict         # for the manifest


def calibrate(folder: Path, source: Path, *, policies: Sequence[str] = (), split: str = "validation",
              assets: Path = Path("runs/assets"), method: str = "platt", per_rule: bool = False, wish: Wish = NO_WISH,
              plot: Path | None = None, policies_out: Path | None = None) -> dict:
    """Calibrate the bundle in a folder, in place; returns the new entry of its manifest, and by their ids the rules
    that it is not for (`rules_left_out`) and those whose own entry it replaces (`rules_deleted`), with the reason.

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
    if policies_out is not None:
        _make_folder(policies_out)
    bundle = Bundle.open(folder)
    rows, data, judged = _rows(source, policies, split, assets)
    photos = distinct_photos(rows)
    logits = rule_logits(bundle, rows)
    now = bundle.manifest["calibration"]
    if per_rule:
        outcomes, left_out = _per_rule(bundle, data, method, rows, photos, logits, wish)
        entry = now | {"rules": now.get("rules", {}) | {text: one.entry for text, one in outcomes.items()}}
        apart = {"rules_left_out": left_out}
    else:
        whole = _outcome(method, _evidence(bundle, "all rules", data, rows, photos, logits), wish)
        outcomes, entry = {"": whole}, (now if method == KEEP else {}) | whole.entry
        apart = _rules_apart(method, now)
    entry |= {"exported": now.get("exported", now)}
    if plot is not None:
        draw_reliability(plot, f"{bundle.name} {bundle.version}", *_curves(method, list(outcomes.values())))
    written = _write(bundle, entry)
    if policies_out is not None:
        _write_policies(written, judged, policies_out)
    return entry | {"rules_left_out": {}, "rules_deleted": {}} | apart


def distinct_photos(rows: Sequence[Row]) -> list[str]:
    """The hash of each row's photo. Raises TrainingError if two rows are about one photo and the same rules, whatever
    its file is called: they are one evidence, and if their labels differ none."""
    sha256_of: dict[Path, str] = {}
    told: dict[tuple[str, frozenset[str]], Row] = {}
    for row in rows:
        if row.photo not in sha256_of:
            sha256_of[row.photo] = photo_sha256(row.photo, row.place)
        first = told.setdefault((sha256_of[row.photo], frozenset(rule.canonical_text for rule in row.rules)), row)
        if first is not row:
            verb = "repeats" if row.broken == first.broken else "contradicts"
            raise TrainingError(f"{row.place}: {verb} {first.place}: the photo {row.photo.name} under the rule "
                                f"{', '.join(rule.id for rule in row.rules)} is there already; delete one of them")
    return [sha256_of[row.photo] for row in rows]


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"{folder}: cannot be made a folder ({error.strerror}); name another with "
                            "--policies-out") from error


def _rows(source: Path, policies: Sequence[str], split: str, assets: Path) -> tuple[list[Row], str, list[Policy]]:
    """Rows, where they are from in words, and the policies that they are about."""
    if source.is_dir() != bool(policies):
        raise TrainingError(f"{source}: " + ("a folder of photos needs the policies to judge them by; name some with "
                                             "--policy" if source.is_dir() else
                                             "names its policies itself; leave --policy out"))
    if not source.is_dir():
        rows = read_rows(source)
        judged = list({row.policy.sha256: row.policy for row in rows}.values())
        return rows, f"{source.name} (sha256 {file_sha256(source)[:12]}…)", judged
    from training.assets import fetch_wordnet
    from training.policyflip.concepts import Concepts
    from training.wordnet import WordNet
    loaded = [Policy.load(name) for name in policies]
    rows = rows_of_photos(source, loaded, Concepts.read(WordNet.read(fetch_wordnet(assets))), split)
    return rows, f"photos of the split '{split}' under {', '.join(policy.name for policy in loaded)}", loaded


def _evidence(bundle: Bundle, what: str, data: str, rows: list[Row], photos: list[str],
              logits: list[dict[str, float]]) -> Evidence:
    before = [max(bundle.calibration_of(text).score(logit) for text, logit in one.items()) for one in logits]
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


def _per_rule(bundle: Bundle, data: str, method: str, rows: list[Row], photos: list[str],
              logits: list[dict[str, float]], wish: Wish) -> tuple[dict[str, Outcome], dict[str, str]]:
    """Outcomes by the hash of the rule's words; and the rules that have none, by id, with the reason."""
    numbers_of: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        if len(row.rules) == 1:
            numbers_of.setdefault(row.rules[0].canonical_text, []).append(number)
    outcomes, left_out = {}, {}
    for text, numbers in numbers_of.items():
        rule, now = rows[numbers[0]].rules[0], bundle.calibration_of(text)
        evidence = _evidence(bundle, f"rule '{rule.id}'", data, [rows[number] for number in numbers],
                             [photos[number] for number in numbers], [logits[number] for number in numbers])
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


def _rules_apart(method: str, now: dict) -> dict[str, dict[str, str]]:
    """What becomes of rules with an entry of their own when one for all rules is made; by id, with the reason."""
    own = sorted(one["rule"] for one in now.get("rules", {}).values())
    if method == KEEP:
        return {"rules_left_out": dict.fromkeys(own, OWN_STAYS)}
    return {"rules_deleted": dict.fromkeys(own, OWN_DELETED)}


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


def _write_policies(bundle: Bundle, policies: list[Policy], folder: Path) -> None:
    """The policies, each rule with the threshold that the bundle recommends for it, if any."""
    for policy in policies:
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
