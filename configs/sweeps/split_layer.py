"""The layer after which patches are split and clustered.

The paper has 3 of 12. Early, CLS may not yet know what is face; late, most of the work is done on all tokens, and the
discarded ones have already told the others what they show. The points are those of XS/8, which has 6 layers and can
split after 5 of them at most; for a deeper network, as the paper's of 12, name more here.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"layer {layer}": {"model.split_layer": layer, "match.clustered": True} for layer in (1, 2, 3, 4, 5)}
