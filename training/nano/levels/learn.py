"""Learning one policy from one base in two ways, until what is learnt no longer grows.

    sft  cross-entropy on the verdict token
    rl   GRPO as in stage 2: GROUP verdicts are drawn from the model for each photo, a reward says what each is worth,
         the advantage is what it is worth beyond its group, and KL keeps the model near its base (arXiv 2402.03300,
         eq. 3)

Both have the same base, adapters, optimizer, rate, photos and order of photos; they differ in the loss alone.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import torch
from torch import nn

from safeguard_sdk.engine.tags import Encode, image_tokens
from safeguard_sdk.prompt import Answer
from training.nano.levels.policies import Judged, Level, draw
from training.nano.reader import STYLE, Batch, Reader, collate, in_number_type
from training.nano.train import score
from training.policyflip.policies import Pack
from training.rewards import direct

RATE = 5e-4
GROUP, KL = 8, 0.01        # as in recipes/7b-rl.yaml
PACKS, SCENES = 4, 6       # a step
EVALUATE_EVERY = 20        # steps
PATIENCE, GAIN = 4, 0.005  # flat: no gain of half a point of accuracy in so many evaluations
MOST_STEPS = 400

Loss = Callable[[Reader, Batch, torch.Generator], torch.Tensor]


def sft_loss(reader: Reader, batch: Batch, generator: torch.Generator) -> torch.Tensor:
    return nn.functional.binary_cross_entropy_with_logits(reader(batch), batch.broken)


def rl_loss(reader: Reader, batch: Batch, generator: torch.Generator) -> torch.Tensor:
    """One step on-policy, so that the ratio of GRPO's objective is 1 and its clip idle."""
    logits = reader(batch)
    with torch.no_grad(), reader.model.disable_adapter():
        base = reader(batch)
    drawn = (torch.rand(GROUP, len(logits), generator=generator) < torch.sigmoid(logits.detach())).float()
    rewards = _rewards(drawn, batch.broken)
    advantages = (rewards - rewards.mean(0)) / (rewards.std(0) + 1e-4)
    log_drawn = -nn.functional.binary_cross_entropy_with_logits(logits.expand_as(drawn), drawn, reduction="none")
    return -(advantages * log_drawn).mean() + KL * _divergence(logits, base).mean()


METHODS: dict[str, Loss] = {"sft": sft_loss, "rl": rl_loss}


def learn(reader: Reader, method: str, level: Level, train: Judged, validation: Judged, encode: Encode,
          seed: int) -> list[float]:
    """Train the reader's adapters on one level; the accuracy under it on the validation photos at every evaluation, the
    first before any step."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    adapters = [parameter for name, parameter in reader.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(adapters, lr=RATE, weight_decay=0.0)
    accuracies = [_accuracy(reader, level, validation, encode)]
    for step in range(MOST_STEPS):
        rng = random.Random(seed * 1_000_003 + step)
        batch = _batch(draw(level.name, train, PACKS, SCENES, rng, level.text), encode, rng)
        with in_number_type():
            loss = METHODS[method](reader, batch, generator)
        loss.backward()
        nn.utils.clip_grad_norm_(adapters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % EVALUATE_EVERY == 0:
            accuracies.append(_accuracy(reader, level, validation, encode))
            if is_flat(accuracies):
                break
    return accuracies


def is_flat(accuracies: list[float]) -> bool:
    """Whether the last PATIENCE evaluations brought no gain over those before them."""
    before, last = accuracies[:-PATIENCE], accuracies[-PATIENCE:]
    return bool(before) and max(last) < max(before) + GAIN


def _accuracy(reader: Reader, level: Level, judged: Judged, encode: Encode) -> float:
    logits = score(reader, [(level.text, scene) for scene in judged.scenes], encode)
    return float(((logits > 0) == judged.broken[level.name]).mean())


def _batch(packs: list[Pack], encode: Encode, rng: random.Random) -> Batch:
    return collate([(encode(STYLE.prefix(pack.text)), [image_tokens(scene.tags(rng), encode) for scene in pack.scenes],
                     list(pack.broken)) for pack in packs], encode(STYLE.suffix))


def _rewards(drawn: torch.Tensor, broken: torch.Tensor) -> torch.Tensor:
    """(GROUP, R) what each drawn verdict is worth: the reward of stage 2, on the text that the verdict stands for."""
    text = {side: STYLE.format(Answer("unsafe" if side else "safe")) for side in (False, True)}
    truths = ["unsafe" if one else "safe" for one in broken.bool().tolist()]
    return torch.tensor([direct([text[one] for one in row], label=truths) for row in drawn.bool().tolist()])


def _divergence(logits: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """(R,) KL of the verdict's distribution from the base's."""
    broken, log = torch.sigmoid(logits), nn.functional.logsigmoid
    return broken * (log(logits) - log(base)) + (1 - broken) * (log(-logits) - log(-base))
