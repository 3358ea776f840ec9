"""Fits on logits whose truth is known: scores become probabilities, and order is kept."""

from __future__ import annotations

import numpy as np
import pytest

from safeguard_sdk.calibration import Calibration, IsotonicCalibration
from training.calibration.fit import FOLDS, LEAST, METHODS, fit, held_out_scores, measure, require_rows
from training.errors import TrainingError


def drawn(count: int, scale: float, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits of a model, and truths drawn with the probability 1 / (1 + exp(-(scale · logit + shift)))."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, count)
    return logits, rng.random(count) < 1 / (1 + np.exp(-(scale * logits + shift)))


def scores_of(calibration, logits: np.ndarray) -> np.ndarray:
    return np.array([calibration.score(logit) for logit in logits])


def test_platt_finds_the_scale_and_the_shift_that_the_rows_were_drawn_by():
    found = fit("platt", *drawn(20_000, 0.5, -1.0), "")
    assert (found.scale, found.shift) == (pytest.approx(0.5, abs=0.02), pytest.approx(-1.0, abs=0.05))


def test_temperature_finds_the_scale_and_leaves_the_shift():
    found = fit("temperature", *drawn(20_000, 0.5, 0.0), "")
    assert (found.scale, found.shift) == (pytest.approx(0.5, abs=0.02), 0.0)


@pytest.mark.parametrize("method", METHODS)
def test_scores_come_nearer_to_the_truth_on_rows_that_the_fit_has_not_seen(method):
    logits, broken = drawn(3000, 0.3, 0.0)  # the model is three times too sure
    unseen, truth = drawn(3000, 0.3, 0.0, seed=1)
    before = measure(scores_of(Calibration(1.0, 0.0), unseen), truth)
    after = measure(scores_of(fit(method, logits, broken, ""), unseen), truth)
    assert before.ece > 0.1 and after.ece < 0.04
    assert after.brier < before.brier - 0.02


def test_isotonic_bends_where_no_scale_and_shift_can():
    rng = np.random.default_rng(0)
    logits = rng.uniform(-3, 3, 6000)
    broken = rng.random(6000) < np.where(logits < 0, 0.1, 0.6 + 0.1 * logits)  # a step at 0
    fitted, unseen = slice(0, 3000), slice(3000, None)
    errors = {method: measure(scores_of(fit(method, logits[fitted], broken[fitted], ""), logits[unseen]),
                              broken[unseen]).ece for method in METHODS}
    assert errors["isotonic"] < 0.03 < 0.05 < min(errors["platt"], errors["temperature"])


def test_isotonic_never_falls_and_is_never_surer_than_its_rows():
    logits, broken = drawn(400, 5.0, 0.0)
    found = fit("isotonic", logits, broken, "")
    assert isinstance(found, IsotonicCalibration)
    assert (np.diff(found.scores) >= 0).all()
    assert found.scores[0] == pytest.approx(1 / 402) and found.scores[-1] == pytest.approx(401 / 402)
    ranked = np.argsort(logits)
    assert (np.diff(scores_of(found, logits)[ranked]) >= 0).all()


@pytest.mark.parametrize("method", ["platt", "temperature"])
def test_rows_that_a_threshold_separates_do_not_make_scores_sure(method):
    logits = np.concatenate([np.linspace(-3, -1, 30), np.linspace(1, 3, 30)])
    found = fit(method, logits, logits > 0, "")
    assert 0.9 < found.score(2.0) < 0.9999


@pytest.mark.parametrize("method", METHODS)
def test_logits_that_run_against_the_labels_are_refused_in_one_line(method):
    logits, broken = drawn(500, 1.0, 0.0)
    with pytest.raises(TrainingError, match="all rules: higher logits are no sign of a broken policy") as caught:
        fit(method, logits, ~broken, "all rules")
    assert "\n" not in str(caught.value)


def test_a_held_out_score_is_by_a_fit_without_the_photo():
    logits, broken = drawn(300, 1.0, 0.0)
    photos = [number // 3 for number in range(300)]
    scores = held_out_scores("platt", logits, broken, photos, "")
    changed = logits.copy()
    changed[:3] += 50.0  # all rows of one photo
    other = held_out_scores("platt", changed, broken, photos, "")
    fold = np.flatnonzero(np.isclose(scores, other, rtol=0, atol=0))  # those that share its fold, so its fit, stay
    assert len(fold) == pytest.approx(300 / FOLDS - 3, abs=12)
    assert not set(range(3)) & set(fold.tolist())


@pytest.mark.parametrize("method", LEAST)
@pytest.mark.parametrize("side", ["safe", "unsafe"])
def test_too_few_photos_of_one_side_are_refused_in_one_line_and_enough_are_taken(method, side):
    least = LEAST[method]
    for count, enough in ((least, True), (least - 1, False)):
        broken = np.array([side == "unsafe"] * count + [side != "unsafe"] * 200)
        photos = list(range(len(broken)))
        if enough:
            require_rows(method, broken, photos, "all rules")
            continue
        with pytest.raises(TrainingError, match=f"all rules: {count} photos are {side}, {method} needs") as caught:
            require_rows(method, broken, photos, "all rules")
        assert "\n" not in str(caught.value)


def test_many_rows_of_one_photo_are_one_photo():
    broken = np.array([True, False] * 200)
    with pytest.raises(TrainingError, match="2 photos are safe"):
        require_rows("platt", broken, [number // 2 % 2 for number in range(400)], "all rules")


def test_one_class_only_is_refused():
    with pytest.raises(TrainingError, match="0 photos are unsafe"):
        require_rows("platt", np.zeros(100, bool), range(100), "all rules")
