"""What clustering and the LCR loss bring (Table 4), and our loss across two crops of an image beside the paper's.

"MAE only", "MAE, clustered" and "SCE-MAE" of the config's own run are the paper's three rows: MAE alone, with
clustering, with clustering and LCR. With DeiT-B on MAFL the paper has 0.55, 0.30 and 0.27 on *same*, 3.51, 4.04 and
1.61 on *different*: clustering alone helps within a face and not across faces, LCR across. The paper does not say how
features are made "with clustering" but without the loss. "MAE, clustered" puts each cluster's centre in the place of
its patches, without training; "without locality" is the other reading, stage 2 with plain repellence. "two crops" is
ours: the loss across two crops, in which tokens cannot be told apart by their position codes. One order of the images
is one sample of pairs, so all points are also measured on five random pairings.
"""

SEEDS = (0, 1, 2)


def get_sweep() -> dict[str, dict]:
    points = {
        "the config": {"match.clustered": True},
        "without locality": {"refine.locality": False},
        "two crops": {"refine.two_crops": True},
    }
    return {name: {"match.random_pairings": 5, **fields} for name, fields in points.items()}
