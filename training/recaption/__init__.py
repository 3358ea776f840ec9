"""Captions that stage 1 trains on: a neutral caption of every photo, and the same with its unsafe details put back.

    python -m training recaption photos --captioner Qwen/Qwen2.5-VL-7B-Instruct \\
        --rewriter gemma-3-27b-it@http://127.0.0.1:8000/v1 --out runs/recaption

pipeline.py runs the two models one after the other; sources.py lists the photos, prompts.py holds what is asked,
models.py opens a model (endpoint.py over HTTP, local.py in this process), checks.py refuses rewrites that changed more
than they may, parts.py keeps the rows on disk so that a stop loses little. docs/recaption.md is the format.
"""
