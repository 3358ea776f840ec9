"""Where the time of a graph goes, by operator, as ONNX Runtime's own profiler has it."""

from __future__ import annotations

import gc
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import onnxruntime

MOST = 8  # operators that are named; the others are one sum


def operators(run: Callable[[], object]) -> dict[str, dict[str, float]]:
    """Name of a graph → operator → milliseconds, the longest first, in the last run of the graph.

    run  opens sessions and runs them; what it gives is let go. Profiling adds a few percent to what it measures
    """
    with tempfile.TemporaryDirectory() as folder:
        class Profiled(onnxruntime.InferenceSession):
            def __init__(self, path: str, options: onnxruntime.SessionOptions, **others) -> None:
                options.enable_profiling, options.profile_file_prefix = True, f"{folder}/{Path(path).stem}"
                super().__init__(path, options, **others)

        with mock.patch.object(onnxruntime, "InferenceSession", Profiled):
            run()
            gc.collect()  # a session writes its profile when it goes
        times = {path.name.rsplit("_", 3)[0]: _last_run(json.loads(path.read_bytes()))  # GRAPH_DATE_TIME_MS.json
                 for path in sorted(Path(folder).iterdir())}
    return {name: _longest(some) for name, some in times.items() if some}


def _last_run(profile: list[dict]) -> Counter:
    """Operator → milliseconds; empty for a graph that never ran."""
    runs = [event for event in profile if event.get("name") == "model_run"]
    if not runs:
        return Counter()
    start, end = runs[-1]["ts"], runs[-1]["ts"] + runs[-1]["dur"]
    times: Counter = Counter()
    for event in profile:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time") and start <= event["ts"] <= end:
            times[event["args"]["op_name"]] += event["dur"] / 1000
    return times


def _longest(times: Counter) -> dict[str, float]:
    first = times.most_common(MOST)
    rest = times.total() - sum(ms for _, ms in first)
    return {name: round(ms, 1) for name, ms in [*first, ("others", rest)]}
