"""The service's own routes: the same verdicts as the command and the SDK, to the bit, and one clear line otherwise."""

import base64
import io
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image
from scan_world import MeanEngine
from typer.testing import CliRunner

from safeguard_sdk import Bundle, Guard, Policy, ServeError
from safeguard_sdk.cli import app as command
from safeguard_sdk.engine import open_engine

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from serve_world import DARK, counted, policy_files, running, tiny_engine

from safeguard_sdk.serve import schemas
from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.failures import KINDS, RequestError
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.policies import PolicyFile

SAME = ("label", "score", "rule", "rules", "policy_sha256", "bundle_sha256", "prompt_sha256")
FORM = "multipart/form-data; boundary=x"
PHOTOS = ("china.jpg", "coffee.png", "chelsea.png")


@pytest.fixture(scope="module")
def service(tmp_path_factory) -> httpx.Client:
    """Two policies on an engine that costs nothing."""
    folder = tmp_path_factory.mktemp("service")
    options = Options(inline_policies=True, image_bytes=1 << 20, pixels=2_000_000, policy_rules=3, decoders=2)
    engine = tiny_engine(folder / "bundle")
    policies = policy_files(folder, dark=DARK, red="rules:\n  - {id: red, forbids: red, review_at: 0.1}\n")
    with running(create_app(engine, policies, options)) as client:
        yield client


@pytest.fixture(scope="module")
def nano() -> MeanEngine:
    return open_engine(Bundle.embedded())


# Verdicts

def test_concurrent_requests_of_several_policies_give_the_verdicts_of_the_command_to_the_bit(nano, photos, tmp_path):
    texts = {"drinks": "rules:\n  - {id: drinks, forbids: [coffee, beer], review_at: 0.2}\n",
             "pets": "rules:\n  - {id: pets, text: No cats., unsafe_at: 0.1}\n"}
    files = dict(entry.split("=") for entry in policy_files(tmp_path, **texts))
    asked = [(photo, name) for photo in PHOTOS for name in texts]
    with running(create_app(nano, [f"{name}={file}" for name, file in files.items()])) as client, \
            ThreadPoolExecutor(len(asked)) as threads:

        def ask(photo: str, name: str) -> dict:
            return client.post("/v1/check", params={"policy": name}, content=photos[photo].read_bytes()).json()

        answers = list(threads.map(lambda one: ask(*one), asked))
        batches = counted(client, "safeguard_batch_images_count")
    assert batches < len(asked), "no two were judged together"
    paths = [str(photos[photo]) for photo in PHOTOS]
    for name, file in files.items():
        run = CliRunner().invoke(command, ["check", *paths, "--policy", file, "--json"])
        rows = {Path(row["path"]).name: row for row in map(json.loads, run.stdout.splitlines())}
        for (photo, asked_name), answer in zip(asked, answers, strict=True):
            if asked_name == name:
                assert {key: answer[key] for key in SAME} == {key: rows[photo][key] for key in SAME}


def test_an_answer_says_what_judged_and_how_long_it_took(service, photos):
    answer = service.post("/v1/check", content=photos["flower.jpg"].read_bytes()).json()
    assert list(answer) == ["label", "score", "rule", "rules", "ms", "policy_sha256", "bundle_sha256", "prompt_sha256",
                            "policy"]
    assert list(answer["rules"]) == ["dark", "red"]
    assert list(answer["ms"]) == ["decode", "queue", "engine"]
    assert answer["policy"] == {"name": "dark", "version": "1", "sha256": Policy.from_yaml(DARK).sha256}


def test_the_policy_is_the_first_one_unless_another_is_named(service, photos):
    image = photos["flower.jpg"].read_bytes()
    named = [service.post(f"/v1/check{query}", content=image).json()["policy"]["name"]
             for query in ("", "?policy=dark", "?policy=red")]
    assert named == ["dark", "dark", "red"]


def test_a_form_is_judged_as_its_image_is(service, photos):
    image = photos["coffee.png"].read_bytes()
    raw = service.post("/v1/check", content=image).json()
    form = service.post("/v1/check", files={"image": ("[../etc].png", image, "image/gif")}).json()
    assert {key: raw[key] for key in SAME} == {key: form[key] for key in SAME}


@pytest.mark.parametrize("policy", [DARK, "Nothing dark.", "name: mine\nrules:\n  - {id: red, text: Nothing red.}\n"])
def test_a_policy_in_the_request_gives_what_a_guard_under_it_gives(service, photos, tmp_path, policy):
    read = Policy.from_yaml(policy) if "rules:" in policy else Policy.from_text(policy)
    expected = Guard.on(tiny_engine(tmp_path), read).check(photos["china.jpg"])
    image = photos["china.jpg"].read_bytes()
    answer = service.post("/v1/check", files={"image": image}, data={"policy": policy}).json()
    assert (answer["label"], answer["rule"]) == (expected.label, expected.rule)
    assert answer["rules"] == {rule: round(score, 6) for rule, score in expected.rules.items()}
    assert answer["policy"] == {"name": read.name, "version": "1", "sha256": read.sha256}


# Policies

def test_policies_are_listed_with_what_a_page_shows_of_them(service):
    listed = service.get("/v1/policies").json()
    assert listed["inline_policies"] is True
    assert [policy["name"] for policy in listed["policies"]] == ["dark", "red"]
    assert listed["policies"][1]["rules"] == [{"id": "red", "title": "red", "forbids": ["red"], "allows": [],
                                               "text": "", "review_at": 0.1, "unsafe_at": 0.5}]


@pytest.mark.parametrize("argument, name, path", [
    ("shop.yaml", "shop", "shop.yaml"), ("a/b/shop.v2.yaml", "shop.v2", "a/b/shop.v2.yaml"), ("general",) * 3,
    ("family=a/b.yaml", "family", "a/b.yaml"), ("x=y=z", "x", "y=z"),
    ("../a=b/shop.yaml", "shop", "../a=b/shop.yaml")])  # no name has a slash
def test_a_policy_is_called_like_its_file_or_as_it_is_told(argument, name, path):
    assert PolicyFile.parse(argument) == PolicyFile(name, path)


@pytest.mark.parametrize("arguments, told", [
    ((), "no policy to judge by"), (("L1", "L1=general"), "two policies are called 'L1'"),
    (("my shop.yaml",), "'my shop' is no name"), (("shop=",), "names no file")])
def test_policies_that_no_request_could_name_are_refused_at_the_start(tmp_path, arguments, told):
    with pytest.raises(ServeError, match=told):
        create_app(tiny_engine(tmp_path), arguments)


def test_a_checked_policy_comes_back_as_yaml_with_its_warnings(service):
    text = "rules:\n  - id: guns\n    forbids: [guns]\n    allows: [guns]\n"
    answer = service.post("/v1/policies/check", content=text).json()
    assert Policy.from_yaml(answer["yaml"]).sha256 == answer["sha256"] == Policy.from_yaml(text).sha256
    assert len(answer["warnings"]) == 1 and "both forbids and allows 'guns'" in answer["warnings"][0]


@pytest.mark.parametrize("policy, told", [
    ("", "the policy is empty"),
    ("rules:\n  - id: guns\n    forbid: guns\n", "policy, line 3: rule 'guns' has the unknown key 'forbid'"),
    ("rules: [", "policy, line 1"),
    (b"\xff\xfe", "not UTF-8"),
    ("No guns.\x00", "invisible character"),
    ("word " * 100, "tokens long"),                                              # the tiny bundle reads 64
    ("rules:\n" + "".join(f"  - {{id: r{n}, text: No.}}\n" for n in range(4)), "4 rules, a request may bring 3"),
])
def test_a_bad_policy_is_400_and_one_line(service, policy, told):
    answer = service.post("/v1/policies/check", content=policy)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["kind"] == "bad_policy" and told in error["message"] and "\n" not in error["message"]


@pytest.mark.parametrize("content_type", [FORM, f"{FORM}; charset=UTF-8"])
@pytest.mark.parametrize("disposition", ['name="policy"', 'name="policy"; filename="a.yaml"'], ids=["text", "file"])
def test_a_policy_in_a_form_that_is_not_utf_8_is_refused_and_not_read_as_something_else(
        service, photos, disposition, content_type):
    body = form(photos["flower.jpg"], "Никакого оружия.".encode("cp1251"), disposition)
    answer = service.post("/v1/check", content=body, headers={"Content-Type": content_type})
    assert (answer.status_code, answer.json()["error"]) == (
        400, {"kind": "bad_policy", "message": "the policy is not UTF-8; send it as UTF-8 text"})
    body = form(photos["flower.jpg"], "Никакого оружия.".encode(), disposition)
    answer = service.post("/v1/check", content=body, headers={"Content-Type": content_type})
    assert answer.json()["policy"]["sha256"] == Policy.from_text("Никакого оружия.").sha256


@pytest.mark.parametrize("charset", ["punycode", "unicode_escape", "undefined", "raw_unicode_escape", "cp1251", "no"])
def test_a_form_of_another_charset_is_refused(service, photos, charset):
    body = form(photos["flower.jpg"], b"No guns.", 'name="policy"; filename="\xff"')
    answer = service.post("/v1/check", content=body, headers={"Content-Type": f"{FORM}; charset={charset}"})
    assert answer.status_code == 400 and f"charset is '{charset}'" in answer.json()["error"]["message"]


def test_a_policy_that_is_too_long_is_413(service):
    assert service.post("/v1/policies/check", content="word " * 20_000).status_code == 413


def test_policies_of_requests_are_refused_unless_they_are_allowed(tmp_path, photos):
    app = create_app(tiny_engine(tmp_path / "bundle"), policy_files(tmp_path, dark=DARK))
    with running(app) as client:
        answers = [client.post("/v1/policies/check", content="No guns."),
                   client.post("/v1/check", files={"image": photos["flower.jpg"].read_bytes()},
                               data={"policy": "No guns."})]
    assert [(answer.status_code, answer.json()["error"]["kind"]) for answer in answers] == [(403, "not_allowed")] * 2


def form(image: Path, policy: bytes, disposition: str) -> bytes:
    """A body of the type FORM, its policy as it is given."""
    return (b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + image.read_bytes()
            + b"\r\n--x\r\nContent-Disposition: form-data; " + disposition.encode("latin-1") + b"\r\n\r\n" + policy
            + b"\r\n--x--\r\n")


# What cannot be judged

def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return file.getvalue()


def hostile(photos: dict[str, Path]) -> dict[str, tuple[bytes, int, str]]:
    """Bodies by what they are, with the status and the kind that they get."""
    photo = photos["china.jpg"].read_bytes()
    return {
        "nothing": (b"", 422, "empty"),
        "text": (b"<html>no image</html>", 415, "not_an_image"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "unsupported"),
        "cut off": (photo[:20_000], 422, "truncated"),
        "a bomb": (png(1500, 1500), 413, "too_large"),
        "a thread": (png(1, 1000), 422, "bad_shape"),
        "too many bytes": (photo + bytes(1 << 20), 413, "too_large"),
    }


def test_a_body_that_cannot_be_judged_is_an_error_with_its_kind_and_never_a_verdict(service, photos):
    for what, (body, status, kind) in hostile(photos).items():
        answer = service.post("/v1/check", content=body)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (status, kind), what
        assert "label" not in answer.json()
        assert counted(service, f'safeguard_failures_total{{kind="{kind}"}}') >= 1


def test_a_body_of_no_announced_length_ends_at_the_limit(service):
    sent = 0

    def body(count: int) -> Iterator[bytes]:
        nonlocal sent
        for _ in range(count):
            sent += 1 << 16
            yield bytes(1 << 16)

    answer = service.post("/v1/check", content=body(32))  # 2 MiB, where 1 is the limit
    assert (answer.status_code, answer.json()["error"]["kind"]) == (413, "too_large")
    with suppress(httpx.WriteError, httpx.ReadError, httpx.RemoteProtocolError):  # it is cut off while it writes
        assert service.post("/v1/check", content=body(1 << 14)).status_code == 413
    assert sent < 512 << 20, "a GiB was read"
    assert counted(service, "safeguard_held_bytes") == 0


@pytest.mark.parametrize("fields", [{"picture": b"x"}, {"image": b"x", "other": b"x"}, {}])
def test_a_form_of_other_fields_is_refused(service, fields):
    files = fields or {"policy": "No guns."}
    answer = service.post("/v1/check", files=files)
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, "bad_request")


def test_a_form_is_kept_in_memory_whatever_its_size(service, photos, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    image = photos["china.jpg"].read_bytes() + bytes(800_000)  # past what Starlette would write to a file
    assert service.post("/v1/check", files={"image": ("a.jpg", image)}).status_code == 200


@pytest.mark.parametrize("body, kind", [(b"--x\r\n", "bad_request"), (b"", "bad_request")])
def test_a_broken_form_is_refused(service, body, kind):
    answer = service.post("/v1/check", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert (answer.status_code, answer.json()["error"]["kind"]) == (400, kind)


def test_an_unknown_policy_is_404_and_the_near_one_is_named(service):
    answer = service.post("/v1/check?policy=darc", content=b"x")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "no policy 'darc' here; did you mean 'dark'? (there are: dark, red)"


@pytest.mark.parametrize("method, path, status", [("GET", "/v1/check", 405), ("GET", "/v1/nothing", 404),
                                                  ("POST", "/v1/check", 422), ("POST", "/v1/check/", 404)])
def test_every_error_has_the_same_shape(service, method, path, status):
    answer = service.request(method, path)
    assert answer.status_code == status
    assert list(answer.json()["error"]) == ["kind", "message"]


def test_a_form_whose_image_is_no_file_is_refused(service):
    body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n\xff\xd8\xff\r\n--x--\r\n'
    answer = service.post("/v1/check", content=body, headers={"Content-Type": "multipart/form-data; boundary=x"})
    assert answer.status_code == 400 and "as a file" in answer.json()["error"]["message"]


def test_every_kind_of_failure_is_documented_and_there_are_no_others():
    documentation = (Path(__file__).parents[1] / "docs" / "serve.md").read_text(encoding="utf-8")
    assert [kind for kind in (*KINDS, "no_verdict") if f"`{kind}`" not in documentation] == []
    with pytest.raises(ValueError, match="unknown kind of failure 'odd'"):
        RequestError(400, "odd", "no such word")


# Around

def test_a_request_keeps_its_short_id_and_gets_one_otherwise(service):
    kept = service.get("/healthz", headers={"X-Request-ID": "abc-1"}).headers["X-Request-ID"]
    made = service.get("/healthz", headers={"X-Request-ID": "a b" * 50}).headers["X-Request-ID"]
    assert kept == "abc-1" and len(made) == 32


def test_it_says_that_it_lives_and_is_ready(service):
    assert service.get("/healthz").json() == {"alive": True}
    assert service.get("/readyz").json() == {"ready": True}


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/"])
def test_who_watches_it_may_ask_for_the_head_alone(service, path):
    answer = service.head(path)
    assert (answer.status_code, answer.content) == (200, b"")


def test_metrics_count_verdicts_by_policy_and_label_and_requests_by_route(service, photos):
    image = photos["flower.jpg"].read_bytes()
    label = service.post("/v1/check?policy=red", content=image).json()["label"]
    samples = (f'safeguard_verdicts_total{{label="{label}",policy="red"}}',
               'safeguard_requests_total{route="/v1/check",status="200"}', "safeguard_batch_images_sum")
    before = [counted(service, sample) for sample in samples]
    for _ in range(3):
        service.post("/v1/check?policy=red", content=image)
    assert [counted(service, sample) for sample in samples] == [value + 3 for value in before]


def test_the_documentation_of_the_interface_needs_no_other_site(service):
    page = service.get("/docs").text
    assert "https://" not in page and "http://" not in page
    assert service.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200
    paths = service.get("/openapi.json").json()["paths"]
    assert {"/v1/check", "/v1/moderations", "/v1/policies", "/v1/policies/check"} <= paths.keys()


def test_the_documentation_says_what_is_answered(service, photos):
    image = photos["flower.jpg"].read_bytes()
    item = {"type": "image_url", "image_url": {"url": f"data:;base64,{base64.b64encode(image).decode()}"}}
    for model, answer in (
            (schemas.Policies, service.get("/v1/policies")),
            (schemas.Check, service.post("/v1/check", content=image)),
            (schemas.CheckedPolicy, service.post("/v1/policies/check", content=DARK)),
            (schemas.Moderations, service.post("/v1/moderations", json={"input": [item]})),
            (schemas.Failed, service.post("/v1/check", content=b"")),
            (schemas.ModerationFailed, service.post("/v1/moderations", json={"input": "a text"}))):
        model.model_validate_json(answer.content, strict=True)
        assert model.__name__ in service.get("/openapi.json").text
