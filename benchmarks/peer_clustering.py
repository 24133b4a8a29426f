"""Density peaks in PyTorch, whole batches at a time: what `ops.density_peaks` is timed against. Needs PyTorch."""

from __future__ import annotations

from typing import Literal

import torch


def density_peaks(
    tokens: torch.Tensor, num_clusters: int, *, density: Literal["scaled", "knn"], neighbours: int = 5
) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres `[b, k]`, best first, and the assignment `[b, n]` of tokens `[b, n, d]`; float32, all tokens valid.

    Densities, ties and score are those of `scemae_jax.ops.density_peaks.density_peaks`.
    """
    _, n, width = tokens.shape
    tokens = tokens - tokens.mean(dim=1, keepdim=True)
    norms = tokens.square().sum(dim=-1)
    sums = norms[:, :, None] + norms[:, None]
    squared = torch.baddbmm(sums, tokens, tokens.transpose(1, 2), alpha=-2)
    squared = torch.where(squared > 16 * torch.finfo(squared.dtype).eps * sums, squared, 0.0)

    if density == "knn":
        others = squared + torch.diag(torch.full((n,), torch.inf, dtype=squared.dtype))
        nearest = others.topk(min(neighbours, n - 1), largest=False).values
        log_density = -nearest.mean(dim=-1) / width
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
