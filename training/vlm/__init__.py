"""Both stages of SafeGuard-VL for Qwen2.5-VL and Qwen3-VL.

    python -m training sft training/recipes/7b-full.yaml --captions runs/captions --out runs/7b-full
    python -m training grpo training/recipes/7b-full.yaml --out runs/7b-full

recipe.py reads what a run is to be; chat.py turns rows into chat turns; plan.py says what it will cost; model.py loads,
adapts and merges; sft.py and grpo.py are the two stages, run.py what they share: logs, checkpoints, going on.
"""
