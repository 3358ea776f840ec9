"""What both stages share: the folder of a run, its log, its checkpoints, going on after a stop, and the end.

    OUT/sft, OUT/grpo    run.json          what was asked for; another recipe, data or start do not go on in it
                         log.jsonl         one object for each logged step
                         tensorboard/      the same, with the extra `tensorboard`
                         checkpoint-N/     the last two; `complete` in it says that it is whole
                         adapter/          with LoRA: what was trained
                         model/            the whole model, for the next stage and for `python -m export`
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback

from safeguard_sdk.bundle import file_sha256
from safeguard_sdk.durable import write_durably
from training.errors import TrainingError
from training.runs import RUN, check_same_run
from training.vlm.model import keep, merge_adapter, weight_type
from training.vlm.plan import accumulation_of, process_count
from training.vlm.recipe import Grpo, Recipe, Sft

KEPT_CHECKPOINTS = 2  # the older one is needed while the newer one is being written
COMPLETE = "complete"


class Log(TrainerCallback):
    """Writes log.jsonl, and marks checkpoints that are written to their end."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {state.global_step}; lower learning_rate and start from "
                                "the last checkpoint")
        if state.is_world_process_zero:
            with open(self.out / "log.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")

    def on_save(self, args, state, control, **kwargs) -> None:
        PartialState().wait_for_everyone()  # each process writes the state of its random numbers
        if state.is_world_process_zero:
            (self.out / f"checkpoint-{state.global_step}" / COMPLETE).touch()


class GoesOn:
    """What a trainer of TRL lacks to go on after a stop as if there had been none.

    Weights  transformers' own goes by their names in the file. A whole Qwen2.5-VL is saved under its published names,
             which are not those in memory, so it would read nothing and go on from the weights that the stage started
             with; a warning is all that says so (transformers 5.24; huggingface/transformers issue 43701).
    Order    TRL's sampler draws one order after the other, so a new process would begin with that of the first epoch.
    """

    def _get_train_sampler(self, dataset: Dataset | None = None) -> Sampler:
        return EpochOrder(super()._get_train_sampler(dataset), self.args.seed, lambda: int(self.state.epoch or 0))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: PreTrainedModel | None = None) -> None:
        model = self.model if model is None else model
        if isinstance(model, PeftModel) or self.is_fsdp_enabled:  # saved under the names in memory
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            saved = type(model).from_pretrained(resume_from_checkpoint, dtype=model.dtype)
            model.load_state_dict(saved.state_dict())


class EpochOrder(Sampler):
    """A sampler whose order depends on seed and epoch, and on nothing that ran before."""

    def __init__(self, sampler: Sampler, seed: int, epoch: Callable[[], int]) -> None:
        self.sampler, self.seed, self.epoch = sampler, seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.sampler.generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch())
        return iter(self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)


def begin(out: Path, recipe: Recipe, stage: Sft | Grpo, rows_sha256: str, start: str) -> Path | None:
    """Make the folder of a run, or go on in it: the checkpoint to go on from, None at the start.

    raises  TrainingError if the folder holds a run of another recipe, other data, another number of processes or, in
            stage 2, another start: that of OUT/sft may have been trained anew since
    """
    wanted = {"model": recipe.model, "max_pixels": recipe.max_pixels, "prompt": recipe.prompt, **asdict(stage),
              "rows_sha256": rows_sha256, "processes": process_count()}
    if isinstance(stage, Grpo):
        wanted["start_sha256"] = weights_sha256(Path(start))
    wanted = json.loads(json.dumps(wanted))
    state = PartialState()
    check_same_run(out, wanted)
    state.wait_for_everyone()
    checkpoints = sorted((int(path.parent.name.split("-")[1]), path.parent) for path in
                         out.glob(f"checkpoint-*/{COMPLETE}"))
    if state.is_main_process:
        out.mkdir(parents=True, exist_ok=True)
        write_durably(out / RUN, json.dumps(wanted, indent=1).encode())
        for folder in out.glob("checkpoint-*"):
            if not (folder / COMPLETE).is_file():
                shutil.rmtree(folder)
        _cut_log(out / "log.jsonl", checkpoints[-1][0] if checkpoints else 0)
    state.wait_for_everyone()
    return checkpoints[-1][1] if checkpoints else None


def weights_sha256(model: Path) -> str | None:
    """Of a folder's weights; some ten seconds for 16 GB. None for a name on the hub, which the recipe has already."""
    if not model.is_dir():
        return None
    digests = [[file.name, file_sha256(file)] for file in sorted(model.glob("*.safetensors"))]
    return hashlib.sha256(json.dumps(digests).encode()).hexdigest()


def train_to_model(out: Path, recipe: Recipe, stage: Sft | Grpo, rows_sha256: str, start: str,
                   make_trainer: Callable[[], Trainer]) -> Path:
    """Train the model `start` from the last checkpoint in `out`, or from the beginning. Returns the whole model."""
    checkpoint = begin(out, recipe, stage, rows_sha256, start)
    if not (out / "model").is_dir():
        trainer = make_trainer()
        trainer.train(resume_from_checkpoint=checkpoint and str(checkpoint))
        finish(trainer, start, stage, out)
    return out / "model"


def trainer_arguments(out: Path, stage: Sft | Grpo) -> dict[str, object]:
    """Arguments of TRL's trainers that are the same for both stages."""
    return {
        "output_dir": str(out), "seed": stage.seed, "data_seed": stage.seed,
        "learning_rate": stage.learning_rate, "lr_scheduler_type": stage.schedule, "warmup_steps": stage.warmup,
        "weight_decay": stage.weight_decay, "num_train_epochs": stage.epochs,
        "per_device_train_batch_size": stage.batch, "per_device_eval_batch_size": stage.batch,
        "gradient_accumulation_steps": accumulation_of(stage, process_count()),
        "use_cpu": not torch.accelerator.is_available(), "bf16": stage.precision == "bf16",
        "gradient_checkpointing": stage.recompute,
        "save_steps": stage.save_every, "save_total_limit": KEPT_CHECKPOINTS, "logging_steps": stage.log_every,
        "logging_nan_inf_filter": False,  # or a loss that is no number would be logged as the one before it
        "dataloader_num_workers": stage.workers, "dataloader_pin_memory": torch.cuda.is_available(),
        "remove_unused_columns": False, "disable_tqdm": True,
        "report_to": [],
    }


def callbacks(out: Path) -> list[TrainerCallback]:
    """The log, and the same for TensorBoard where the extra `tensorboard` is installed."""
    if not importlib.util.find_spec("tensorboard") or not PartialState().is_main_process:
        return [Log(out)]
    from torch.utils.tensorboard import SummaryWriter
    from transformers.integrations import TensorBoardCallback
    return [Log(out), TensorBoardCallback(SummaryWriter(str(out / "tensorboard")))]


def finish(trainer: Trainer, start: str, stage: Sft | Grpo, out: Path) -> None:
    """Write `out`/model, with the adapter merged into the model `start` if there is one."""
    part = out / "model.partial"
    state = PartialState()
    if stage.lora is None:
        trainer.save_model(str(part))  # gathers what is sharded; all processes take part
    else:
        trainer.save_model(str(out / "adapter"))
        state.wait_for_everyone()
        if state.is_main_process:
            (out / "adapter" / "training_args.bin").unlink(missing_ok=True)  # a pickle
            merge_adapter(start, out / "adapter", weight_type(stage.lora, stage.precision), part)
    state.wait_for_everyone()
    if state.is_main_process:
        keep(part, trainer.processing_class, out / "model")
    state.wait_for_everyone()


def print_once(thing: object) -> None:
    """By one of the processes."""
    if PartialState().is_main_process:
        print(thing, flush=True)


def _cut_log(log: Path, step: int) -> None:
    """Take out what was logged after the checkpoint: these steps are about to be taken again."""
    if log.is_file():
        lines = [line for line in log.read_text(encoding="utf-8").splitlines() if _step_of(line) <= step]
        log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except ValueError:  # the process was killed while it wrote this one
        return float("inf")
