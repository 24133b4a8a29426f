"""Steps of stage 2.

A falling loss is no evidence here: features of position alone make it smallest. With an undertrained backbone matching
improves for some tens or hundreds of steps and then gets worse; the paper does not say how long it trained. Each point
has a whole learning rate schedule.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"{steps} steps": {"refine.steps": steps} for steps in (25, 50, 100, 200, 400, 800)}
