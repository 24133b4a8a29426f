"""Weights of the repellence (lambda): between attentive tokens, attentive and inattentive ones, inattentive ones.

The paper uses 5, 5 and 2. Only their ratio counts, as AdamW nearly ignores the scale of a loss. With few centres beside
the attentive tokens the first weight dominates; equal weights show whether the ratio matters.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    weights = ((5.0, 5.0, 2.0), (1.0, 1.0, 1.0), (5.0, 0.0, 0.0), (5.0, 5.0, 0.0), (5.0, 2.0, 2.0), (2.0, 5.0, 5.0))
    return {f"lambda {a:g} {b:g} {c:g}": {"refine.repellence": (a, b, c)} for a, b, c in weights}
