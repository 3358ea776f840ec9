"""What a photo shows, in the terms of a policy: concepts, their names, and whether a set of labels makes them true.

A concept is a hand-written group (concepts.yaml) or any noun of WordNet. Its truth over a photo has three values, since
a missing label does not say that a thing is absent: True, False, or None where nobody can know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import inflect
import yaml

from training.photos import Photo
from training.wordnet import THINGS, Synset, WordNet

FOLDER = Path(__file__).parent
NAMED_FILES = THINGS - {3} | {8, 19, 27}  # whose nouns make up scenes of words: also the body, phenomena, substances
MASS_FILES = {4, 11, 13, 19, 27}  # acts, events, food, phenomena, substances: named without plural
_inflect = inflect.engine()


@dataclass(frozen=True, slots=True)
class Name:
    """One way to name a concept: "gun" / "guns"; both are "smoke" for a mass noun."""

    singular: str
    plural: str

    @property
    def with_article(self) -> str:
        return self.singular if self.singular == self.plural else _inflect.a(self.singular)


@dataclass(frozen=True)
class Concept:
    id: str                                  # "weapon", or the offset of a synset
    names: tuple[Name, ...]
    labels: frozenset[str] = frozenset()     # photo labels that make it true
    kinds: frozenset[str] = frozenset()      # synsets whose subtree makes it true
    maybe: frozenset[str] = frozenset()      # photo labels that leave it open
    without: frozenset[str] = frozenset()    # photo labels that make it false, whatever else is there
    absent_from: frozenset[str] | None = None  # sources where a missing label means absence; None: all


@dataclass(frozen=True)
class Shown:
    """What is to be seen in one scene."""

    labels: frozenset[str]
    synsets: frozenset[str]       # of the labels
    kinds: frozenset[str]         # the synsets and all their hypernyms
    source: str                   # of the photo; "" for a scene made of words, in which nothing is left open
    group: Concept | None = None  # a group of which only the name is known


@dataclass(frozen=True)
class Concepts:
    wordnet: WordNet
    groups: dict[str, Concept]
    label_synsets: dict[str, tuple[str, ...]] = field(default_factory=dict)  # overrides: label → other names

    @classmethod
    def read(cls, wordnet: WordNet, path: Path = FOLDER / "concepts.yaml") -> Concepts:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        groups = {name: _group(name, entry, wordnet) for name, entry in document["groups"].items()}
        return cls(wordnet, groups, {label: tuple(names) for label, names in document["synsets"].items()})

    def shown_in(self, photo: Photo) -> Shown:
        return self.shown(photo.labels, photo.source)

    def shown(self, labels: frozenset[str], source: str = "") -> Shown:
        synsets = frozenset(synset.offset for synset in map(self.synset_of_label, labels) if synset)
        return Shown(labels, synsets, self._kinds(synsets), source)

    def named(self, name: str) -> Shown | None:
        """What is to be seen where no more is known than its name; None if no group, label or noun is called so."""
        if name not in self._named:
            if (group := self._groups_by_name.get(name)) is not None:
                self._named[name] = Shown(frozenset(), frozenset(), frozenset(), "", group)
            else:
                shown = self.shown(frozenset({name}))
                self._named[name] = shown if shown.synsets or name in self._labels else None
        return self._named[name]

    def synset_of_label(self, label: str) -> Synset | None:
        name, *kind = self.label_synsets.get(label, (label,))
        return self.wordnet.find(name, kind=kind[0] if kind else None)

    def concept_of(self, synset: Synset) -> Concept:
        """A noun of WordNet as a concept; its labels are left to `kinds`."""
        return Concept(synset.offset, tuple(noun_name(lemma, synset.lexicographer) for lemma in synset.lemmas[:3]),
                       kinds=frozenset({synset.offset}))

    def truth(self, concept: Concept, shown: Shown) -> bool | None:
        """Whether the scene shows the concept; None where its labels leave that open."""
        if shown.group is not None:
            return self._truth_of_name(concept, shown.group)
        if shown.source and not shown.labels:
            return None  # a photo that nobody has labelled
        if shown.labels & concept.without:
            return False
        if shown.labels & concept.labels or self._sure_kinds(concept, shown) & concept.kinds:
            return True
        if shown.labels & concept.maybe:
            return None
        if any(self.wordnet.ancestors(kind) & shown.synsets for kind in concept.kinds):
            return None  # labelled "bird", asked for flamingos
        if shown.source and concept.absent_from is not None and shown.source not in concept.absent_from:
            return None
        return False

    def _truth_of_name(self, concept: Concept, group: Concept) -> bool | None:
        """Of a group by name: True or False where it is so of all that belongs to the group."""
        if concept.id == group.id:
            return True
        values = {self.truth(concept, member) for member in self._members[group.id]}
        return values.pop() if len(values) == 1 else None

    def _sure_kinds(self, concept: Concept, shown: Shown) -> frozenset[str]:
        """The kinds of what is shown, less those that come of labels which leave the concept open."""
        if not shown.labels & concept.maybe:
            return shown.kinds
        of_labels = self.shown(shown.labels).synsets
        return self.shown(shown.labels - concept.maybe).kinds | self._kinds(shown.synsets - of_labels)

    @cached_property
    def _named(self) -> dict[str, Shown | None]:
        return {}

    @cached_property
    def _members(self) -> dict[str, list[Shown]]:
        """What each group has labels and kinds for, one by one."""
        return {group.id: [*(self.shown(frozenset({label})) for label in group.labels),
                           *(Shown(frozenset(), frozenset({kind}), self.wordnet.ancestors(kind), "")
                             for kind in group.kinds)] for group in self.groups.values()}

    @cached_property
    def _groups_by_name(self) -> dict[str, Concept]:
        """As tags are called (training/nano/tags.py)."""
        return {group.names[0].singular: group for group in self.groups.values()}

    @cached_property
    def _labels(self) -> frozenset[str]:
        return frozenset().union(*(group.labels for group in self.groups.values()))

    @cached_property
    def visible_nouns(self) -> tuple[Synset, ...]:
        """Nouns of WordNet that name a kind of visible thing by its commonest sense, no proper names."""
        chosen = []
        for synset in self.wordnet.synsets.values():
            lemma = synset.lemmas[0]
            if (synset.lexicographer in NAMED_FILES and not synset.instance and lemma == lemma.lower()
                    and len(lemma.split()) <= 3 and self.wordnet.senses[lemma][0] == synset.offset):
                chosen.append(synset)
        return tuple(chosen)

    def _kinds(self, synsets: frozenset[str]) -> frozenset[str]:
        return frozenset().union(*(self.wordnet.ancestors(offset) for offset in synsets))


@dataclass(frozen=True)
class Heldout:
    """Concepts that no training policy may name (heldout_concepts.yaml)."""

    labels: frozenset[str]
    synsets: frozenset[str]
    words: frozenset[str]  # every name of theirs, lower case
    below: frozenset[str] = frozenset()  # synsets of the leaves and of all their kinds: a webcam is a camera

    @classmethod
    def read(cls, concepts: Concepts, path: Path = FOLDER / "heldout_concepts.yaml") -> Heldout:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        leaves = [concepts.synset_of_label(label) for label in document["leaves"]]
        groups = [concepts.wordnet.find(name) for name in document["groups"]]
        found = [synset for synset in leaves + groups if synset]
        words = {lemma.lower() for synset in leaves if synset for lemma in synset.lemmas}
        words |= {*document["leaves"], *document["groups"]}  # not other names of groups: a big cat is called cat, too
        tops = frozenset(synset.offset for synset in leaves if synset)
        below = frozenset(offset for offset in concepts.wordnet.synsets if concepts.wordnet.ancestors(offset) & tops)
        return cls(frozenset(document["leaves"]), frozenset(synset.offset for synset in found), frozenset(words), below)

    def __contains__(self, concept: Concept) -> bool:
        named = {form.lower() for name in concept.names for form in (name.singular, name.plural)}
        return bool(concept.kinds & (self.synsets | self.below) or named & self.words
                    or concept.labels & self.labels and len(concept.labels) == 1)


def noun_name(lemma: str, lexicographer: int) -> Name:
    """A lemma with its plural; mass nouns keep one form half of the time by their kind of thing."""
    if lexicographer in MASS_FILES or lemma.endswith(("s", "wear")):
        return Name(lemma, lemma)
    return Name(lemma, _inflect.plural_noun(lemma) or lemma)


def _group(name: str, entry: dict, wordnet: WordNet) -> Concept:
    unknown = entry.keys() - {"names", "labels", "kinds", "maybe", "without", "only_absent_from"}
    if unknown or not entry.get("names"):
        raise ValueError(f"concepts.yaml, {name}: unknown keys {sorted(unknown)} or no names")
    kinds = {kind: wordnet.find(kind) for kind in entry.get("kinds", [])}
    missing = [kind for kind, synset in kinds.items() if synset is None]
    if missing:
        raise ValueError(f"concepts.yaml, {name}: WordNet has no visible noun {missing}")
    return Concept(
        id=name,
        names=tuple(_written_name(text) for text in entry["names"]),
        labels=frozenset(entry.get("labels", [])),
        kinds=frozenset(synset.offset for synset in kinds.values()),
        maybe=frozenset(entry.get("maybe", [])),
        without=frozenset(entry.get("without", [])),
        absent_from=frozenset(entry["only_absent_from"]) if "only_absent_from" in entry else None,
    )


def _written_name(text: str) -> Name:
    singular, _, plural = (part.strip() for part in text.partition("|"))
    return Name(singular, plural or singular)
