"""What a command measured, in its place in a document."""

from __future__ import annotations

from pathlib import Path

from safeguard_sdk.durable import write_durably


def put_into(document: Path, name: str, text: str) -> None:
    """Between the two marks of that name in a document, in place of what stands there; at its end if it has none."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before = document.read_text(encoding="utf-8") if document.exists() else ""
    if begin in before and end in before:
        head, _, rest = before.partition(begin)
        tail = rest.partition(end)[2]
    else:
        head, tail = f"{before.rstrip()}\n\n".lstrip(), "\n"
    write_durably(document, f"{head}{begin}\n{text}\n{end}{tail}".encode())
