"""Images by their URL, from hosts that the service was told of and from nowhere else.

A URL comes from a stranger and is fetched from within a network, so (CWE-918): the host is one of a list; its name is
resolved here, once; every address it has must be public; the connection goes to an address that was checked, so that a
name which resolves otherwise a moment later gains nothing; each redirect is judged like the first URL.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from urllib.parse import urljoin, urlsplit

import httpcore

from safeguard_sdk import __version__
from safeguard_sdk.errors import ServeError
from safeguard_sdk.serve.bodies import Hold, too_large
from safeguard_sdk.serve.failures import RequestError

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
MOST_REDIRECTS = 3
SECONDS = {"connect": 5.0, "read": 10.0, "write": 5.0, "pool": 10.0}
GLOBAL_UNICAST = ipaddress.ip_network("2000::/3")  # all that IPv6 has given out
# Within it: 6to4 and Teredo, which hold an IPv4 address and so may lead to a private one, and documentation (RFC 9637).
# Of IPv4: the relays of 6to4.
NOT_PUBLIC = tuple(ipaddress.ip_network(network) for network in
                   ("2002::/16", "2001::/32", "3fff::/20", "192.88.99.0/24"))
ISATAP = (0x00005EFE, 0x02005EFE)  # the bits before an IPv4 address in the last 32 (RFC 5214)

_CHARACTERS = re.compile("[!-~]*")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


class Fetcher:
    """Fetches images over HTTP.

    hosts    "images.example.com", or "*.example.com" for all names below it; none: nothing is fetched
    most     bytes of an image
    resolve  from a host and a port to addresses
    public   whether an address is one to connect to
    """

    def __init__(self, hosts: Iterable[str], most: int, resolve: Resolve | None = None,
                 public: Callable[[Address], bool] | None = None) -> None:
        self._hosts = [_checked_pattern(host) for host in hosts]
        self._most = most
        self._ssl_context = ssl.create_default_context() if self._hosts else None
        self._network = _CheckedNetwork(resolve or resolve_name, public or is_public)

    async def fetch(self, url: str, hold: Hold) -> bytes:
        """The body of an answer with status 200. Raises RequestError."""
        if not self._hosts:
            raise _refused("this service fetches no URLs; send the image itself: data:image/jpeg;base64,…")
        async with httpcore.AsyncConnectionPool(ssl_context=self._ssl_context, network_backend=self._network) as pool:
            for _ in range(MOST_REDIRECTS + 1):
                found = await self._ask(pool, self._checked(url), hold)
                if isinstance(found, bytes):
                    return found
                url = _joined(url, found)
        raise _failed(f"it redirects more than {MOST_REDIRECTS} times")

    def _checked(self, url: str) -> httpcore.URL:
        if not _CHARACTERS.fullmatch(url):  # urlsplit would leave some of them out
            raise _refused("it has blanks, control characters or letters beyond ASCII; percent-encode them")
        try:
            parts = urlsplit(url)
            port, host = parts.port, (parts.hostname or "").rstrip(".")
        except ValueError as error:
            raise _refused("it is no URL") from error
        if parts.scheme not in PORTS or not host:
            raise _refused("it is neither http:// nor https://")
        if parts.username is not None or port not in (None, PORTS[parts.scheme]):
            raise _refused("it has a user or a port of its own")
        if not any(host == pattern or (pattern.startswith("*.") and host.endswith(pattern[1:]))
                   for pattern in self._hosts):
            raise _refused(f"{host!r:.80} is not among the hosts that this service was allowed: --allow-urls")
        target = f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}"
        return httpcore.URL(scheme=parts.scheme, host=host, port=PORTS[parts.scheme], target=target)

    async def _ask(self, pool: httpcore.AsyncConnectionPool, url: httpcore.URL, hold: Hold) -> bytes | str:
        """The image, or where it is said to be."""
        headers = {"Host": url.host, "User-Agent": f"safeguard/{__version__}", "Accept": "image/*",
                   "Accept-Encoding": "identity"}
        try:
            async with pool.stream("GET", url, headers=headers, extensions={"timeout": SECONDS}) as response:
                told = {name.lower(): value.decode("latin-1") for name, value in response.headers}
                if response.status in REDIRECTS and b"location" in told:
                    return told[b"location"]
                if response.status != 200:
                    raise _failed(f"its host answered with status {response.status}")
                if told.get(b"content-encoding", "identity").lower() != "identity":
                    raise _failed("its host sent it compressed, unasked")
                return await self._read(response, hold)
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, OSError) as error:
            raise _failed(f"its host cannot be reached or broke off ({type(error).__name__})") from error

    async def _read(self, response: httpcore.Response, hold: Hold) -> bytes:
        data = bytearray()
        async for chunk in response.aiter_stream():
            hold(len(chunk))
            data += chunk
            if len(data) > self._most:
                raise too_large(self._most)
        return bytes(data)


class _CheckedNetwork(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone, whatever a name resolves to."""

    def __init__(self, resolve: Resolve, public: Callable[[Address], bool]) -> None:
        self._resolve, self._public = resolve, public
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
                          socket_options: Iterable | None = None) -> httpcore.AsyncNetworkStream:
        addresses = await self._resolve(host, port)
        if not addresses:
            raise _failed(f"the name of its host, {host!r:.80}, is not known")
        if not all(self._public(ipaddress.ip_address(address)) for address in addresses):
            raise _refused(f"{host!r:.80} does not lead to public addresses alone")
        for number, address in enumerate(addresses, start=1):
            try:
                return await self._network.connect_tcp(address, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == len(addresses):
                    raise
        raise AssertionError("unreachable: there is an address, and the last one returns or raises")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def resolve_name(host: str, port: int) -> list[str]:
    """All addresses of a host; none where it is not known."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError):
        return []
    return list(dict.fromkeys(entry[4][0].partition("%")[0] for entry in found))


def is_public(address: Address) -> bool:
    """Whether an address is reachable from everywhere, and no address of this network in other clothes."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return is_public(address.ipv4_mapped)
        if address not in GLOBAL_UNICAST or int(address) >> 32 & 0xFFFFFFFF in ISATAP:
            return False
    return address.is_global and not address.is_multicast and not any(address in network for network in NOT_PUBLIC)


def _checked_pattern(host: str) -> str:
    name = host.lower().removeprefix("*.")
    if not name.isascii():
        raise ServeError(f"--allow-urls {host!r:.80}: has letters beyond ASCII; write it in punycode, as URLs have "
                         "it: xn--…")
    if not name or not all(part and part.replace("-", "").replace("_", "").isalnum() for part in name.split(".")):
        raise ServeError(f"--allow-urls {host!r:.80}: is no host; write a name such as images.example.com, or "
                         "*.example.com for all names below it")
    return host.lower()


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise _refused("it redirects to what is no URL") from error


def _refused(why: str) -> RequestError:
    return RequestError(400, "url_refused", f"the image_url is not fetched: {why}")


def _failed(why: str) -> RequestError:
    return RequestError(502, "url_failed", f"the image_url could not be fetched: {why}")
