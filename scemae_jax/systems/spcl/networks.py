"""The network of SPCL: a parser on the backbone, and how it is trained."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from scemae_jax.config import Config
from scemae_jax.faces.parts import PartScheme
from scemae_jax.models.architecture import Backbone
from scemae_jax.models.parsing import Parsed, Parser, ParsingHead, enlarge, in_windows
from scemae_jax.training import optimizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParsingNetwork:
    """A parser and the images that it takes; hashable."""

    backbone: Backbone
    parts: PartScheme
    width: int
    """Channels of the head's features."""

    @functools.cached_property
    def module(self) -> Parser:
        dtype = jnp.dtype(self.backbone.dtype)
        return Parser(self.backbone.build(), ParsingHead(len(self.parts.names), self.width, dtype=dtype))

    @property
    def window(self) -> int:
        return self.backbone.frame.window

    def initial_params(self, seed: int, encoder: Any) -> Any:
        """A random head on an encoder's parameters."""
        windows = jnp.zeros((1, self.window, self.window, 3))
        params = jax.jit(self.module.init)(jax.random.key(seed), windows)["params"]
        return {"encoder": encoder, "head": params["head"]}

    def apply(self, params: Any, windows: Float[Array, "b s s 3"]) -> Parsed:
        """Of windows in [0, 1]."""
        return cast(Parsed, self.module.apply({"params": params}, self.backbone.normalise(windows)))

    def probabilities(self, params: Any, images: Float[Array, "b h w 3"]) -> Float[Array, "b h w k"]:
        """Of images in [0, 1] of any size, by windows."""

        def of_windows(windows: Array) -> Array:
            return jax.nn.softmax(enlarge(self.apply(params, windows).logits, windows.shape[1:3]))

        return in_windows(of_windows, images, self.window)

    def optimizer(self, settings: Config, steps: int) -> optax.GradientTransformation:
        """AdamW; the encoder's rate is `settings.encoder_rate` of the head's."""
        slower = optax.scale(settings.encoder_rate)
        return optax.chain(
            optimizer.adamw(settings, steps),
            optax.masked(slower, lambda params: {name: jax.tree.map(lambda _: name == "encoder", tree) for name, tree in params.items()}),
        )

    def schedule(self, settings: Config, steps: int) -> optax.Schedule:
        """Of the head's rate."""
        return optimizer.learning_rate(settings, steps)
