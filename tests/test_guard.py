"""A guard: what it takes, that a verdict never depends on neighbours, threads or processes, and that a failure is never
a verdict. All on real photos and the embedded model."""

import io
import itertools
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from safeguard_sdk import Guard, ImageError, Policy, PolicyError, Verdict
from safeguard_sdk.engine import Prefix
from safeguard_sdk.guard import prepare
from safeguard_sdk.policy import Rule

ROOT = Path(__file__).parents[1]
PHOTOS = ("astronaut.png", "camera.png", "chelsea.png", "china.jpg", "clock_motion.png", "coffee.png", "coins.png",
          "flower.jpg", "grass.png", "hubble_deep_field.jpg", "ihc.png", "motorcycle_left.png", "page.png",
          "retina.jpg", "rocket.jpg", "text.png")
POLICY = Policy("specification", "1", (
    Rule("people", forbids="people", allows=("animals", "statues of people")),  # the form of most policies
    Rule("everything", forbids="everything"),                                   # one side only
    Rule("terse", text="no food"),                                              # as short as a rule gets
    Rule("wordy", text="This album is about travelling. Please hand in pictures of streets, temples and landscapes.\n"
                       "Vehicles of any kind are welcome, be it a motorcycle or a rocket; what we do not print are "
                       "animals, printed pages and whatever a doctor would look at through a microscope."),
))


@pytest.fixture(scope="module")
def guard() -> Guard:
    return Guard(POLICY)


@pytest.fixture(scope="module")
def sources(photos) -> dict[str, Path]:
    return {name: photos[name] for name in PHOTOS}


@pytest.fixture(scope="module")
def alone(guard, sources) -> dict[str, Verdict]:
    """The verdict of every photo by `check`: what all other ways of asking must equal."""
    return {name: guard.check(path) for name, path in sources.items()}


# What is an image

LOSSLESS = {
    "path": lambda path: path,
    "str": str,
    "bytes": Path.read_bytes,
    "PIL image": lambda path: Image.open(path),
    "array": lambda path: np.asarray(Image.open(path).convert("RGB")),
}


@pytest.mark.parametrize("form", LOSSLESS)
@pytest.mark.parametrize("name", ["astronaut.png", "camera.png"])  # RGB; grey
def test_one_lossless_image_has_one_verdict_however_it_is_passed(guard, sources, alone, name, form):
    assert guard.check(LOSSLESS[form](sources[name])) == alone[name]


def test_the_photo_decides_the_score(alone):
    """Else the tests of sameness below would prove nothing."""
    for rule in POLICY.rules:
        assert len({verdict.rules[rule.id] for verdict in alone.values()}) == len(PHOTOS)


# Several policies on one engine

def test_a_guard_on_another_s_engine_gives_the_verdicts_of_its_own_policy(guard, sources, alone):
    single = Policy("single", "1", POLICY.rules[1:2])
    shared = Guard.on(guard.engine, single)
    assert shared.engine is guard.engine and shared.bundle is guard.bundle
    verdict = shared.check(sources["coffee.png"])
    assert verdict.rules == {"everything": alone["coffee.png"].rules["everything"]}
    assert verdict.policy_sha256 == single.sha256


def test_a_guard_takes_prefixes_from_who_keeps_them_and_names_the_rule_that_is_too_long(guard, sources, alone):
    read = {}

    def keep(text: str) -> Prefix:
        return read.setdefault(text, guard.engine.read(text))

    assert Guard.on(guard.engine, POLICY, keep).check(sources["china.jpg"]) == alone["china.jpg"]
    assert list(read) == [guard.bundle.style.prefix(rule.canonical_text) for rule in POLICY.rules]
    too_long = Policy("long", "1", (Rule("long", text="word " * 2000),))
    with pytest.raises(PolicyError, match="rule 'long': the text is"):
        Guard.on(guard.engine, too_long, keep)


# The same verdict alone, in any batch, in any order, on any worker: exactly, so == and no tolerance

@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 16])
def test_a_verdict_is_the_same_alone_and_in_any_batch_and_comes_in_the_order_of_the_images(
        guard, sources, alone, batch_size):
    names = random.Random(batch_size).sample(PHOTOS, len(PHOTOS))
    found = list(guard.check_many([sources[name] for name in names], batch_size))
    assert found == [alone[name] for name in names]


def test_a_verdict_is_the_same_beside_copies_of_itself(guard, sources, alone):
    assert list(guard.check_many([sources["coffee.png"]] * 5)) == [alone["coffee.png"]] * 5


def test_eight_threads_that_share_a_guard_find_what_one_finds(guard, sources, alone):
    names = random.Random(0).sample(PHOTOS * 2, 24)
    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda name: guard.check(sources[name]), names))
    assert found == [alone[name] for name in names]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_verdict_does_not_depend_on_the_number_of_threads(sources, alone, threads):
    other = Guard(POLICY, threads=threads)
    assert [other.check(sources[name]) for name in PHOTOS[:4]] == [alone[name] for name in PHOTOS[:4]]


def test_another_process_finds_the_same_scores(sources, alone, tmp_path):
    code = ("import json, sys; from safeguard_sdk import Guard, Policy; guard = Guard(Policy.load(sys.argv[1])); "
            "print(json.dumps([guard.check(path).rules for path in sys.argv[2:]]))")
    (tmp_path / "policy.yaml").write_text(POLICY.to_yaml(), encoding="utf-8")
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "policy.yaml", *map(sources.get, PHOTOS[:4])],
                         cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert json.loads(run.stdout) == [alone[name].rules for name in PHOTOS[:4]]  # JSON keeps a float to the last bit


# A rule is judged on its own

def test_the_score_of_a_rule_does_not_depend_on_the_other_rules(sources, alone):
    wordy = Guard(Policy("one", "1", POLICY.rules[-1:]))
    for name in PHOTOS[:4]:
        assert wordy.check(sources[name]).rules == {"wordy": alone[name].rules["wordy"]}


def test_what_one_guard_has_encoded_another_can_judge(guard, sources, alone):
    """So a changed policy need not decode the images again."""
    other = Guard(Policy.from_text("No clocks."))
    geometry = other.bundle.geometry
    embeddings = other.engine.encode(np.stack([prepare(sources[name], geometry)[0] for name in PHOTOS[:3]]))
    assert guard.judge(embeddings) == [alone[name] for name in PHOTOS[:3]]


def test_a_verdict_names_the_policy_the_bundle_and_the_prompt_that_it_comes_from(guard, alone):
    assert {(verdict.policy_sha256, verdict.bundle_sha256, verdict.prompt_sha256) for verdict in alone.values()} == {
        (POLICY.sha256, guard.bundle.sha256, guard.bundle.style.sha256)}


def test_another_word_in_the_policy_is_another_policy_and_another_score(sources):
    first, second = (Guard(Policy.from_text(f"No {word}.")).check(sources["chelsea.png"]) for word in ("cats", "cars"))
    assert first.policy_sha256 != second.policy_sha256
    assert first.score != second.score


def test_scores_stand_in_the_order_of_the_rules_and_lie_between_0_and_1(alone):
    for verdict in alone.values():
        assert list(verdict.rules) == [rule.id for rule in POLICY.rules]
        assert all(0 < score < 1 for score in verdict.rules.values())


def test_check_says_how_long_each_stage_took(alone):
    assert all(set(verdict.ms) == {"decode", "patches", "vision", "prefill"} and min(verdict.ms.values()) > 0
               for verdict in alone.values())


def test_explain_gives_the_verdict_of_check_and_says_what_was_seen(guard, sources, alone):
    verdict = guard.explain(sources["astronaut.png"])
    assert verdict.rationale.startswith("Seen in the picture: ") and "%" in verdict.rationale
    assert (verdict.label, verdict.rules) == (alone["astronaut.png"].label, alone["astronaut.png"].rules)
    assert set(verdict.ms) == set(alone["astronaut.png"].ms)
    assert alone["astronaut.png"].rationale is None


# Many images

def test_no_images_no_verdicts(guard):
    assert list(guard.check_many([])) == []
    assert list(guard.check_many(iter(()), batch_size=3)) == []


@pytest.mark.parametrize("good", [0, 1, 2, 3])  # the bad one: first; second in its batch; first and second of the next
def test_the_verdicts_before_a_bad_image_are_given_and_then_its_error_is_raised(guard, sources, alone, good):
    images = [*(sources[name] for name in PHOTOS[:good]), b"no image", sources["coffee.png"]]
    found = []
    with pytest.raises(ImageError) as caught:
        found.extend(guard.check_many(images, batch_size=2))
    assert caught.value.kind == "not_an_image"
    assert found == [alone[name] for name in PHOTOS[:good]]


def test_an_error_of_the_source_is_raised_at_its_place_too(guard, sources, alone):
    def broken() -> Iterator[Path]:
        yield sources["coffee.png"]
        raise ConnectionError("the archive is gone")

    verdicts = guard.check_many(broken())
    assert next(verdicts) == alone["coffee.png"]
    with pytest.raises(ConnectionError, match="the archive is gone"):
        next(verdicts)


def test_an_endless_source_is_read_one_batch_ahead_and_no_further(guard, sources):
    read = itertools.count()
    endless = (sources["coffee.png"] for _ in read)
    verdicts = guard.check_many(endless, batch_size=2)
    for _ in range(3):  # the third verdict is the first of the second batch; the third batch is being read
        next(verdicts)
    verdicts.close()
    assert next(read) == 3 * 2


def test_a_batch_has_at_least_one_image(guard):
    with pytest.raises(ValueError, match="batch_size is 0"):
        next(guard.check_many([], batch_size=0))


# A failure is never a verdict

def cut_off(path: Path) -> bytes:
    data = path.read_bytes()
    return data[:len(data) // 2]


def header_of(width: int, height: int) -> bytes:
    """A BMP that declares this size and holds a single pixel."""
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1)).save(buffer, "BMP")
    data = bytearray(buffer.getvalue())
    data[18:26] = np.array([width, height], "<i4").tobytes()
    return bytes(data)


FAILURES = {
    "missing": (lambda photo: photo.with_name("missing.jpg"), "not_found"),
    "folder": (lambda photo: photo.parent, "not_found"),
    "no bytes": (lambda photo: b"", "empty"),
    "text": (lambda photo: b"safe, safe, safe", "not_an_image"),
    "cut-off JPEG": (cut_off, "truncated"),
    "bomb": (lambda photo: header_of(60_000, 60_000), "too_large"),
    "missing pixels": (lambda photo: header_of(64, 64), "truncated"),
    "floats": (lambda photo: np.zeros((8, 8, 3)), "bad_shape"),
    "channels first": (lambda photo: np.zeros((3, 8, 8), np.uint8), "bad_shape"),
    "no pixels": (lambda photo: np.zeros((0, 8, 3), np.uint8), "empty"),
    "nothing": (lambda photo: None, "unsupported"),
}


@pytest.mark.parametrize("ask", [Guard.check, Guard.explain, lambda guard, image: list(guard.check_many([image]))],
                         ids=["check", "explain", "check_many"])
@pytest.mark.parametrize("failure", FAILURES)
def test_an_image_that_cannot_be_judged_raises_and_says_why(guard, photos, failure, ask):
    make, kind = FAILURES[failure]
    with pytest.raises(ImageError) as caught:
        ask(guard, make(photos["flower.jpg"]))
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)


def test_a_rule_that_the_model_cannot_read_whole_is_an_error_that_names_it():
    long = Policy("long", "1", (Rule("short", forbids="cats"), Rule("long", forbids=["a dog on a lawn"] * 400)))
    with pytest.raises(PolicyError, match=r"^rule 'long': the text is \d+ tokens long, nano reads at most \d+; "):
        Guard(long)


# What the embedded model can do: rough on purpose, its measured quality stands in its manifest

FLIPS = {  # photo: what it shows, and what it does not
    "astronaut.png": ("people", "animals"),
    "chelsea.png": ("cats", "vehicles"),
    "coffee.png": ("food and drinks", "people"),
    "rocket.jpg": ("rockets", "food"),
    "flower.jpg": ("flowers", "vehicles"),
}


@pytest.fixture(scope="module")
def flips(photos) -> dict[str, dict[str, float]]:
    """Photo → scores of a rule that it breaks, of the opposite rule, and of a rule that allows only what it shows."""
    rules = [rule for photo, (shown, absent) in FLIPS.items() for rule in (
        Rule(f"{photo[:4]}-breaks", title="photos", forbids=shown, allows=absent),
        Rule(f"{photo[:4]}-keeps", title="photos", forbids=absent, allows=shown),
        Rule(f"{photo[:4]}-only", text=f"Only {shown} may be shown. Everything else is forbidden."),
    )]
    guard = Guard(Policy("flips", "1", rules))
    scores = {photo: guard.check(photos[photo]).rules for photo in FLIPS}
    return {photo: {name: scores[photo][f"{photo[:4]}-{name}"] for name in ("breaks", "keeps", "only")}
            for photo in FLIPS}


def test_opposite_policies_turn_the_verdict_round_for_four_of_five_photos_at_least(flips):
    right = [photo for photo, scores in flips.items() if scores["breaks"] >= 0.5 > scores["keeps"]]
    assert len(right) >= 4, flips


def test_forbidding_what_a_photo_shows_scores_higher_than_allowing_nothing_else(flips):
    right = [photo for photo, scores in flips.items() if scores["breaks"] > scores["only"]]
    assert len(right) >= 4, flips
    assert "astronaut.png" in right


def test_words_that_are_no_policy_yet_are_an_error_that_says_how_to_make_one():
    with pytest.raises(PolicyError, match=r'the policy is of type str; pass Policy\.from_text\("No guns\."\)'):
        Guard("No guns.")
