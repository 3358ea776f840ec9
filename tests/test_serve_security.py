"""Who may ask, what is never fetched, and what is never told."""

import asyncio
import hashlib
import ipaddress
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from safeguard_sdk import ServeError

pytest.importorskip("fastapi", reason="the service needs the extra serve")

from serve_world import DARK, counted, policy_files, running, tiny_engine

from safeguard_sdk.serve import urls
from safeguard_sdk.serve.app import create_app
from safeguard_sdk.serve.failures import RequestError
from safeguard_sdk.serve.keys import Keys
from safeguard_sdk.serve.options import Options
from safeguard_sdk.serve.urls import Fetcher, is_public

KEY, OTHER = "the-first-key-0123456789", "the-second-key-0123456789"


@contextmanager
def service(folder: Path, **arguments: object) -> Iterator[httpx.Client]:
    engine = tiny_engine(folder / "bundle")
    with running(create_app(engine, policy_files(folder, dark=DARK), **arguments)) as client:
        yield client


# Keys

def test_everything_below_v1_needs_one_of_the_keys_and_the_rest_does_not(photos, tmp_path):
    with service(tmp_path, keys=Keys([KEY, OTHER], "test"), options=Options(inline_policies=True)) as client:
        routes = [(method.upper(), path) for path, methods in client.get("/openapi.json").json()["paths"].items()
                  for method in methods]
        locked = [route for route in routes if route[1].startswith("/v1/")]
        assert len(locked) >= 4
        for method, path in locked:
            for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY},
                            {"Authorization": f"Basic {KEY}"}, {"Authorization": f"Bearer {KEY}x"}):
                answer = client.request(method, path, headers=headers)
                assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer"), (path, headers)
        for key in (KEY, OTHER):
            assert client.get("/v1/policies", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        for path in ("/", "/healthz", "/readyz", "/metrics", "/docs"):
            assert client.get(path).status_code == 200
        assert counted(client, 'safeguard_failures_total{kind="unauthorized"}') == 5 * len(locked)


def test_keys_come_from_a_file_or_else_from_the_environment(tmp_path):
    file = tmp_path / "keys"
    file.write_text(f"# of the shop\n{KEY}\n\n  {OTHER}  \n", encoding="utf-8")
    keys = Keys.read(file, {"SAFEGUARD_API_KEYS": "not-read-where-a-file-is"})
    assert [keys.admit(f"Bearer {key}") for key in (KEY, OTHER, "not-read-where-a-file-is")] == [True, True, False]
    assert Keys.read(None, {"SAFEGUARD_API_KEYS": f"{KEY} {OTHER}"}).admit(f"bearer {OTHER}")
    assert Keys.read(None, {}) is None
    assert KEY not in repr(vars(keys))


@pytest.mark.parametrize("content, told", [
    (b"", "holds no API key"), (b"# nothing\n", "holds no API key"), (b"short\n", "key 1 must be at least 16"),
    (f"{KEY}\nwith blanks in the middle of it\n".encode(), "key 2 must be"), (b"\xff\xfe", "not UTF-8")])
def test_a_file_that_holds_no_usable_keys_is_one_line(tmp_path, content, told):
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(ServeError, match=told) as caught:
        Keys.read(file, {})
    assert str(caught.value).startswith(str(file)) and KEY not in str(caught.value)


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Host": "127.0.0.1.evil.example:80"}, {"Host": ""},
                                     {"Host": "evil.example//localhost"}, {"Origin": "https://evil.example//localhost"},
                                     {"Host": "127.0.0.2"}, {"Origin": "https://evil.example"}, {"Origin": "null"}])
def test_without_keys_a_page_from_elsewhere_gets_nothing(tmp_path, headers):
    with service(tmp_path) as client:
        assert client.get("/v1/policies", headers=headers).status_code == 403
        own = {"Host": "localhost:1", "Origin": "http://127.0.0.1:8000"}
        assert client.get("/v1/policies", headers=own).status_code == 200


def test_without_keys_it_answers_at_every_address_of_this_machine_alone_that_it_listens_on(tmp_path):
    app = create_app(tiny_engine(tmp_path / "bundle"), policy_files(tmp_path, dark=DARK))
    with running(app, host="127.0.0.2") as client:
        assert client.get("/v1/policies").status_code == 200
        refused = client.get("/v1/policies", headers={"Origin": "http://127.0.0.3"})
        assert refused.status_code == 403 and "127.0.0.2 alone" in refused.json()["error"]["message"]


# URLs

class Site(BaseHTTPRequestHandler):
    """Some files, and ways to be led elsewhere."""

    files: dict[str, bytes]
    asked: list[tuple[str, str]]

    def do_GET(self) -> None:
        self.asked.append((self.headers["Host"], self.path))
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
        elif self.path in self.files:
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.files[self.path])))
            self.end_headers()
            self.wfile.write(self.files[self.path])
        else:
            self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def site(photos, monkeypatch) -> Iterator[type[Site]]:
    """A site on this machine, on what is taken for the port of HTTP."""
    kind = type("ThisSite", (Site,), {"asked": [], "files": {"/a.jpg?size=1": photos["flower.jpg"].read_bytes(),
                                                             "/large": bytes(2 << 20)}})
    with ThreadingHTTPServer(("127.0.0.1", 0), kind) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        monkeypatch.setitem(urls.PORTS, "http", server.server_address[1])
        yield kind
        server.shutdown()
        thread.join()


NAMES = {"images.test": ["127.0.0.1"], "private.test": ["10.1.2.3"], "metadata.test": ["169.254.169.254"],
         "half.test": ["93.184.216.34", "192.168.0.1"], "v6.test": ["::1"], "nowhere.test": [],
         "mapped.test": ["::ffff:127.0.0.1"], "nat64.test": ["64:ff9b::a00:1"]}


async def resolve(host: str, port: int) -> Sequence[str]:
    return NAMES[host]


def fetcher(public: Callable[[object], bool] = is_public, hosts: Sequence[str] = ("*.test",)) -> Fetcher:
    return Fetcher(hosts, 1 << 20, resolve, public)


def but_this_machine(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """The site of these tests stands for one on the internet."""
    return str(address) == "127.0.0.1" or is_public(address)


def refusal(fetcher: Fetcher, url: str) -> tuple[int, str, str]:
    with pytest.raises(RequestError) as caught:
        asyncio.run(fetcher.fetch(url, hold=lambda count: None))
    return caught.value.status, caught.value.kind, str(caught.value)


def test_a_request_may_name_an_image_on_an_allowed_host(site, photos, tmp_path):
    image = photos["flower.jpg"].read_bytes()
    with service(tmp_path, fetcher=fetcher(but_this_machine)) as client:
        urls = ("http://images.test/a.jpg?size=1", "http://IMAGES.test./to//a.jpg?size=1", "http://images.test/none")
        answers = [client.post("/v1/moderations", json={"input": [{"type": "image_url", "image_url": {"url": url}}]})
                   for url in urls]
        expected = client.post("/v1/check", content=image).json()["score"]
    assert [answer.status_code for answer in answers] == [200, 200, 502]
    assert {round(max(answer.json()["results"][0]["category_scores"].values()), 6) for answer in answers[:2]} == {
        expected}
    assert answers[2].json()["error"]["code"] == "url_failed"
    assert site.asked == [("images.test", path) for path in
                          ("/a.jpg?size=1", "/to//a.jpg?size=1", "/a.jpg?size=1", "/none")]


def test_an_image_is_read_up_to_the_limit_alone_and_counted_while_it_comes(site):
    held = []
    with pytest.raises(RequestError, match="over 1048576 bytes"):
        asyncio.run(fetcher(but_this_machine).fetch("http://images.test/large", held.append))
    assert 1 << 20 < sum(held) < 2 << 20


@pytest.mark.parametrize("host", ["images.test", "private.test", "metadata.test", "half.test", "v6.test",
                                  "mapped.test", "nat64.test"])
def test_a_name_that_leads_to_an_address_of_this_network_is_refused(site, host):
    status, kind, message = refusal(fetcher(), f"http://{host}/a.jpg")
    assert (status, kind) == (400, "url_refused") and "public addresses" in message
    assert site.asked == []


def test_a_name_that_nobody_knows_is_an_image_that_could_not_be_fetched(site):
    status, kind, message = refusal(fetcher(), "http://nowhere.test/a.jpg")
    assert (status, kind) == (502, "url_failed") and "'nowhere.test', is not known" in message


@pytest.mark.parametrize("path", ["/a b.jpg", "/a\tb", "/a\nb", "/a\x7f", "/a?b c", "/a\u0085"])
def test_blanks_and_control_characters_in_a_url_are_refused_before_anything_is_asked(site, path):
    status, kind, message = refusal(fetcher(but_this_machine), f"http://images.test{path}")
    assert (status, kind) == (400, "url_refused") and "percent-encode" in message
    assert site.asked == []


@pytest.mark.parametrize("location, told", [
    ("http://169.254.169.254/latest/meta-data", "not among the hosts"), ("//127.0.0.1/a", "not among the hosts"),
    ("http://metadata.test/", "public addresses"), ("file:///etc/passwd", "neither http"),
    ("http://images.test:22/", "port of its own"), ("http://user@images.test/", "a user"), ("http://[::1", "no URL")])
def test_a_redirect_is_judged_like_the_first_url(site, location, told):
    status, kind, message = refusal(fetcher(but_this_machine), f"http://images.test/to/{location}")
    assert (status, kind) == (400, "url_refused") and told in message
    assert len(site.asked) == 1


def test_redirects_come_to_an_end(site):
    status, kind, message = refusal(fetcher(but_this_machine), "http://images.test" + "/to/" * 20)
    assert (status, kind) == (502, "url_failed") and "more than 3 times" in message
    assert len(site.asked) == 4


@pytest.mark.parametrize("url", [
    "http://other.example/a.jpg", "http://test/a.jpg", "http://eviltest/a.jpg", "http://127.0.0.1/a.jpg",
    "http://images.test.evil.example/", "http://images.test@evil.example/", "http://2130706433/", "ftp://images.test/a",
    "http://evil\uff0eimages.test\u3002example/", "http://\u0130mages.test/", "http://images.test\\@evil.example/",
    "http:", "http://images.test/\u00e9", "http://images.test:99999/", "http://images.test:/\ud800", "\x00"])
def test_a_host_that_is_not_on_the_list_is_refused(site, url):
    assert refusal(fetcher(but_this_machine), url)[:2] == (400, "url_refused")
    assert site.asked == []


@pytest.mark.parametrize("address, public", [
    ("93.184.216.34", True), ("2606:2800:220:1::1", True), ("127.0.0.1", False), ("10.0.0.1", False),
    ("172.16.0.1", False), ("192.168.1.1", False), ("169.254.169.254", False), ("100.64.0.1", False),
    ("0.0.0.0", False), ("224.0.0.1", False), ("255.255.255.255", False), ("::1", False), ("::", False),
    ("fe80::1", False), ("fd00::1", False), ("ff02::1", False), ("::ffff:10.0.0.1", False),
    ("::ffff:93.184.216.34", True), ("2002:7f00:1::", False), ("::7f00:1", False), ("2001:0:1::1", False),
    ("fec0::1", False), ("::ffff:0:7f00:1", False), ("64:ff9b:1::a00:1", False), ("5f00::1", False),
    ("3fff::1", False), ("4000::1", False), ("2606:4700::5efe:a00:1", False), ("2606:4700::200:5efe:a00:1", False),
    ("2606:4700::5eff:a00:1", True), ("192.88.99.1", False), ("192.88.98.1", True)])
def test_public_is_what_is_reachable_from_everywhere(address, public):
    assert is_public(ipaddress.ip_address(address)) is public


def test_a_host_with_letters_that_no_url_has_is_refused_at_the_start_for_its_punycode():
    with pytest.raises(ServeError, match="write it in punycode"):
        Fetcher(["*.b\u00fccher.example"], 1)
    Fetcher(["*.xn--bcher-kva.example"], 1)


@pytest.mark.parametrize("host", ["", "*", "*.", "http://a.test", "a b", "a/../b", "*.*.test"])
def test_a_host_that_is_none_is_refused_at_the_start(host):
    with pytest.raises(ServeError, match="--allow-urls"):
        Fetcher([host], 1)


# Logs

def test_logs_hold_hashes_and_kinds_and_nothing_of_an_image(photos, tmp_path, caplog):
    image = photos["china.jpg"].read_bytes()
    secret = b"SECRET-INSIDE-THE-IMAGE"
    with caplog.at_level(logging.INFO, logger="safeguard.serve"), service(tmp_path) as client:
        for body in (image + secret, secret, image[:20_000]):
            client.post("/v1/check", files={"image": ("SECRET-name.jpg", body)})
        client.post("/v1/check?policy=SECRET-policy", content=image, headers={"X-Request-ID": "SECRET-" * 99})
    lines = [record.fields for record in caplog.records if record.message == "request"]
    assert [line["status"] for line in lines] == [200, 415, 422, 404]
    assert [line.get("failure") for line in lines] == [None, "not_an_image", "truncated", "unknown_policy"]
    assert len(lines[0]["policy_sha256"]) == len(lines[0]["bundle_sha256"]) == 64
    assert len({line["request"] for line in lines}) == 4
    told = json.dumps(lines) + caplog.text
    assert "SECRET" not in told
    assert hashlib.sha256(image).hexdigest() not in told
