"""What detection from few annotations has found: the names of its methods, and their errors over the draws."""

from __future__ import annotations

from typing import Any

import numpy as np

HEADS = {"prior_work": "prior work's head", "plain": "plain", "linear": "linear"}
"""Landmark heads that learn from few annotations: their names in `config.few_shot.heads`, and in results."""
FROM_SCRATCH, MEAN_SHAPE = "network from scratch", "mean shape"


def method_name(features: str, head: str) -> str:
    """The name of a method, from that of its features and a key of `HEADS`."""
    return f"{features}, {HEADS[head]}"


def features_and_head(method: str) -> tuple[str, str]:
    """The name of a method's features and its head, a key of `HEADS`; "" where it has no head of these."""
    for head, name in HEADS.items():
        if method.endswith(f", {name}"):
            return method.removesuffix(f", {name}"), head
    return method, ""


def summarise(rows: list[dict[str, Any]], landmarks: int) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Method -> number of images (as text) -> mean, sample deviation over seeds (None of one), and number of seeds."""
    found: dict[str, dict[str, list[float]]] = {}
    for row in rows:
        if row["landmarks"] == landmarks:
            found.setdefault(row["method"], {}).setdefault(str(row["count"]), []).append(row["error"])
    return {
        method: {
            count: {
                "error": float(np.mean(errors)),
                "deviation": float(np.std(errors, ddof=1)) if len(errors) > 1 else None,
                "count": len(errors),
            }
            for count, errors in sorted(by_count.items(), key=lambda item: int(item[0]))
        }
        for method, by_count in found.items()
    }
