"""OpenAI's moderation endpoint, asked by OpenAI's own client."""

import base64
from collections.abc import Iterator

import httpx
import pytest

from safeguard_sdk import Guard, Policy
from safeguard_sdk.verdict import label_of

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("openai", reason="OpenAI's client: pip install openai")

import openai
from serve_world import DARK, policy_files, running, tiny_engine

from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.keys import Keys
from safeguard_sdk.serve.options import Options

KEY = "a-key-for-this-test-alone"
RED = "rules:\n  - {id: self-harm, text: Nothing red., review_at: 0, unsafe_at: 1}\n"


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("service")
    engine = tiny_engine(folder / "bundle")
    policies = policy_files(folder, dark=DARK, red=RED)
    with running(create_app(engine, policies, Options(image_bytes=1 << 20), Keys([KEY], "test"))) as client:
        yield client


@pytest.fixture
def client(service) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.base_url}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def image_item(image: bytes, media_type: str = "image/jpeg") -> dict:
    url = f"data:{media_type};base64,{base64.b64encode(image).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def test_the_client_gets_what_a_guard_says_to_the_bit(client, photos, tmp_path):
    image = photos["china.jpg"].read_bytes()
    policy = Policy.from_yaml(DARK)
    expected = Guard.on(tiny_engine(tmp_path), policy).check(image)
    answer = client.moderations.create(model="dark", input=[{"type": "text", "text": "look"}, image_item(image)])
    (result,) = answer.results
    assert answer.id.startswith("modr-") and answer.model == "dark"
    assert result.category_scores.to_dict() == expected.rules
    assert result.categories.to_dict() == {rule.id: label_of(expected.rules[rule.id], rule) != "safe"
                                           for rule in policy.rules}
    assert result.category_applied_input_types.to_dict() == {"dark": ["image"], "red": ["image"]}
    assert result.flagged is (expected.label != "safe")
    assert (result.label, result.rule, result.bundle_sha256) == (expected.label, expected.rule, expected.bundle_sha256)


def test_what_a_policy_wants_reviewed_is_flagged(client, photos):
    (result,) = client.moderations.create(model="red", input=[image_item(photos["flower.jpg"].read_bytes())]).results
    assert (result.flagged, result.label, result.categories.self_harm) == (True, "review", True)


def test_a_category_that_is_no_rule_of_the_policy_has_no_answer(client, photos):
    (result,) = client.moderations.create(model="red", input=[image_item(photos["flower.jpg"].read_bytes())]).results
    assert result.categories.violence is None and result.category_scores.violence is None  # neither is "no"


@pytest.mark.parametrize("model", [None, "omni-moderation-latest", "text-moderation-stable"])
def test_openai_s_own_models_are_the_first_policy(client, photos, model):
    asked = {} if model is None else {"model": model}
    assert client.moderations.create(input=[image_item(photos["flower.jpg"].read_bytes())], **asked).model == "dark"


def test_the_media_type_of_a_data_url_is_not_believed(client, photos):
    image = photos["coffee.png"].read_bytes()
    scores = [client.moderations.create(input=[image_item(image, kind)]).results[0].category_scores.to_dict()
              for kind in ("image/png", "text/html", "image/jpeg;name=a.jpg", "")]
    assert scores[0] == scores[1] == scores[2] == scores[3]


@pytest.mark.parametrize("input", ["a text", ["a text", "another"], [{"type": "text", "text": "a text"}], [],
                                   [{"type": "image_url", "image_url": {}}], [{"type": "audio"}], [["a"]]])
def test_what_holds_no_image_is_a_clear_error_and_never_safe(client, input):
    with pytest.raises(openai.BadRequestError) as caught:
        client.moderations.create(input=input)
    assert caught.value.code == "bad_request" and caught.value.type == "invalid_request_error"
    assert "input" in caught.value.body["message"] and "\n" not in caught.value.body["message"]


def test_two_images_are_two_requests(client, photos):
    item = image_item(photos["flower.jpg"].read_bytes())
    with pytest.raises(openai.BadRequestError, match="2 images, and a request has one result"):
        client.moderations.create(input=[item, item])


@pytest.mark.parametrize("url, told", [
    ("data:image/png,plain", "must be base64"), ("data:image/png;base64,####", "not base64 throughout"),
    ("https://example.com/a.jpg", "fetches no URLs"), ("file:///etc/passwd", "fetches no URLs")])
def test_a_url_that_holds_no_image_is_refused(client, url, told):
    with pytest.raises(openai.BadRequestError, match=told):
        client.moderations.create(input=[{"type": "image_url", "image_url": {"url": url}}])


def test_an_image_that_cannot_be_judged_is_an_error_of_the_client(client, photos):
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        client.moderations.create(input=[image_item(photos["china.jpg"].read_bytes()[:20_000])])
    assert caught.value.code == "truncated"


def test_an_image_that_is_too_large_is_413(client):
    for size in (1_100_000, 3 << 20):  # over the image's limit, over the body's
        with pytest.raises(openai.APIStatusError) as caught:
            client.moderations.create(input=[image_item(bytes(size))])
        assert (caught.value.status_code, caught.value.code) == (413, "too_large")


def test_an_unknown_policy_is_not_found(client, photos):
    with pytest.raises(openai.NotFoundError, match="there are: dark, red"):
        client.moderations.create(model="gpt-5", input=[image_item(photos["flower.jpg"].read_bytes())])


def test_a_wrong_key_is_an_authentication_error(service):
    with openai.OpenAI(base_url=f"{service.base_url}/v1", api_key="wrong", max_retries=0) as client, \
            pytest.raises(openai.AuthenticationError) as caught:
        client.moderations.create(input="a text")
    assert caught.value.code == "unauthorized"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"[" * 100_000, b'{"input": NaN}', b"\xff", b'{"model": 3}'])
def test_a_body_that_is_no_request_is_refused(service, body):
    answer = service.post("/v1/moderations", content=body, headers={"Authorization": f"Bearer {KEY}"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")
