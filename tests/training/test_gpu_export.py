"""Training steps exported for an NVIDIA GPU that is not there: what JAX cannot differentiate there shows itself."""

import gpu_programs
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


CUDA_PROGRAM = """
HloModule jit_step

%fused (p: bf16[3,8]) -> f32[3,5] {
  %p = bf16[3,8]{1,0} parameter(0)
  %q = bf16[8,5]{1,0} parameter(1)
  ROOT %d = f32[3,5]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="blocks_1/mlp/dot"}
}

ENTRY %main (a: bf16[2,3,8]) -> f32[3,5] {
  %a = bf16[2,3,8]{2,1,0} parameter(0)
  %b = f32[2,8,7]{2,1,0} parameter(1)
  %c = (f32[2,3,7]{2,1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul", metadata={op_name="blocks_0/dot"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["2"],"rhs_contracting_dimensions":["1"]}}}
  %f = (bf16[2,4,6,8]{3,1,2,0}, f32[2,4,6]{2,1,0}, u8[0]{0}) custom-call(%a, %a, %a), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="blocks_0/attention"}
  %g = (bf16[2,4,6,8]{3,1,2,0}, u8[0]{0}) custom-call(%a, %a, %a), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  ROOT %k = f32[3,5]{1,0} fusion(%a, %b), kind=kLoop, calls=%fused, metadata={op_name="loss"}
}
"""  # noqa: E501


def test_a_gpu_s_program_is_read_by_hand():
    inside, called = gpu_programs.matrix_products(CUDA_PROGRAM)
    assert inside == (2 * 3 * 5 * 8, ("bf16", "bf16"), "blocks_1/mlp/dot")
    assert called == (2 * 2 * 3 * 7 * 8, ("bf16", "f32"), "blocks_0/dot")
    assert gpu_programs.cudnn_attention(CUDA_PROGRAM, gpu_programs.CUDNN_FORWARD) == [(2, 4, 6, 8)]
    assert gpu_programs.cudnn_attention(CUDA_PROGRAM, gpu_programs.CUDNN_BACKWARD) == [(2, 4, 6, 8)]
    stores = list(gpu_programs.float32_stores(CUDA_PROGRAM))  # what stays inside a kernel does not count
    assert stores == [(2 * 3 * 7, "blocks_0/dot"), (2 * 4 * 6, "blocks_0/attention"), (3 * 5, "loss")]
