"""Stage 1's average of the weights, held to the recursion in float64."""

import jax.numpy as jnp
import numpy as np

from scemae_jax import config as configuration
from scemae_jax.systems.sce_mae import pretrain, settings
from scemae_jax.training.feed import Input


def test_the_average_forgets_the_first_weights_and_then_decays_as_asked():
    config = settings.default()
    config.pretrain.average = 0.6
    first = {"layer": jnp.full(3, 100.0)}
    source = Input(batches=None, batch_size=1)
    task = pretrain.task(config, configuration.architecture(config), first, source, steps=1)
    weights = np.random.default_rng(0).normal(size=(40, 3))
    state, expected = task.state, np.full(3, 100.0)
    for step, values in enumerate(weights, start=1):
        state = task.next_state(state, {"layer": jnp.asarray(values, jnp.float32)}, {})
        decay = min(0.6, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * values
    np.testing.assert_allclose(state["average"]["layer"], expected, rtol=1e-4, atol=1e-5)
    assert abs(expected).max() < 3  # of the 100 nothing is left


def test_without_an_average_there_is_no_state():
    config = settings.default()
    task = pretrain.task(config, configuration.architecture(config), {}, Input(batches=None, batch_size=1), steps=1)
    assert task.state == {}
