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
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Num
from tqdm import tqdm

from scemae_jax.config import Config, num_steps
from scemae_jax.data.record import Faces
from scemae_jax.evaluation import detection
from scemae_jax.evaluation.few_annotations import FROM_SCRATCH, HEADS, MEAN_SHAPE
from scemae_jax.evaluation.measurement import Measurement
from scemae_jax.faces.frame import FRAME, AnyArray, Frame
from scemae_jax.faces.landmarks import scheme_of
from scemae_jax.models.convnet import ConvNet
from scemae_jax.models.heads import LandmarkHead, prior_work_head
from scemae_jax.ops.ridge import ridge
from scemae_jax.systems.sce_mae import landmark_heads
from scemae_jax.training import optimizer
from scemae_jax.training.processes import OutOfTime

FeatureFn = Callable[[Num[Array | np.ndarray, "n 136 136 3"]], Float[Array, "n g g c"]]
Forms = Mapping[int, Callable[[Float[np.ndarray, "n l 2"]], Float[np.ndarray, "n k 2"]]]

AT_ONCE = 64


def patch_colours(images: Num[Array | np.ndarray, "n 136 136 3"], frame: Frame = FRAME) -> Float[Array, "n 12 12 192"]:
    """Baseline features: the pixels of each 8x8 patch of the window, standardised."""
    pixels = standardised(images, frame)
    size, side = 8, frame.window // 8
    patches = pixels.reshape(len(pixels), side, size, side, size, 3).transpose(0, 1, 3, 2, 4, 5)
    return patches.reshape(len(pixels), side, side, -1)


def standardised(images: Num[Array | np.ndarray, "n 136 136 3"], frame: Frame = FRAME) -> Float[Array, "n 96 96 3"]:
    """The window's pixels around 0 with a deviation of about 1."""
    window = frame.centre_window(jnp.asarray(images))
    scale = 255.0 if jnp.issubdtype(window.dtype, jnp.integer) else 1.0
    return (window.astype(jnp.float32) / scale - 0.45) / 0.25


@functools.partial(jax.jit, static_argnames=("network", "update"), donate_argnames=("params", "state"))
def _step(
    params: Any, state: Any, inputs: Array, targets: Array, rows: Array, *, network: nn.Module, update: Callable
) -> tuple[Any, Any]:
    def loss(params: Any) -> Array:
        predicted = cast(Array, network.apply({"params": params}, inputs[rows]))
        return optax.huber_loss(landmark_heads.LOSS_SCALE * predicted, landmark_heads.LOSS_SCALE * targets[rows]).mean()

    updates, state = update(jax.grad(loss)(params), state, params)
    return optax.apply_updates(params, updates), state


@functools.partial(jax.jit, static_argnames="network")
def _initial(key: Array, inputs: Array, *, network: nn.Module) -> Any:
    return network.init(key, inputs)["params"]


@functools.partial(jax.jit, static_argnames="network")
def _apply(params: Any, inputs: Array, *, network: nn.Module) -> Array:
    return cast(Array, network.apply({"params": params}, inputs))


def train(
    network: nn.Module,
    inputs: Float[Array, "v h w c"],
    targets: Float[np.ndarray, "v l 2"],
    transformation: optax.GradientTransformation,
    *,
    steps: int,
    batch_size: int,
    seed: int,
) -> Any:
    """Trains a landmark network on inputs that stay on the accelerator; returns its parameters.

    Args:
      network: from inputs to landmarks normalised over the window.
      inputs: features or images.
      targets: normalised landmarks.
      transformation: of the gradients; the same object for the same shapes, else the step compiles anew.
      steps: of `batch_size` inputs each; every input is drawn once before any is drawn again.
      batch_size: cut down to the number of inputs.
      seed: of weights and order.
    """
    number = len(inputs)
    batch_size, rng = min(batch_size, number), np.random.default_rng(seed)
    rounds = -(-steps * batch_size // number)
    order = np.concatenate([rng.permutation(number) for _ in range(rounds)])[: steps * batch_size]
    params = _initial(jax.random.key(seed), inputs[:1], network=network)
    state, targets_there = transformation.init(params), jnp.asarray(targets, jnp.float32)
    for rows in jnp.asarray(order.reshape(steps, batch_size)):
        params, state = _step(params, state, inputs, targets_there, rows, network=network, update=transformation.update)
    return params


def predict(network: nn.Module, params: Any, inputs: Float[Array, "n h w c"]) -> Float[np.ndarray, "n l 2"]:
    chunks = [_apply(params, inputs[i : i + AT_ONCE], network=network) for i in range(0, len(inputs), AT_ONCE)]
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
    train: Faces
    test: Faces
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
        self.head_steps = num_steps(settings, times * settings.views)
        self.scratch_steps = num_steps(settings.scratch, times * settings.scratch.views)
        self.head_optimizers = {form: self._head_optimizer(form) for form in p.forms}
        self.scratch_optimizer = optimizer.adamw(settings.scratch, self.scratch_steps)

    def _head_optimizer(self, landmarks: int) -> optax.GradientTransformation:
        settings = self.protocol.settings.copy_and_resolve_references()
        settings.weight_decay *= 5 / landmarks
        return optimizer.adam_l2(settings, self.head_steps)

    def _with_mirrored(self, images: Any) -> Array:
        images = jnp.asarray(images)
        return jnp.concatenate([images, images[:, :, ::-1]]) if self.mirror else images

    def _error(self, predicted: Float[np.ndarray, "n l 2"], **fields: Any) -> Measurement:
        """Error of landmarks normalised over the window."""
        form, pixels = predicted.shape[1], self.protocol.frame.denormalise(predicted)
        return detection.measure(pixels, self.truth[form], scheme_of(form).eyes, **fields)

    def _views(self, faces: Faces, number: int, seed: int) -> tuple[Array, dict[int, Float[np.ndarray, "v l 2"]]]:
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
                params = train(
                    network, inputs, wanted, self.scratch_optimizer, steps=self.scratch_steps,
                    batch_size=scratch.batch_size, seed=seed,
                )  # fmt: skip
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
        params = train(
            head, inputs, wanted, self.head_optimizers[form], steps=self.head_steps, batch_size=settings.batch_size,
            seed=seed,
        )  # fmt: skip
        return predict(head, params, self.test[name])


def _of_unit_length(features: FeatureFn, images: Num[Array | np.ndarray, "n 136 136 3"]) -> Float[Array, "n g g c"]:
    found = features(images)
    return found / jnp.maximum(jnp.linalg.norm(found, axis=-1, keepdims=True), 1e-12)


def _flat(features: Float[AnyArray, "n *rest"]) -> Float[AnyArray, "n d"]:
    return features.reshape(len(features), -1)
