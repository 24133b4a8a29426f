"""Share of the patches that are attentive: eta.

The paper has 0.25 for DeiT-B and 0.1 for T and S. A small share keeps the later layers and the loss to what CLS
attends to, which helps as far as that is the face. The rows "share near a landmark" of sweep.csv say how far, beside
the share of all patches. A large one approaches the full encoder, and stage 2 loses its speed.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"eta {eta:g}": {"model.attentive_fraction": eta} for eta in (0.05, 0.1, 0.25, 0.5, 0.75)}
