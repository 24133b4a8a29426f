"""Stride of cover-and-stride when landmarks are matched: one feature for every 8, 4 or 2 pixels.

A finer map locates a match more precisely. *Same* should show this most: its errors are below the 5.8 units between the
features of neighbouring patches. On *different* most errors are wrong parts of the face, so little changes. The points
cost 1, 4 and 16 passes of the network an image. Nothing that is trained depends on the stride, so one seed is enough.
"""


def get_sweep() -> dict[str, dict]:
    return {f"stride {stride}": {"match.stride": stride} for stride in (8, 4, 2)}
