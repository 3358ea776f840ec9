"""The page at `/review`: a scan reviewed with the keyboard, in a real browser."""

import csv
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from browser_world import (
    PHONE,
    all_of,
    console,
    hosts_asked,
    low_contrasts,
    nameless,
    one,
    open_browser,
    overflows_sideways,
    show_at,
    style_of,
    tabbed_through,
    wait_for,
)
from review_world import BROKEN, COPY, FILES, MEMBER, reviewing
from scan_world import DARK, MeanGuard, pictures, write_folder
from selenium.webdriver import ActionChains
from selenium.webdriver.common.keys import Keys as Key
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.ui import Select

from safeguard_sdk.scan import Options, scan

COUNT = len({*FILES, COPY, MEMBER, BROKEN})


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[WebDriver]:
    with open_browser(tmp_path_factory.mktemp("downloads")) as browser:
        yield browser


@pytest.fixture
def out(scanned, tmp_path) -> Path:
    return shutil.copytree(scanned, tmp_path / "out")


@pytest.fixture
def page(browser, out, tmp_path) -> Iterator[WebDriver]:
    """The page of a scan that nobody has reviewed, the image with the highest score before it."""
    show_at(browser)
    with reviewing(out, tmp_path) as client:
        browser.get(f"{client.base_url}/review")
        wait_for(browser, lambda: len(all_of(browser, "#list li")) == COUNT and picture_is_there(browser), "the rows")
        yield browser
        browser.get("about:blank")


def first_rule(page) -> str:
    """The rule that the first image of the list breaks; which image that is, its score says."""
    return all_of(page, "#list button")[0].accessible_name.rsplit(" ", 1)[1]


def test_a_scan_is_reviewed_with_the_keyboard_alone(page, out):
    names, rule = [], first_rule(page)
    for keys, decision in (("a", "agree"), ("d", "disagree"), ("u", "unsure")):
        names.append(name(page))
        press(page, keys)
        wait_for(page, lambda: name(page) != names[-1], "the next image")
        assert f"1 {decision}" in one(page, "#done-text").text
    assert one(page, "#done-text").text == f"3 of {COUNT - 1} reviewed: 1 agree, 1 disagree, 1 unsure"
    assert [review["decision"] for review in reviews(out)] == ["agree", "disagree", "unsure"]
    assert reviews(out)[1]["broken"] == []  # it was flagged, so to disagree is to say that it breaks nothing
    press(page, Key.ARROW_LEFT)
    press(page, Key.ARROW_LEFT)
    assert name(page) == names[1] and one(page, "#disagree").get_attribute("aria-pressed") == "true"
    press(page, "z")
    wait_for(page, lambda: "disagree" not in one(page, "#done-text").text, "that it is taken back")
    press(page, Key.ARROW_RIGHT)
    assert name(page) == names[2]
    assert all_of(page, "#list button")[0].accessible_name.endswith(f"reviewed: agree, breaks {rule}")


def test_to_disagree_with_safe_is_to_say_which_rule_is_broken(page, out):
    Select(one(page, "[name=label]")).select_by_visible_text("safe")
    wait_for(page, lambda: one(page, "#verdict .chip").text == "safe", "a safe image")
    page.execute_script("document.activeElement.blur()")
    assert one(page, "#agree span").text == "breaks no rule"
    press(page, "d")
    assert one(page, "#refused").text.startswith("Tick the rule") and reviews(out) == []
    press(page, "23")
    assert one(page, "#disagree span").text == "breaks drinks, people"
    press(page, "d")
    wait_for(page, lambda: "1 disagree" in one(page, "#done-text").text, "the decision")
    assert reviews(out)[0]["broken"] == ["drinks", "people"]


def test_whoever_comes_back_goes_on_with_what_is_left(page, out):
    first, left = name(page), COUNT - 1
    press(page, "a")
    wait_for(page, lambda: name(page) != first, "the next image")
    second = name(page)
    page.refresh()
    wait_for(page, lambda: len(all_of(page, "#list li")) == left, "the rows that are left")
    assert name(page) == second and "1 agree" in one(page, "#done-text").text


def test_next_and_previous_go_from_one_page_of_a_long_scan_to_another(browser, photos, tmp_path):
    files = {f"{number}.png": data for number, data in enumerate(pictures(photos["coffee.png"], 60))}
    source = write_folder(tmp_path / "in", files)
    scan(MeanGuard(DARK, tmp_path / "guard"), [source], tmp_path / "long", Options(workers=1))
    with reviewing(tmp_path / "long", tmp_path) as client:
        browser.get(f"{client.base_url}/review")
        wait_for(browser, lambda: len(all_of(browser, "#list li")) == 48, "the first page")
        first = [button.accessible_name for button in all_of(browser, "#list button")]
        all_of(browser, "#list button")[-1].click()
        press(browser, Key.ARROW_RIGHT)
        wait_for(browser, lambda: len(all_of(browser, "#list li")) == 12, "the second page")
        second = [button.accessible_name for button in all_of(browser, "#list button")]
        assert len({*first, *second}) == 60 and second[0].startswith(name(browser))
        press(browser, Key.ARROW_LEFT)
        wait_for(browser, lambda: len(all_of(browser, "#list li")) == 48, "the first page again")
        assert first[-1].startswith(name(browser))
        browser.get("about:blank")


def test_keys_can_be_switched_off_and_do_nothing_while_somebody_types(page, out):
    ticked = [box.is_selected() for box in all_of(page, "#rules input")]
    one(page, "[name=low]").send_keys("123")
    assert [box.is_selected() for box in all_of(page, "#rules input")] == ticked
    one(page, "#shortcuts").click()
    press(page, "1a")
    assert [box.is_selected() for box in all_of(page, "#rules input")] == ticked
    one(page, "#export").send_keys(Key.ENTER)  # which comes after whatever would have been asked
    wait_for(page, lambda: one(page, "#exported").text.startswith("0 photos"), "the export")
    assert reviews(out) == []


def test_an_image_that_could_not_be_judged_says_why_and_cannot_be_agreed_with(page):
    Select(one(page, "[name=label]")).select_by_visible_text("not judged")
    wait_for(page, lambda: name(page).endswith(BROKEN), "the failure")
    assert one(page, "#verdict .chip").text == "not judged"
    assert "its header cannot be read" in one(page, "#verdict").text
    assert not one(page, "#agree").is_enabled() and not one(page, "#disagree").is_enabled()


def test_pictures_are_blurred_until_they_are_asked_for(page):
    wait_for(page, lambda: all_of(page, "#list img:not([hidden])"), "thumbnails")
    large, small = one(page, "#picture img"), one(page, "#list img:not([hidden])")
    assert (style_of(large, "filter"), style_of(small, "filter")) == ("blur(44px)", "blur(9px)")
    press(page, "b")
    assert (style_of(large, "filter"), style_of(small, "filter")) == ("none", "blur(9px)")
    press(page, Key.ARROW_RIGHT)  # the next one is another matter
    wait_for(page, lambda: picture_is_there(page), "the next picture")
    assert style_of(large, "filter") == "blur(44px)"
    one(page, "#unblur").click()
    assert (style_of(large, "filter"), style_of(small, "filter")) == ("none", "none")
    one(page, "#unblur").click()


def test_the_reviews_are_exported(page, out):
    rule = first_rule(page)
    press(page, "a")
    wait_for(page, lambda: "1 agree" in one(page, "#done-text").text, "the decision")
    one(page, "#export").send_keys(Key.ENTER)
    wait_for(page, lambda: one(page, "#exported").text.startswith("1 photo in "), "the export")
    with open(out / "review" / "index.csv", newline="", encoding="utf-8") as file:
        assert [(row["broken"], row["label"]) for row in csv.DictReader(file)] == [(rule, "unsafe")]
    assert one(page, "#download").is_displayed()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_every_text_stands_out_and_every_control_has_a_name(page, dark):
    show_at(page, dark=dark)
    press(page, "u")
    wait_for(page, lambda: "1 unsure" in one(page, "#done-text").text, "the decision")
    one(page, "#export").send_keys(Key.ENTER)
    wait_for(page, lambda: one(page, "#exported").text.startswith("0 photos in "), "the export")
    assert low_contrasts(page) == {}
    assert nameless(page) == []


def test_a_phone_needs_no_scrolling_sideways(page):
    show_at(page, PHONE)
    page.refresh()
    wait_for(page, lambda: picture_is_there(page), "the picture")
    one(page, "#filters summary").send_keys(Key.ENTER)
    assert not overflows_sideways(page)
    assert one(page, "#agree").rect["y"] < 2 * PHONE[1]


def test_tab_reaches_every_control_and_shows_where_it_is(page):
    names = []
    for here in tabbed_through(page):
        assert style_of(here, "outline-style") != "none", here.get_attribute("outerHTML")
        names.append(here.accessible_name)
    wanted = ["Skip to the image", "Verdict", "Score from", "Order", "Show /", "animals", "Agree", "Next", "Export"]
    places = [next((at for at, found in enumerate(names) if want in found), want) for want in wanted]
    assert places == sorted(places)


def test_nothing_leaves_for_another_host_and_nothing_is_complained_of(out, tmp_path):
    with open_browser(tmp_path, logs_requests=True) as browser, reviewing(out, tmp_path) as client:
        browser.get(f"{client.base_url}/review")
        wait_for(browser, lambda: picture_is_there(browser), "the picture")
        assert hosts_asked(browser) == {client.base_url.netloc.decode()}
        assert console(browser, but=["404"]) == []  # of images that there is no picture of


def press(page: WebDriver, keys: str) -> None:
    ActionChains(page).send_keys(*keys).perform()


def name(page: WebDriver) -> str:
    return one(page, "#name").text


def picture_is_there(page: WebDriver) -> bool:
    return page.execute_script("const image = document.querySelector('#picture img');"
                               "return Boolean(image && !image.hidden && image.complete && image.naturalWidth)")


def reviews(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "review" / "reviews.jsonl").read_text().splitlines()]
