"""How the measurements of SPCL are shown: on the screen, in the report and in comparisons of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from scemae_jax.evaluation.measurement import select
from scemae_jax.report.table import Table, count_of, labels, measured

OURS = ("self_train", "adapt", "source")
"""Methods of the system, the last that trains first."""
SET = ("split", "grouping", "without")
"""What tells columns of means apart."""
MEAN = "mean IoU"
REMARK = (
    "Intersection over union from the sums over a set's pixels, ± its deviation over other choices of the images "
    "(bootstrap). Classes that no pixel of a set has are left out. Nearest prototype: classes by the cosine of "
    "features with the classes' prototypes, instead of the head's classifier."
)


def tables(results: Mapping[str, Any]) -> list[Table]:
    """The means of every set, then the classes of each set."""
    rows = measured(results)
    return [*_means(rows), *_classes(rows)]


def means(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the means; `without` says so in words."""
    found = select(rows, metric=MEAN)
    if "without" not in found:
        return found
    return found.assign(without=[name if pd.isna(name) else f"without {name}" for name in found["without"]])


def _means(rows: pd.DataFrame) -> Iterator[Table]:
    found = means(rows)
    if not len(found):
        return
    plain = select(found, without=None).drop_duplicates("split")
    titles = dict(zip(labels(plain, SET), plain["split"], strict=True))
    yield Table(
        title="Parts found",
        about=f"mean IoU in %, {_images(found)}",
        rows=found,
        index=("method", "classifier"),
        columns=SET,
        ours=OURS,
        best="highest",
        digits=1,
        headlines={label: f"Parts found in {name}" for label, name in titles.items()},
        remark=REMARK,
    )


def _images(found: pd.DataFrame) -> str:
    counts = found.drop_duplicates("split")
    return ", ".join(f"{name}: {count_of(n, 'images')}" for name, n in zip(counts["split"], counts["n"], strict=True))


def _classes(rows: pd.DataFrame) -> Iterator[Table]:
    found = select(rows, metric="IoU")
    for (split, grouping), of_set in found.groupby(["split", "grouping"], sort=False) if len(found) else ():
        yield Table(
            title=f"Each part in {split}, classes {grouping}",
            about=f"IoU in %, {count_of(of_set['n'].iloc[0], 'images')}",
            rows=of_set,
            index=("method", "classifier"),
            columns=("part",),
            ours=OURS,
            best="highest",
            digits=1,
            remark="± deviation over other choices of the images (bootstrap).",
        )
