"""Temperature of the softmax in the LCR loss: tau.

The paper leaves it open. A low temperature pushes only the most similar tokens apart, a high one all tokens equally. On
features of an undertrained backbone a higher one changes less, and drifts less to the loss's trivial minimum, features
of position alone.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    return {f"tau {tau:g}": {"refine.temperature": tau} for tau in (0.05, 0.1, 0.2, 0.3, 0.5, 1.0)}
