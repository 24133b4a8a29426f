"""The layer after which patches are split and clustered.

The paper has 3 of 12. Early, CLS may not yet know what is face; late, most of the work is done on all tokens, and the
discarded ones have already told the others what they show. 5 is the last that a network of 6 layers can split after.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"layer {layer}": {"model.split_layer": layer, "match.clustered": True} for layer in (1, 2, 3, 4, 5)}
