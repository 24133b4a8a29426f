"""The peer: PyTorch with Hugging Face's ViTMAE, of the same sizes, on the same kind of device."""

import contextlib
import os
from collections.abc import Callable
from typing import Any

import torch
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.measure import Contender
from benchmarks.suites import Settings, normalised_views
from scemae_jax.faces.frame import FRAME
from scemae_jax.models.architecture import Architecture
from scemae_jax.models.vit import LAYER_NORM_EPSILON

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def masked_autoencoder(architecture: Architecture) -> ViTMAEForPreTraining:
    """Hugging Face's MAE of these sizes, with random weights."""
    v, network = architecture.backbone.variant, architecture.build_mae()
    config = ViTMAEConfig(
        image_size=FRAME.window,
        patch_size=v.patch_size,
        hidden_size=v.width,
        num_hidden_layers=v.depth,
        num_attention_heads=v.num_heads,
        intermediate_size=4 * v.width,
        decoder_hidden_size=network.decoder_width,
        decoder_num_hidden_layers=network.decoder_depth,
        decoder_num_attention_heads=network.decoder_heads,
        decoder_intermediate_size=4 * network.decoder_width,
        layer_norm_eps=LAYER_NORM_EPSILON,
        norm_pix_loss=network.normalise_target,
        mask_ratio=network.mask_ratio,
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
    groups = [{"params": [], "weight_decay": 0.0}, {"params": [], "weight_decay": stage.weight_decay}]
    for name, weight in network.named_parameters():
        if weight.requires_grad:
            groups[decays(name)]["params"].append(weight)
    optimizer = torch.optim.AdamW(groups, lr=stage.learning_rate, betas=tuple(stage.betas), fused=DEVICE.type == "cuda")
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


def clustering(images: int, count: int, width: int, num_clusters: int) -> Contender:
    """Density peaks of many images at once."""
    tokens = torch.randn(images, count, width, device=DEVICE)
    cluster = torch.inference_mode()(lambda: density_peaks(tokens, num_clusters))
    return _contender(f"density peaks, {count} x {width}, torch eager", images, cluster)


def density_peaks(tokens: torch.Tensor, num_clusters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres `[b, k]`, best first, and the assignment `[b, n]` of distinct tokens `[b, n, d]`, all images at once.

    Density ("knn") and score are those of `scemae_jax.ops.density_peaks.density_peaks`.
    """
    norms = tokens.square().sum(dim=-1)
    squared = torch.baddbmm(norms[:, :, None] + norms[:, None], tokens, tokens.transpose(1, 2), alpha=-2).clamp(min=0)
    nearest = squared.topk(6, largest=False).values[..., 1:]  # the first is the token itself
    log_density = -nearest.mean(dim=-1) / tokens.shape[-1]
    denser = log_density[:, None] > log_density[:, :, None]
    to_denser = torch.where(denser, squared, torch.inf).amin(dim=-1)
    delta = torch.where(denser.any(dim=-1), to_denser, squared.amax(dim=-1)).sqrt()
    centers = (log_density + delta.log()).topk(num_clusters).indices
    to_centers = squared.gather(1, centers[:, :, None].expand(-1, -1, tokens.shape[1]))
    return centers, to_centers.argmin(dim=1)


def _contender(name: str, images: int, call: Callable[[], Any]) -> Contender:
    """With as many threads as cores, and the precision of float32 products on a GPU that JAX uses."""
    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_float32_matmul_precision("high")

    def run(count: int) -> None:
        for _ in range(count):
            call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return Contender(name, images, run)
