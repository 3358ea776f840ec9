"""The tables 2 to 6 of the paper (arXiv 2603.01228) with our figures beside the published ones.

    python -m benchmarks.tables runs/nano-unsafebench "SFT on L1=runs/l1-safeeditbench" --out tables

published.yaml holds the paper's figures, results.py reads ours, render.py writes Markdown and LaTeX, plots.py draws.
"""
