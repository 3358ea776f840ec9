"""`safeguard serve`: the guard over HTTP."""

from __future__ import annotations

import importlib
import ipaddress
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from safeguard_sdk import Bundle, ServeError
from safeguard_sdk.cli.options import BundleOption, EnginesOption, ProviderOption
from safeguard_sdk.cli.printing import readable_errors
from safeguard_sdk.engine import open_engine
from safeguard_sdk.serve.options import MIB, Options

if TYPE_CHECKING:
    from safeguard_sdk.serve.keys import Keys

DEFAULTS = Options()
MILLION = 1_000_000
EXTRA = ("fastapi", "fastapi_offline", "httpcore", "prometheus_client", "python_multipart", "uvicorn")


def serve(
    policy: Annotated[list[str] | None, typer.Option(
        metavar="[NAME=]FILE", help="Policy file or name of a packaged policy; several times for several policies.")] =
        None,
    bundle: BundleOption = None,
    provider: ProviderOption = "cpu",
    engines: EnginesOption = None,
    threads: Annotated[int, typer.Option(min=0, help="Of the runtime; 0 for all cores.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on; any but this machine's own needs API keys.")] =
        "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 for any free one.")] = 8000,
    api_keys: Annotated[Path | None, typer.Option(
        metavar="FILE", help="API keys, one a line; else those in SAFEGUARD_API_KEYS.")] = None,
    allow_inline_policies: Annotated[bool, typer.Option(
        "--allow-inline-policies", help="Let requests bring policies of their own; the page needs it to try them.")] =
        False,
    allow_urls: Annotated[list[str] | None, typer.Option(
        metavar="HOST", help="Fetch images from this host, or from all below it: *.example.com.")] = None,
    review: Annotated[Path | None, typer.Option(
        metavar="OUT_DIR", help="Folder of a scan, to be reviewed; without --policy its own policy judges.")] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images that the engine judges at a time, at most.")] =
        DEFAULTS.batch_size,
    batch_delay: Annotated[float, typer.Option(min=0, help="Milliseconds that an image waits for others.")] =
        DEFAULTS.batch_delay * 1000,
    queue: Annotated[int, typer.Option(min=1, help="Requests in work at a time, at most; one more is answered 429.")] =
        DEFAULTS.queue,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds for a request.")] = DEFAULTS.timeout,
    max_image: Annotated[int, typer.Option(min=1, help="MiB of an image file.")] = DEFAULTS.image_bytes // MIB,
    max_pixels: Annotated[int, typer.Option(min=1, help="Millions of pixels of an image.")] =
        DEFAULTS.pixels // MILLION,
    prefix_memory: Annotated[int, typer.Option(min=1, help="MiB for what the engine has read of rules.")] =
        DEFAULTS.prefix_bytes // MIB,
) -> None:
    """Answer over HTTP whether images break policies: OpenAI's moderation endpoint, its own, and a page to try them.

    Logs go to stdout, one JSON object a line. SIGTERM answers what is in work and ends; SIGHUP reads the policies
    again.
    Exit status: 0 it was told to end; 2 it could not begin, or was told twice and gave up what was in work.

    Example: safeguard serve --policy general --policy shop=shop.yaml
    """
    with readable_errors(), _hangups_ignored():
        _require_extra()
        from safeguard_sdk.serve import logs, server
        from safeguard_sdk.serve.app import create_app
        from safeguard_sdk.serve.keys import Keys
        options = Options(
            batch_size=batch_size, batch_delay=batch_delay / 1000, queue=queue, timeout=timeout,
            image_bytes=max_image * MIB, held_bytes=max(DEFAULTS.held_bytes, 2 * max_image * MIB),
            pixels=max_pixels * MILLION, prefix_bytes=prefix_memory * MIB, inline_policies=allow_inline_policies,
            allow_urls=tuple(allow_urls or ()))
        keys = Keys.read(api_keys)
        _require_keys_beyond_this_machine(host, keys)
        with server.bind(host, port) as listener:
            opened = Bundle.embedded() if bundle is None else Bundle.open(bundle)
            engine = open_engine(opened, provider, threads, engines)
            app = create_app(engine, policy or (), options, keys, review)
            logs.to_json_lines()
            server.run(app, listener)


@contextmanager
def _hangups_ignored() -> Iterator[None]:
    """Until SIGHUP means to read the policies again it means nothing: it would end a service that begins."""
    if not hasattr(signal, "SIGHUP"):
        yield
        return
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _require_extra() -> None:
    for module in EXTRA:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ServeError(f"a service needs {module} ({error}); install what it needs: pip install "
                             "'safeguard[serve]'") from error


def _require_keys_beyond_this_machine(host: str, keys: Keys | None) -> None:
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        own = host == "localhost"
    if keys is None and not own:
        raise ServeError(f"--host {host} lets other machines ask, which needs API keys: --api-keys FILE, or "
                         "SAFEGUARD_API_KEYS in the environment; or leave --host out")
