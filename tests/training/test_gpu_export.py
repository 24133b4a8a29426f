"""Training steps exported for an NVIDIA GPU that is not there: what JAX cannot differentiate there shows itself."""

import jax
import pytest

from benchmarks import scaling
from scemae_jax.systems.sce_mae import settings
from scemae_jax.training import sharding


@pytest.mark.parametrize("layers", [{}, {"scan_layers": True, "remat": True}])
def test_stage_1_trains_with_cudnn_in_every_layer(cudnn_calls, layers):
    config = settings.default()
    config.dtype = "bfloat16"
    config.model.encoder = "XXS/8"
    config.model.decoder_width, config.model.decoder_depth, config.model.decoder_heads = 32, 2, 2
    config.pretrain.batch_size = 2
    config.pretrain.update(layers)
    mesh = sharding.make_mesh(jax.devices("cpu")[:1])
    step, arguments = scaling.training_step(config, "pretrain", mesh, num_images=4)
    calls = cudnn_calls(step, *arguments)
    once, again = (2, 2) if layers else (4 + 2, 0)  # the layers of encoder and decoder; in a loop each has one body
    assert calls.count("__cudnn$fmhaSoftmaxBackward") == once
    assert calls.count("__cudnn$fmhaSoftmax") == once + again
