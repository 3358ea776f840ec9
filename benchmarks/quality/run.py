"""One system over one suite: asks about every case that has no answer yet, then marks.

    OUT/run.json             what was run: suite, system, its weights and prompt, the data's hash
    OUT/predictions.jsonl    a row for each case (predictions.py)
    OUT/metrics.json         the marks; `python -m benchmarks.tables` reads it
    OUT/official.jsonl       of SafeEditBench: the same predictions in the official form
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, as_completed, wait
from pathlib import Path

import numpy as np

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case, CaseError, System
from benchmarks.quality.predictions import Predicted, Predictions, predicted
from benchmarks.quality.suites import SUITES
from benchmarks.quality.systems import name_of, open_system
from safeguard_sdk.durable import write_durably
from safeguard_sdk.errors import ImageError
from safeguard_sdk.image import decode_image

Watch = Callable[[int, int], object]  # (cases answered, cases in all)


def run(suite: str, spec: str, data: Path, out: Path, watch: Watch = lambda done, of: None) -> dict:
    """The marks, which are also in `out`. Raises BenchmarkError or TrainingError, in one line."""
    if suite not in SUITES:
        raise BenchmarkError(f"no suite {suite!r}; there are {', '.join(SUITES)}")
    cases = SUITES[suite].read(data)
    distinct = _distinct(cases)
    system = open_system(spec, suite)
    try:
        out.mkdir(parents=True, exist_ok=True)
        facts = {"suite": suite, "system": name_of(spec), "cases": len(cases), "cases_sha256": cases_sha256(cases),
                 **system.facts}
        _same_run(out / "run.json", facts)
        with Predictions(out / "predictions.jsonl") as predictions:
            _answer(system, distinct, predictions, watch)
            rows = [predictions.rows[case.id] for case in cases]
    finally:
        system.close()
    SUITES[suite].write_official(rows, out)
    metrics = {"suite": suite, "system": name_of(spec),
               "cannot_express": system.taxonomy.gaps(cases) if system.taxonomy else {},
               **{outcome: sum(row.prediction == outcome for row in rows) for outcome in ("invalid", "failed")},
               **SUITES[suite].mark(rows)}
    write_durably(out / "metrics.json", (json.dumps(metrics, indent=1, ensure_ascii=False) + "\n").encode())
    return metrics


def cases_sha256(cases: Iterable[Case]) -> str:
    """Of all that is asked and of the right answers; not of where the photos lie."""
    digest = hashlib.sha256()
    for case in cases:
        digest.update(json.dumps([case.id, case.image_sha256, case.policy, case.label, case.category]).encode())
    return digest.hexdigest()


def _answer(system: System, cases: list[Case], predictions: Predictions, watch: Watch) -> None:
    """Adds a row for each case that has none, or a failure."""
    open_cases = [case for case in cases if case.id not in predictions.rows
                  or predictions.rows[case.id].prediction == "failed"]
    done = len(cases) - len(open_cases)
    watch(done, len(cases))
    for answered, row in enumerate(_judged(system, open_cases), start=1):
        predictions.add(row)
        watch(done + answered, len(cases))


def _judged(system: System, cases: list[Case]) -> Iterator[Predicted]:
    """Rows as they are ready. Cases of one photo follow each other: it is decoded once, and a system may keep what it
    saw of it."""
    of_one_photo = itertools.groupby(sorted(cases, key=lambda case: case.image_sha256), lambda case: case.image_sha256)
    photos = (list(mine) for _, mine in of_one_photo)
    if system.concurrency == 1:
        for mine in photos:
            yield from _judged_photo(system, mine)
        return
    with ThreadPoolExecutor(system.concurrency) as pool:
        waiting: set[Future] = set()
        for mine in photos:
            waiting.add(pool.submit(lambda mine=mine: list(_judged_photo(system, mine))))
            if len(waiting) > 2 * system.concurrency:
                ready, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (row for future in ready for row in future.result())
        yield from (row for future in as_completed(waiting) for row in future.result())


def _judged_photo(system: System, cases: list[Case]) -> Iterator[Predicted]:
    rgb = _decoded(cases[0])
    for case in cases:
        if isinstance(rgb, ImageError):
            yield predicted(case, "failed", 0.0, note=str(rgb), error=rgb.kind)
            continue
        started = time.perf_counter()
        try:
            answer = system.judge(case, rgb)
        except CaseError as error:
            yield predicted(case, "failed", time.perf_counter() - started, note=str(error), error=error.kind)
        else:
            yield predicted(case, answer.label, time.perf_counter() - started, answer.score, answer.text, answer.note)


def _decoded(case: Case) -> np.ndarray | ImageError:
    """(h, w, 3) uint8, upright; or why not, for every case of the photo."""
    try:
        return decode_image(case.image)
    except ImageError as error:
        return error


def _distinct(cases: list[Case]) -> list[Case]:
    """Each case once; one that stands in the data twice is asked once and counted twice, as the data have it."""
    found: dict[str, Case] = {}
    for case in cases:
        if found.setdefault(case.id, case) != case:
            raise BenchmarkError(f"{case.id}: stands in the data twice, with another photo, policy or label; keep one")
    if not found:
        raise BenchmarkError("the data hold no case")
    return list(found.values())


def _same_run(path: Path, facts: dict) -> None:
    """Write what is run, or raise BenchmarkError where the folder holds another run."""
    facts = json.loads(json.dumps(facts))
    if not path.exists():
        write_durably(path, (json.dumps(facts, indent=1) + "\n").encode())
        return
    before = _facts(path)
    changed = [key for key in sorted(before.keys() | facts.keys()) if before.get(key) != facts.get(key)]
    if changed:
        raise BenchmarkError(f"{path.parent}: holds another run, which differs in {', '.join(changed)} "
                             f"({before.get(changed[0])!r} there, {facts.get(changed[0])!r} here); name a new folder")


def _facts(path: Path) -> dict:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(facts, dict):
            raise ValueError(f"{facts!r:.60} is no object")
    except ValueError as error:
        raise BenchmarkError(f"{path}: does not say in JSON what was run there ({error}); name a new folder") from error
    return facts
