"""The model card of a Qwen-VL bundle, written from its manifest, so that its figures are those that were measured."""

from __future__ import annotations

TEXT = """# {name}: a bundle for safeguard

{megabytes:,.0f} MB, made by `python -m export` (safeguard {version}) from:

{models}

The licence of the checkpoint is the licence of this bundle. Its documentation says what the model was trained on and
what it can judge; the export changes neither.

| | |
| --- | --- |
| prompt | `{style}`, version {style_version} |
| linear layers | {linear} |
| vision tower | {vision} |
| embeddings | {embeddings} |
| image | {least:,} to {most:,} pixels, {patch} px patches |
| policy | at most {policy:,} tokens a rule |
| calibration | {calibration} |
| text | {text} |

## Parity with the checkpoint

Over {questions} questions, photos and rules of the packaged policies: {flips:.2%} of verdicts differ from the
checkpoint's in fp32; scores drift by {drift:.4f} on average, {p99:.4f} at the 99th percentile, {largest:.4f} at most,
and shift by {shift:+.4f}.

| policy | questions | verdicts that differ | mean drift | largest |
| --- | --- | --- | --- | --- |
{policies}
"""


def model_card(manifest: dict) -> str:
    """Markdown."""
    quantization, parity, processor = manifest["quantization"], manifest["parity"], manifest["processor"]
    models = "\n".join(f"- {model['name']} ({model.get('family') or model['adapter']}); licence: {model['licence']}"
                       for model in manifest["base_model"])
    policies = "\n".join(f"| {name} | {one['questions']} | {one['flip_rate']:.2%} | {one['mean_drift']:.4f} | "
                         f"{one['max_drift']:.4f} |" for name, one in parity["policies"].items())
    writes = any(file["file"] == "lm_head.onnx" for file in manifest["files"])
    return TEXT.format(
        name=manifest["name"], version=manifest["version"], models=models,
        megabytes=sum(file["bytes"] for file in manifest["files"]) / 1e6, style=manifest["prompt"]["style"],
        style_version=manifest["prompt"]["version"], linear=quantization["linear"], vision=quantization["vision"],
        embeddings=quantization["embeddings"], least=processor["min_pixels"], most=processor["max_pixels"],
        patch=processor["patch"], policy=manifest["max_policy_tokens"], calibration=manifest["calibration"]["data"],
        text="writes reasons and answers" if writes else "none: verdicts only", questions=parity["questions"],
        flips=parity["flip_rate"], drift=parity["mean_drift"], p99=parity["p99_drift"], largest=parity["max_drift"],
        shift=parity["mean_shift"], policies=policies)
