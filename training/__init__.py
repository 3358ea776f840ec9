"""From photos and policies to checkpoints; run as `python -m training …` from a clone. Never part of the wheel."""
