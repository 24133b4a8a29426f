"""What the weights of a ViT and of its MAE decoder are called, here and in PyTorch code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

Dialect = Literal["mae", "timm", "huggingface"]

PARTS: Mapping[Dialect, tuple[str, ...]] = {
    "mae": ("encoder", "decoder"),
    "timm": ("encoder",),
    "huggingface": ("encoder", "decoder"),
}
"""What each dialect has names for."""

_NAMES = (
    # ours                      the MAE release and timm  Hugging Face
    ("encoder.cls_token", "cls_token", "vit.embeddings.cls_token"),
    ("encoder.position_code", "pos_embed", "vit.embeddings.position_embeddings"),
    ("encoder.patch_projection", "patch_embed.proj", "vit.embeddings.patch_embeddings.projection"),
    ("encoder.blocks_", "blocks.", "vit.layers."),
    ("encoder.norm", "norm", "vit.layernorm"),
    ("decoder.mask_token", "mask_token", "decoder.mask_token"),
    ("decoder.position_code", "decoder_pos_embed", "decoder.decoder_pos_embed"),
    ("decoder.embed", "decoder_embed", "decoder.decoder_embed"),
    ("decoder.blocks_", "decoder_blocks.", "decoder.decoder_layers."),
    ("decoder.norm", "decoder_norm", "decoder.decoder_norm"),
    ("decoder.pixels", "decoder_pred", "decoder.decoder_pred"),
    (".norm_attention.", ".norm1.", ".layernorm_before."),
    (".attention.qkv.", ".attn.qkv.", ".attention.{}_proj."),  # {}: queries, keys and values are three tensors
    (".attention.out.", ".attn.proj.", ".attention.o_proj."),
    (".norm_mlp.", ".norm2.", ".layernorm_after."),
    (".mlp_in.", ".mlp.fc1.", ".mlp.fc1."),
    (".mlp_out.", ".mlp.fc2.", ".mlp.fc2."),
    (".kernel", ".weight", ".weight"),
    (".scale", ".weight", ".weight"),
)

_HUGGING_FACE_BEFORE = (  # published files, files that the library writes, and encoders saved alone
    (r"^(embeddings|encoder|layers|layernorm)\.", r"vit.\1."),
    (r"^vit\.encoder\.layer\.", "vit.layers."),
    (r"^decoder\.decoder_encoder\.layer\.", "decoder.decoder_layers."),
    (r"\.attention\.attention\.(q|k|v)(uery|ey|alue)\.", r".attention.\1_proj."),
    (r"\.attention\.output\.dense\.", ".attention.o_proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)
_CLASSIFIER = re.compile(r"^(vit\.)?(head|pre_logits|pooler|classifier)\.")


def names_in(dialect: Dialect, ours: str) -> tuple[str, ...]:
    """What a dialect calls one of our weights, `encoder.norm.scale`; one name, or those of its three parts."""
    name = ours
    for here, mae, hugging_face in _NAMES:
        name = name.replace(here, hugging_face if dialect == "huggingface" else mae)
    return tuple(name.format(part) for part in "qkv") if "{}" in name else (name,)


def name_of_today(name: str) -> str:
    """A name of Hugging Face's, of whatever version, as the library's modules have it today."""
    for pattern, replacement in _HUGGING_FACE_BEFORE:
        name = re.sub(pattern, replacement, name)
    return name


def is_of_classifier(name: str) -> bool:
    return _CLASSIFIER.match(name) is not None


def is_of_decoder(name: str) -> bool:
    return name.startswith(("decoder", "mask_token"))
