"""The model card of nano, written from the manifest of its bundle, so that its figures are those that were measured."""

from __future__ import annotations

PARTS = {"seen": "concepts named in training", "unseen": "concepts never named in training",
         "exception": "X forbidden or allowed, except a kind of X", "only": "only X is allowed",
         "blanket": "everything is allowed", "single": "X is forbidden, and nothing else is said"}
MARKS = {"both_right": "flips both right", "auroc": "AUROC", "balanced": "balanced accuracy", "accuracy": "accuracy"}
KINDS = {"known": "wordings of training", "heldout": "held-out wordings", "fresh": "of these, fresh ones",
         "plain": "plain wordings of training", "rules": "rules of a policy file"}

TEXT = """# nano {version}: the embedded model of safeguard

{megabytes:.1f} MB. Made by `python -m training nano` and `python -m export` of this repository; figures by the
export.

## What it is

An EfficientNet-Lite2 at 320 px, frozen, names what is in the picture: the 1,000 classes of ImageNet, {groups} WordNet
groups of them, and {heads} tags of a head trained here. The names reach {layers} layers of SmolLM2-135M-Instruct
(LoRA, merged) as text, each with its probability; it reads the policy and gives one logit. Linear layers: {linear}.
Embeddings: {embeddings}. Vision: {vision}.

## What it was trained on

{photos} photos ({sources}), and scenes of words made
from WordNet's nouns. Policies over them were written by a generator: whole phrases of hand-written banks, or composed
of labels, actions, questions, answers and classes. {steps} Base weights and word lists: SmolLM2-135M-Instruct,
EfficientNet-Lite2 (Apache-2.0), WordNet 3.1.

## What it can and cannot judge

It judges by things that have a name: animals, vehicles, food, tools, weapons, smoking, fire, alcohol, medicine,
money, faces, drawings. It is blind to what its eye cannot name: nudity, gore, gestures, symbols, identity, emotion,
text in the picture, who does what to whom. It counts nothing and knows no places or persons. Small things at the edge
of a photo are easily missed. Long policies of many sentences in one rule are read worse than the same as several
rules. It is a first filter for things that can be named, not a safety system on its own.

## Quality

{questions} questions over photos of the test split, which no part of training or calibration has seen. Held-out
wordings are whole policies by another author; the fresh ones share no polarity phrase with the training bank.

{table}

Worst held-out wording: AUROC {worst:.3f}. Calibration error (ECE) {ece:.3f}. Saying "unsafe" always would be right in
{always:.3f} of the cases.

## Parity with the fp32 checkpoint

Over {parity_questions} of these questions: {flips:.2%} of verdicts differ; scores drift by {drift:.4f} on average,
{p99:.4f} at the 99th percentile, {largest:.4f} at most.
"""


def model_card(manifest: dict, kinds: list[str]) -> str:
    """Markdown. kinds: of the tags, as in tags.json."""
    quality, parity, quantization = manifest["quality"], manifest["parity"], manifest["quantization"]
    photos = manifest["training"]["photos"]
    return TEXT.format(
        version=manifest["version"], megabytes=sum(file["bytes"] for file in manifest["files"]) / 1e6,
        groups=kinds.count("group"), heads=kinds.count("head"), layers=manifest["base_model"][0]["layers"],
        linear=quantization["linear"], embeddings=quantization["embeddings"], vision=quantization["vision"],
        steps=_steps(manifest["training"]), photos=sum(photos.values()),
        sources=", ".join(f"{source} {count}" for source, count in photos.items()),
        questions=quality["questions"], table=_table(quality), worst=quality["worst_wording/auroc"], ece=quality["ece"],
        always=quality["always_unsafe_accuracy"], parity_questions=parity["questions"], flips=parity["flip_rate"],
        drift=parity["mean_drift"], p99=parity["p99_drift"], largest=parity["max_drift"])


def _steps(training: dict) -> str:
    """Of all trainings, each of which began with the bundle of the one before."""
    done = [training["recipe"]["steps"]]
    while isinstance(training := (training.get("start") or {}).get("training"), dict):
        done.insert(0, training["recipe"]["steps"])
    after = f", in {len(done)} trainings one after the other ({', '.join(map(str, done))})" if len(done) > 1 else ""
    captions = ", after SmolLM2 had learnt to write captions" if training is not None else ""
    return f"{sum(done)} steps of training{after}{captions}."


def _table(quality: dict) -> str:
    lines = ["| policies | mark | " + " | ".join(KINDS.values()) + " |", "| --- | --- |" + " --- |" * len(KINDS)]
    for part, title in PARTS.items():
        for mark, name in MARKS.items():
            cells = [quality.get(f"{part}/{kind}/{mark}") for kind in KINDS]
            if any(cell is not None for cell in cells):
                lines.append(f"| {title} | {name} | "
                             + " | ".join("–" if cell is None else f"{cell:.3f}" for cell in cells) + " |")
    return "\n".join(lines)
