"""Optimisers with warm-up, cosine decay and gradient clipping: AdamW for stages 1 and 2, Adam for landmark heads."""

from __future__ import annotations

from typing import Any

import jax
import optax

from scemae_jax.config import Config


def decays(params: Any) -> Any:
    """True for parameters with weight decay: all but biases and the scales of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


def learning_rate(config: Config, steps: int) -> optax.Schedule:
    """Linear warm-up from zero over `config.warmup` (a share of the steps), then a cosine down to zero.

    Without warm-up (0) the first step has the full rate; otherwise at least one step warms up.
    """
    if not config.warmup:
        return optax.cosine_decay_schedule(config.learning_rate, steps)
    warmup = max(1, round(config.warmup * steps))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))


def adamw(config: Config, steps: int) -> optax.GradientTransformation:
    """AdamW by a stage's learning_rate, warmup, betas, weight_decay (not on biases and norms) and clip (0: none)."""
    return _clipped(
        config,
        optax.adamw(learning_rate(config, steps), *config.betas, weight_decay=config.weight_decay, mask=decays),
    )


def adam_l2(config: Config, steps: int) -> optax.GradientTransformation:
    """Adam with an L2 penalty on all weights, as in PyTorch's Adam, by the same fields."""
    return _clipped(
        config,
        optax.chain(
            optax.add_decayed_weights(config.weight_decay), optax.adam(learning_rate(config, steps), *config.betas)
        ),
    )


def _clipped(config: Config, optimizer: optax.GradientTransformation) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(config.clip), optimizer) if config.clip else optimizer
