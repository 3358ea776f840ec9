"""How well guards judge: every rival on every suite, by the metrics that each suite is published with.

    python -m benchmarks.quality --suite unsafebench --system nano --data data/unsafebench --out runs/nano-unsafebench

suites.py reads data and names their metrics, systems/ asks the guards, run.py goes on where it was stopped, metrics.py
marks. docs/quality.md says how to run each.
"""
