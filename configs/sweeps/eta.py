"""Share of the patches that are attentive: eta.

The paper uses 0.25 for DeiT-B and 0.1 for T and S. With a small share the later layers and the loss see only what CLS
attends to. This helps if that is the face; the rows "share near a landmark" of sweep.csv measure it, beside the share
of all patches. A large share approaches the full encoder, and stage 2 loses its speed.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"eta {eta:g}": {"model.attentive_fraction": eta} for eta in (0.05, 0.1, 0.25, 0.5, 0.75)}
