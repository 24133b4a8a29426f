"""What the rows of detection from few annotations are called."""

HEADS = {"prior_work": "prior work's head", "plain": "plain", "linear": "linear"}
"""Landmark heads that learn from few annotations: their names in `config.few_shot.heads`, and in rows."""
RAW_PATCH = 8
"""Side of the patches of the baseline "raw patches", in pixels of the window."""
FROM_SCRATCH, MEAN_SHAPE = "network from scratch", "mean shape"
