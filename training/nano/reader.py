"""The reader of nano: the first layers of SmolLM2-135M, which read a policy once and then several pictures by it.

A pack is one policy followed by the tags of its pictures. Every picture attends to the policy and to itself only, and
its positions continue the policy's: the same numbers as one run for each picture over the policy's KV cache, at a
fraction of the cost. Short packs stand behind one another in a row, so that rows hold hardly any padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaModel

from safeguard_sdk.engine.tags import KNOTS, knot_weights
from safeguard_sdk.prompt import PROMPTS

STYLE = PROMPTS["direct"]
ALONE_AFTER = 2 / 3  # of the layers: where each tag's own verdict is asked for, so that later layers can weigh them
LOGIT_SCALE = 0.1  # SmolLM2's raw logits are tens; unscaled, the loss starts in saturation and stays at chance


@dataclass(frozen=True)
class Batch:
    """Packs in rows. T is the longest pack, R the pictures of all packs."""

    ids: torch.Tensor          # (rows, T) int64
    positions: torch.Tensor    # (rows, T) int64
    pack: torch.Tensor         # (rows, T) int64: the pack that a token belongs to, -1 padding
    picture: torch.Tensor      # (rows, T) int64: 0 policy, 1… the picture of the pack
    knots: torch.Tensor        # (rows, T, knots) float32: probability of a tag token, all 0 elsewhere
    verdict_at: torch.Tensor   # (R, 2) int64: row and place of each picture's last token, in the order of the packs
    broken: torch.Tensor       # (R,) float32
    tag_at: torch.Tensor       # (S, 2) int64: row and place of the last token of each tag whose own verdict is known
    tag_broken: torch.Tensor   # (S,) float32: whether that tag alone breaks the policy

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """(rows, 1, T, T) additive: causal within a pack; pictures see the policy and themselves."""
        own = self.picture[:, :, None] == self.picture[:, None, :]
        seen = own | (self.picture[:, None, :] == 0)
        seen &= self.pack[:, :, None] == self.pack[:, None, :]
        length = self.ids.shape[1]
        seen &= torch.ones(length, length, dtype=torch.bool).tril()
        return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]


class Reader(nn.Module):
    """Language model, learnt embeddings of probability, and a head for the two verdict tokens."""

    def __init__(self, model: LlamaModel, verdict_rows: torch.Tensor) -> None:
        super().__init__()
        self.model = model
        self.probability = nn.Embedding(len(KNOTS), model.config.hidden_size)
        nn.init.normal_(self.probability.weight, std=0.02)
        self.verdict = nn.Linear(model.config.hidden_size, 2, bias=True)  # logits of safe, unsafe
        with torch.no_grad():
            self.verdict.weight.copy_(verdict_rows * LOGIT_SCALE)
            self.verdict.bias.zero_()
        self.alone = nn.Sequential(nn.LayerNorm(model.config.hidden_size), nn.Linear(model.config.hidden_size, 1))

    def forward(self, batch: Batch) -> torch.Tensor:
        """(R,) logit that the policy is broken."""
        return self.judge(batch)[0]

    def judge(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """(R,) logit that a picture breaks the policy, (S,) logit that a tag alone does.

        The second is for training only. It tells the layers below what each tag means under the policy, where one
        verdict for all the tags of a picture leaves them to guess.
        """
        embedded = self.model.get_input_embeddings()(batch.ids)
        embedded = embedded + (batch.knots @ self.probability.weight).to(embedded.dtype)
        states = self.model(inputs_embeds=embedded, attention_mask=batch.attention_mask(embedded.dtype),
                            position_ids=batch.positions, use_cache=False, output_hidden_states=True)
        last = states.last_hidden_state[batch.verdict_at[:, 0], batch.verdict_at[:, 1]]
        safe, unsafe = self.verdict(last.float()).unbind(1)
        between = states.hidden_states[round(ALONE_AFTER * (len(states.hidden_states) - 1))]
        tags = between[batch.tag_at[:, 0], batch.tag_at[:, 1]]
        return unsafe - safe, self.alone(tags.float())[:, 0]


def number_type() -> torch.dtype:
    """Of products in training: bfloat16 where the CPU has instructions for it. Elsewhere that takes a hundred times as
    long as float32: 1.1 against 84 GFLOPS for (4096, 576) @ (576, 1536) on an EPYC with AVX2."""
    return torch.bfloat16 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else torch.float32


def in_number_type() -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, enabled=number_type() == torch.bfloat16)


def load_base(gguf: Path, layers: int):
    """SmolLM2 from its GGUF, cut to the first layers: tokenizer, LlamaModel in number_type, rows of the verdict tokens.
    """
    tokenizer = AutoTokenizer.from_pretrained(**stored_in(gguf))
    whole = AutoModelForCausalLM.from_pretrained(**stored_in(gguf), dtype=torch.float32)
    config = LlamaConfig(**{**whole.config.to_dict(), "num_hidden_layers": layers})
    config._attn_implementation = "eager"  # twice as fast here as sdpa, which has no fast path for a mask
    model = LlamaModel(config)
    model.load_state_dict(whole.model.state_dict(), strict=False)
    rows = [verdict_token(tokenizer, text) for text in (STYLE.verdict_tokens.safe, STYLE.verdict_tokens.unsafe)]
    verdict_rows = whole.get_output_embeddings().weight[rows].detach().clone()
    for parameter in model.parameters():  # and not the buffers: rotary frequencies do not survive bfloat16
        parameter.data = parameter.data.to(torch.bfloat16).to(number_type())  # the same values on every CPU
    return tokenizer, model, verdict_rows


def stored_in(path: Path) -> dict[str, str]:
    """Arguments of from_pretrained for a GGUF, or for the folder of a model."""
    return ({"pretrained_model_name_or_path": str(path)} if path.is_dir() else
            {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name})


def verdict_token(tokenizer, text: str) -> int:
    ids = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1:
        raise ValueError(f"verdict {text!r} is {len(ids)} tokens of this tokenizer, must be one")
    return ids[0]


def with_adapters(model: LlamaModel, rank: int) -> nn.Module:
    """The model with LoRA on every linear layer; nothing else of it is trained."""
    config = LoraConfig(r=rank, lora_alpha=rank, lora_dropout=0.0, target_modules="all-linear")
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
    return adapted


def compile_layers(reader: Reader) -> None:
    """Fuse what the layers do between matrix products, in place: a step of training takes 0.6 of the time. Compiles
    once for all layers and lengths, when they first run; needs a C++ compiler."""
    for layer in reader.model.get_base_model().layers:
        layer.compile(dynamic=True)


def collate(packs: list[tuple[list[int], list[tuple[np.ndarray, ...]], list[bool]]], suffix: list[int]) -> Batch:
    """Token ids of the policy's prompt prefix, (ids, probabilities) of each picture, verdicts → a batch.

    suffix  tokens between a picture and its verdict, the same for all
    A picture may bring a third array: 1 or 0 at the last token of a tag that alone breaks the policy or does not, nan
    elsewhere.
    """
    lengths = [len(prefix) + sum(len(tags) + len(suffix) for tags, *_ in pictures) for prefix, pictures, _ in packs]
    places = _places(lengths)
    shape = (1 + max(row for row, _ in places), max(lengths))
    ids, positions, picture = (np.zeros(shape, np.int64) for _ in range(3))
    pack = np.full(shape, -1, np.int64)
    knots = np.zeros((*shape, len(KNOTS)), np.float32)
    verdict_at, tag_at, tag_broken = [], [], []
    for number, ((prefix, pictures, _), (row, start), length) in enumerate(zip(packs, places, lengths, strict=True)):
        pack[row, start:start + length] = number
        here = start + len(prefix)
        ids[row, start:here], positions[row, start:here] = prefix, range(len(prefix))
        for one, (tags, probabilities, *alone) in enumerate(pictures, 1):
            end = here + len(tags) + len(suffix)
            ids[row, here:end] = [*tags, *suffix]
            positions[row, here:end] = range(len(prefix), len(prefix) + end - here)
            picture[row, here:end] = one
            knots[row, here:here + len(tags)] = knot_weights(np.asarray(probabilities, np.float32))
            verdict_at.append((row, end - 1))
            for verdicts in alone:
                known = np.flatnonzero(~np.isnan(verdicts))
                tag_at += [(row, here + place) for place in known]
                tag_broken += verdicts[known].tolist()
            here = end
    return Batch(
        ids=torch.from_numpy(ids), positions=torch.from_numpy(positions), pack=torch.from_numpy(pack),
        picture=torch.from_numpy(picture), knots=torch.from_numpy(knots), verdict_at=torch.tensor(verdict_at),
        broken=torch.tensor([float(broken) for *_, verdicts in packs for broken in verdicts]),
        tag_at=torch.tensor(tag_at, dtype=torch.int64).reshape(-1, 2), tag_broken=torch.tensor(tag_broken),
    )


def _places(lengths: list[int]) -> list[tuple[int, int]]:
    """Row and first place of each pack, the longest first into the first row that has room for it."""
    longest = max(lengths)
    filled: list[int] = []  # places taken in each row
    places = [(0, 0)] * len(lengths)
    for number in sorted(range(len(lengths)), key=lambda number: -lengths[number]):
        row = next((row for row, taken in enumerate(filled) if taken + lengths[number] <= longest), len(filled))
        if row == len(filled):
            filled.append(0)
        places[number] = (row, filled[row])
        filled[row] += lengths[number]
    return places
