"""Rows from labelled photos: whether a photo breaks a rule follows from what its labels say is there.

A phrase of a rule is a hand-written concept (policyflip/concepts.yaml), a noun of WordNet, or a label of the photos,
word for word. What labels leave open makes no row: a photo labelled "bird" is no evidence about flamingos.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import inflect

from safeguard_sdk import Policy
from safeguard_sdk.policy import Rule
from training.calibration.rows import Row
from training.errors import TrainingError
from training.photos import Photo, read_photos
from training.policyflip.concepts import Concept, Concepts

_inflect = inflect.engine()


def rows_of_photos(folder: Path, policies: Sequence[Policy], concepts: Concepts, split: str) -> list[Row]:
    """A row for each photo of a split and each rule that its labels decide.

    split   "train", "validation", "test" or "all"; a photo's split is fixed by its bytes (training/photos.py)
    raises  TrainingError if a phrase has no meaning for labels, or nothing is left

    Copies of a photo that say the same, and a rule that several policies share, make one row: they are one evidence.
    """
    photos = read_photos(folder)
    labels = frozenset().union(*(photo.labels for photo in photos))
    reader = PhraseReader(concepts, {label: frozenset(p.source for p in photos if label in p.labels)
                                     for label in labels})
    meanings = {rule.canonical_text: (policy, rule, *reader.sides(rule)) for policy in policies
                for rule in policy.rules}
    rows = {}
    for photo in photos:
        if split not in ("all", photo.split):
            continue
        for text, (policy, rule, forbidden, allowed) in meanings.items():
            broken = breaks(concepts, photo, forbidden, allowed)
            if broken is not None:
                rows.setdefault((photo.sha256, text, broken), Row(photo.path, policy, (rule,), broken, str(photo.path)))
    if not rows:
        raise TrainingError(f"{folder}: no photo of the split '{split}' has labels that decide these policies; choose "
                            "another --split or label more photos")
    return list(rows.values())


class PhraseReader:
    """What the phrases of rules mean over labels.

    sources_of  of each label: the sources of photos that use it; in other sources its absence says nothing
    """

    def __init__(self, concepts: Concepts, sources_of: dict[str, frozenset[str]]) -> None:
        self._concepts, self._sources_of = concepts, sources_of
        self._groups = {form.lower(): group for group in concepts.groups.values() for name in group.names
                        for form in (name.singular, name.plural)}

    def sides(self, rule: Rule) -> tuple[list[Concept], list[Concept]]:
        """What a rule forbids and what it allows. Raises TrainingError naming the phrase that means nothing here."""
        if rule.text:
            raise TrainingError(f"rule '{rule.id}' is in free words, which labels of photos cannot decide; write it "
                                "with forbids and allows, or give labelled rows in a CSV file")
        return [self._concept(rule, phrase) for phrase in rule.forbids], [
            self._concept(rule, phrase) for phrase in rule.allows]

    def _concept(self, rule: Rule, phrase: str) -> Concept:
        plain = phrase.lower()
        wordnet = self._concepts.wordnet
        for form in (plain, _inflect.singular_noun(plain) or plain):
            if form in self._groups:
                return self._groups[form]
            # The whole phrase: WordNet.find would read "a person with a knife" as a knife.
            if form in wordnet.senses and (synset := wordnet.find(form)):
                return self._concepts.concept_of(synset)
            if form in self._sources_of:
                return Concept(form, (), labels=frozenset({form}), absent_from=self._sources_of[form])
        raise TrainingError(f"rule '{rule.id}': {phrase!r} is no noun of WordNet, no concept of concepts.yaml and no "
                            "label of these photos; name it otherwise, or give labelled rows in a CSV file")


def breaks(concepts: Concepts, photo: Photo, forbidden: list[Concept], allowed: list[Concept]) -> bool | None:
    """Whether a photo breaks a rule; None where its labels leave that open.

    A label that an exception covers excuses itself only: a toy gun is no gun, but it excuses no gun beside it.
    """
    if not photo.labels:
        return None
    excuses = {label: [concepts.truth(one, concepts.shown(frozenset({label}), photo.source)) for one in allowed]
               for label in photo.labels}
    not_excused = frozenset(label for label, truths in excuses.items() if True not in truths)
    surely_not = frozenset(label for label, truths in excuses.items() if not {True, None} & set(truths))
    found, surely = ([concepts.truth(one, concepts.shown(labels, photo.source)) for one in forbidden if labels]
                     for labels in (not_excused, surely_not))
    if True in surely:
        return True
    return None if {True, None} & set(found) else False
