"""How the density of a token is found when clusters are: k nearest neighbours, scaled distances, or in logarithms.

The paper prints a sum over all distances, whose exponential underflows at the width of DeiT-T and above. `log` uses
that sum as it is: it outweighs the distance to denser tokens, and the centres crowd where tokens are densest. `scaled`
divides it by the width and the number of tokens; `knn` is the density of DPC-kNN. Both spread the centres. The
attentive tokens, which dominate the loss, do not change: expect small differences in SCE-MAE and the largest in "MAE,
clustered".
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {density: {"model.density": density, "match.clustered": True} for density in ("knn", "scaled", "log")}
