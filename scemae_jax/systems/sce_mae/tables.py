"""How the measurements of SCE-MAE are shown: on the screen, in the report and in sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd

from scemae_jax.evaluation import detection, matching
from scemae_jax.evaluation.measurement import select
from scemae_jax.report.table import Table, count_of, measured, number

OURS = ("SCE-MAE", "MAE only")
CLAMPED = "clamped queries"


def tables(results: Mapping[str, Any]) -> list[Table]:
    """Those of the stages that measured something."""
    rows = measured(results)
    return [
        *_matching(rows, results.get("match", {})),
        *_detection(rows, results.get("detect", {})),
        *_few_annotations(rows, results.get("few_shot", {})),
        *_representation(rows, results.get("represent", {})),
    ]


def by_form(rows: pd.DataFrame, stage: str, metric: str) -> Iterator[tuple[int, pd.DataFrame]]:
    """Measurements of each number of landmarks, fewest first."""
    found = select(rows, stage=stage, metric=metric)
    for landmarks, form in found.groupby("landmarks") if len(found) else ():
        yield int(landmarks), form


def pairs_of(rows: pd.DataFrame, facts: Mapping[str, Any], landmarks: int) -> str:
    """How many pairs a form was measured on, and how many of its queries are at the window's edge in their place."""
    clamped = select(rows, metric=CLAMPED, landmarks=landmarks)["value"].sum()
    return f"{count_of(facts['pairs'], 'pairs')} ({count_of(clamped, 'queries')} clamped to the window)"


def _matching(rows: pd.DataFrame, facts: Mapping[str, Any]) -> Iterator[Table]:
    for landmarks, form in by_form(rows, "match", matching.METRIC):
        count = facts["pairs_of_one_person"]
        of_one_person = f", in {count_of(count, 'pairs')} of one person" if count else ""
        yield Table(
            title=f"Landmark matching, {count_of(landmarks, 'landmarks')}",
            about=f"error in {matching.UNIT}, {pairs_of(rows, facts, landmarks)} of split {facts['split']}, stride "
            f"{facts['stride']}",
            rows=form,
            index=("method", "position_free", "random_pairings"),
            columns=("case",),
            ours=OURS,
            headlines={"different": f"{count_of(landmarks, 'landmarks')} matched across people"},
            remark="Mean error ± deviation of the pairs' means. Same: two warped views of one image. Different: two "
            f"images{of_one_person}. "
            "Far: only landmarks that lie more than 8 units from where they are in the other face, so that copying the "
            "place does not help. Random pairings: the mean over other pairs of the same images ± its sample "
            "deviation. Position-free: each place's mean feature is taken off first.",
        )


def _detection(rows: pd.DataFrame, facts: Mapping[str, Any]) -> Iterator[Table]:
    forms = list(by_form(rows, "detect", detection.METRIC))
    if forms:
        found = pd.concat([form for _, form in forms])
        yield Table(
            title="Landmark detection",
            about=f"error in {found['unit'].iloc[0]}, {count_of(facts['images'], 'images')} of split {facts['split']}",
            rows=found,
            columns=("landmarks",),
            ours=OURS,
            headlines={(text := count_of(landmarks, "landmarks")): f"{text} detected" for landmarks, _ in forms},
            remark="Mean error ± deviation over the images; learnt from "
            f"{count_of(facts['annotated_images'], 'annotated images')}, while the backbone stays frozen.",
        )


def _few_annotations(rows: pd.DataFrame, facts: Mapping[str, Any]) -> Iterator[Table]:
    for landmarks, form in by_form(rows, "few_shot", detection.METRIC):
        yield Table(
            title=f"Few annotations, {count_of(landmarks, 'landmarks')}",
            about=f"error in {form['unit'].iloc[0]}, {count_of(facts['images'], 'images')} of split {facts['split']}",
            rows=form,
            index=("method", "head"),
            columns=("annotated_images",),
            ours=OURS,
            remark="Mean error ± sample deviation over draws of so many annotated images, n of them. Every method "
            "learns from warped views of the same images. Behind the features stands the head: prior work's plain one "
            "(1x1 convolution, softmax of gain 100), ours of that form (plain), or this project's linear one.",
        )


def _representation(rows: pd.DataFrame, facts: Mapping[str, Any]) -> Iterator[Table]:
    for landmarks, form in by_form(rows, "represent", "silhouette"):
        yield Table(
            title="Landmark features",
            about=f"silhouettes of {number(facts['count'])} features of {count_of(landmarks, 'landmarks')} in "
            f"{count_of(facts['images'], 'images')} of split {facts['split']}, stride {facts['stride']}",
            rows=form,
            columns=("space",),
            ours=OURS,
            best="highest",
            digits=3,
            remark="Silhouette coefficient: 1 where the features of one landmark lie close together and far from all "
            "others, 0 where landmarks touch, negative where they mix. In the feature space by cosine distance; by "
            f"t-SNE in its plane, mean ± sample deviation over {count_of(facts['repeats'], 'runs')}, perplexity "
            f"{facts['perplexity']:g}.",
        )
