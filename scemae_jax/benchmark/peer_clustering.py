"""Density peaks of a batch of images in PyTorch: `ops.density_peaks` with the density of the nearest neighbours."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int


def density_peaks(
    tokens: Float[torch.Tensor, "b n d"], num_clusters: int, neighbours: int = 5
) -> tuple[Int[torch.Tensor, "b k"], Int[torch.Tensor, "b n"]]:
    """Centres, best first, and for each token which of them it belongs to."""
    n, width = tokens.shape[1:]
    distance = torch.cdist(tokens, tokens)
    squared = distance**2
    diagonal = torch.eye(n, dtype=torch.bool, device=tokens.device)
    nearest = squared.masked_fill(diagonal, torch.inf).topk(neighbours, largest=False).values
    density = -nearest.mean(dim=-1) / width
    denser = density[:, None, :] > density[:, :, None]
    delta = distance.masked_fill(~denser, torch.inf).amin(dim=-1)
    delta = torch.where(torch.isinf(delta), distance.amax(dim=-1), delta)
    centres = (density + delta.log()).topk(num_clusters).indices
    to_centres = distance.gather(1, centres[..., None].expand(-1, -1, n))
    return centres, to_centres.argmin(dim=1)
