"""What has been published: Tables 1 to 4 of Yin et al., "SCE-MAE: Selective Correspondence Enhancement with Masked
Autoencoder for Self-Supervised Landmark Estimation" (CVPR 2024, arXiv 2405.18322), the rows that ours stand beside.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Error(NamedTuple):
    """A mean error, and its standard deviation over repeats where that is known."""

    mean: float
    deviation: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One method."""

    method: str
    backbone: str = ""
    """Of SCE-MAE: "t8", "s8" or "b8"."""
    parameters: float | None = None
    """Of the network, in millions."""
    dims: int | None = None
    """Channels of the features that are read."""
    errors: Mapping[str, Error]
    """By column."""
    remark: str = ""
    """Why it may not compare with the others."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """One table."""

    number: int
    title: str
    unit: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


NAMES = {"t8": "DeiT-T", "s8": "DeiT-S", "b8": "DeiT-B"}
"""Of the backbones in the paper, which has them with patches of 8x8."""

STAGE_1_IMAGES = 162_770 * 400
"""Images that the paper's stage 1 saw: 400 epochs of CelebA."""

_CASES = ("same", "different")
_SETS = ("MAFL", "AFLW_M", "AFLW_RO", "AFLW_RC", "300-W")
_COUNTS = ("1", "5", "10", "20", "50", "100")


def _errors(columns: tuple[str, ...], *values: float | tuple[float, float]) -> dict[str, Error]:
    errors = [Error(*value) if isinstance(value, tuple) else Error(value) for value in values]
    return dict(zip(columns, errors, strict=True))


def _matching(method: str, parameters: float, dims: int, *values: float, backbone: str = "", remark: str = "") -> Row:
    errors = _errors(_CASES, *values)
    return Row(method=method, backbone=backbone, parameters=parameters, dims=dims, errors=errors, remark=remark)


def _detection(method: str, dims: int, *values: float, backbone: str = "") -> Row:
    return Row(method=method, backbone=backbone, dims=dims, errors=_errors(_SETS, *values))


def _few(method: str, dims: int, *values: tuple[float, float], backbone: str = "") -> Row:
    return Row(method=method, backbone=backbone, dims=dims, errors=_errors(_COUNTS, *values))


def _ablation(method: str, *values: float, backbone: str = "b8") -> Row:
    return Row(method=method, backbone=backbone, dims=None, errors=_errors(_CASES, *values))


_READS_ITS_RAW_MAP = (
    "DVE's own code reads its feature map unresized, at the nearest cell and by inner products. That is harsher than "
    "the cosine similarity of upsampled maps by which ContrastLandmark, the paper and ours are measured, so its row "
    "may not compare."
)


MATCHING = Published(
    number=1,
    title="Landmark matching on MAFL",
    unit="pixels of a 70x70 image",
    columns=_CASES,
    rows=(
        _matching("DVE", 12.4, 64, 0.92, 2.38, remark=_READS_ITS_RAW_MAP),
        _matching("ContrastLandmark", 23.8, 64, 0.92, 2.62),
        _matching("LEAD", 23.8, 64, 0.51, 2.60),
        _matching("SCE-MAE", 5.4, 64, 0.47, 1.99, backbone="t8"),
        _matching("ContrastLandmark", 23.8, 128, 0.82, 2.19),
        _matching("SCE-MAE", 21.4, 128, 0.31, 1.69, backbone="s8"),
        _matching("ContrastLandmark", 23.8, 256, 0.71, 2.06),
        _matching("LEAD", 23.8, 256, 0.48, 2.50),
        _matching("SCE-MAE", 21.4, 256, 0.33, 1.72, backbone="s8"),
        _matching("SCE-MAE", 85.3, 256, 0.27, 1.61, backbone="b8"),
    ),
)

DETECTION = Published(
    number=2,
    title="Landmark detection, all annotations",
    unit="% of the inter-ocular distance",
    columns=_SETS,
    rows=(
        _detection("DVE", 64, 2.76, 6.96, 6.33, 5.58, 4.58),
        _detection("ContrastLandmark", 3840, 2.76, 6.17, 5.69, 5.06, 4.84),
        _detection("LEAD", 3840, 2.44, 6.05, 5.71, 5.11, 4.87),
        _detection("SCE-MAE", 256, 2.20, 5.89, 5.54, 4.86, 4.22, backbone="t8"),
        _detection("SCE-MAE", 512, 2.08, 5.33, 5.40, 4.69, 3.94, backbone="s8"),
        _detection("SCE-MAE", 1024, 2.07, 5.23, 5.33, 4.60, 3.95, backbone="b8"),
    ),
)

FEW_ANNOTATIONS = Published(
    number=3,
    title="Landmark detection on AFLW_M from few annotated images",
    unit="% of the inter-ocular distance",
    columns=_COUNTS,
    rows=(
        _few("DVE", 64, (14.23, 1.45), (12.04, 2.03), (12.25, 2.42), (11.46, 0.83), (12.76, 0.53), (11.88, 0.16)),
        _few(
            "ContrastLandmark",
            64, (24.87, 2.67), (15.15, 0.53), (13.52, 1.08), (11.77, 0.68), (11.57, 0.03), (10.06, 0.45),
        ),
        _few("LEAD", 64, (21.80, 2.54), (13.34, 0.43), (11.50, 0.34), (10.13, 0.45), (9.29, 0.41), (9.11, 0.25)),
        _few(
            "SCE-MAE", 64, (18.41, 1.21), (11.79, 0.44), (10.57, 0.24), (9.65, 0.14), (8.60, 0.17), (8.31, 0.06),
            backbone="t8",
        ),
        _few(
            "ContrastLandmark",
            128, (27.31, 1.39), (18.66, 4.59), (13.39, 0.30), (11.77, 0.85), (10.25, 0.22), (9.46, 0.05),
        ),
        _few("LEAD", 128, (21.20, 1.67), (13.22, 1.43), (10.83, 0.65), (9.69, 0.41), (8.89, 0.20), (8.83, 0.33)),
        _few(
            "SCE-MAE", 128, (20.14, 1.76), (11.99, 0.71), (10.40, 0.22), (9.25, 0.14), (8.49, 0.19), (7.96, 0.21),
            backbone="s8",
        ),
        _few(
            "ContrastLandmark",
            256, (28.00, 1.39), (15.85, 0.86), (12.98, 0.16), (11.18, 0.19), (9.56, 0.44), (9.30, 0.20),
        ),
        _few("LEAD", 256, (21.39, 0.74), (12.38, 1.28), (11.01, 0.48), (10.06, 0.59), (8.51, 0.09), (8.56, 0.21)),
        _few(
            "SCE-MAE", 256, (17.08, 1.35), (11.28, 0.54), (10.30, 0.09), (8.95, 0.08), (8.20, 0.20), (7.58, 0.09),
            backbone="b8",
        ),
    ),
)  # fmt: skip
"""The table gives widths only; its SCE-MAE rows are taken to be of the backbone that Table 1 has at that width."""

ABLATION = Published(
    number=4,
    title="What each part brings, matching on MAFL",
    unit="pixels of a 70x70 image",
    columns=_CASES,
    rows=(
        _ablation("ContrastLandmark, backbone features", 0.69, 5.37, backbone=""),
        _ablation("LEAD, backbone features", 2.35, 6.22, backbone=""),
        _ablation("MAE alone", 0.55, 3.51),
        _ablation("with clustering", 0.30, 4.04),
        _ablation("with clustering and LCR", 0.27, 1.61),
    ),
)

TABLES = (MATCHING, DETECTION, FEW_ANNOTATIONS, ABLATION)
