"""The loss with and without its weight for distance: log(distance + 1) on the patch grid.

With it, tokens that are alike are pushed apart the more the farther apart they are, and neighbours hardly: the
paper's point. Without it all pairs count alike, neighbours that show the same part of a face too, so *same* should
suffer. The loss has a trivial minimum, features of position alone; look at the position-free columns.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {"with locality": {"refine.locality": True}, "without locality": {"refine.locality": False}}
