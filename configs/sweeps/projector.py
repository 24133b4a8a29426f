"""The projector: with a hidden layer or linear, its width, normalised or not.

The paper leaves its form open; its widths are 64, 128 and 256 for DeiT-T, -S and -B, and twice the width brought it
nothing (DeiT-S: 1.69 at 128, 1.72 at 256). A linear projector starts from the backbone's own similarities of tokens.
One with a hidden layer starts from random ones, which a few steps may not make up for. Without normalisation the
temperature has another meaning: the logits then grow with the features.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    points = {
        f"{form}, width {width}": {"model.projector_hidden": form == "hidden", "model.projection": width}
        for form in ("linear", "hidden")
        for width in (64, 128, 256)
    }
    for form in ("linear", "hidden"):
        fields = points[f"{form}, width 128"]
        points[f"{form}, width 128, not normalised"] = {**fields, "model.projector_normalise": False}
    return points
