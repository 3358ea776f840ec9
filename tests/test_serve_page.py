"""The page at `/`: what a person sees of photos and policies, in a real browser, judged by the embedded model."""

import base64
import random
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from safeguard_sdk import Guard, Policy
from safeguard_sdk.policy import Rule
from safeguard_sdk.verdict import Verdict, decide

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from browser_world import (
    PHONE,
    RememberingEngine,
    all_of,
    console,
    hosts_asked,
    low_contrasts,
    nameless,
    one,
    open_browser,
    overflows_sideways,
    run_module,
    show_at,
    style_of,
    tabbed_through,
    wait_for,
)
from selenium.common.exceptions import NoSuchElementException
from selenium.webdriver.common.keys import Keys as Key
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select
from serve_world import policy_files, running

from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.keys import Keys
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.policies import Named

RULES = """
  - {id: animals, title: Animals, forbids: [cats, dogs], review_at: %s, unsafe_at: %s}
  - {id: drinks, title: "Drinks: hot", text: "No coffee.\\nTea is fine.", review_at: 0.484, unsafe_at: 0.6}
"""
PETS = 'name: pets\nversion: "2"\nrules:' + RULES % (0.3, 0.6)
STRICT = "name: strict\nrules:" + RULES % (0.01, 0.02)
PHOTOS = ("chelsea.png", "coffee.png", "china.jpg")
BROKEN = "broken.jpg"
REFUSED = "status of 422"  # the browser's console tells of each answer that is an error
KEY = "correct-horse-battery-staple"


@pytest.fixture(scope="module")
def engine() -> RememberingEngine:
    return RememberingEngine()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page")
    (folder / BROKEN).write_bytes(b"\xff\xd8\xff\xe0 and no more")
    return folder


@pytest.fixture(scope="module")
def verdicts(engine, photos) -> dict[str, dict[str, Verdict]]:
    """What the SDK says of the photos under each policy."""
    guards = [Guard.on(engine, Policy.from_yaml(text)) for text in (PETS, STRICT)]
    return {guard.policy.name: {name: guard.check(photos[name]) for name in PHOTOS} for guard in guards}


@pytest.fixture(scope="module")
def service(engine, folder) -> Iterator[httpx.Client]:
    with running(create_app(engine, policy_files(folder, pets=PETS, strict=STRICT),
                            Options(inline_policies=True))) as client:
        yield client


@pytest.fixture(scope="module")
def browser(folder) -> Iterator[WebDriver]:
    with open_browser(folder / "downloads") as browser:
        yield browser


@pytest.fixture
def page(browser, service) -> WebDriver:
    """The page as it is when it is opened."""
    open_page(browser, service)
    return browser


@pytest.fixture
def judged(page, photos) -> WebDriver:
    """With the verdicts of all photos under the policy "pets"."""
    choose(page, [photos[name] for name in PHOTOS])
    return page


# What stands in the page is what safeguard says

def test_dropped_photos_show_the_verdict_that_the_sdk_gives(page, photos, verdicts):
    drop(page, photos["chelsea.png"])
    choose(page, [photos["coffee.png"], photos["china.jpg"]], others=1)
    for name, verdict in verdicts["pets"].items():
        shown = one(card(page, name), ".verdict").text.split("\n")
        title = {"animals": "Animals", "drinks": "Drinks: hot", None: ""}[verdict.rule]
        assert " ".join(shown).split(" ", 2) == [verdict.label, f"{verdict.score:.2f}", title][:3 if title else 2]
    assert {verdict.label for verdict in verdicts["pets"].values()} >= {"safe", "unsafe"}  # the test sees both


def test_the_score_of_every_rule_can_be_seen(judged, verdicts):
    place = card(judged, "coffee.png")
    one(place, "summary").send_keys(Key.ENTER)
    wait_for(judged, lambda: all_of(place, ".scores tr"), "the scores")
    scores = verdicts["pets"]["coffee.png"].rules
    assert [row.text for row in all_of(place, ".scores tr")] == [
        f"Animals {scores['animals']:.2f}", f"Drinks: hot {scores['drinks']:.2f}"]


def test_labels_are_decided_as_the_sdk_decides_them(page):
    """On values around the thresholds, where two rules tie, and between."""
    random.seed(0)
    cases = []
    for _ in range(300):
        rules = [Rule(f"r{number}", text="x", review_at=low, unsafe_at=high) for number, (low, high) in enumerate(
            sorted(random.choices([0, 0.25, 0.5, 0.75, 1], k=2)) for _ in range(random.randint(1, 4)))]
        scores = {rule.id: random.choice([0, 0.25, 0.5, 0.5, 0.75, 1, random.random()]) for rule in rules}
        cases.append((scores, Policy("p", "1", tuple(rules))))
    sent = [[scores, [{"id": rule.id, "review_at": rule.review_at, "unsafe_at": rule.unsafe_at}
                      for rule in policy.rules]] for scores, policy in cases]
    answers = run_module(page, "verdict.js",
                         "return given[0].map(([scores, rules]) => Object.values(module.decide(scores, rules)));", sent)
    assert [tuple(answer) for answer in answers] == [decide(*case) for case in cases]


def test_a_photo_that_cannot_be_judged_says_why_and_is_never_safe(page, folder, photos):
    choose(page, [folder / BROKEN, photos["china.jpg"]])
    place = card(page, BROKEN)
    assert one(place, ".chip").text == "not judged"
    assert "its header cannot be read" in one(place, ".why").text
    assert "safe" not in place.text
    assert [chip.text for chip in all_of(page, "#tallies .chip")] == ["1 safe", "0 review", "0 unsafe", "1 not judged"]
    assert console(page, but=[REFUSED]) == []


# Thresholds

def test_a_slider_changes_labels_without_a_request(judged):
    asked = requests(judged)
    assert label(judged, "chelsea.png") == "unsafe"
    one(judged, "input.unsafe").send_keys(Key.END)  # of the first rule: animals are never unsafe …
    wait_for(judged, lambda: label(judged, "chelsea.png") == "review", "the other label")
    one(judged, "input.review").send_keys(Key.END)  # … and never to be reviewed
    wait_for(judged, lambda: label(judged, "chelsea.png") == "safe", "the other label")
    assert "was unsafe" in card(judged, "chelsea.png").text
    assert [output.text for output in all_of(judged, ".rule output")[:2]] == ["1.00", "1.00"]
    one(judged, ".reset").click()
    wait_for(judged, lambda: label(judged, "chelsea.png") == "unsafe", "the label of before")
    assert requests(judged) == asked == len(PHOTOS)


def test_review_never_begins_above_unsafe(judged):
    one(judged, "input.review").send_keys(Key.END)
    assert [output.text for output in all_of(judged, ".rule output")[:2]] == ["1.00", "1.00"]
    one(judged, "input.unsafe").send_keys(Key.HOME)
    assert [output.text for output in all_of(judged, ".rule output")[:2]] == ["0.00", "0.00"]


def test_the_policy_downloads_as_yaml_with_the_thresholds_of_the_sliders(judged, folder):
    one(judged, "input.unsafe").send_keys(Key.ARROW_RIGHT)
    one(judged, ".download").click()
    file = folder / "downloads" / "pets.yaml"
    wait_for(judged, file.is_file, "the download")
    got, before = Policy.load(file), Policy.from_yaml(PETS)
    assert [(rule.review_at, rule.unsafe_at) for rule in got.rules] == [(0.3, 0.61), (0.484, 0.6)]
    assert [rule.canonical_text for rule in got.rules] == [rule.canonical_text for rule in before.rules]
    assert (got.name, got.version) == ("pets", "2")


def test_any_policy_downloads_as_yaml_that_reads_back_the_same(page):
    rules = [
        Rule("2024", title="yes: 'no' # \"maybe\"", forbids=("null", "- dash", "a: b", "1.5", "* & !", "  x ")),
        Rule("words", text="First: line\n\n  indented\n# no remark\n- no list", review_at=1e-7, unsafe_at=1),
        Rule("wide", text=" begins with a blank\nπ, é, 🎉 and a tab:\tend", allows=()),
    ]
    policy = Policy("on", "1.10", tuple(rules))
    sent = {"name": policy.name, "version": policy.version, "rules": [
        {"id": rule.id, "title": rule.title, "forbids": rule.forbids, "allows": rule.allows, "text": rule.text,
         "review_at": rule.review_at, "unsafe_at": rule.unsafe_at} for rule in rules]}
    text = run_module(page, "policy_yaml.js", "return module.toYaml(given[0], given[0].rules);", sent)
    assert Policy.from_yaml(text) == policy


# Policies

def test_two_policies_side_by_side_show_which_photos_flip(judged, verdicts):
    one(judged, "#compare").click()
    Select(one(judged, "#panel-b select")).select_by_visible_text("strict")
    await_verdicts(judged, 2 * len(PHOTOS))
    flips = [name for name in PHOTOS if verdicts["pets"][name].label != verdicts["strict"][name].label]
    assert 0 < len(flips) < len(PHOTOS)
    assert [name for name in PHOTOS if "flips" in card(judged, name).get_attribute("class")] == flips
    assert [name for name in PHOTOS if "The policies differ" in card(judged, name).text] == flips
    one(judged, "#only-flips input").click()
    wait_for(judged, lambda: [name for name in PHOTOS if card(judged, name).is_displayed()] == flips, "only these")
    panels = [one(judged, f"#panel-{letter}").rect for letter in "ab"]
    assert panels[0]["x"] + panels[0]["width"] < panels[1]["x"]


def test_a_policy_can_be_written_here(judged, engine, photos):
    words = "No cats or other animals."
    write_policy(judged, words)
    await_verdicts(judged, len(PHOTOS))
    verdict = Guard.on(engine, Policy.from_text(words)).check(photos["chelsea.png"])
    assert label(judged, "chelsea.png") == verdict.label
    assert f"{verdict.score:.2f}" in card(judged, "chelsea.png").text


def test_a_policy_that_cannot_be_read_is_told_beside_it_and_judges_nothing(judged):
    write_policy(judged, "rules:\n  - {id: x, forbid: cats}\n")
    wait_for(judged, lambda: one(judged, "#panel-a .error").text, "the error")
    assert "line 2" in one(judged, "#panel-a .error").text and "forbids" in one(judged, "#panel-a .error").text
    assert one(judged, "#panel-a textarea").get_attribute("aria-invalid") == "true"
    wait_for(judged, lambda: not all_of(judged, ".verdict"), "no verdict of another policy in its place")


def test_a_policy_that_the_server_has_read_anew_is_not_mistaken_for_the_old_one(browser, engine, folder, photos):
    app = create_app(engine, policy_files(folder, pets=PETS))
    with running(app) as client:
        open_page(browser, client)
        app.state.service.policies = {"pets": Named("pets", Policy.from_yaml(STRICT))}  # as a reload does
        choose(browser, [photos["china.jpg"]])
        assert label(browser, "china.jpg") == "not judged"
        assert "load the page again" in card(browser, "china.jpg").text


# Photos

def test_photos_are_blurred_until_they_are_clicked(judged):
    pictures = {name: one(card(judged, name), ".picture") for name in PHOTOS}
    images = {name: one(picture, "img") for name, picture in pictures.items()}
    assert all(style_of(image, "filter") == "blur(20px)" for image in images.values())
    pictures["china.jpg"].send_keys(Key.ENTER)
    assert style_of(images["china.jpg"], "filter") == "none"
    assert style_of(images["coffee.png"], "filter") == "blur(20px)"
    one(judged, "#unblur").click()
    assert all(style_of(image, "filter") == "none" for image in images.values())
    one(judged, "#unblur").click()
    assert style_of(images["coffee.png"], "filter") == "blur(20px)"


# For everybody

@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_and_every_control_has_a_name(judged, folder, dark):
    show_at(judged, dark=dark)
    choose(judged, [folder / BROKEN], others=len(PHOTOS))
    one(judged, "#compare").click()
    Select(one(judged, "#panel-b select")).select_by_visible_text("strict")
    await_verdicts(judged, 2 * len(PHOTOS) + 2)
    for summary in all_of(judged, ".card summary, .rule summary"):
        summary.send_keys(Key.ENTER)
    assert low_contrasts(judged) == {}
    assert nameless(judged) == []


def test_a_phone_needs_no_scrolling_sideways(judged):
    show_at(judged, PHONE)
    one(judged, "#compare").send_keys(Key.ENTER)
    await_verdicts(judged, 2 * len(PHOTOS))
    for summary in all_of(judged, "summary"):
        if summary.is_displayed():
            summary.send_keys(Key.ENTER)
    assert not overflows_sideways(judged)


def test_the_keyboard_reaches_everything_in_the_order_of_the_page_and_shows_where_it_is(judged):
    met = []
    for here in tabbed_through(judged):
        ringed = here.find_element("xpath", "..") if here.get_attribute("type") == "file" else here
        assert style_of(ringed, "outline-style") != "none", here.get_attribute("outerHTML")
        met.append(here)
    names = [element.accessible_name for element in met]
    wanted = ["Skip to the photos", "Show photos without blur", "Policy", "Animals: review from",
              "Animals: unsafe from", "Download as YAML", "Compare with a second policy",
              "Show chelsea.png without blur", "Take out chelsea.png", "Take out china.jpg"]
    places = [next((at for at, name in enumerate(names) if name.startswith(want)), want) for want in wanted]
    assert places == sorted(places)


def test_what_happened_is_told_to_those_who_listen(judged, verdicts):
    labels = [verdict.label for verdict in verdicts["pets"].values()]
    status = one(judged, "#status")
    assert status.get_attribute("role") == "status"
    wait_for(judged, lambda: status.get_attribute("textContent").startswith("Policy"), "the message")
    assert status.get_attribute("textContent") == (
        f"Policy A: {labels.count('safe')} safe, {labels.count('review')} to review, {labels.count('unsafe')} unsafe.")


# On its own

def test_nothing_leaves_for_another_host_and_nothing_is_complained_of(tmp_path, service, photos):
    with open_browser(tmp_path, logs_requests=True) as browser:
        open_page(browser, service)
        choose(browser, [photos["china.jpg"]])
        assert hosts_asked(browser) == {service.base_url.netloc.decode()}
        assert console(browser) == []


def test_the_page_may_load_and_ask_nothing_but_its_server(service):
    answer = service.get("/")
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "<script>" not in answer.text and "style=" not in answer.text
    assert service.get("/", headers={"If-None-Match": answer.headers["etag"]}).status_code == 304


@pytest.mark.parametrize("name", ["../app.py", "%2e%2e/app.py", "index.html", "__init__.py", "nothing.js"])
def test_only_the_files_of_the_page_are_served(service, name):
    assert service.get(f"/page/{name}").status_code == 404


def test_a_server_with_keys_and_little_room_is_asked_with_a_key_and_again(browser, engine, folder, photos, verdicts):
    """One request at a time: the others are answered 429 and have to wait."""
    app = create_app(engine, policy_files(folder, pets=PETS), Options(queue=1), Keys([KEY], "a test"))
    with running(app) as client:
        browser.get(str(client.base_url))
        for key in ("a-wrong-key-that-is-long", KEY):
            wait_for(browser, lambda: one(browser, "#key").is_displayed(), "the question for a key")
            one(browser, "#key input").send_keys(key, Key.ENTER)
            wait_for(browser, lambda: not one(browser, "#key input").get_property("value"), "that it was taken")
        wait_for(browser, lambda: all_of(browser, ".rule"), "the policy")
        console(browser)
        choose(browser, [photos[name] for name in PHOTOS])
        assert any("429" in line for line in console(browser))
        assert [label(browser, name) for name in PHOTOS] == [verdicts["pets"][name].label for name in PHOTOS]
        assert browser.execute_script("return [...Object.values(localStorage), ...Object.values(sessionStorage)]"
                                      ".join().includes(arguments[0])", KEY) is False


# What the tests do with the page

def open_page(browser: WebDriver, service: httpx.Client) -> None:
    show_at(browser)
    browser.get(str(service.base_url))
    wait_for(browser, lambda: all_of(browser, ".rule"), "the policy")


def choose(page: WebDriver, files: list[Path], others: int = 0) -> None:
    """Photos by the file dialog; `others` are there already."""
    one(page, "#files").send_keys("\n".join(map(str, files)))
    await_verdicts(page, len(files) + others)


def drop(page: WebDriver, file: Path) -> None:
    page.execute_script("""
        const bytes = Uint8Array.from(atob(arguments[0]), (letter) => letter.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], arguments[1]));
        document.body.dispatchEvent(new DragEvent("drop", {dataTransfer, bubbles: true, cancelable: true}));
    """, base64.b64encode(file.read_bytes()).decode(), file.name)
    await_verdicts(page, 1)


def await_verdicts(page: WebDriver, count: int) -> None:
    wait_for(page, lambda: len(all_of(page, ".verdict .chip:not(.waiting)")) == count
             and not all_of(page, ".verdict .waiting"), f"{count} verdicts")


def card(page: WebDriver, name: str):
    for found in all_of(page, ".card"):
        if one(found, "h3").get_attribute("title") == name:
            return found
    raise NoSuchElementException(f"no card for {name}")


def label(page: WebDriver, name: str) -> str:
    return one(card(page, name), ".chip").text


def requests(page: WebDriver) -> int:
    """For verdicts, so far."""
    return page.execute_script("return performance.getEntriesByType('resource')"
                               ".filter((entry) => entry.name.includes('/v1/check')).length")


def write_policy(page: WebDriver, text: str) -> None:
    Select(one(page, "#panel-a select")).select_by_visible_text("Write your own …")
    one(page, "#panel-a textarea").send_keys(text)
    one(page, "#panel-a .read").click()
