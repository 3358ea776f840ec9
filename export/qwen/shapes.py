"""What the export needs to know of a Qwen-VL checkpoint, read from its config.json and checked once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, PretrainedConfig

from export.failures import ExportError, first_line

# model_type of config.json, and the activation of its vision tower that vision.py has.
FAMILIES = {"qwen2_vl": "quick_gelu", "qwen2_5_vl": "silu", "qwen3_vl": "gelu_pytorch_tanh"}


@dataclass(frozen=True)
class VisionShape:
    """The vision tower: patches of an image → tokens."""

    depth: int
    width: int
    heads: int
    inner: int                     # of the feed-forward layers
    out: int                       # width of a token: the decoder's
    patch: int                     # pixels
    temporal: int                  # frames of a patch
    merge: int                     # merge × merge patches become a token
    theta: float                   # of the rotary embedding
    window: int | None             # patches a side of an attention window; None: every block sees all patches
    full: tuple[int, ...]          # with windows: the blocks that see all patches
    position_side: int | None      # of the square table of learnt positions, Qwen3-VL
    deepstack: tuple[int, ...]     # blocks after which features go straight to the decoder, Qwen3-VL

    @property
    def patch_values(self) -> int:
        return 3 * self.temporal * self.patch**2

    @property
    def head(self) -> int:
        return self.width // self.heads

    @property
    def slots(self) -> int:
        """Patches that a window has room for; 0 without windows."""
        return (self.window or 0) ** 2


@dataclass(frozen=True)
class DecoderShape:
    """The language model."""

    layers: int
    width: int
    heads: int
    groups: int                    # of keys and values
    head: int                      # width of a head
    inner: int
    epsilon: float                 # of the norms
    theta: float
    sections: tuple[int, int, int]  # frequencies that turn with time, height and width
    interleaved: bool              # whether these three take turns (Qwen3-VL) or stand in blocks
    bias: bool                     # in the projections to queries, keys and values
    head_norm: bool                # norms of queries and keys, Qwen3-VL
    tied: bool                     # whether lm_head is the table of embeddings
    deepstack: int                 # layers after which image features are added


@dataclass(frozen=True)
class QwenShape:
    family: str  # a key of FAMILIES
    vision: VisionShape
    decoder: DecoderShape

    @classmethod
    def read(cls, checkpoint: Path) -> QwenShape:
        """Of a folder with a config.json. Raises ExportError for what the graphs cannot express."""
        try:
            config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise ExportError(f"{checkpoint / 'config.json'}: cannot be read ({first_line(error)}); a checkpoint is a "
                              "folder with config.json, safetensors and the files of its processor") from error
        return cls.of(config, str(checkpoint / "config.json"))

    @classmethod
    def of(cls, config: PretrainedConfig, source: str) -> QwenShape:
        """source: of the config, for error messages."""
        if config.model_type not in FAMILIES:
            raise ExportError(f"{source}: model_type is {config.model_type!r}, known are {', '.join(FAMILIES)}; "
                              "other architectures cannot be exported")
        text, vision = config.text_config, config.vision_config
        rope = text.rope_parameters
        if rope.get("rope_type", "default") != "default":
            raise ExportError(f"{source}: rope_type is {rope['rope_type']!r}; only 'default' is exported, as context "
                              "beyond the trained one is of no use to a guard: remove rope_scaling")
        if getattr(text, "use_sliding_window", False):
            raise ExportError(f"{source}: use_sliding_window is on, which no graph here has; set it to false")
        found, known = (vision.hidden_act, text.hidden_act), (FAMILIES[config.model_type], "silu")
        if found != known:
            raise ExportError(f"{source}: hidden_act of vision and text are {found}, the graphs have {known}; this is "
                              "no checkpoint of the published family")
        if getattr(text, "attention_bias", False):
            raise ExportError(f"{source}: attention_bias is on, which the graphs do not have, as no "
                              "published Qwen3-VL has it")
        if len(getattr(vision, "deepstack_visual_indexes", ())) >= text.num_hidden_layers:
            raise ExportError(f"{source}: deepstack has as many features as the model has layers; no Qwen3-VL is so")
        newest, windowed = config.model_type == "qwen3_vl", config.model_type == "qwen2_5_vl"
        width = vision.embed_dim if config.model_type == "qwen2_vl" else vision.hidden_size
        deepstack = tuple(vision.deepstack_visual_indexes) if newest else ()
        return cls(
            config.model_type,
            VisionShape(
                depth=vision.depth, width=width, heads=vision.num_heads,
                inner=getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio),
                out=text.hidden_size, patch=vision.patch_size, temporal=vision.temporal_patch_size,
                merge=vision.spatial_merge_size, theta=vision.rope_parameters["rope_theta"],
                window=vision.window_size // vision.patch_size if windowed else None,
                full=tuple(vision.fullatt_block_indexes) if windowed else (),
                position_side=round(vision.num_position_embeddings**0.5) if newest else None, deepstack=deepstack),
            DecoderShape(
                layers=text.num_hidden_layers, width=text.hidden_size, heads=text.num_attention_heads,
                groups=text.num_key_value_heads,
                head=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
                inner=text.intermediate_size, epsilon=text.rms_norm_eps,
                theta=rope["rope_theta"], sections=tuple(rope.get("mrope_section", (24, 20, 20) if newest else
                                                                  (16, 24, 24))),
                interleaved=newest, bias=not newest, head_norm=newest, tied=config.tie_word_embeddings,
                deepstack=len(deepstack)))
