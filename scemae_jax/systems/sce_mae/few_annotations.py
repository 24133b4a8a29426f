"""Detection from few annotations (Table 3 of SCE-MAE): several heads on frozen features, and a network from scratch.

For each number of images and each seed the same images serve all methods, and the same warped views of them all kinds
of features; the network that starts from nothing has its own. Views are drawn once, and features computed once, for
all epochs; prior work warps anew each time. Features of every kind are brought to unit length, place by place, since
the gain of the heads' softmax is meant for that. The loss is a mean over landmarks and the weight decay is not, so the
decay of the heads with heatmaps is divided by the number of landmarks: it weighs as it does at five.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num
from tqdm import tqdm

from scemae_jax.config import Config, num_steps
from scemae_jax.data.record import AnnotatedFaces
from scemae_jax.evaluation import detection
from scemae_jax.evaluation.few_annotations import FROM_SCRATCH, HEADS, MEAN_SHAPE, RAW_PATCH
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.faces.frame import FRAME, AnyArray, Frame
from scemae_jax.faces.landmarks import scheme_of
from scemae_jax.models.convnet import ConvNet
from scemae_jax.models.heads import LandmarkHead, find, prior_work_head
from scemae_jax.ops.ridge import ridge
from scemae_jax.systems.sce_mae import landmark_heads
from scemae_jax.training import loop, optimizer, sharding
from scemae_jax.training.processes import OutOfTime

FeatureFn = Callable[[Num[Array | np.ndarray, "n 136 136 3"]], Float[Array, "n g g c"]]
Forms = Mapping[int, Callable[[Float[np.ndarray, "n l 2"]], Float[np.ndarray, "n k 2"]]]

AT_ONCE = 64
STEPS_PER_DISPATCH = 20
"""Of networks so small that the host takes longer to ask for a step than the devices for the step."""


def patch_colours(images: Num[Array | np.ndarray, "n 136 136 3"], frame: Frame = FRAME) -> Float[Array, "n 12 12 192"]:
    """Baseline features: the pixels of each 8x8 patch of the window, standardised."""
    pixels = standardised(images, frame)
    size, side = RAW_PATCH, frame.window // RAW_PATCH
    patches = pixels.reshape(len(pixels), side, size, side, size, 3).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(len(pixels), side, side, -1)


def standardised(images: Num[Array | np.ndarray, "n 136 136 3"], frame: Frame = FRAME) -> Float[Array, "n 96 96 3"]:
    """The window's pixels around 0 with a deviation of about 1."""
    window = frame.centre_window(jnp.asarray(images))
    scale = 255.0 if jnp.issubdtype(window.dtype, jnp.integer) else 1.0
    return (window.astype(jnp.float32) / scale - 0.45) / 0.25


class Optimizer(NamedTuple):
    """Made once for many heads: what is compiled for it serves them all."""

    transformation: optax.GradientTransformation
    schedule: optax.Schedule
    steps: int
    batch_size: int


def train(
    network: nn.Module,
    inputs: Float[Array, "v h w c"],
    targets: Float[np.ndarray, "v l 2"],
    by: Optimizer,
    *,
    seed: int,
) -> Any:
    """Trains a landmark network on inputs that stay on the accelerator; returns its parameters.

    Args:
      network: from inputs to landmarks normalised over the window.
      inputs: features or images.
      targets: normalised landmarks.
      by: the steps, and the inputs of each; every input is drawn once before any is drawn again.
      seed: of weights and order.
    """
    task = loop.Task(
        name="few_shot",
        loss=landmark_heads.landmark_loss(network),
        outputs=(),
        params=landmark_heads.initial_params(network, jax.random.key(seed), inputs[:1]),
        constants={},
        inputs={"annotated": landmark_heads.annotated_input(inputs, targets, by.batch_size, seed)},
        optimizer=by.transformation,
        schedule=by.schedule,
        steps=by.steps,
        log_every=by.steps,
        checkpoint_every=by.steps,
        seed=seed,
        steps_per_dispatch=STEPS_PER_DISPATCH,
    )
    return loop.fit(task, workdir=None, mesh=sharding.own_mesh()).params


def predict(network: nn.Module, params: Any, inputs: Float[Array, "n h w c"]) -> Float[np.ndarray, "n l 2"]:
    chunks = [find(network, params, inputs[i : i + AT_ONCE]) for i in range(0, len(inputs), AT_ONCE)]
    return np.concatenate([np.asarray(chunk) for chunk in chunks])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """What is compared, on which faces."""

    settings: Config
    """`config.few_shot`."""
    linear: Config
    """`config.detect.linear`."""
    features: Mapping[str, FeatureFn]
    """By the names that the results have for them."""
    train: AnnotatedFaces
    test: AnnotatedFaces
    unlabelled: Num[np.ndarray, "m 136 136 3"]
    """Faces that tell the linear head how features vary."""
    forms: Forms
    """By the number of landmarks, those of all annotated ones."""
    baseline: bool
    """Whether a network is trained from scratch too."""
    frame: Frame = FRAME
    """Sizes of the images, and of the window in which landmarks are normalised."""

    def run(self, path: Path, stop_at: float | None = None) -> list[Measurement]:
        """Errors for each number of annotated images, draw, form and method; those that `path` has are kept.

        They are written to `path`, a row a line. A run that is cut off goes on from the rows it wrote.

        Raises:
          OutOfTime: `stop_at` (`time.monotonic`) came before the last draw; the finished ones are saved.
        """
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [Measurement.of(**json.loads(line)) for line in lines]
        finished = {(row.variant["annotated_images"], row.variant["draw"]) for row in rows}
        draws = [(count, draw) for draw in range(self.settings.seeds) for count in self.settings.counts]
        draws = [draw for draw in draws if draw[0] <= len(self.train) and draw not in finished]
        if not draws:
            return rows
        trial = _Trial(self)
        for done, (count, draw) in enumerate(tqdm(draws, desc="few_shot", unit="draw", mininterval=5)):
            if stop_at is not None and time.monotonic() > stop_at:
                raise OutOfTime(f"few_shot stopped after {done} of {len(draws)} draws; run the same command to go on")
            rows += trial.errors(count, draw)
            partial = path.with_suffix(".partial")  # whole draws only: a draw is the unit that is done again
            partial.write_text("".join(json.dumps(row.row()) + "\n" for row in rows))
            partial.replace(path)
        return rows


class _Trial:
    """What all draws share: features of test and unlabelled faces, optimisers."""

    def __init__(self, protocol: Protocol):
        self.protocol = p = protocol
        settings = p.settings
        self.mirror = settings.mirror and scheme_of(p.train.landmarks.shape[1]).mirror is not None
        self.features = {name: functools.partial(_of_unit_length, features) for name, features in p.features.items()}
        self.truth = {form: take(p.test.landmarks) for form, take in p.forms.items()}
        self.test = {name: features(p.test.images) for name, features in self.features.items()}
        self.unlabelled = {}
        if "linear" in settings.heads:
            others = self._with_mirrored(p.unlabelled)
            self.unlabelled = {name: _flat(features(others)) for name, features in self.features.items()}
        times = 2 if self.mirror else 1
        self.head_optimizers = {form: self._head_optimizer(form, times * settings.views) for form in p.forms}
        self.scratch_optimizer = _optimizer(optimizer.adamw, settings.scratch, times * settings.scratch.views)

    def _head_optimizer(self, landmarks: int, views: int) -> Optimizer:
        settings = self.protocol.settings.copy_and_resolve_references()
        settings.weight_decay *= 5 / landmarks
        return _optimizer(optimizer.adam_l2, settings, views)

    def _with_mirrored(self, images: Any) -> Array:
        return landmark_heads.with_mirrored(jnp.asarray, images, self.mirror)

    def _error(self, predicted: Float[np.ndarray, "n l 2"], **fields: Any) -> Measurement:
        """Error of landmarks normalised over the window."""
        form, pixels = predicted.shape[1], self.protocol.frame.denormalise(predicted)
        return detection.measure(pixels, self.truth[form], scheme_of(form).eyes, **fields)

    def _views(
        self, faces: AnnotatedFaces, number: int, seed: int
    ) -> tuple[Array, dict[int, Float[np.ndarray, "v l 2"]]]:
        """Warped views of the faces, mirrored ones behind them, and their normalised landmarks by form."""
        views, points = landmark_heads.warped_faces(faces.images, faces.landmarks, number, seed=seed)
        targets = {}
        for form, take in self.protocol.forms.items():
            plain = self.protocol.frame.normalise(take(points))
            targets[form] = np.concatenate([plain, landmark_heads.mirrored_targets(plain)]) if self.mirror else plain
        return self._with_mirrored(views), targets

    def errors(self, count: int, seed: int) -> Iterator[Measurement]:
        """Errors of all methods from the same `count` images of the training faces."""
        p, settings, drawn_by = self.protocol, self.protocol.settings, {"annotated_images": count, "draw": seed}
        # The images of a smaller count are among those of a larger one.
        drawn = p.train.take(np.random.default_rng(seed).permutation(len(p.train))[:count])
        for form, take in p.forms.items():
            mean = p.frame.normalise(take(drawn.landmarks)).mean(axis=0)
            yield self._error(np.broadcast_to(mean, self.truth[form].shape), method=MEAN_SHAPE, **drawn_by)
        views, targets = self._views(drawn, settings.views, seed)
        for name, features in self.features.items():
            inputs = features(views)
            for wanted in targets.values():
                for head in settings.heads:
                    predicted = self._detected(head, name, inputs, wanted, seed)
                    yield self._error(predicted, method=name, head=HEADS[head], **drawn_by)
        if p.baseline:
            scratch = settings.scratch
            views, targets = self._views(drawn, scratch.views, seed)
            inputs = standardised(views, p.frame)
            for form, wanted in targets.items():
                network = ConvNet(form, scratch.width)
                params = train(network, inputs, wanted, self.scratch_optimizer, seed=seed)
                predicted = predict(network, params, standardised(p.test.images, p.frame))
                yield self._error(predicted, method=FROM_SCRATCH, **drawn_by)

    def _detected(
        self, kind: str, name: str, inputs: Float[Array, "v g g c"], wanted: Float[np.ndarray, "v l 2"], seed: int
    ) -> Float[np.ndarray, "t l 2"]:
        """Normalised landmarks of the test faces, by a head that learnt from these views."""
        settings, linear, form = self.protocol.settings, self.protocol.linear, wanted.shape[1]
        if kind == "linear":
            function = ridge(
                _flat(inputs), jnp.asarray(_flat(wanted), jnp.float32), self.unlabelled[name],
                exponent=linear.exponent, strength=linear.strength,
            )  # fmt: skip
            return np.asarray(_flat(self.test[name]) @ function.kernel + function.bias).reshape(-1, form, 2)
        if kind == "prior_work":
            head = prior_work_head(form, settings.heatmaps)
        else:
            head = LandmarkHead(form, settings.heatmaps, 1, settings.gain)
        params = train(head, inputs, wanted, self.head_optimizers[form], seed=seed)
        return predict(head, params, self.test[name])


def _optimizer(make: Callable[[Config, int], optax.GradientTransformation], settings: Config, views: int) -> Optimizer:
    """From the settings of a kind of networks that learn from so many views."""
    steps = num_steps(settings, views)
    schedule = optimizer.learning_rate(settings, steps)
    return Optimizer(make(settings, steps), schedule, steps, settings.batch_size)


def _of_unit_length(features: FeatureFn, images: Num[Array | np.ndarray, "n 136 136 3"]) -> Float[Array, "n g g c"]:
    found = features(images)
    return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)


def _flat(features: Float[AnyArray, "n *rest"]) -> Float[AnyArray, "n d"]:
    return features.reshape(len(features), -1)
