"""Policies over scenes: the same scenes under opposite policies, in many wordings, with the verdict of each.

A family draws concepts that are in the scenes, then writes two or more policies about them that disagree. Polarity
can then only be read in the words. Sides are balanced everywhere: which comes first, which is named at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from safeguard_sdk.policy import Rule
from training.policyflip.concepts import Concept, Name, Shown
from training.policyflip.scenes import PhotoWorld, Scene, WordWorld
from training.policyflip.voices import Entry, Voices, layout
from training.policyflip.wordings import Bank, join, misspell, respell

World = PhotoWorld | WordWorld
Decide = Callable[[Shown], bool | None]  # True: the policy is broken; None: nobody can know

EASY = ("easy_pair", "easy_single")
COMPOSED = 0.45  # share of policies composed by voices.py; the others are phrases of the bank
LONGEST = 1400  # characters of a policy in training


@dataclass(frozen=True)
class Pack:
    """One policy and scenes judged by it; training reads the policy once for all of them."""

    text: str
    scenes: tuple[Scene, ...]
    broken: tuple[bool, ...]
    family: str
    alone: Callable[[str], bool | None] = lambda name: None  # whether a tag alone breaks the policy; None: unknown


class PolicyFlip:
    """An endless source of packs, of each family by its share.

    world    scenes to judge
    bank     wordings to write in
    voices   composes COMPOSED of all policies; without them all are phrases of the bank
    scenes   how many scenes a pack has at most
    """

    SHARES: ClassVar[dict[str, int]] = {"pair": 7, "single": 7, "exception": 8, "several": 3, "rule": 6, "blanket": 5}

    def __init__(self, world: World, bank: Bank, voices: Voices | None = None, scenes: int = 6) -> None:
        self.world, self.bank, self.voices, self.scenes = world, bank, voices, scenes
        self.truth = world.concepts.truth

    def family(self, rng: random.Random, easy: bool = False) -> list[Pack]:
        """Packs over the same scenes, with opposite verdicts on most of them. Never empty."""
        while True:
            kind = rng.choice(EASY) if easy else rng.choices(list(self.SHARES), list(self.SHARES.values()))[0]
            packs = getattr(self, f"_{kind}")(rng)
            if packs:
                return packs

    # Families, simplest first. Each returns [] when its draw does not work out.

    def _easy_pair(self, rng: random.Random) -> list[Pack]:
        x, y = self._two_concepts(rng)
        if x is None or y is None:
            return []
        scenes = self._scenes(rng, [x, y])
        write = rng.choice(_EASY_PAIRS)
        return [self._pack(write.format(x=self._name(f, rng).plural, y=self._name(a, rng).plural), scenes,
                           self._pair_decides([f], [a]), "pair") for f, a in ((x, y), (y, x))]

    def _easy_single(self, rng: random.Random) -> list[Pack]:
        x, _ = self._two_concepts(rng)
        if x is None:
            return []
        scenes = self._scenes(rng, [x])
        forbid, only = rng.choice(_EASY_SINGLES)
        name = self._name(x, rng).plural
        return [self._pack(forbid.format(x=name), scenes, lambda shown: self.truth(x, shown), "single"),
                self._pack(only.format(x=name), scenes, lambda shown: negated(self.truth(x, shown)), "single")]

    def _pair(self, rng: random.Random) -> list[Pack]:
        """X forbidden and Y allowed, and the other way round."""
        xs, ys = self._sides(rng)
        if not xs or not ys:
            return []
        scenes = self._scenes(rng, xs + ys)
        packs = []
        for forbidden, allowed in ((xs, ys), (ys, xs)):
            if self._composes(rng):
                entries = [Entry(self._subject(forbidden, rng), True), Entry(self._subject(allowed, rng), False)]
                body = self.voices.say(rng.sample(entries, 2), rng)
            elif rng.random() < 0.6:
                body = self.bank.phrase("two_sided", rng, x=self._names(forbidden, rng), y=self._names(allowed, rng))
            else:
                sentences = [self.bank.phrase("forbid", rng, x=self._names(forbidden, rng)),
                             self.bank.phrase("allow", rng, x=self._names(allowed, rng))]
                body = layout(rng.sample(sentences, 2), rng)
            packs.append(self._pack(self._dress(body, rng), scenes, self._pair_decides(forbidden, allowed), "pair"))
        return packs

    def _single(self, rng: random.Random) -> list[Pack]:
        """X forbidden, only X forbidden, only X allowed."""
        xs, _ = self._sides(rng)
        if not xs:
            return []
        scenes = self._scenes(rng, xs, others=3)
        kind = "forbid" if rng.random() < 0.6 else "forbid_only"
        if self._composes(rng):
            forbidden = self._against_the_rest(xs, kind == "forbid_only", True, rng)
            only = self._against_the_rest(xs, True, False, rng)
        else:
            forbidden = self.bank.phrase(kind, rng, x=self._names(xs, rng))
            only = self.bank.phrase("only", rng, x=self._names(xs, rng))
        return [self._pack(self._dress(forbidden, rng), scenes, self._any_of(xs), kind),
                self._pack(self._dress(only, rng), scenes, lambda shown: negated(self._any_of(xs)(shown)), "only")]

    def _exception(self, rng: random.Random) -> list[Pack]:
        """X forbidden except Z, X allowed except Z; Z is a kind of X."""
        x, z = self.wide_and_narrow(rng)
        if x is None or z is None:
            return []
        scenes = self._scenes(rng, [x, z, z])
        if self._composes(rng):
            forbid, allow = (self._but_for(x, z, forbidden, rng) for forbidden in (True, False))
        else:
            names = {"x": [self._name(x, rng)], "z": [self._name(z, rng)]}
            forbid = self.bank.phrase("forbid_except", rng, **names)
            allow = self.bank.phrase("allow_except", rng, **names)
        return [self._pack(self._dress(forbid, rng), scenes, self._except(x, z), "except"),
                self._pack(self._dress(allow, rng), scenes, lambda shown: self.truth(z, shown), "except")]

    def _several(self, rng: random.Random) -> list[Pack]:
        """Several sentences, each forbidding or allowing something; the second policy turns each of them round."""
        concepts = self._many(rng, rng.randrange(3, 6))
        if len(concepts) < 3:
            return []
        scenes = self._scenes(rng, concepts)
        sides = [rng.random() < 0.5 for _ in concepts]
        packs = []
        for turned in (False, True):
            forbidden = [c for c, side in zip(concepts, sides, strict=True) if side != turned]
            allowed = [c for c, side in zip(concepts, sides, strict=True) if side == turned]
            if self._composes(rng):
                entries = [Entry(self._subject([c], rng), c in forbidden) for c in concepts]
                body = self.voices.say(rng.sample(entries, len(entries)), rng)
            else:
                sentences = [self.bank.phrase("forbid", rng, x=[self._name(c, rng)]) for c in forbidden]
                sentences += [self.bank.phrase("allow", rng, x=[self._name(c, rng)]) for c in allowed]
                body = layout(rng.sample(sentences, len(sentences)), rng)
            packs.append(self._pack(self._dress(body, rng), scenes, self._pair_decides(forbidden, allowed), "several"))
        return packs

    def _rule(self, rng: random.Random) -> list[Pack]:
        """Our own canonical form of a rule, as the SDK writes it from YAML."""
        shape = rng.random()
        if shape < 0.35:
            xs, ys = self._sides(rng, most=4)
            if not xs:
                return []
            ys = ys if rng.random() < 0.6 else []
            scenes = self._scenes(rng, xs + ys, others=1 if ys else 3)
            rules = [(xs, ys)] + ([(ys, xs)] if ys else [])
            packs = [self._rule_pack(f, a, scenes, self._pair_decides(f, a), rng) for f, a in rules]
            if not ys:
                packs.append(self._rule_pack(None, xs, scenes, lambda shown: negated(self._any_of(xs)(shown)), rng))
            return packs
        if shape < 0.75:
            x, z = self.wide_and_narrow(rng)
            if x is None or z is None:
                return []
            scenes = self._scenes(rng, [x, z, z])
            return [self._rule_pack([x], [z], scenes, self._except(x, z), rng),
                    self._rule_pack([z], [x], scenes, lambda shown: self.truth(z, shown), rng)]
        xs, _ = self._sides(rng, most=3)
        if not xs:
            return []
        scenes = self._scenes(rng, xs, others=3)
        return [self._rule_pack(xs, [], scenes, self._any_of(xs), rng),
                self._rule_pack(None, xs, scenes, lambda shown: negated(self._any_of(xs)(shown)), rng)]

    def _blanket(self, rng: random.Random) -> list[Pack]:
        scenes = tuple(self.world.any(rng) for _ in range(4))
        if self._composes(rng):
            texts = [(self._blanket_over(scenes[0], broken, rng), broken) for broken in (False, True)]
        elif rng.random() < 0.6:
            texts = [(self.bank.phrase("everything_allowed", rng), False),
                     (self.bank.phrase("everything_forbidden", rng), True)]
        else:
            named = self.world.concept_in(scenes[0], rng)
            allowed = self._name(named, rng).plural if named and rng.random() < 0.5 else "everything"
            texts = [(canonical("Anything", (), (allowed,)), False),
                     (canonical("Nothing", ("everything",), rng.choice(((), ("nothing",)))), True)]
        return [Pack(self._dress(text, rng) if "\n" not in text else text, scenes, (broken,) * 4, "blanket",
                     lambda name, broken=broken: broken) for text, broken in texts]

    # Policies of voices.

    def _composes(self, rng: random.Random) -> bool:
        return self.voices is not None and rng.random() < COMPOSED

    def _against_the_rest(self, xs: list[Concept], rest: bool, forbidden: bool, rng: random.Random) -> str:
        """Concepts forbidden (or allowed) and, if `rest`, everything else the other way."""
        entry = Entry(self._subject(xs, rng), forbidden)
        if not rest:
            return self.voices.say([entry], rng)
        if rng.random() < 0.5:
            others = Entry(self.voices.subject("everything_else", rng), not forbidden, True)
            return self.voices.say([entry, others], rng)
        others = Entry(self.voices.subject("everything_but", rng, x=entry.subject), not forbidden, True)
        return self.voices.say([others] if rng.random() < 0.4 else [others, entry], rng)

    def _but_for(self, x: Concept, z: Concept, forbidden: bool, rng: random.Random) -> str:
        """X forbidden (or allowed), its kind Z the other way; either may come first."""
        wide, narrow = self._name(x, rng).plural, self._name(z, rng).plural
        if rng.random() < 0.5:
            others = Entry(self.voices.subject("others_of", rng, x=wide, z=narrow), forbidden)
            return self.voices.say(rng.sample([Entry(narrow, not forbidden), others], 2), rng)
        return self.voices.say([Entry(self.voices.subject("in_general", rng, x=wide), forbidden),
                                Entry(self.voices.subject("exception", rng, z=narrow), not forbidden)], rng)

    def _blanket_over(self, scene: Scene, forbidden: bool, rng: random.Random) -> str:
        """Everything forbidden (or allowed); at times nothing is the other way, or something named is alike."""
        entries = [Entry(self.voices.subject("everything", rng), forbidden, True)]
        named = self.world.concept_in(scene, rng)
        extra = rng.random()
        if extra < 0.25:
            entries.append(Entry(self.voices.subject("nothing", rng), not forbidden, True))
            return self.voices.labels(rng.sample(entries, 2), rng)
        if extra < 0.4 and named:
            entries.append(Entry(self._subject([named], rng), forbidden))
        return self.voices.say(rng.sample(entries, len(entries)), rng)

    # Decisions.

    def _any_of(self, concepts: list[Concept]) -> Decide:
        def decide(shown: Shown) -> bool | None:
            return _either(self.truth(concept, shown) for concept in concepts)
        return decide

    def _pair_decides(self, forbidden: list[Concept], allowed: list[Concept]) -> Decide:
        """Broken if something forbidden shows and nothing allowed does; both at once is left open."""
        def decide(shown: Shown) -> bool | None:
            bad, good = self._any_of(forbidden)(shown), self._any_of(allowed)(shown)
            return None if bad and good is not False else bad
        return decide

    def _except(self, x: Concept, z: Concept) -> Decide:
        def decide(shown: Shown) -> bool | None:
            wide, narrow = self.truth(x, shown), self.truth(z, shown)
            return wide if not wide else negated(narrow)
        return decide

    # Draws.

    def _two_concepts(self, rng: random.Random) -> tuple[Concept | None, Concept | None]:
        """Two concepts, each in a scene that does not show the other."""
        one, other = self.world.any(rng), self.world.any(rng)
        x, y = self.world.concept_in(one, rng), self.world.concept_in(other, rng)
        if x is None or y is None or self.truth(x, other.shown) is not False or self.truth(y, one.shown) is not False:
            return x, None
        return x, y

    def _many(self, rng: random.Random, count: int) -> list[Concept]:
        """Up to `count` concepts none of which shows in a scene drawn for another."""
        drawn: list[tuple[Concept, Scene]] = []
        for _ in range(3 * count):
            scene = self.world.any(rng)
            concept = self.world.concept_in(scene, rng)
            if concept and all(self.truth(concept, s.shown) is False and self.truth(c, scene.shown) is False
                               for c, s in drawn):
                drawn.append((concept, scene))
            if len(drawn) == count:
                break
        return [concept for concept, _ in drawn]

    def _sides(self, rng: random.Random, most: int = 3) -> tuple[list[Concept], list[Concept]]:
        """Two disjoint sides of one to `most` concepts, mostly one."""
        first, second = (rng.choices(range(1, most + 1), [6, 2, 1, 1][:most])[0] for _ in range(2))
        concepts = self._many(rng, first + second)
        return concepts[:first], concepts[first:]

    def wide_and_narrow(self, rng: random.Random) -> tuple[Concept | None, Concept | None]:
        """A concept and one of its kinds; each has a name of its own."""
        for _ in range(8):
            scene = self.world.any(rng)
            one, other = self.world.concept_in(scene, rng), self.world.concept_in(scene, rng)
            if one is None or other is None or one.id == other.id:
                continue
            for wide, narrow in ((one, other), (other, one)):
                if self._contains(wide, narrow):
                    return wide, narrow
        return None, None

    def _contains(self, wide: Concept, narrow: Concept) -> bool:
        ancestors = self.world.concepts.wordnet.ancestors
        under = all(any(kind in ancestors(below) for kind in wide.kinds) for below in narrow.kinds)
        listed = narrow.labels <= wide.labels and bool(narrow.labels)
        return wide.id != narrow.id and not (wide.kinds and wide.kinds == narrow.kinds) and (
            bool(narrow.kinds) and under and (listed or not narrow.labels) or listed and not narrow.kinds)

    def _scenes(self, rng: random.Random, concepts: list[Concept], others: int = 1) -> tuple[Scene, ...]:
        """Scenes with each of the concepts in turn, hard cases near them, and `others` drawn without regard to them."""
        scenes: list[Scene | None] = []
        for place in range(self.scenes - others):
            concept = concepts[place % len(concepts)]
            hard = rng.random() < (0.4 if place >= 2 else 0.1)
            scenes.append(self.world.near(concept, rng) if hard else self.world.with_concept(concept, rng))
        scenes += [self.world.any(rng) for _ in range(others)]
        return tuple(scene for scene in scenes if scene)

    # Writing.

    def _name(self, concept: Concept, rng: random.Random) -> Name:
        return concept.names[0] if rng.random() < 0.6 else rng.choice(concept.names)

    def _item(self, name: Name, rng: random.Random) -> str:
        """As it stands in a list."""
        return name.plural if rng.random() < 0.75 else name.with_article

    def _names(self, concepts: list[Concept], rng: random.Random) -> list[Name]:
        return [self._name(concept, rng) for concept in concepts]

    def _subject(self, concepts: list[Concept], rng: random.Random) -> str:
        """Concepts as a voice puts them: bare, or at times as what a picture shows."""
        nouns = join([name.plural for name in self._names(concepts, rng)], rng)
        plain = len(concepts) > 1 or rng.random() < 0.65
        return nouns if plain else self.bank.noun_phrase(self._names(concepts, rng), "", rng)

    def _rule_pack(self, forbids: list[Concept] | None, allows: list[Concept], scenes: tuple[Scene, ...],
                   decide: Decide, rng: random.Random) -> Pack:
        """A rule in canonical form; `forbids` None stands for everything."""
        def items(concepts: list[Concept]) -> tuple[str, ...]:
            forms = [self._name(concept, rng) for concept in concepts]
            return tuple(self._item(name, rng) for name in forms)
        forbidden = items(forbids) if forbids is not None else (rng.choice(_EVERYTHING),)
        allowed = items(allows)
        subject = (forbids or allows)[0].names[0].plural
        title = rng.choice([subject.capitalize(), f"Rule {rng.randrange(1, 30)}", f"About {subject}", "Content",
                            "policy"])
        return self._pack(canonical(title, forbidden, allowed), scenes, decide, "rule")

    def _dress(self, body: str, rng: random.Random) -> str:
        """Put a policy into its surroundings: a heading, a preamble, an end; letter case and slips at times."""
        parts = [body]
        if rng.random() < 0.25:
            parts.insert(0, self.bank.phrase("preamble", rng))
        if rng.random() < 0.15:
            parts.insert(0, self.bank.phrase("heading", rng))
        if rng.random() < 0.15:
            parts.append(self.bank.phrase("closing", rng))
        text = rng.choice(["\n", "\n\n", " "]).join(parts) if "\n" not in body else "\n\n".join(parts)
        case = rng.random()
        text = text.lower() if case < 0.08 else text.upper() if case < 0.11 else text
        slips = rng.random()
        if slips < 0.08:
            return respell(text, rng, rng.uniform(0.2, 0.7))
        return misspell(text, rng, rng.uniform(0.01, 0.05)) if slips < 0.16 else text

    def _pack(self, text: str, scenes: tuple[Scene, ...], decide: Decide, family: str) -> Pack:
        def alone(name: str) -> bool | None:
            shown = self.world.concepts.named(name)
            return decide(shown) if shown else None

        judged = [(scene, decide(scene.shown)) for scene in scenes]
        known = [(scene, broken) for scene, broken in judged if broken is not None]
        return Pack(text[:LONGEST], tuple(scene for scene, _ in known), tuple(broken for _, broken in known), family,
                    alone)


_EASY_PAIRS = ("Forbidden: {x}. Allowed: {y}.", "Allowed: {y}. Forbidden: {x}.", "No {x}. {y} are fine.",
               "{y} are fine. No {x}.", "Block {x}, allow {y}.", "Allow {y}, block {x}.",
               "Unsafe: {x}\nSafe: {y}", "Safe: {y}\nUnsafe: {x}")
_EASY_SINGLES = (("Forbidden: {x}. Allowed: everything else.", "Allowed: {x}. Forbidden: everything else."),
                 ("Allowed: everything except {x}.", "Forbidden: everything except {x}."),
                 ("No {x}.", "Only {x}."), ("Unsafe: {x}", "Safe: {x}\nUnsafe: all the rest"))
_EVERYTHING = ("everything", "everything else", "anything else", "all other pictures")


def canonical(title: str, forbids: tuple[str, ...], allows: tuple[str, ...]) -> str:
    return Rule(id="rule", title=title, forbids=forbids, allows=allows).canonical_text


def negated(value: bool | None) -> bool | None:
    return None if value is None else not value


def _either(values) -> bool | None:
    values = list(values)
    return True if any(values) else None if None in values else False
