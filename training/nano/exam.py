"""The exam of nano: questions over photos, concepts and wordings that training has not seen, and its marks.

A question is a policy, a photo and the right verdict. Parts of the exam:
    seen         two-sided policies over concepts that training names
    unseen       the same over held-out concepts (heldout_concepts.yaml)
    exception    X forbidden or allowed, except a kind of X
    only         only X is allowed
    blanket      everything is allowed
    single       x is forbidden, and nothing else is said
Each part is written four times: in wordings of training, in held-out ones (wordings_heldout.yaml), in the plain ones
of training, and as rules of a policy file. A flip is a pair of questions over one photo whose policies are opposite.
Apart from these parts, each concept that ImageNet lacks is asked for alone.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import yaml
from sklearn.metrics import roc_auc_score

from safeguard_sdk.policy import Rule
from training.policyflip.concepts import FOLDER, Concept, Concepts, Heldout
from training.policyflip.policies import PolicyFlip
from training.policyflip.scenes import PhotoWorld, Scene
from training.policyflip.wordings import Bank, fill

KNOWN = "known"  # name of the wordings of training
PLAIN = "plain"  # of those that most people write first
RULES = "rules"  # of what a model reads of `forbids` and `allows` in a policy file
BEYOND_IMAGENET = ("gun", "knife", "smoking", "smoke", "dangerous_fire", "controlled_fire", "face", "person", "alcohol",
                   "medicine", "money", "drawing")  # groups of concepts.yaml


MOST_IDLE = 2000  # draws in a row that no question comes of


@dataclass(frozen=True)
class Question:
    part: str      # "seen", "unseen", "exception", "only", "blanket", "single"
    wording: str   # KNOWN, PLAIN, RULES or the name of a held-out wording
    text: str
    scene: Scene
    broken: bool
    flip: int      # questions with one number are one photo under opposite policies; -1: no pair
    forbids: str = ""  # the concept that the policy forbids and the one it allows, "" for everything else:
    allows: str = ""   # the parse that a baseline without a reader is given (baseline.py)

    @property
    def kind(self) -> str:
        """Of its wording: "known", "plain", "rules" or "heldout"."""
        return self.wording if self.wording in (KNOWN, PLAIN, RULES) else "heldout"


@dataclass(frozen=True)
class Wording:
    """Whole-policy templates in one register."""

    name: str
    register: str
    flip: str
    flip_allowed_first: bool
    forbid: str
    except_: str
    allow_except: str
    only: str
    everything_allowed: str
    fresh: bool  # none of the polarity phrases in `flip` occurs in the training bank


@cache
def read_wordings(path: Path = FOLDER / "wordings_heldout.yaml") -> list[Wording]:
    """The held-out wordings. Some use "yes" or "no", which training shows, too; the fresh ones share no polarity phrase
    of their flip with it."""
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    trained = "\n".join(phrase for phrases in Bank.read().phrases.values() for phrase in phrases).lower()
    known = [phrase for phrase in document["polarity_phrases"] if _occurs(phrase, trained)]
    return [Wording(**{"except_" if key == "except" else key: value for key, value in entry.items()},
                    fresh=not any(_occurs(phrase, entry["flip"].lower()) for phrase in known))
            for entry in document["wordings"]]


def build_exam(world: PhotoWorld, concepts: Concepts, heldout: Heldout, questions: int, seed: int) -> list[Question]:
    """About `questions` questions for each part and each kind of wording; the same for the same seed."""
    rng = random.Random(seed)
    bank = Bank.read()
    exam: list[Question] = []
    writers = [_bank_writer(KNOWN, bank, rng), _heldout_writer(read_wordings(), rng),
               _bank_writer(PLAIN, bank.plainly(), rng), _rule_writer]
    for write in writers:
        for part, namer in (("seen", _seen_namer(world)), ("unseen", _unseen_namer(world, concepts, heldout))):
            _fill(exam, questions, lambda p=part, n=namer, w=write: _flips(world, n, w, p, len(exam), rng))
        _fill(exam, questions, lambda w=write: _exceptions(world, w, len(exam), rng))
        _fill(exam, questions, lambda w=write: _one_sided(world, w, "only", "only", rng))
        _fill(exam, questions // 3, lambda w=write: _blanket(world, w, rng))
    for write in writers:
        _fill(exam, questions, lambda w=write: _one_sided(world, w, "single", "forbid", rng))
    return exam


def concept_exam(world: PhotoWorld, questions: int, seed: int) -> dict[str, list[Question]]:
    """For each concept that ImageNet lacks: up to `questions` photos that show it and as many that surely do not, each
    under "no X" in a wording of training and under "only X" in a held-out one."""
    rng = random.Random(seed)
    known, heldout = _bank_writer(KNOWN, Bank.read(), rng), _heldout_writer(read_wordings(), rng)
    exam: dict[str, list[Question]] = {}
    for name in BEYOND_IMAGENET:
        concept = world.concepts.groups[name]
        exam[name] = []
        for shown in (True, False):
            scenes = [scene for scene in world.scenes if world.concepts.truth(concept, scene.shown) is shown]
            for scene in rng.sample(scenes, min(questions, len(scenes))):
                for kind, forbidden, write in (("forbid", True, known), ("only", False, heldout)):
                    wording, text = write(kind, x=concept)
                    exam[name].append(Question("concept", wording, text, scene, shown == forbidden, -1))
    return exam


def metrics(exam: list[Question], logits: np.ndarray) -> dict[str, float]:
    """Marks by part and kind of wording (known, plain, rules, held out, the fresh ones among these): accuracy, AUROC,
    flips both right; and the AUROC of the worst wording."""
    broken = np.array([question.broken for question in exam])
    right = (logits > 0) == broken
    marks: dict[str, float] = {}
    fresh = {wording.name for wording in read_wordings() if wording.fresh}
    groups = defaultdict(list)
    for row, question in enumerate(exam):
        groups[f"{question.part}/{question.kind}"].append(row)
        if question.wording in fresh:
            groups[f"{question.part}/fresh"].append(row)
    for group, rows in sorted(groups.items()):
        marks[f"{group}/accuracy"] = float(right[rows].mean())
        if 0 < broken[rows].sum() < len(rows):
            marks[f"{group}/auroc"] = float(roc_auc_score(broken[rows], logits[rows]))
            recalls = [right[rows][broken[rows] == side].mean() for side in (True, False)]
            marks[f"{group}/balanced"] = float(np.mean(recalls))
        flips = defaultdict(list)
        for row in rows:
            if exam[row].flip >= 0:
                flips[exam[row].flip].append(row)
        pairs = [pair for pair in flips.values() if len(pair) == 2]
        if pairs:
            marks[f"{group}/both_right"] = float(np.mean([right[pair].all() for pair in pairs]))
    by_wording = wording_auroc(exam, logits)
    if by_wording:
        marks["worst_wording/auroc"] = min(by_wording.values())
    marks["ece"] = calibration_error(1 / (1 + np.exp(-logits)), broken)
    return {name: round(mark, 4) for name, mark in marks.items()}


def wording_auroc(exam: list[Question], logits: np.ndarray) -> dict[str, float]:
    """AUROC of each held-out wording over its flips."""
    rows = defaultdict(list)
    for row, question in enumerate(exam):
        if question.kind == "heldout" and question.flip >= 0:
            rows[question.wording].append(row)
    broken = np.array([question.broken for question in exam])
    return {name: float(roc_auc_score(broken[some], logits[some])) for name, some in rows.items()
            if 0 < broken[some].sum() < len(some)}


def calibration_error(scores: np.ndarray, broken: np.ndarray, bins: int = 15) -> float:
    """Expected calibration error of scores in [0, 1]; Guo et al. 2017 (arXiv:1706.04599), eq. 3, for one class."""
    bin_of = np.minimum((scores * bins).astype(int), bins - 1)
    return float(np.abs(np.bincount(bin_of, weights=scores - broken)).sum() / len(scores))


def _occurs(phrase: str, text: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(phrase)}(?!\w)", text) is not None


def _fill(exam: list[Question], wanted: int, make) -> None:
    """As many questions as wanted; none or fewer where the photos show nothing that they could be about."""
    until, idle = len(exam) + wanted, 0
    while len(exam) < until and idle < MOST_IDLE:
        made = make()
        idle = 0 if made else idle + 1
        exam += made


def _bank_writer(wording: str, bank: Bank, rng: random.Random):
    def write(kind: str, **concepts: Concept) -> tuple[str, str]:
        kind = {"flip": "two_sided", "except_": "forbid_except"}.get(kind, kind)
        return wording, bank.phrase(kind, rng, **{slot: [concept.names[0]] for slot, concept in concepts.items()})
    return write


def _heldout_writer(wordings: list[Wording], rng: random.Random):
    def write(kind: str, **concepts: Concept) -> tuple[str, str]:
        wording = rng.choice(wordings)
        slots = {slot: concept.names[0].plural for slot, concept in concepts.items()}
        return wording.name, fill(getattr(wording, kind), slots)
    return write


def _rule_writer(kind: str, **concepts: Concept) -> tuple[str, str]:
    names = {slot: concept.names[0].plural for slot, concept in concepts.items()}
    x, y, z = (names.get(slot) for slot in "xyz")
    title, forbids, allows = {"flip": (x, x, y), "forbid": (x, x, ()), "except_": (x, x, z), "allow_except": (z, z, x),
                              "only": (x, "everything else", x),
                              "everything_allowed": ("anything", (), "everything")}[kind]
    return RULES, Rule(id="rule", title=title, forbids=forbids, allows=allows).canonical_text


def _seen_namer(world: PhotoWorld):
    return lambda scene, rng: world.concept_in(scene, rng)


def _unseen_namer(world: PhotoWorld, concepts: Concepts, heldout: Heldout):
    kinds = [concepts.concept_of(concepts.wordnet.synsets[offset]) for offset in sorted(heldout.synsets)]

    def name(scene: Scene, rng: random.Random) -> Concept | None:
        held = [kind for kind in kinds if concepts.truth(kind, scene.shown)]
        return rng.choice(held) if held else None
    return name


def _flips(world: PhotoWorld, namer, write, part: str, number: int, rng: random.Random) -> list[Question]:
    """Two photos, each under "x forbidden, y allowed" and the reverse, in one wording: two flips."""
    one, other = world.any(rng), world.any(rng)
    x = namer(one, rng)
    y = world.concept_in(other, rng) if part == "unseen" else namer(other, rng)
    truth = world.concepts.truth
    if x is None or y is None or truth(x, other.shown) is not False or truth(y, one.shown) is not False:
        return []
    state = rng.getstate()
    wording, first = write("flip", x=x, y=y)
    rng.setstate(state)  # the same wording for the reverse
    _, second = write("flip", x=y, y=x)
    forward, reverse = (x.names[0].singular, y.names[0].singular), (y.names[0].singular, x.names[0].singular)
    return [Question(part, wording, first, one, True, number, *forward),
            Question(part, wording, second, one, False, number, *reverse),
            Question(part, wording, first, other, False, number + 1, *forward),
            Question(part, wording, second, other, True, number + 1, *reverse)]


def _exceptions(world: PhotoWorld, write, number: int, rng: random.Random) -> list[Question]:
    """A photo of z and one of another x, under "x forbidden except z" and "x allowed except z"."""
    flip = PolicyFlip(world, Bank({}))
    x, z = flip.wide_and_narrow(rng)
    if x is None or z is None:
        return []
    inside = world.with_concept(z, rng)
    outside = [scene for scene in (world.with_concept(x, rng) for _ in range(12))
               if scene and world.concepts.truth(z, scene.shown) is False]
    if inside is None or not outside:
        return []
    questions = []
    for kind, broken_inside in (("except_", False), ("allow_except", True)):
        wording, text = write(kind, x=x, z=z)
        sides = (x.names[0].singular, z.names[0].singular)
        sides = sides[::-1] if broken_inside else sides
        questions += [Question("exception", wording, text, inside, broken_inside, -1, *sides),
                      Question("exception", wording, text, outside[0], not broken_inside, -1, *sides)]
    return questions


def _one_sided(world: PhotoWorld, write, part: str, kind: str, rng: random.Random) -> list[Question]:
    """A photo of x and another one, under "x is forbidden" (`kind` "forbid") or "only x is allowed" ("only")."""
    scene, other = world.any(rng), world.any(rng)
    x = world.concept_in(scene, rng)
    if x is None or world.concepts.truth(x, other.shown) is not False:
        return []
    wording, text = write(kind, x=x)
    forbidden = kind == "forbid"
    side = {"forbids" if forbidden else "allows": x.names[0].singular}
    return [Question(part, wording, text, scene, forbidden, -1, **side),
            Question(part, wording, text, other, not forbidden, -1, **side)]


def _blanket(world: PhotoWorld, write, rng: random.Random) -> list[Question]:
    wording, text = write("everything_allowed")
    return [Question("blanket", wording, text, world.any(rng), False, -1)]
