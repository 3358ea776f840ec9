"""Labels for SafeEditBench: by keyboard on a local page in a real browser, compared, decided, exported."""

import json
import shutil
import threading
import time
import urllib.error
import urllib.request

import pytest

pytest.importorskip("skimage", reason="the benchmark needs the extra bench")
pytest.importorskip("krippendorff", reason="the benchmark needs the extra bench")
pytest.importorskip("fastapi", reason="the benchmark needs the extra bench")
pytest.importorskip("uvicorn", reason="the benchmark needs the extra bench")
import uvicorn
from edited_pairs import inpainted

from benchmarks.errors import BenchmarkError
from benchmarks.safeeditbench.annotations import Annotations, agreement
from benchmarks.safeeditbench.page import create_app
from benchmarks.safeeditbench.rows import read_rows
from safeguard_sdk import Policy

BOXES = {"astronaut.png": (0.43, 0.25, 0.24, 0.42), "coffee.png": (0.5, 0.48, 0.62, 0.75)}


@pytest.fixture(scope="module")
def built(photos, tmp_path_factory):
    return inpainted(photos, BOXES, tmp_path_factory.mktemp("pairs"))


@pytest.fixture
def annotations(built, tmp_path):
    """Two pairs without a label yet."""
    shutil.copytree(built, tmp_path / "pairs")
    return Annotations(tmp_path / "pairs")


# --- Agreement, decisions, export -------------------------------------------------------------------------------------
def test_agreement_is_krippendorffs_alpha_by_hand():
    """Ten questions of the reference example for binary data without gaps (Krippendorff 2011, "Computing Krippendorff's
    alpha-reliability", example A): alpha is 0.095."""
    first = "0100000000"
    second = "1110010001"
    words = {"0": "safe", "1": "unsafe"}
    labels = [{"ann": words[one], "bob": words[two]} for one, two in zip(first, second, strict=True)]
    found = agreement(labels)
    assert (found.questions, found.same, found.unsure) == (10, 0.6, 0)
    assert found.alpha == pytest.approx(0.095, abs=5e-4)


@pytest.mark.parametrize("labels, questions, alpha, same, unsure", [
    ([], 0, None, None, None),
    ([{"ann": "safe"}], 0, None, None, 0),                              # one annotator agrees with nobody
    ([{"ann": "safe", "bob": "safe"}] * 3, 3, None, 1, 0),              # by chance, too: no alpha
    ([{"ann": "safe", "bob": "unsure"}], 0, None, None, 0.5),           # unsure is no answer
    ([{"ann": "safe", "bob": "safe"}, {"ann": "unsafe", "bob": "unsafe"}], 2, 1, 1, 0)])
def test_agreement_says_none_where_there_is_none(labels, questions, alpha, same, unsure):
    found = agreement(labels)
    assert (found.questions, found.alpha, found.same, found.unsure) == (questions, alpha, same, unsure)


def test_a_question_is_settled_by_two_who_agree_or_by_a_decision_and_never_by_majority(annotations):
    agreed, lonely, disputed, doubted = (("astronaut.jpg", f"Policy L{level}") for level in (1, 2, 3, 4))
    for question, labels in ((agreed, "safe safe"), (lonely, "safe"), (disputed, "safe safe unsafe"),
                             (doubted, "unsure unsure")):
        for who, label in zip(("ann", "bob", "cem"), labels.split(), strict=False):
            annotations.answer(who, question, label)
    assert annotations.settled() == {agreed: "safe"} and annotations.disputed() == [disputed, doubted]
    annotations.decide("dee", disputed, "unsafe")
    assert annotations.settled() == {agreed: "safe", disputed: "unsafe"}


def test_the_export_has_the_published_schema_and_leaves_out_what_is_not_settled(annotations):
    for who in ("ann", "bob"):
        for photo, policy in annotations.questions[:-1]:
            annotations.answer(who, (photo, policy), "unsafe" if photo == "coffee.jpg" and policy == "Policy L5" else
                               "safe")
    annotations.answer("ann", annotations.questions[-1], "safe")
    annotations.answer("bob", annotations.questions[-1], "unsafe")
    path, counts = annotations.export()
    rows = read_rows(annotations.out)
    assert path.parent == annotations.out / "data" and counts == {"settled": 19, "disputed": 1, "unanswered": 0}
    assert [(row.image_path, row.policy_name) for row in rows if row.label == "unsafe"] == [("coffee.jpg", "Policy L5")]
    assert {row.policy for row in rows} == {Policy.packaged(f"L{level}").canonical_text for level in range(1, 6)}
    assert rows[0].image == (annotations.out / "images" / rows[0].image_path).read_bytes()
    assert {row.category for row in rows} == {"thing"}


def test_an_export_of_nothing_is_an_error(annotations):
    with pytest.raises(BenchmarkError, match="no question is settled"):
        annotations.export()


@pytest.mark.parametrize("who, question, label, message", [
    (" ", ("coffee.jpg", "Policy L1"), "safe", "say who you are"),
    ("ann", ("tea.jpg", "Policy L1"), "safe", "is no question"),
    ("ann", ("coffee.jpg", "Policy L9"), "safe", "is no question"),
    ("ann", ("coffee.jpg", "Policy L1"), "fine", "must be one of safe, unsafe, unsure")])
def test_a_label_that_means_nothing_is_refused(annotations, who, question, label, message):
    with pytest.raises(BenchmarkError, match=message):
        annotations.answer(who, question, label)


# --- The server -------------------------------------------------------------------------------------------------------
@pytest.fixture
def address(annotations):
    server = uvicorn.Server(uvicorn.Config(create_app(annotations), host="127.0.0.1", port=0, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


def ask(url: str, body: object = None, **headers: str) -> tuple[int, bytes]:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_the_server_answers_under_names_of_this_machine_only(address):
    assert ask(address)[0] == 200
    assert ask(address, Host="evil.example")[0] == 400


def test_a_page_elsewhere_cannot_send_a_label(address, annotations):
    answer = {"who": "ann", "photo": annotations.pairs[0].original_sha256, "policy": "Policy L1", "label": "safe"}
    assert ask(f"{address}/labels", answer, **{"Content-Type": "text/plain"})[0] == 422  # what a foreign form can send
    assert annotations.labels() == {}
    assert ask(f"{address}/labels", answer, **{"Content-Type": "application/json"})[0] == 200
    assert annotations.labels() == {("astronaut.jpg", "Policy L1"): {"ann": "safe"}}


@pytest.mark.parametrize("path", ["/photos/astronaut.jpg", "/photos/..%2Fpairs.jsonl", "/work?who=%20"])
def test_what_is_no_photo_and_nobody_are_refused(address, path):
    assert ask(address + path)[0] in (400, 404)


def test_the_page_does_not_learn_which_half_is_the_edit(address, annotations):
    originals = [pair.original_sha256 for pair in annotations.pairs]
    first = {tuple(pair[0] in originals for pair in work_sides(address, who))
             for who in ("ann", "bob", "cem", "dee", "eva")}
    assert len(first) > 1  # sides are dealt anew for each annotator
    assert b"edited" not in ask(f"{address}/work?who=ann")[1]


# --- The page, in a browser -------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def browser():
    selenium = pytest.importorskip("selenium", reason="the page is tested with selenium: the extra dev")
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service
    driver, chromium = shutil.which("chromedriver"), shutil.which("chromium")
    if not (driver and chromium and selenium):
        pytest.skip("the page is tested in Chromium: apt install chromium chromium-driver")
    options = Options()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1360,860"):
        options.add_argument(argument)
    from selenium import webdriver
    opened = webdriver.Chrome(options=options, service=Service(driver))
    yield opened
    opened.quit()


class Page:
    """What a person sees and does."""

    def __init__(self, browser, address: str) -> None:
        self.browser = browser
        browser.get(address)

    def begin(self, name: str, mode: str) -> None:
        self.find("#name").send_keys(name)
        self.find(f"button[value={mode}]").click()
        self.wait(lambda: self.find("header").is_displayed())

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains
        for key in keys:
            before = self.count
            ActionChains(self.browser).send_keys(key).perform()
            if key in "asdjkl":
                self.wait(lambda before=before: self.count != before)

    def find(self, selector: str):
        from selenium.webdriver.common.by import By
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def wait(self, condition) -> None:
        from selenium.webdriver.support.ui import WebDriverWait
        WebDriverWait(self.browser, 10, poll_frequency=0.02).until(lambda _: condition())

    @property
    def count(self) -> str:
        return self.find("#count").text

    @property
    def blurred(self) -> bool:
        return "blur" in self.find("#left img").value_of_css_property("filter")

    @property
    def policy(self) -> str:
        return self.find("#tabs [aria-selected=true] div").text


def test_photos_are_blurred_until_asked_for_and_again_with_the_next_pair(address, browser):
    page = Page(browser, address)
    page.begin("ann", "annotate")
    page.wait(lambda: page.find("#left img").get_property("naturalWidth") == 512)
    assert page.blurred
    page.press(" ")
    page.wait(lambda: not page.blurred)
    page.press("\ue014")  # arrow right
    page.wait(lambda: page.blurred)


def test_a_pair_is_labelled_by_keys_and_the_policies_follow_by_themselves(address, browser, annotations):
    page = Page(browser, address)
    page.begin("ann", "annotate")
    assert (page.count, page.policy) == ("0 of 20", "L1") and "anything may be shown" in page.find("#policy").text
    page.press("a", "j")  # both safe under L1
    assert (page.count, page.policy) == ("2 of 20", "L2")
    page.press("s")       # left unsafe, and a changed mind
    page.find("#left [data-label=unsure]").click()
    page.wait(lambda: page.find("#left [data-label=unsure]").get_attribute("aria-pressed") == "true")
    page.press("l", "a", "j", "a", "j", "a", "k")
    assert (page.count, page.policy) == ("10 of 20", "L1")  # of the second pair
    labels = annotations.labels()
    left, right = work_sides(address, "ann")[0]
    names = {pair.original_sha256: "astronaut.jpg" for pair in annotations.pairs[:1]} | {
        pair.edited_sha256: "astronaut_edited.jpg" for pair in annotations.pairs[:1]}
    assert labels[names[left], "Policy L2"] == {"ann": "unsure"}
    assert labels[names[right], "Policy L5"] == {"ann": "unsafe"}
    page.press(*"ajajajajaj")
    page.wait(lambda: page.find("#done").is_displayed())
    assert len(annotations.labels()) == 20 and "All done" in page.find("#done").text


def work_sides(address: str, who: str) -> list[list[str]]:
    return json.loads(ask(f"{address}/work?who={who}")[1])["pairs"]


def test_an_annotator_goes_on_at_the_first_question_without_an_answer(address, browser, annotations):
    for question in [(photo, "Policy L1") for photo in ("astronaut.jpg", "astronaut_edited.jpg")]:
        annotations.answer("ann", question, "safe")
    page = Page(browser, address)
    page.begin("ann", "annotate")
    assert (page.count, page.policy) == ("2 of 20", "L2")


def test_an_adjudicator_sees_the_disputes_and_what_was_said_and_decides_them(address, browser, annotations):
    for who, label in (("ann", "safe"), ("bob", "unsafe")):
        annotations.answer(who, ("coffee.jpg", "Policy L4"), label)
        annotations.answer(who, ("coffee_edited.jpg", "Policy L4"), "safe")
    page = Page(browser, address)
    page.begin("dee", "adjudicate")
    assert (page.count, page.policy) == ("0 of 1", "L4")
    assert "alpha 0.00 over 2 questions" in page.find("#who").text
    coffee = next(pair for pair in annotations.pairs if pair.name == "coffee")
    side = work_sides(address, "dee")[1].index(coffee.original_sha256)
    box = page.find("#right" if side else "#left")
    assert "ann: safe" in box.text and "bob: unsafe" in box.text
    page.press("k" if side else "s")
    page.wait(lambda: page.find("#done").is_displayed())
    assert annotations.decisions() == {("coffee.jpg", "Policy L4"): "unsafe"}


def test_nothing_disputed_is_said_so(address, browser):
    page = Page(browser, address)
    page.begin("dee", "adjudicate")
    assert "Nothing to decide" in page.find("#done").text


def test_a_label_that_was_not_saved_is_not_shown_as_one(address, browser, annotations):
    page = Page(browser, address)
    page.begin("ann", "annotate")
    (annotations.out / "annotations.sqlite").unlink()
    (annotations.out / "annotations.sqlite").mkdir()
    from selenium.webdriver.common.action_chains import ActionChains
    ActionChains(browser).send_keys("a").perform()
    page.wait(lambda: page.find("#problem").is_displayed())
    assert page.count == "0 of 20" and "Not saved" in page.find("#problem").text
    assert "annotations.sqlite: cannot be read or written" in page.find("#problem").text


def test_the_page_asks_no_other_machine_for_anything(address, browser):
    page = Page(browser, address)
    page.begin("ann", "annotate")
    page.wait(lambda: page.find("#right img").get_property("naturalWidth"))
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert loaded and all(url.startswith(address) for url in loaded)
