"""The peer: PyTorch with Hugging Face's ViTMAE, of the same sizes, on the same kind of device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from jaxtyping import Float

try:
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
except ImportError as error:
    raise ValueError(f"--peer=torch needs PyTorch and transformers ({error}): pip install torch transformers") from None

from benchmarks import flops, peer_clustering
from benchmarks.measure import Contender, first_call_seconds
from benchmarks.settings import Settings
from benchmarks.steps import normalised_views
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Architecture
from scemae_jax.models.vit import LAYER_NORM_EPSILON


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def prepare() -> int:
    """As many threads as cores; matrix products of float32 as coarse on GPUs as JAX has them.

    Returns the bytes that others hold on the device.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def masked_autoencoder(architecture: Architecture, *, mask_ratio: float | None = None) -> ViTMAEForPreTraining:
    """Hugging Face's MAE of these sizes, random weights, on `device()`."""
    v = architecture.variant
    config = ViTMAEConfig(
        image_size=FRAME.window,
        patch_size=v.patch_size,
        hidden_size=v.width,
        num_hidden_layers=v.depth,
        num_attention_heads=v.num_heads,
        intermediate_size=4 * v.width,
        decoder_hidden_size=architecture.decoder_width,
        decoder_num_hidden_layers=architecture.decoder_depth,
        decoder_num_attention_heads=architecture.decoder_heads,
        decoder_intermediate_size=4 * architecture.decoder_width,
        layer_norm_eps=LAYER_NORM_EPSILON,
        norm_pix_loss=architecture.normalise_target,
        mask_ratio=architecture.mask_ratio if mask_ratio is None else mask_ratio,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] - of the base class, not declared there
    )
    with device():
        return ViTMAEForPreTraining(config)


def pretrain_step(settings: Settings, *, compiled: bool) -> Contender:
    """A step of stage 1 on a constant batch, without augmentation; eager or by `torch.compile`."""
    held = prepare()
    stage, batch_size = settings.config.pretrain, settings.config.pretrain.batch_size
    network = masked_autoencoder(settings.architecture)
    weights = [p for name, p in network.named_parameters() if p.requires_grad and _decays(name)]
    others = [p for name, p in network.named_parameters() if p.requires_grad and not _decays(name)]
    optimizer = torch.optim.AdamW(
        [{"params": weights}, {"params": others, "weight_decay": 0.0}],
        lr=stage.learning_rate,
        betas=tuple(stage.betas),
        weight_decay=stage.weight_decay,
        fused=device().type == "cuda",
    )
    images = _views(settings, batch_size)
    forward = torch.compile(network) if compiled else network

    def step() -> None:
        with _arithmetic(settings.dtype):
            loss = forward(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return _contender(
        f"masked autoencoder, torch {'compiled' if compiled else 'eager'}",
        batch_size,
        step,
        flops.pretrain_step(settings.architecture),
        held,
    )


def features(settings: Settings, stride: int) -> Contender:
    """The backbone's features by cover-and-stride, without a mask."""
    held = prepare()
    architecture, count = settings.architecture, settings.feature_images
    encoder = masked_autoencoder(architecture, mask_ratio=0.0).vit.eval()
    patch_size = architecture.variant.patch_size
    side, shifts = FRAME.window // patch_size, patch_size // stride
    in_order = torch.arange(side**2, dtype=torch.float32, device=device()).expand(count, -1)  # nothing is shuffled
    images = torch.from_numpy(settings.images(count)).to(device()).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(x, device=device())[:, None, None] for x in (architecture.mean, architecture.std))
    border = FRAME.offset
    starts = [border + (stride * (2 * shift + 1) - patch_size) // 2 for shift in range(shifts)]

    @torch.inference_mode()
    def dense() -> Float[torch.Tensor, "b 96/stride 96/stride d"]:
        normalised, maps = (images / 255 - mean) / std, []
        with _arithmetic(settings.dtype):
            for top in starts:
                for left in starts:
                    view = normalised[:, :, top : top + FRAME.window, left : left + FRAME.window]
                    tokens = encoder(view, noise=in_order).last_hidden_state[:, 1:]
                    maps.append(tokens.unflatten(1, (side, side)))
        stacked = torch.stack(maps, dim=3).unflatten(3, (shifts, shifts))  # [b, row, column, down, across, d]
        return stacked.permute(0, 1, 3, 2, 4, 5).flatten(3, 4).flatten(1, 2)

    return _contender(
        f"backbone, stride {stride}, torch eager",
        count,
        dense,
        flops.features(architecture, stride, projected=False),
        held,
    )


def clustering(settings: Settings, width: int) -> Contender:
    """Density peaks of many images at once."""
    held = prepare()
    tokens = torch.randn(settings.cluster_batch, settings.cluster_tokens, width, device=device())
    model = settings.config.model

    @torch.inference_mode()
    def cluster() -> None:
        with device():  # what is made on the way is made there
            peer_clustering.density_peaks(tokens, model.num_clusters, density=model.density)

    return _contender(
        f"density peaks, {settings.cluster_tokens} x {width}, torch eager",
        len(tokens),
        cluster,
        flops.clustering(settings.cluster_tokens, width),
        held,
    )


def versions() -> dict[str, str]:
    import transformers

    return {"torch": torch.__version__, "transformers": transformers.__version__, "torch device": str(device())}


def _decays(name: str) -> bool:
    """As `optimizer.decays`: weights of linear layers and tokens, not biases and norms."""
    return not name.endswith("bias") and "norm" not in name


def _views(settings: Settings, count: int) -> Float[torch.Tensor, "b 3 96 96"]:
    views = normalised_views(settings, count).transpose(0, 3, 1, 2)
    return torch.from_numpy(views.copy()).to(device())


def _arithmetic(dtype: str) -> contextlib.AbstractContextManager:
    if dtype == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device().type, dtype=getattr(torch, dtype))


def _contender(name: str, images: int, call: Callable[[], Any], needed: float, held: int) -> Contender:
    cuda = device().type == "cuda"

    def run(count: int) -> None:
        for _ in range(count):
            call()
        if cuda:
            torch.cuda.synchronize()

    if cuda:
        torch.cuda.reset_peak_memory_stats()
    compile_seconds = first_call_seconds(run)
    return Contender(
        name=name,
        images=images,
        run=run,
        flops=needed,
        compile_seconds=compile_seconds,
        memory_bytes=torch.cuda.max_memory_allocated() - held if cuda else None,
        about={"peer": True},
    )
