"""Models as files: msgpack with weights, sizes and normalisation; StableHLO for other runtimes."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization

from scemae_jax.faces.frame import Frame
from scemae_jax.model import Model
from scemae_jax.models.architecture import Architecture, Backbone, Carb, Decoder
from scemae_jax.models.heads import Head, Which
from scemae_jax.models.parsing import PartParser

FORMAT = 2
"""Files with a parser have the same: an earlier version reads what it knows of them, and leaves the parser out."""


def save_model(model: Model, path: Path, *, dtype: str = "float32") -> None:
    """Writes a model to one msgpack file (to a temporary name first, so that a cut-off write leaves no half file).

    Args:
      model: encoder, projector, heads, parser; the decoder too if it is among the parameters.
      path: of the file.
      dtype: of the weights in the file.

    Raises:
      ValueError: the dtype is not float32 or float16, or float16 cannot hold a weight.
    """
    if dtype not in ("float32", "float16"):
        raise ValueError(f"export dtype is {dtype!r}: choose 'float32' or 'float16'")

    def stored(tree: Any) -> Any:
        with np.errstate(over="ignore"):  # an error below
            narrowed = jax.tree.map(lambda x: np.asarray(x, dtype), jax.device_get(tree))
        if not all(np.isfinite(x).all() for x in jax.tree.leaves(narrowed)):
            raise ValueError(f"a weight is not finite as {dtype}: export with dtype 'float32', or look at the training")
        return narrowed

    content = {
        "format": FORMAT,
        "architecture": json.dumps(dataclasses.asdict(_in_float32(model.architecture))),
        "provenance": json.dumps(model.provenance),
        "params": stored(model.params),
        "heads": {
            name: {"sizes": json.dumps(head.sizes()), "params": stored(head.params)}
            for name, head in model.heads.items()
        },
    }
    if model.parser is not None:
        content["parser"] = {"sizes": json.dumps(model.parser.sizes()), "params": stored(model.parser.params)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_bytes(serialization.msgpack_serialize(content))
    partial.replace(path)


def load(path: str | Path) -> Model:
    """Opens an exported model: a file, or the name of one that comes with the package.

    Raises:
      FileNotFoundError: there is no such file or name.
      ValueError: the file is not an exported model, or of a format this version does not read.
    """
    content = _content(path)

    def float32(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)

    parser = content.get("parser")
    heads = {name: (json.loads(head["sizes"]), float32(head["params"])) for name, head in content["heads"].items()}
    return Model(
        architecture=_architecture(json.loads(content["architecture"])),
        params=float32(content["params"]),
        heads={name: Head.of_sizes(_head_sizes(sizes), params) for name, (sizes, params) in heads.items()},
        parser=parser and PartParser.of_sizes(json.loads(parser["sizes"]), float32(parser["params"])),
        provenance=json.loads(content["provenance"]),
    )


def _in_float32(architecture: Architecture) -> Architecture:
    """Whatever it was trained in: opened elsewhere it computes, and gives the same features, in float32."""
    return dataclasses.replace(architecture, backbone=dataclasses.replace(architecture.backbone, dtype="float32"))


def _architecture(fields: dict[str, Any]) -> Architecture:
    if "backbone" not in fields:  # format 1 had the fields of all parts side by side
        decoder = ("decoder_width", "decoder_depth", "decoder_heads", "mask_ratio", "normalise_target")
        backbone = ("encoder", "positions", "frame", "mean", "std", "dtype")
        fields = {
            "backbone": {name: fields[name] for name in backbone if name in fields},
            "decoder": {name.removeprefix("decoder_"): fields[name] for name in decoder},
            "carb": {name: value for name, value in fields.items() if name not in (*backbone, *decoder)},
        }
    backbone = fields["backbone"] | {name: tuple(fields["backbone"][name]) for name in ("mean", "std")}
    if "frame" in backbone:  # the first files had none: theirs is the default
        backbone["frame"] = Frame(**backbone["frame"])
    return Architecture(
        backbone=Backbone(**backbone),
        decoder=fields["decoder"] and Decoder(**fields["decoder"]),
        carb=fields["carb"] and Carb(**fields["carb"]),
    )


def _head_sizes(sizes: dict[str, Any]) -> dict[str, Any]:
    if "kind" in sizes:
        return sizes
    # Format 1 had one form for both kinds: a linear head was one without heatmaps.
    fields = ("num_landmarks", "heatmaps", "kernel_size", "gain") if sizes["heatmaps"] else ("num_landmarks",)
    reads = {name: sizes[name] for name in ("stride", "which", "projected_weight") if name in sizes}
    kind = "heatmaps" if sizes["heatmaps"] else "linear"
    return {"kind": kind, "network": {name: sizes[name] for name in fields}, "reads": reads}


def fingerprint(path: str | Path) -> str:
    """Tells networks apart, by architecture and weights; heads and provenance do not count.

    Raises:
      FileNotFoundError, ValueError: as `load`.
    """
    content = _content(path)
    network = content["architecture"].encode() + serialization.msgpack_serialize(content["params"])
    return hashlib.sha256(network).hexdigest()[:12]


def _content(path: str | Path) -> dict[str, Any]:
    file = Path(path)
    if not file.is_file():
        known = {p.name.removesuffix(".msgpack"): p for p in pretrained()}
        if str(path) not in known:
            names = ", ".join(sorted(known)) or "none"
            raise FileNotFoundError(f"no model file {str(path)!r}, and no model of that name in the package ({names})")
        file = known[str(path)]
    try:
        content = cast(dict[str, Any], serialization.msgpack_restore(file.read_bytes()))
        version = content["format"]
    except Exception as error:
        raise ValueError(f"{file} is not a model exported by scemae_jax: {error}") from error
    if version not in range(1, FORMAT + 1):
        raise ValueError(
            f"{file} has format {version}, this version of scemae_jax reads 1 to {FORMAT}: update scemae_jax"
        )
    return content


def pretrained() -> list[Path]:
    """Files of the models that come with the package."""
    folder = Path(str(resources.files("scemae_jax"))) / "pretrained"
    return sorted(folder.glob("*.msgpack"))


def export_stablehlo(model: Model, path: Path, *, stride: int, which: Which) -> None:
    """Writes the feature function, weights inside, as serialised StableHLO (`jax.export`).

    It takes uint8 [b, s, s, 3] of any b, where s is the image size of the model's frame, and gives what
    `Model.features` does, in float32 whatever the model was trained in; it runs on CPU, GPU and TPU.
    """
    _export(model, path, lambda exact, images: exact.dense_features(images, stride, which))


def export_parse(model: Model, path: Path) -> None:
    """Writes `Model.parse` of uint8 [b, s, s, 3], which gives uint8 [b, s, s], as `export_stablehlo` does features.

    Raises:
      ValueError: the model has no parser.
    """
    _export(model, path, lambda exact, images: exact.square_parts(images))


def _export(model: Model, path: Path, function: Callable[[Model, jax.Array], jax.Array]) -> None:
    exact = dataclasses.replace(model, architecture=_in_float32(model.architecture))
    (batch,) = jax.export.symbolic_shape("b")
    size = model.frame.image_size
    images = jax.ShapeDtypeStruct((batch, size, size, 3), jnp.uint8)
    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(functools.partial(function, exact)), platforms=platforms)(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(exported.serialize())
