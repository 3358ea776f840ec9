"""Scores that are probabilities, and thresholds for a wish: fitted on held-out rows, written into a bundle's manifest.

    python -m training calibrate BUNDLE rows.csv --max-fpr 0.01 --plot reliability.svg

calibrate.py does it from end to end; rows.py reads labelled rows and truth.py makes them of labelled photos, logits.py
asks the bundle, fit.py fits and measures, thresholds.py chooses, plot.py draws. docs/calibration.md says what to give.
"""
