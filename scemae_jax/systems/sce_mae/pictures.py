"""The pictures of a report: what the networks see and find in some test faces, and what was measured, drawn."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Num, UInt8

from scemae_jax.data.record import Faces
from scemae_jax.evaluation import detection, matching, representation
from scemae_jax.faces.frame import FRAME, Frame
from scemae_jax.faces.landmarks import FIVE, five_points, in_form, scheme_of
from scemae_jax.model import Architecture, Model, bind
from scemae_jax.models import mae as masked_autoencoder
from scemae_jax.models import vit
from scemae_jax.models.carb import SelectedTokens
from scemae_jax.ops import correspondence
from scemae_jax.report import figures
from scemae_jax.report.html import Picture
from scemae_jax.report.table import measured
from scemae_jax.systems.sce_mae.tables import by_form

STRIDE = 4
"""Of the feature maps that are drawn, in pixels."""
MASK_GREY = 0.5
MAPPED_FACES = 5
USUAL_PLACES = np.array([[33.0, 40.0], [62.0, 40.0], [47.5, 54.0], [37.0, 68.0], [58.0, 68.0]])
"""(x, y) in the default window, about where a face that fills it has those five; for faces without annotations."""
DRAWN_QUERIES = 3
"""Landmarks whose similarity maps are shown."""

Detector = Callable[[UInt8[np.ndarray, "b 136 136 3"]], Float[Any, "b l 2"]]


def pictures(
    *,
    faces: Faces,
    mae: Model,
    model: Model,
    detectors: Mapping[int, Detector],
    results: dict[str, Any],
    examples: int,
    seed: int,
    embedded: representation.Embedded | None = None,
) -> dict[str, Picture]:
    """The pictures of a report by the names of their files.

    Args:
      faces: test faces, of which some are shown; with all their landmarks, or with none (`[n, 0, 2]`).
      mae: the backbone after stage 1; with its decoder, reconstructions are shown.
      model: the same backbone with its projector, where stage 2 ran.
      detectors: by number of landmarks; give (x, y) in pixels of the images.
      results: as in results.json; stages may be missing.
      examples: faces in a picture, at most.
      seed: decides which faces are shown and what is masked.
      embedded: the points that stage `represent` measured, if it did.

    Raises:
      ValueError: there are no faces, or `examples` is not positive.
    """
    if not len(faces) or examples < 1:
        raise ValueError(f"{len(faces)} faces given, {examples} asked for: a report shows one or more")
    shown, frame = different_people(faces, examples, seed), model.frame
    drawn = reconstruction_pictures(mae, shown, seed)
    drawn |= selection_pictures(model, shown)
    maps = feature_maps(mae, model, shown)
    drawn |= similarity_pictures(maps, shown, frame)
    drawn |= match_pictures(maps, shown, frame)
    rows = measured(results)
    if embedded:
        drawn |= embedding_pictures(embedded, rows)
    drawn |= few_annotations_pictures(rows)
    if shown.points.size:
        for count, detect in sorted(detectors.items()):
            drawn |= detection_pictures(detect, count, shown, frame)
    return drawn


def different_people(faces: Faces, count: int, seed: int) -> Faces:
    """`count` faces drawn at random, of as many people as there are; fewer if there are not so many faces."""
    order = np.random.default_rng(seed).permutation(len(faces))
    _, first = np.unique(faces.people[order], return_index=True)
    repeats = np.setdiff1d(np.arange(len(faces)), first)
    return faces.take(order[np.concatenate([np.sort(first), repeats])[:count]])


def windows(faces: Faces, frame: Frame) -> Float[np.ndarray, "n 96 96 3"]:
    """What the networks see of the faces, in [0, 1]."""
    return np.asarray(frame.centre_window(faces.images), np.float32) / 255


def pasted(
    architecture: Architecture,
    images: Float[Array, "b h w 3"],
    reconstruction: Float[Array, "b n p"],
    mask: Float[Array, "b n"],
) -> Float[Array, "b h w 3"]:
    """Images in [0, 1] whose masked patches are replaced by the decoder's; all other pixels stay as they are.

    Targets normalised per patch get the true patch's mean and deviation back, which the decoder was not asked for.
    """
    backbone = architecture.backbone
    patch_size, rows = backbone.variant.patch_size, images.shape[1] // backbone.variant.patch_size
    if architecture.build_mae().normalise_target:
        target = vit.patchify(backbone.normalise(images), patch_size)
        mean, deviation = masked_autoencoder.target_statistics(target)
        reconstruction = reconstruction * deviation + mean
    decoded = vit.unpatchify(reconstruction, patch_size, rows)
    decoded = jnp.clip(decoded * jnp.array(backbone.std) + jnp.array(backbone.mean), 0, 1)
    return jnp.where(pixel_mask(mask, patch_size, rows), decoded, images)


def pixel_mask(mask: Float[Array, "b n"], patch_size: int, rows: int) -> Array:
    """Whether a pixel is masked, `[B, H, W, 1]`."""
    pixels = jnp.repeat(mask[..., None], patch_size**2, axis=-1)
    return vit.unpatchify(pixels, patch_size, rows) > 0


@functools.partial(jax.jit, static_argnames="architecture")
def _masked_and_pasted(
    architecture: Architecture, params: Any, images: Float[Array, "b h w 3"], noise: Float[Array, "b n"]
) -> tuple[Float[Array, "b h w 3"], Float[Array, "b h w 3"]]:
    output = bind(architecture.build_mae(), params)(architecture.backbone.normalise(images), noise)
    hidden = pixel_mask(output.mask, architecture.backbone.variant.patch_size, architecture.backbone.side)
    return jnp.where(hidden, MASK_GREY, images), pasted(architecture, images, output.reconstruction, output.mask)


def reconstruction_pictures(mae: Model, faces: Faces, seed: int) -> dict[str, Picture]:
    if "decoder" not in mae.params:
        return {}
    architecture, images = mae.architecture, jnp.asarray(windows(faces, mae.frame))
    network = architecture.build_mae()
    noise = jax.random.uniform(jax.random.key(seed), (len(images), architecture.backbone.side**2))
    params = {name: mae.params[name] for name in ("encoder", "decoder")}
    masked, whole = _masked_and_pasted(architecture, params, images, noise)
    shown = {"input": images, f"{network.mask_ratio:.0%} hidden": masked, "reconstructed": whole}
    caption = (
        "Look at whether hidden eyes, noses and mouths come back at the right place; visible patches are the input's "
        "own."
    )
    if network.normalise_target:
        caption += " Hidden patches have their true mean and contrast, since the network predicts them normalised."
    drawn = figures.png(figures.face_rows({name: np.asarray(row) for name, row in shown.items()}))
    alt = "Faces, the same with most patches hidden, and as the masked autoencoder completes them"
    return {"reconstructions": Picture("Reconstructions", caption, drawn, alt)}


@functools.partial(jax.jit, static_argnames="architecture")
def _select(architecture: Architecture, encoder: Any, images: Float[Array, "b h w 3"]) -> SelectedTokens:
    return bind(architecture.build_carb(), {"encoder": encoder}).select(architecture.backbone.normalise(images))


def selections(model: Model, images: Float[np.ndarray, "b 96 96 3"]) -> list[figures.Selection]:
    """What stage 2 keeps of images in [0, 1]."""
    selected = jax.tree.map(np.asarray, _select(model.architecture, model.params["encoder"], images))
    chosen = []
    for patches, is_attentive, source in zip(selected.patches, selected.attentive, selected.source, strict=True):
        count = is_attentive.sum()
        attentive = np.isin(np.arange(len(source)), patches[:count])
        inattentive_cluster = source - count if model.architecture.build_carb().num_clusters else -1
        chosen.append(figures.Selection(attentive, np.where(attentive, -1, inattentive_cluster), patches[count:]))
    return chosen


def selection_pictures(model: Model, faces: Faces) -> dict[str, Picture]:
    network, images = model.architecture.build_carb(), windows(faces, model.frame)
    chosen = selections(model, images)
    others = "The others are dropped."
    if network.num_clusters:
        others = (
            f"The others form {network.num_clusters} clusters, one colour each, which should follow regions such "
            "as skin, hair and background; only their centres (diamonds) are kept."
        )
    caption = (
        f"The bright, outlined {chosen[0].attentive.sum()} patches are those that the CLS token of layer "
        f"{network.split_layer} attends to most: they should lie on the face, not on hair or background. {others}"
    )
    names = ("input", "selection")
    drawn = figures.png(figures.selections(images, chosen, network.encoder.patch_size, names))
    alt = "Attentive patches outlined, inattentive patches tinted by cluster, cluster centres marked"
    return {"selection": Picture("Attentive patches and clusters", caption, drawn, alt)}


class Queries(NamedTuple):
    """At most five points of each face to look for in the others; (x, y) in the window."""

    names: tuple[str, ...]
    points: Float[np.ndarray, "n q 2"]
    truth: Float[np.ndarray, "n q 2"]
    """Where they are in each face; NaN where that is not known."""


def query_points(landmarks: Float[np.ndarray, "n l 2"], frame: Frame = FRAME) -> Queries:
    """MAFL's five of 68, some spread over another scheme, or without annotations the usual places of those five."""
    number, count = landmarks.shape[:2]
    if not count:
        usual = USUAL_PLACES * (frame.window / FRAME.window)
        points = np.broadcast_to(usual, (number, *usual.shape))
        return Queries(tuple(f"~ {name}" for name in FIVE.names), points, np.full(points.shape, np.nan))
    scheme = scheme_of(count)
    if FIVE.num_landmarks in scheme.forms:
        points, names = five_points(landmarks), FIVE.names
    else:
        points = landmarks[:, np.unique(np.linspace(0, count - 1, min(count, 5)).round().astype(int))]
        names = scheme.names[: points.shape[1]]
    points = frame.to_window(points)
    return Queries(names, points, points)


def feature_maps(mae: Model, model: Model, faces: Faces) -> dict[str, Float[Array, "n g g c"]]:
    """The backbone's features, and the refined ones where there are any, by the name the results have for them."""
    maps = {"MAE only": mae.device_features(faces.images, STRIDE, "backbone")}
    if model.refined:
        maps["SCE-MAE"] = model.device_features(faces.images, STRIDE, "projected")
    return maps


@functools.partial(jax.jit, static_argnames="window")
def cosine_maps(
    reference: Float[Array, "g g c"],
    maps: Float[Array, "n g g c"],
    queries: Num[Array | np.ndarray, "q 2"],
    window: int = FRAME.window,
) -> Float[Array, "q n w w"]:
    """Cosine similarity of the reference's features at points (x, y) to all of the maps, upsampled."""
    wanted = correspondence.features_at(reference, queries, window)
    return jnp.einsum("qc,nhwc->qnhw", wanted, correspondence.upsampled(maps, window))


def similarity_pictures(maps: Mapping[str, Array], faces: Faces, frame: Frame) -> dict[str, Picture]:
    faces = faces.take(np.arange(min(MAPPED_FACES, len(faces))))
    names, points, truth = query_points(faces.points, frame)
    picked = np.unique(np.linspace(0, len(names) - 1, DRAWN_QUERIES).round().astype(int))
    similarity = {
        name: np.asarray(cosine_maps(features[0], features[: len(faces)], points[0, picked], frame.window))
        for name, features in maps.items()
    }
    rows = [
        figures.SimilarityRow(f"{names[point]}\n{kind}", points[0, point], truth[:, point], found[i])
        for i, point in enumerate(picked)
        for kind, found in similarity.items()
    ]
    target = "the hollow circle; the cross marks the highest value" if faces.points.size else "under the cross"
    caption = (
        "How alike the features everywhere are to those at the point marked on the left (cosine similarity, brighter "
        "is more alike; each row has its own scale). Look for one bright spot at the same landmark of every face, "
        f"{target}. Two bright eyes, or a bright area that stays at the query's own place, are failures."
    )
    drawn = figures.png(figures.similarity_maps(windows(faces, frame), rows))
    alt = "Cosine similarity of one landmark's feature to all places of several faces"
    return {"similarity": Picture("Similarity to a point", caption, drawn, alt)}


def match_pictures(maps: Mapping[str, Array], faces: Faces, frame: Frame) -> dict[str, Picture]:
    pairs = np.arange(len(faces) // 2 * 2).reshape(-1, 2)
    if not len(pairs):
        return {}
    images, (_, points, truth) = windows(faces, frame), query_points(faces.points, frame)
    a, b = pairs.T
    predict = jax.jit(jax.vmap(functools.partial(correspondence.predict_matches, window=frame.window)))
    found = {}
    for name, features in maps.items():
        predicted = np.asarray(predict(features[a], features[b], jnp.asarray(points[a])))
        errors = np.asarray(matching.matching_error(predicted, truth[b], frame.window)).mean(axis=1)
        found[name] = [
            figures.Match(queries, found_at, known, f"{name}: mean error {error:.1f}" if np.isfinite(error) else name)
            for queries, found_at, known, error in zip(points[a], predicted, truth[b], errors, strict=True)
        ]
    if faces.points.size:
        caption = (
            "Each landmark of the left face is sought in the right one, another person's, by its feature alone. Look "
            "at how near the filled dots come to the hollow circles, the truth, of their colour. "
            f"Errors are in {matching.UNIT}, as in the table."
        )
    else:
        caption = (
            "Places of the left face are sought in the right one by their features alone. No face is annotated, so they"
            " are where eyes, nose and mouth usually are. Look at whether a line joins the same spot of two faces."
        )
    drawn = figures.png(figures.matches(images[a], images[b], found))
    alt = "Pairs of faces with lines from landmarks of one to the matches found in the other"
    return {"matches": Picture("Landmarks matched across people", caption, drawn, alt)}


def embedding_pictures(embedded: representation.Embedded, rows: pd.DataFrame) -> dict[str, Picture]:
    ((count, silhouettes),) = by_form(rows, "represent", "silhouette")
    plane = silhouettes[silhouettes["space"] == "t-SNE"].set_index("method")
    panels = {f"{name}: silhouette {plane.loc[name, 'value']:.2f}": points for name, points in embedded.points.items()}
    caption = (
        f"The features of {count} landmarks of many people, one dot each, in the plane of one t-SNE, which keeps "
        "neighbours together. Look for one tight island for each colour, apart from the others; mixed colours are "
        "landmarks that the features do not tell apart. Directions and distances between islands mean nothing. "
        f"The silhouettes are means over {plane['n'].max()} t-SNE."
    )
    drawn = figures.png(figures.embeddings(panels, embedded.labels, scheme_of(count).names))
    alt = "Landmark features as points in the plane, coloured by landmark, one panel for each kind of features"
    return {"embeddings": Picture("Landmark features by t-SNE", caption, drawn, alt)}


def few_annotations_pictures(rows: pd.DataFrame) -> dict[str, Picture]:
    drawn = {}
    for count, form in by_form(rows, "few_shot", detection.METRIC):
        caption = (
            f"{count} landmarks learnt from few annotated images; bars are deviations over draws of them. Colours are "
            "features, dashes are heads. Look at how many images a network from scratch needs for what pretrained "
            "features reach with ten, and at whether SCE-MAE lies below MAE only."
        )
        picture = figures.errors_by_count(form, "annotated_images", "method", "head", form["unit"].iloc[0])
        alt = f"Error of {count} landmarks over the number of annotated images, a line for each method"
        drawn[f"few_shot_{count}"] = Picture("Few annotations", caption, figures.png(picture), alt)
    return drawn


def detection_pictures(detect: Detector, count: int, faces: Faces, frame: Frame) -> dict[str, Picture]:
    truth = in_form(faces.points, count)
    predicted, eyes = np.asarray(detect(faces.images)), scheme_of(count).eyes
    measure = functools.partial(detection.inter_ocular_error, eyes=eyes) if eyes else detection.box_diagonal_error
    labels = [f"error {error:.1f} %" for error in np.asarray(measure(predicted, truth))]
    caption = (
        f"{count} landmarks detected (filled) and annotated (hollow), joined by a line: the shorter, the better. "
        f"Errors are in {detection.unit(eyes)}."
    )
    points = frame.to_window(predicted), frame.to_window(truth)
    drawn = figures.png(figures.detections(windows(faces, frame), *points, labels))
    alt = f"Faces with {count} detected and annotated landmarks"
    return {f"detected_{count}": Picture("Detected landmarks", caption, drawn, alt)}
