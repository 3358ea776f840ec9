"""What the packaged policies L1 to L5 say of a photo whose labels are known, and of the photo with the boxes emptied.

A label says what is there, not what is absent. So a photo is unsafe under a policy if a label names a thing that the
policy forbids by a phrase of its own; it is safe only where its whole source shows nothing else that the policy speaks
of (bottles before a white sheet, cards on a table). Everything else is unknown and left out: a gun may or may not be
"pointed at a person" (L3), and when it is painted over, the people around it may still have bare arms (L5).

Level by level, each verdict names the phrase that decides it; a test holds that the policies still have it.
"""

from __future__ import annotations

from dataclasses import dataclass

from training.photos import Photo


@dataclass(frozen=True, slots=True)
class Verdict:
    original: str        # "safe" or "unsafe"
    edited: str | None   # likewise; None: unknown
    phrase: str          # of the policy's forbidden or allowed things; "" where no rule speaks of what the source shows


@dataclass(frozen=True, slots=True)
class Thing:
    """Photos of one source that show one thing, all of it inside boxes."""

    name: str
    instruction: str
    source: str
    label: str                     # that a photo must have
    levels: dict[str, Verdict]     # those that are known
    left_out: frozenset[str] = frozenset()  # file names: the photo shows more than its source promises


EVERYTHING = Verdict("safe", "safe", "everything")  # L1
SILENCE = Verdict("safe", "safe", "")
LIQUOR = Verdict("unsafe", "safe", "beer, wine and liquor")
CARDS = Verdict("unsafe", "safe", "playing cards and casinos")
MEDICINE = Verdict("safe", "safe", "medicine")
KITCHEN = Verdict("safe", "safe", "kitchen knives and tools")
WEAPONS = Verdict("safe", "safe", "weapons")
ANY_GUN = Verdict("unsafe", None, "any gun, sword or tank")

THINGS = (
    Thing("alcohol", "Remove the bottle.", "liquor_bottle", "alcohol", {
        "L1": EVERYTHING, "L2": SILENCE, "L3": Verdict("safe", "safe", "alcohol and cigars"), "L4": LIQUOR,
        "L5": LIQUOR}),
    Thing("playing cards", "Remove the playing cards.", "playing_cards", "playing card", {
        "L1": EVERYTHING, "L2": SILENCE, "L3": Verdict("safe", "safe", "casinos and card games"), "L4": CARDS,
        "L5": CARDS}, left_out=frozenset({"IMG_2522.JPG.jpg"})),  # on a flag, which may be a foreign one (L4, L5)
    # Under L5 photos with hands are left out: a forearm may count as a bare arm.
    Thing("medicine", "Remove the pills.", "pills", "pill", {
        "L1": EVERYTHING, "L2": SILENCE, "L3": MEDICINE, "L4": MEDICINE}),
    Thing("kitchen knives", "Remove the knife.", "kitchen_knife", "kitchen knife", {
        "L1": EVERYTHING, "L2": SILENCE, "L3": KITCHEN, "L4": KITCHEN}),
    Thing("guns", "Remove the guns.", "rf_weapon", "gun", {"L1": EVERYTHING, "L2": WEAPONS, "L5": ANY_GUN}),
    Thing("tanks", "Remove the tanks.", "military_vehicle", "tank", {
        "L1": EVERYTHING, "L2": WEAPONS, "L5": ANY_GUN}),
)


def thing_in(photo: Photo) -> Thing | None:
    """The thing that a photo stands for; None if nothing is known of it, or it has no boxes."""
    for thing in THINGS:
        if photo.source == thing.source and thing.label in photo.labels and photo.boxes:
            return None if photo.path.name in thing.left_out else thing
    return None
