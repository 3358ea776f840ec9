"""Speed and quality, measured; run from a clone, never part of the wheel."""
