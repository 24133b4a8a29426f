"""Stride of cover-and-stride when landmarks are matched: one feature for every 8, 4 or 2 pixels.

Finer maps place a match better, which *same* should show most: its errors are below the 5.8 units between the
features of one patch and the next. On *different* most of the error is a wrong part of the face, and little changes.
Costs 1, 4 and 16 passes of the network an image. Nothing that is trained depends on the stride, so one seed is
enough.
"""


def get_sweep() -> dict[str, dict]:
    return {f"stride {stride}": {"match.stride": stride} for stride in (8, 4, 2)}
