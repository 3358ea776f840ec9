"""Heads on CLIP's embedding, against PyTorch's own arithmetic; weights are random, files in their published form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessor, CLIPVisionModelWithProjection

from benchmarks.errors import BenchmarkError
from benchmarks.quality.cases import Case
from benchmarks.quality.systems.clip_heads import (
    MULTIHEADED,
    checker_concepts,
    laion_h14,
    laion_l14,
    multiheaded_head,
    open_laion_nsfw,
    open_multiheaded,
    open_sd_filter,
    read_tensors,
)
from safeguard_sdk.image import decode_image
from training.datasets.unsafebench import POLICY

UNSAFEBENCH = Case("1", b"", "0", POLICY, "UnsafeBench", "safe")


@pytest.fixture(autouse=True)
def same_weights():
    torch.manual_seed(0)


def h14() -> nn.Sequential:
    """As LAION-AI/CLIP-based-NSFW-Detector has it, src/models.py, narrower."""
    layers = []
    for width, following in zip((8, 8, 16, 8, 4), (8, 16, 8, 4, 4), strict=True):
        layers += [nn.Linear(width, following), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*layers, nn.Linear(4, 3), nn.Linear(3, 1)).eval()


class L14(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.Module()
        self.norm.register_buffer("mean", torch.randn(8))
        self.norm.register_buffer("variance", torch.rand(8) + 0.5)
        self.linear_1, self.linear_2, self.linear_3, self.linear_4 = (
            nn.Linear(8, 6), nn.Linear(6, 12), nn.Linear(12, 5), nn.Linear(5, 1))

    def forward(self, x):
        x = (x - self.norm.mean) / (self.norm.variance.sqrt() + 1e-10)
        for layer in (self.linear_1, self.linear_2, self.linear_3):
            x = layer(x).relu()
        return self.linear_4(x).sigmoid()


def multiheaded() -> nn.Sequential:
    """The head of YitingQu/unsafe-diffusion, train.py, narrower; its batch norm has seen data."""
    head = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.Linear(6, 1))
    head(torch.randn(40, 8))
    return head.eval()


def test_laions_heads_give_what_their_modules_give(tmp_path):
    embedding = torch.randn(8)
    embedding /= embedding.norm()
    old, new = h14(), L14()
    torch.save(nn.ModuleDict({"layers": old}).state_dict(), tmp_path / "h14.pth")
    torch.save(new.state_dict(), tmp_path / "l14.pth")
    with torch.inference_mode():
        expected = old(embedding).clip(0, 1).item(), new(embedding).item()
    array = embedding.numpy()
    assert laion_h14(array, read_tensors(tmp_path / "h14.pth")) == pytest.approx(expected[0], abs=1e-6)
    assert laion_l14(array, read_tensors(tmp_path / "l14.pth")) == pytest.approx(expected[1], abs=1e-6)


def test_a_head_of_multiheaded_gives_what_its_module_gives(tmp_path):
    head, embedding = multiheaded(), torch.randn(8)
    torch.save(head.state_dict(), tmp_path / "sexual.pt")
    with torch.inference_mode():
        expected = head(embedding[None]).sigmoid().item()
    weights = read_tensors(tmp_path / "sexual.pt")
    assert multiheaded_head(embedding.numpy(), weights) == pytest.approx(expected, abs=1e-6)


def test_multiheaded_is_unsafe_if_any_head_fires_that_the_policy_forbids(tmp_path):
    for name in MULTIHEADED:
        head = multiheaded()
        with torch.no_grad():
            head[4].weight.zero_()
            head[4].bias.fill_(2.0 if name == "political" else -2.0)
        torch.save(head.state_dict(), tmp_path / f"{name}.pt")
    rgb = np.zeros((4, 4, 3), np.uint8)
    answers = {}
    for suite, case in (("unsafebench", UNSAFEBENCH), ("safeeditbench", Case("1", b"", "0", "x", "Policy L3", "safe"))):
        system = open_multiheaded(suite, str(tmp_path), lambda name: lambda rgb: np.ones(8, np.float32))
        answers[suite] = system.judge(case, rgb)
    assert (answers["unsafebench"].label, answers["unsafebench"].note) == ("unsafe", "political")
    assert answers["safeeditbench"].label == "safe"  # where politics are allowed


def test_laions_detector_takes_the_head_that_is_there_and_the_clip_it_was_trained_on(tmp_path):
    torch.save(nn.ModuleDict({"layers": h14()}).state_dict(), tmp_path / "h14_nsfw.pth")
    asked = []

    def embedder(name):
        asked.append(name)
        return lambda rgb: np.ones(8, np.float32)

    system = open_laion_nsfw("unsafebench", str(tmp_path), embedder)
    assert 0 <= system.judge(UNSAFEBENCH, np.zeros((4, 4, 3), np.uint8)).score <= 1
    assert asked == ["laion/CLIP-ViT-H-14-laion2B-s32B-b79K"]


def test_weights_that_are_more_than_tensors_are_refused(tmp_path):
    torch.save(multiheaded(), tmp_path / "sexual.pt")  # a pickled module
    with pytest.raises(BenchmarkError, match="cannot be read as a state dict of tensors"):
        read_tensors(tmp_path / "sexual.pt")


# The Stable Diffusion safety checker.

def test_the_checkers_rule_is_the_one_of_diffusers_worked_out_by_hand():
    embedding = np.array([1.0, 0.0])
    concepts = {"special_care_embeds": np.array([[1.0, 1.0], [2.0, 0.0]]),
                "special_care_embeds_weights": np.array([0.7, 1.2]),
                "concept_embeds": np.array([[3.0, 4.0], [0.0, 1.0]]), "concept_embeds_weights": np.array([0.595, 0.5])}
    # special care: 0.7071 - 0.7 = 0.007 fires, so 0.01 is added from there on; 1 - 1.2 + 0.01 does not.
    # concepts: 0.6 - 0.595 + 0.01 = 0.015 fires, 0 - 0.5 + 0.01 does not.
    assert checker_concepts(embedding, concepts) == {"special-care": 0.007, "concept": 0.015}
    del concepts["special_care_embeds"], concepts["special_care_embeds_weights"]
    alone = concepts | {"special_care_embeds": np.zeros((0, 2)), "special_care_embeds_weights": np.zeros(0)}
    assert checker_concepts(embedding, alone) == {"concept": 0.005}


def published_checkpoint(tower: CLIPVisionModelWithProjection) -> dict[str, torch.Tensor]:
    """The names of CompVis/stable-diffusion-safety-checker, whose CLIP is a module within a module."""
    tensors = {f"vision_model.{name}" if name.startswith("vision_model.") else name: value.contiguous()
               for name, value in tower.state_dict().items()}
    for name, count in (("concept_embeds", 17), ("special_care_embeds", 3)):
        tensors |= {name: torch.randn(count, tower.config.projection_dim), f"{name}_weights": torch.full((count,), 0.9)}
    return tensors


@pytest.mark.parametrize("threshold, label", [(0.9, "safe"), (-1.1, "unsafe")])
def test_the_checkers_checkpoint_is_read_with_its_clip_and_its_concepts(tmp_path, photos, threshold, label):
    config = CLIPConfig(projection_dim=12, vision_config={
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "projection_dim": 12})
    tower = CLIPVisionModelWithProjection(config.vision_config).eval()
    tensors = published_checkpoint(tower)
    tensors["concept_embeds_weights"][3] = threshold
    save_file(tensors, tmp_path / "model.safetensors")
    config.save_pretrained(tmp_path)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor.save_pretrained(tmp_path)
    rgb = decode_image(photos["astronaut.png"])
    answer = open_sd_filter("unsafebench", str(tmp_path)).judge(UNSAFEBENCH, rgb)
    assert answer.label == label
    if label == "unsafe":
        pixels = processor(images=Image.fromarray(rgb), return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            cosine = torch.cosine_similarity(tower(pixels).image_embeds[0], tensors["concept_embeds"][3], dim=0).item()
        assert answer.score == pytest.approx(cosine - threshold, abs=0.0011)  # rounded to 3 decimals
