"""AdamW as MAE trains with it: warm-up, cosine decay, no weight decay on biases and norms, gradient clipping."""

from __future__ import annotations

from typing import Any

import jax
import optax

from scemae_jax.config import Config


def decays(params: Any) -> Any:
    """True for the parameters that weight decay applies to: all but biases and the scales of norms."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


def learning_rate(config: Config, steps: int) -> optax.Schedule:
    """Linear warm-up over `config.warmup` (a share of the steps), then a cosine down to zero."""
    warmup = max(1, round(config.warmup * steps))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, warmup, max(steps, warmup + 1))


def adamw(config: Config, steps: int) -> optax.GradientTransformation:
    """The optimiser a stage's config describes: fields learning_rate, warmup, betas, weight_decay, clip (0: none)."""
    optimizer = optax.adamw(learning_rate(config, steps), *config.betas, weight_decay=config.weight_decay, mask=decays)
    return optax.chain(optax.clip_by_global_norm(config.clip), optimizer) if config.clip else optimizer
