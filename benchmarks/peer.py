"""The peer: PyTorch with Hugging Face's ViTMAE, of the same sizes, on the same kind of device."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

try:
    import torch
    from transformers import ViTMAEConfig, ViTMAEForPreTraining
except ImportError as error:
    raise ValueError(f"--peer=torch needs PyTorch and transformers ({error}): pip install torch transformers") from None

from benchmarks.measure import Contender
from benchmarks.settings import Settings
from benchmarks.suites import normalised_views
from scemae_jax.model import WINDOW, Architecture
from scemae_jax.models.vit import LAYER_NORM_EPSILON

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def masked_autoencoder(architecture: Architecture) -> ViTMAEForPreTraining:
    """Hugging Face's MAE of these sizes, with random weights."""
    v = architecture.variant
    config = ViTMAEConfig(
        image_size=WINDOW,
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
        mask_ratio=architecture.mask_ratio,
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue] - of the base class, not declared there
    )
    with DEVICE:
        return ViTMAEForPreTraining(config)


def decays(name: str) -> bool:
    """As `training.optimizer.decays`: weights of linear layers and tokens, not biases and norms."""
    return not name.endswith("bias") and "norm" not in name


def pretrain_step(settings: Settings, *, compiled: bool) -> Contender:
    """A step of stage 1 on a constant batch, without augmentation; eager, or by `torch.compile`."""
    stage, network = settings.config.pretrain, masked_autoencoder(settings.architecture)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for name, p in trained.items() if decays(name)]},
            {"params": [p for name, p in trained.items() if not decays(name)], "weight_decay": 0.0},
        ],
        lr=stage.learning_rate,
        betas=tuple(stage.betas),
        weight_decay=stage.weight_decay,
        fused=True,
    )
    views = normalised_views(settings, stage.batch_size).transpose(0, 3, 1, 2)
    images, forward = torch.from_numpy(views.copy()).to(DEVICE), torch.compile(network) if compiled else network
    rounded = settings.dtype == "bfloat16"

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16) if rounded else contextlib.nullcontext():
            loss = forward(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    name = f"masked autoencoder, torch {'compiled' if compiled else 'eager'}"
    return _contender(name, stage.batch_size, step)


def clustering(settings: Settings, images: int, count: int, width: int) -> Contender:
    """Density peaks of many images at once."""
    tokens, model = torch.randn(images, count, width, device=DEVICE), settings.config.model

    @torch.inference_mode()
    def cluster() -> None:
        with DEVICE:  # what is made on the way is made there
            density_peaks(tokens, model.num_clusters, knn=model.density == "knn")

    return _contender(f"density peaks, {count} x {width}, torch eager", images, cluster)


def density_peaks(tokens: torch.Tensor, num_clusters: int, *, knn: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres `[b, k]`, best first, and the assignment `[b, n]` of tokens `[b, n, d]`, whole batches at a time.

    Densities ("knn", else "scaled"), ties and score are those of `scemae_jax.ops.density_peaks.density_peaks`.
    """
    _, n, width = tokens.shape
    tokens = tokens - tokens.mean(dim=1, keepdim=True)
    norms = tokens.square().sum(dim=-1)
    sums = norms[:, :, None] + norms[:, None]
    squared = torch.baddbmm(sums, tokens, tokens.transpose(1, 2), alpha=-2)
    squared = torch.where(squared > 16 * torch.finfo(squared.dtype).eps * sums, squared, 0.0)

    if knn:
        others = squared + torch.diag(torch.full((n,), torch.inf, dtype=squared.dtype))
        log_density = -others.topk(min(5, n - 1), largest=False).values.mean(dim=-1) / width
    else:
        log_density = -squared.mean(dim=-1) / width

    index = torch.arange(n)
    own, other = log_density[:, :, None], log_density[:, None]
    denser = (other > own) | ((other == own) & (index < index[:, None]))
    to_denser = torch.where(denser, squared, torch.inf).amin(dim=-1)
    delta = torch.where(denser.any(dim=-1), to_denser, squared.amax(dim=-1)).sqrt()
    score = torch.where(delta > 0, log_density + delta.log(), torch.finfo(delta.dtype).min)
    centers = score.sort(dim=-1, descending=True, stable=True).indices[:, :num_clusters]

    to_centers = squared.gather(1, centers[:, :, None].expand(-1, -1, n))
    to_centers.scatter_(2, centers[:, :, None], -1.0)
    return centers, to_centers.argmin(dim=1)


def _contender(name: str, images: int, call: Callable[[], Any]) -> Contender:
    """On a GPU with its memory, from a first call; with products of float32 as coarse there as JAX has them."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")

    def run(count: int) -> None:
        for _ in range(count):
            call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    if DEVICE.type == "cpu":
        return Contender(name, images, run)
    torch.cuda.reset_peak_memory_stats()
    run(1)
    return Contender(name, images, run, torch.cuda.max_memory_allocated())
