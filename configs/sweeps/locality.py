"""The loss with and without its weight for distance: log(distance + 1) on the patch grid.

With it similar tokens are pushed apart more if they are farther from each other, and neighbours hardly at all: the
paper's idea. Without it all pairs count equally, even neighbours that show the same part of a face, so *same* should
get worse. The loss has a trivial minimum, features of position alone: look at the position-free columns.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {"with locality": {"refine.locality": True}, "without locality": {"refine.locality": False}}
