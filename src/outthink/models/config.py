"""What a model is: its shape, read from a Hugging Face config.json. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from outthink.core.errors import CheckpointError
from outthink.models.families import FAMILIES
from outthink.models.fields import Fields

DTYPES = ("float32", "bfloat16", "float16", "float64")
ROPE_TYPES = ("default", "linear", "llama3", "yarn")
# Keys whose meaning is not implemented, with the values that mean "off".
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "quantization_config": (None, {}),
    "compression_config": (None, {}),
    "partial_rotary_factor": (None, 1, 1.0),
    "per_layer_config": (None, {}),
    "is_encoder_decoder": (None, False),
    "add_cross_attention": (None, False),
    "rope_interleaved": (None, False),
    "use_mrope": (None, False),
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
}
_ORIGINAL = "original_max_position_embeddings"
_YARN_OPTIONAL = ("attention_factor", "mscale", "mscale_all_dim")
_ROPE_KEYS = {
    *("rope_type", "type", "rope_theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"),
    *("truncate", "partial_rotary_factor", _ORIGINAL),
    *_YARN_OPTIONAL,
    "finetuned",  # a remark in old YaRN checkpoints; it changes nothing
}
# Far more than any model has, and few enough that a corrupt number does not fill the memory.
_MAX_LAYERS = 10_000
REWARDS = ("process", "outcome")
_REWARD_ARCHITECTURE = "ForSequenceClassification"


@dataclass(frozen=True)
class RopeConfig:
    """Rotary position embedding: the base and the way it is stretched to longer contexts.

    ``rope_type`` is one of ROPE_TYPES. ``original_max_positions`` is the length before stretching (llama3, yarn).
    The other fields bear the names and meanings of transformers' rope parameters, and are None or unused elsewhere.
    """

    rope_type: str = "default"
    theta: float = 10000.0
    factor: float = 1.0
    original_max_positions: int | None = None
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder-only transformer; see `from_dict` for how it is read from a checkpoint.

    ``attention_bias`` is of the q, k and v projections, ``output_bias`` of the attention output projection.
    ``sliding_windows`` has an entry for each layer: position p attends to keys in (p - window, p], None means all.
    ``dtype`` is the checkpoint's declared dtype, or once loaded the dtype of the weights. ``reward`` is None for a
    language model; a reward model has a head of one output, the logit that what it read leads to a right answer, read
    after each step (``process``) or of whole solutions alone (``outcome``).
    """

    model_type: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int
    norm_eps: float
    rope: RopeConfig
    tie_embeddings: bool
    sliding_windows: tuple[int | None, ...]
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    dtype: str = "float32"
    reward: str | None = None

    @property
    def num_outputs(self) -> int:
        """How many numbers the head computes from a hidden state."""
        return self.vocab_size if self.reward is None else 1

    def rotations(self, max_positions: int) -> tuple[Any, Any]:
        """Cosines and sines of positions 0, 1, ...: see `rope_frequencies.rotation_tables`."""
        from outthink.models.rope_frequencies import rotation_tables

        return rotation_tables(self.rope, self.head_dim, max_positions)

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads evenly."
            )
        if self.head_dim % 2:
            raise CheckpointError(f"head_dim is {self.head_dim}; rotary embeddings need an even number.")
        if len(self.sliding_windows) != self.num_layers:
            raise CheckpointError(f"{len(self.sliding_windows)} sliding windows for {self.num_layers} layers.")

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], where: str) -> ModelConfig:
        """Read the contents of a config.json, as transformers 4 and 5 write it; ``where`` names the file in errors.

        Raises CheckpointError for an unknown family, a missing or ill-typed key, and options that are not implemented.
        """
        fields = Fields(raw, where)
        model_type = fields.text("model_type")
        if model_type not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise fields.error(f"model_type {model_type!r} is not supported; known families: {known}.")
        _refuse_unsupported(fields)
        family = FAMILIES[model_type]
        num_layers, num_heads = fields.integer("num_hidden_layers"), fields.integer("num_attention_heads")
        if num_layers > _MAX_LAYERS:
            raise fields.error(f"'num_hidden_layers' is {num_layers}; expected at most {_MAX_LAYERS}.")
        hidden_size = fields.integer("hidden_size")
        rope = read_rope(fields, fields.integer("max_position_embeddings", family.max_positions))
        bos = fields.token_ids("bos_token_id", () if family.bos_token_id is None else (family.bos_token_id,))
        try:
            return cls(
                model_type=model_type,
                vocab_size=fields.integer("vocab_size"),
                hidden_size=hidden_size,
                intermediate_size=fields.integer("intermediate_size"),
                num_layers=num_layers,
                num_heads=num_heads,
                num_kv_heads=fields.optional_integer("num_key_value_heads", family.num_kv_heads) or num_heads,
                head_dim=_head_dim(fields, family.head_dim, hidden_size, num_heads),
                max_positions=_max_positions(fields, family.max_positions, rope),
                norm_eps=fields.number("rms_norm_eps", 1e-6),
                rope=rope,
                tie_embeddings=fields.flag("tie_word_embeddings", False),
                bos_token_id=bos[0] if bos else None,
                eos_token_ids=fields.token_ids("eos_token_id", family.eos_token_ids),
                dtype=_dtype(fields),
                reward=_reward(fields),
                **family.traits(fields, num_layers),
            )
        except CheckpointError as error:
            # The constructor knows no file.
            raise error if str(error).startswith(where) else fields.error(str(error)) from None


def read_rope(fields: Fields, max_positions: int) -> RopeConfig:
    """The rotary embedding of a config: ``rope_parameters`` (transformers 5), else ``rope_theta``/``rope_scaling``."""
    raw = fields.raw.get("rope_scaling") or fields.raw.get("rope_parameters") or {}
    if not isinstance(raw, dict):
        raise fields.error(f"rope parameters are {raw!r}; expected an object.")
    unknown = sorted(set(raw) - _ROPE_KEYS)
    if unknown:
        raise fields.error(f"rope parameter {unknown[0]!r} is not supported; known: {', '.join(sorted(_ROPE_KEYS))}.")
    rope = Fields(raw, f"{fields.where}: rope parameters")
    rope_type = rope.text("rope_type", rope.text("type", "default"))
    if rope_type not in ROPE_TYPES:
        hint = " (it would change the rotation of keys that are already cached)" if rope_type == "dynamic" else ""
        raise fields.error(f"rope type {rope_type!r} is not supported{hint}; known: {', '.join(ROPE_TYPES)}.")
    if rope.number("partial_rotary_factor", 1.0) != 1.0:
        raise fields.error("'partial_rotary_factor' other than 1 is not supported.")
    # A length beside the rope parameters goes before one among them, as in transformers.
    original = fields.integer(_ORIGINAL, rope.integer(_ORIGINAL, max_positions))
    stretched = rope_type in ("linear", "llama3")
    factor = rope.number("factor") if stretched else rope.number("factor", max(1.0, max_positions / original))
    optional = {key: rope.number(key) if raw.get(key) else None for key in _YARN_OPTIONAL}
    return RopeConfig(
        rope_type=rope_type,
        theta=rope.number("rope_theta", fields.number("rope_theta", 10000.0)),
        factor=1.0 if rope_type == "default" else factor,
        original_max_positions=original if rope_type in ("llama3", "yarn") else None,
        low_freq_factor=rope.number("low_freq_factor") if rope_type == "llama3" else 1.0,
        high_freq_factor=rope.number("high_freq_factor") if rope_type == "llama3" else 4.0,
        beta_fast=rope.number("beta_fast", 32.0),
        beta_slow=rope.number("beta_slow", 1.0),
        truncate=rope.flag("truncate", True),
        **optional,
    )


def _refuse_unsupported(fields: Fields) -> None:
    activation = fields.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise fields.error(f"hidden_act {activation!r} is not supported; known: silu.")
    for key, off in _UNSUPPORTED.items():
        if fields.raw.get(key) not in off:
            raise fields.error(f"{key!r} is not supported (it is {fields.raw[key]!r}).")


def _reward(fields: Fields) -> str | None:
    """What kind of reward model a sequence-classification checkpoint is; None for a language model."""
    architectures = fields.raw.get("architectures") or []
    if not any(isinstance(name, str) and name.endswith(_REWARD_ARCHITECTURE) for name in architectures):
        return None
    labels = fields.raw.get("id2label")
    count = len(labels) if isinstance(labels, dict) else fields.integer("num_labels", 2)  # 2 goes without saying there
    if count != 1:
        raise fields.error(f"the classification head has {count} labels; a reward model has 1 (num_labels=1).")
    kind = fields.text("outthink_reward", REWARDS[0])
    if kind not in REWARDS:
        raise fields.error(f"'outthink_reward' is {kind!r}; known: {', '.join(REWARDS)}.")
    return kind


def _head_dim(fields: Fields, absent: int | None, hidden_size: int, num_heads: int) -> int:
    head_dim = fields.optional_integer("head_dim", absent)
    if head_dim is None and hidden_size % num_heads:
        raise fields.error(f"'hidden_size' {hidden_size} is not a multiple of 'num_attention_heads' {num_heads}.")
    return head_dim or hidden_size // num_heads


def _max_positions(fields: Fields, absent: int, rope: RopeConfig) -> int:
    """The declared length, or the stretched one where YaRN was switched on without changing the declared length."""
    declared = fields.integer("max_position_embeddings", absent)
    if rope.rope_type != "yarn" or rope.original_max_positions is None:
        return declared
    return max(declared, int(rope.original_max_positions * rope.factor))


def _dtype(fields: Fields) -> str:
    dtype = fields.text("dtype", fields.text("torch_dtype", "float32")).removeprefix("torch.")
    if dtype not in DTYPES:
        raise fields.error(f"dtype {dtype!r} is not supported; known: {', '.join(DTYPES)}.")
    return dtype
