"""What policies are judged over: photos as the eye sees them, or scenes made of words alone.

A scene is the tags that the language model will read and what is truly shown. Scenes of words stand in for photos, with
any noun of WordNet in them: reading a policy can be learnt far beyond the labels of the photos.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from training.policyflip.concepts import Concept, Concepts, Heldout, Shown
from training.wordnet import Synset

Tags = Sequence[tuple[str, float]]

# Hypernyms that nobody names in a policy.
ABSTRACT = frozenset(word.strip() for word in """
entity; physical entity; abstraction; thing; object; whole; artifact; instrumentality; living thing; organism;
chordate; vertebrate; placental; matter; substance; causal agent; relation; part; device; conveyance; covering;
implement; article; commodity; consumer goods; durables; creation; solid; unit; agent; attribute; psychological
feature; event; process; group; location; body part; area; region; way; surface; decoration; structure; container;
equipment; system; mechanism; restraint; support; facility; foodstuff; nutriment; material; plant part; natural
object; plant organ; reproductive structure; instrument; representation; communication; signal; indication; act;
activity; phenomenon; natural phenomenon; physical phenomenon; state; condition; extremity; craft; wheeled vehicle;
self-propelled vehicle; connection; line; protective covering; cloth covering; arthropod; invertebrate; vascular
plant; woody plant; seed plant; spermatophyte; angiosperm; aquatic vertebrate; carnivore; ungulate; even-toed
ungulate; odd-toed ungulate; diapsid; anapsid; amniote; taxonomic group; starches; barrier; obstruction; opening;
passage; supporting structure; framework; construction; sheet; strip; bar; possession; medium; fabrication; product;
assets; property; white goods; piece; public transport; domestic animal; young; larva; worker; adult; leader;
unfortunate; contestant; unwelcome person; bad person; good person; traveler; inhabitant; expert; intellectual;
creator; communicator; entertainer; capitalist; peer; lover; relative; juvenile; male; female; helper; skilled worker;
official; professional; follower; user; contemplative; nonworker; adventurer; compound; chemical; element; machine;
measuring instrument; weight; top; side; end; layer; form; shape; component; section;
formation; change; happening""".replace("\n", " ").split("; "))


FAMILIAR = 0.85  # share of scenes of words whose thing is found in ordinary texts
FAINT = 0.5      # probability below which the eye names a thing that is likely not there


@dataclass(frozen=True)
class Scene:
    tags: Callable[[random.Random], Tags]  # one view of it: what the eye names, with probabilities
    shown: Shown
    photo: int = -1                        # row of the photo; -1 for a scene of words


class PhotoWorld:
    """The photos of one split. `tags_of(row, rng)` names what the eye sees in one of the views of a photo."""

    def __init__(self, concepts: Concepts, heldout: Heldout, shown: list[Shown],
                 tags_of: Callable[[int, random.Random], Tags]) -> None:
        self.concepts, self.heldout = concepts, heldout
        self.scenes = [Scene(lambda rng, row=row: tags_of(row, rng), one, row) for row, one in enumerate(shown)]
        self._by_label: dict[str, list[int]] = defaultdict(list)
        for row, one in enumerate(shown):
            for label in one.labels:
                self._by_label[label].append(row)
        self._labels = sorted(self._by_label)
        self._weights = [len(self._by_label[label]) ** 0.5 for label in self._labels]

    def any(self, rng: random.Random) -> Scene:
        """A scene; rare labels come more often than their share of the photos."""
        (label,) = rng.choices(self._labels, self._weights)
        return self.scenes[rng.choice(self._by_label[label])]

    def concept_in(self, scene: Scene, rng: random.Random) -> Concept | None:
        """Something that the scene shows and a training policy may name: as near as its label or as wide as animals."""
        groups = [group for group in self._groups(scene.shown) if self.allowed(group)]
        if groups and rng.random() < 0.5:
            return rng.choice(groups)
        return concept_above(self.concepts, scene.shown, self.allowed, rng)

    def with_concept(self, concept: Concept, rng: random.Random) -> Scene | None:
        rows = self._rows(concept)
        return self.scenes[rng.choice(rows)] if rows else None

    def near(self, concept: Concept, rng: random.Random) -> Scene | None:
        """A hard case: a scene that does not show the concept though the eye names it faintly, or one of the same kind
        of thing."""
        faint = self._faint_rows(concept)
        if faint and rng.random() < 0.5:
            return self.scenes[rng.choice(faint)]
        for kind in sorted(concept.kinds):
            for parent in self.concepts.wordnet.synsets[kind].hypernyms:
                if self.concepts.wordnet.synsets[parent].lemmas[0] not in ABSTRACT:
                    return self.with_concept(Concept(parent, (), kinds=frozenset({parent})), rng)
        return None

    def allowed(self, concept: Concept) -> bool:
        return concept not in self.heldout

    def _groups(self, shown: Shown) -> list[Concept]:
        return [group for group in self.concepts.groups.values() if self.concepts.truth(group, shown)]

    def _rows(self, concept: Concept) -> list[int]:
        if concept.id not in self._rows_by_concept:
            truth = self.concepts.truth
            self._rows_by_concept[concept.id] = [row for row, scene in enumerate(self.scenes)
                                                 if truth(concept, scene.shown)]
        return self._rows_by_concept[concept.id]

    def _faint_rows(self, concept: Concept) -> list[int]:
        """Rows of scenes that surely do not show the concept, where a tag below FAINT says that they do."""
        if concept.id not in self._faint_by_concept:
            truth, named = self.concepts.truth, self.concepts.named
            names = [name for name in self._faint_by_name if (shown := named(name)) and truth(concept, shown)]
            rows = sorted({row for name in names for row in self._faint_by_name[name]})
            self._faint_by_concept[concept.id] = [row for row in rows
                                                  if truth(concept, self.scenes[row].shown) is False]
        return self._faint_by_concept[concept.id]

    @cached_property
    def _faint_by_name(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = defaultdict(list)
        for row, scene in enumerate(self.scenes):
            for name, probability in scene.tags(random.Random(row)):
                if probability < FAINT:
                    rows[name].append(row)
        return rows

    @cached_property
    def _rows_by_concept(self) -> dict[str, list[int]]:
        return {}

    @cached_property
    def _faint_by_concept(self) -> dict[str, list[int]]:
        return {}


class WordWorld:
    """Scenes of words: each holds one or two things, named with the doubts that a classifier has."""

    def __init__(self, concepts: Concepts, heldout: Heldout, labels: Sequence[str]) -> None:
        self.concepts, self.heldout, self.labels = concepts, heldout, list(labels)
        nouns = concepts.visible_nouns
        self.nouns = list(nouns)
        self.familiar = self._familiar(self.nouns)
        self._below: dict[str, list[Synset]] = defaultdict(list)
        for noun in nouns:
            for hypernym in noun.hypernyms:
                self._below[hypernym].append(noun)

    def any(self, rng: random.Random) -> Scene:
        if rng.random() < 0.2:
            return self._scene(rng, labels=frozenset({rng.choice(self.labels)}))
        return self._scene(rng, noun=rng.choice(self.familiar if rng.random() < FAMILIAR else self.nouns))

    def concept_in(self, scene: Scene, rng: random.Random) -> Concept | None:
        groups = [group for group in self.concepts.groups.values()
                  if self.allowed(group) and self.concepts.truth(group, scene.shown)]
        if groups and rng.random() < 0.3:
            return rng.choice(groups)
        return concept_above(self.concepts, scene.shown, self.allowed, rng)

    def with_concept(self, concept: Concept, rng: random.Random) -> Scene | None:
        if concept.labels and (not concept.kinds or rng.random() < 0.5):
            return self._scene(rng, labels=frozenset({rng.choice(sorted(concept.labels))}))
        noun = self._descend(rng.choice(sorted(concept.kinds)), rng)
        return self._scene(rng, noun=noun) if noun else None

    def near(self, concept: Concept, rng: random.Random) -> Scene | None:
        if not concept.kinds:
            return None
        synset = self.concepts.wordnet.synsets[rng.choice(sorted(concept.kinds))]
        siblings = [noun for parent in synset.hypernyms for noun in self._below[parent] if noun is not synset]
        return self._scene(rng, noun=rng.choice(self._mostly_familiar(siblings, rng))) if siblings else None

    def allowed(self, concept: Concept) -> bool:
        return concept not in self.heldout

    def _descend(self, offset: str, rng: random.Random) -> Synset | None:
        """The noun itself or something below it, any depth."""
        synset = self.concepts.wordnet.synsets[offset]
        while self._below[synset.offset] and rng.random() < 0.75:
            synset = rng.choice(self._mostly_familiar(self._below[synset.offset], rng))
        return synset

    def _mostly_familiar(self, nouns: list[Synset], rng: random.Random) -> list[Synset]:
        """The familiar ones of the nouns, FAMILIAR of the time and if there are any; else all."""
        known = self._familiar(nouns)
        return known if known and rng.random() < FAMILIAR else nouns

    def _familiar(self, nouns: list[Synset]) -> list[Synset]:
        """Those that ordinary texts have."""
        return [noun for noun in nouns if noun.lemmas[0] in self.concepts.wordnet.familiar]

    def _scene(self, rng: random.Random, noun: Synset | None = None, labels: frozenset[str] = frozenset()) -> Scene:
        shown = [self.concepts.shown(labels)] if labels else [self._shown(noun)]
        if rng.random() < 0.25:
            shown.append(self._shown(rng.choice(self.familiar)))
        tags = [tag for one in shown for tag in self._tags(one, rng)]
        tags.sort(key=lambda tag: -tag[1])
        together = Shown(frozenset().union(*(one.labels for one in shown)),
                         frozenset().union(*(one.synsets for one in shown)),
                         frozenset().union(*(one.kinds for one in shown)), "")
        return Scene(lambda _: tags, together)

    def _shown(self, noun: Synset) -> Shown:
        offsets = frozenset({noun.offset})
        return Shown(frozenset(), offsets, self.concepts.wordnet.ancestors(noun.offset), "")

    def _tags(self, shown: Shown, rng: random.Random) -> list[tuple[str, float]]:
        """What a classifier might say: the thing, its look-alikes with the rest of the probability, its kinds."""
        synsets = self.concepts.wordnet.synsets
        sure = rng.betavariate(3, 1)
        names = [(label, sure) for label in sorted(shown.labels)]
        for offset in sorted(shown.synsets):
            synset = synsets[offset]
            names += [] if shown.labels else [(rng.choice(synset.lemmas[:2]), sure)]
            siblings = [noun for parent in synset.hypernyms for noun in self._below[parent] if noun is not synset]
            rest = 1 - sure
            for _ in range(rng.randrange(4)):
                other = rng.choice(siblings) if siblings and rng.random() < 0.6 else rng.choice(self.familiar)
                share = rest * rng.uniform(0.2, 0.8)
                rest -= share
                if share > 0.03:
                    names.append((other.lemmas[0], share))
            kinds = [synsets[kind] for kind in sorted(shown.kinds) if kind != offset]
            kinds = [kind for kind in kinds if kind.lemmas[0] not in ABSTRACT]
            for kind in rng.sample(kinds, min(len(kinds), rng.randrange(4))):
                names.append((kind.lemmas[0], min(1.0, sure + (1 - sure) * rng.uniform(0.3, 1))))
        return names


def concept_above(concepts: Concepts, shown: Shown, allowed: Callable[[Concept], bool],
                  rng: random.Random) -> Concept | None:
    """The noun of a scene or a hypernym that people use; nearer ones come more often."""
    if not shown.synsets:
        return None
    wordnet = concepts.wordnet
    synset = wordnet.synsets[rng.choice(sorted(shown.synsets))]
    chain = [synset]
    while synset.hypernyms:
        synset = wordnet.synsets[rng.choice(synset.hypernyms)]
        chain.append(synset)
    named = [concepts.concept_of(noun) for noun in chain if noun.lemmas[0] not in ABSTRACT]
    named = [concept for concept in named if allowed(concept)]
    while named and len(named) > 1 and rng.random() < 0.55:
        named.pop(0)
    return named[0] if named else None
