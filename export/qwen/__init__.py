"""Checkpoints of Qwen2-VL, Qwen2.5-VL and Qwen3-VL → bundles of the architecture `qwen-vl`; see docs/bundle.md."""
