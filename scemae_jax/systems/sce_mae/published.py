"""What has been published: Tables 1 to 4 of Yin et al., "SCE-MAE: Selective Correspondence Enhancement with Masked
Autoencoder for Self-Supervised Landmark Estimation" (CVPR 2024, arXiv 2405.18322), the rows that ours stand beside.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd


class About(NamedTuple):
    """One table."""

    title: str
    unit: str
    columns: tuple[str, ...]


NAMES = {"t8": "DeiT-T", "s8": "DeiT-S", "b8": "DeiT-B"}
"""Of the backbones in the paper, which has them with patches of 8x8."""

STAGE_1_IMAGES = 162_770 * 400
"""Images that the paper's stage 1 saw: 400 epochs of CelebA."""

MATCHING, DETECTION, FEW_ANNOTATIONS, ABLATION = 1, 2, 3, 4
_CASES, _PIXELS, _SHARE = ("same", "different"), "pixels of a 70x70 image", "% of the inter-ocular distance"
TABLES = {
    MATCHING: About("Landmark matching on MAFL", _PIXELS, _CASES),
    DETECTION: About("Landmark detection, all annotations", _SHARE, ("MAFL", "AFLW_M", "AFLW_RO", "AFLW_RC", "300-W")),
    FEW_ANNOTATIONS: About(
        "Landmark detection on AFLW_M from few annotated images", _SHARE, ("1", "5", "10", "20", "50", "100")
    ),
    ABLATION: About("What each part brings, matching on MAFL", _PIXELS, _CASES),
}

REMARKS = {
    (MATCHING, "DVE"): "DVE's own code reads its feature map unresized, at the nearest cell and by inner products. "
    "That is harsher than the cosine similarity of upsampled maps by which ContrastLandmark, the paper and ours are "
    "measured, so its row may not compare."
}
"""Why a method of a table may not compare with the others."""


def rows() -> pd.DataFrame:
    """The cells of the tables: table, method, backbone (of SCE-MAE), parameters (millions), dims, column, value, ...

    `dims` are the channels of the features that are read. Table 3 gives these alone; its SCE-MAE rows are taken to be
    of the backbone that Table 1 has at that width.
    """
    table = pd.read_csv(Path(__file__).with_name("published.csv"), dtype={"column": str, "dims": "Int64"})
    notes = [REMARKS.get((number, method), "") for number, method in zip(table["table"], table["method"], strict=True)]
    return table.assign(backbone=table["backbone"].fillna(""), note=notes)
