"""The layer after which patches are split and clustered.

The paper uses 3 of 12. Early, CLS may not yet attend to the face. Late, most layers run on all tokens, and the
discarded tokens have already passed on what they show. The points are for XS/8, which has 6 layers and can split after
5 of them at most; add points for a deeper network.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"layer {layer}": {"model.split_layer": layer, "match.clustered": True} for layer in (1, 2, 3, 4, 5)}
