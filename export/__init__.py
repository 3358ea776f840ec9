"""From a checkpoint to a small, verified bundle; run as `python -m export …` from a clone. Never part of the wheel."""
