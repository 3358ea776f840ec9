"""`python -m export CHECKPOINT --out DIR`: from a checkpoint to a verified bundle, and what belongs to it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from export.failures import ExportError
from export.gate import MAX_FLIP_RATE, MAX_MEAN_DRIFT, QUESTIONS, ParityError
from safeguard_sdk.cli.options import EnginesOption, ProviderOption
from safeguard_sdk.cli.printing import readable_errors
from safeguard_sdk.errors import SafeguardError

NANO = "reader.pt"   # a folder with this file is what `training nano` has written
ENGINES = "engines"  # folder of a bundle in which `--target` builds
TARGETS = {"onnx": None, "tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}  # → what builds its engines


class WithDefault(TyperGroup):
    """`python -m export CHECKPOINT …` is `python -m export bundle CHECKPOINT …`."""

    def parse_args(self, ctx, args):
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["bundle", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=WithDefault, add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False,
                  help="From a checkpoint to a small, fast, verified bundle.")
PhotosOption = Annotated[Path | None, typer.Option(
    "--gate-data", "--photos", exists=True, file_okay=False,
    help="Photos for the gate, and labelled ones for nano. Default: the sample photos of scikit-image and -learn.")]
CapabilityOption = Annotated[str | None, typer.Option(help="Of another GPU, such as 86; TensorRT for RTX alone can.")]
BaseOption = Annotated[Path | None, typer.Option(exists=True, file_okay=False, help="What an adapter is for.")]


@app.command()
def bundle(
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a Qwen2-VL, Qwen2.5-VL or "
                                               "Qwen3-VL checkpoint, of a LoRA adapter, or of a run of nano.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="The bundle.")],
    quant: Annotated[str, typer.Option(help="fp32, fp16, w8a8, fp8, w8a16 or w4a16.")] = "w8a8",
    target: Annotated[str, typer.Option(help="onnx, or tensorrt or tensorrt-rtx: engines, too, in OUT/engines.")] =
        "onnx",
    capability: CapabilityOption = None,
    prompt: Annotated[str, typer.Option(help="Style it was trained on; see docs/prompts.md.")] = "direct",
    photos: PhotosOption = None,
    base: BaseOption = None,
    text: Annotated[bool, typer.Option(help="Whether it can write reasons and answers (lm_head.onnx).")] = True,
    max_image_tokens: Annotated[int, typer.Option(min=4, help="Of an image; fewer are faster.")] = 1280,
    gate_questions: Annotated[int, typer.Option(min=1, help="Photos × rules that are compared.")] = QUESTIONS,
    max_flips: Annotated[float, typer.Option(help="Share of verdicts that may differ.")] = MAX_FLIP_RATE,
    max_drift: Annotated[float, typer.Option(help="Mean difference of scores that may be.")] = MAX_MEAN_DRIFT,
) -> None:
    """Turn a checkpoint into a bundle: graphs, few bits, parity gate.

    Exit status: 0 a bundle was written, 1 it failed the gate and none was written, 2 it cannot be exported, or has no
    engines.
    Example: python -m export checkpoints/SafeGuard-VL-RL --out bundles/safeguard-vl --prompt safeguard-vl
    """
    with _readable_errors():
        module = _engine_module(target, quant, capability, checkpoint)
        if (checkpoint / NANO).is_file():
            manifest = _export_nano(checkpoint, photos, out)
        else:
            from export.qwen.build import Order, export_qwen
            from export.qwen.store import SCHEMES
            from safeguard_sdk.prompt import PROMPTS
            _check_choice("--quant", quant, SCHEMES)
            _check_choice("--prompt", prompt, tuple(PROMPTS))
            manifest = export_qwen(Order(checkpoint, out, quant, prompt, base, text, max_image_tokens, photos,
                                         gate_questions, max_flips, max_drift))
        if module is not None:
            _build_engines(out, module, capability)
        shown = ("calibration", "quantization", "parity", "quality")
        typer.echo(json.dumps({key: manifest[key] for key in shown if key in manifest}, indent=1))


@app.command()
def gate(
    bundle: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A bundle of a Qwen-VL checkpoint.")],
    checkpoint: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What it was made from.")],
    photos: PhotosOption = None,
    base: BaseOption = None,
    questions: Annotated[int, typer.Option(min=1, help="Photos × rules that are compared.")] = QUESTIONS,
    max_flips: Annotated[float, typer.Option(help="Share of verdicts that may differ.")] = MAX_FLIP_RATE,
    max_drift: Annotated[float, typer.Option(help="Mean difference of scores that may be.")] = MAX_MEAN_DRIFT,
    provider: ProviderOption = "cpu",
    engines: EnginesOption = None,
) -> None:
    """Compare a bundle with its checkpoint once more: on your own photos, on a GPU, or with its engines.

    Exit status: 0 it gives the checkpoint's verdicts, 1 it does not, 2 they cannot be compared.
    Example: python -m export gate bundles/safeguard-vl checkpoints/SafeGuard-VL-RL --gate-data my-photos
    """
    with _readable_errors():
        from export.gate import require
        from export.parity import draw_questions
        from export.qwen import build
        from safeguard_sdk import Bundle
        from safeguard_sdk.engine import open_engine
        opened, drawn = Bundle.open(bundle), draw_questions(photos, questions)
        if opened.architecture != "qwen-vl":
            raise ExportError(f"{bundle}: is of the architecture {opened.architecture}; nano is compared when it is "
                              "exported, its checkpoint needs the photos it was trained on")
        order = build.Order(checkpoint, bundle, style=opened.style.name, base=base)
        report = build.gate(open_engine(opened, provider, engines=engines), build.Checkpoint.open(order), drawn)
        typer.echo("\n".join(report.lines()))
        require(report.whole, max_flips, max_drift, f"{bundle} is as it was, but do not use it; to export it again")


@app.command()
def plan(
    device: Annotated[str, typer.Option(help="Such as orin-nano-8gb; another name lists them.")],
    tokens: Annotated[int, typer.Option(min=1, help="Of policy, image and question.")] = 1024,
    text: Annotated[bool, typer.Option(help="Whether it is to write reasons and answers.")] = True,
) -> None:
    """Say which model in which scheme fits a device, computed from shapes.

    Example: python -m export plan --device orin-nano-8gb
    """
    from export.plan import DEVICES, table
    _check_choice("--device", device, tuple(DEVICES))
    typer.echo("\n".join(table(device, tokens, text)))


@app.command()
def tensorrt(
    bundle: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="A bundle of a Qwen-VL checkpoint.")],
    out: Annotated[Path, typer.Option(file_okay=False, help="Folder for the engines.")],
    module: Annotated[str, typer.Option(help="tensorrt, or tensorrt_rtx.")] = "tensorrt",
    capability: CapabilityOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Images at a time, at most.")] = 8,
    patches: Annotated[int, typer.Option(min=4, help="Of an image, at most.")] = 5120,
    policy_tokens: Annotated[int, typer.Option(min=1, help="Of a rule, at most.")] = 4096,
) -> None:
    """Build TensorRT engines, on the machine that they are for.

    Example: python -m export tensorrt bundles/safeguard-vl --out engines
    """
    with _readable_errors():
        from export.engines import MODULES, Limits, build_engines
        from safeguard_sdk import Bundle
        _check_choice("--module", module, MODULES)
        limits = Limits(batch, patches, min(1024, patches), policy_tokens, min(512, policy_tokens))
        typer.echo(json.dumps(build_engines(Bundle.open(bundle), out, limits, module, capability), indent=1))


def _engine_module(target: str, quant: str, capability: str | None, checkpoint: Path) -> str | None:
    """What builds the engines, None for onnx. What cannot be built is refused here, before an export of minutes."""
    _check_choice("--target", target, tuple(TARGETS))
    module = TARGETS[target]
    if module is not None:
        from export.engines import load_tensorrt, require_capability
        if (checkpoint / NANO).is_file():
            raise ExportError(f"{checkpoint}: is a run of nano, which runs in ONNX Runtime only; leave out --target")
        if capability is not None:
            require_capability(quant, capability)
        load_tensorrt(module)
    return module


def _build_engines(out: Path, module: str, capability: str | None) -> None:
    from export.engines import Limits, build_engines
    from safeguard_sdk import Bundle
    try:
        build_engines(Bundle.open(out), out / ENGINES, Limits(), module, capability)
    except SafeguardError as error:
        raise ExportError(f"{out}: is whole and has passed its gate, but has no engines: {error}") from error


def _export_nano(run: Path, photos: Path | None, out: Path) -> dict:
    from export.nano import export_nano
    if photos is None:
        raise ExportError(f"{run}: is a run of nano, which is calibrated on labelled photos; name them with --photos")
    return export_nano(run, photos, out)


def _check_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise typer.BadParameter(f"{value!r}: choose one of {', '.join(known)}", param_hint=option)


@contextmanager
def _readable_errors() -> Iterator[None]:
    """As those of the SDK's command; exit status 1 where the gate refuses."""
    with readable_errors():
        try:
            yield
        except ParityError as error:
            typer.echo(f"error: {error}", err=True)  # in lines: a table of what flipped is part of it
            raise typer.Exit(1) from error
        except ModuleNotFoundError as error:
            raise ExportError(f"{error.name} is not installed; the export needs its extra: "
                              "pip install -e '.[cpu,export]'") from error


if __name__ == "__main__":
    app()
