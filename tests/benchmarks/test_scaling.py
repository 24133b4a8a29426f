import dataclasses

from benchmarks import gpu_compiler, program, scaling

PROGRAM = """
HloModule jit_step

%fused (p: f32[8,128]) -> f32[8,128] {
  %p = f32[8,128]{1,0} parameter(0)
  ROOT %m = f32[8,128]{1,0} multiply(%p, %p)
}

%body (s: (s32[], bf16[4,128])) -> (s32[], bf16[4,128]) {
  %s = (s32[], bf16[4,128]{1,0}) parameter(0)
  %x = bf16[4,128]{1,0} get-tuple-element(%s), index=1
  %r = bf16[4,128]{1,0:T(8,128)(2,1)S(1)} all-reduce(%x), to_apply=%sum
  ROOT %t = (s32[], bf16[4,128]{1,0}) tuple(%x, %r)
}

ENTRY %main (a: f32[8,128], b: (s32[], bf16[4,128])) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = (s32[], bf16[4,128]{1,0}) parameter(1)
  %w = (s32[], bf16[4,128]{1,0}) while(%b), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %g = (f32[8,128]{1,0}, f32[32,128]{1,0:T(8,128)S(1)}) all-gather-start(%a), dimensions={0}
  %d = f32[32,128]{1,0:T(8,128)S(1)} all-gather-done(%g)
  ROOT %f = f32[8,128]{1,0} fusion(%a), kind=kLoop, calls=%fused, backend_config={"estimated_cycles":"700"}
}
"""


def test_a_program_is_counted_by_hand():
    work = program.read_program(PROGRAM)
    assert work.collectives == {
        "all-reduce": {"count": 3, "bytes": 3 * 4 * 128 * 2},
        "all-gather": {"count": 1, "bytes": 32 * 128 * 4},
    }
    assert work.cycles == 700
    block = 8 * 128 * 4
    # Each turn of the loop reads its bf16 array; the gathered one stays on the chip, its source is named twice.
    assert work.hbm_bytes == 3 * 4 * 128 * 2 + 2 * block + 2 * block


def test_arrays_on_the_chip_are_not_in_its_memory():
    types = "(u8[3,5]{1,0:T(8,128)(4,1)S(1)}, pred[7]{0}, bf16[], s32[2]{0:T(128)})"
    assert program.array_bytes(types) == 15 + 7 + 2 + 8
    assert program.array_bytes(types, in_hbm=True) == 7 + 2 + 8


def test_time_is_the_longest_of_compute_and_memory_and_the_interconnect_on_top():
    chip = scaling.Chip(flops=100, hbm=10, ici=1, clock=1000)
    row = {
        "flops": 100, "hbm_bytes": 30, "cycles": 5000,
        "collectives": {"all-reduce": {"count": 1, "bytes": 2}, "all-gather": {"count": 5, "bytes": 3}},
    }  # fmt: skip
    took = scaling.seconds(row, chip)
    assert took == {"compute": 1, "memory": 3, "exchange": 7, "least": 10, "expected": 12}


def row(plan, **found):
    """Of a plan that fits, with numbers to recognise."""
    return {
        **dataclasses.asdict(plan), "chips": 16, "fits": True, "libtpu": "1.2", "images_bytes": 2**29,
        "argument_bytes": 2**30, "temporary_bytes": 2**30, "code_bytes": 2**29, "flops": 1.97e12, "model_flops": 1e12,
        "hbm_bytes": 819_000_000, "cycles": 30_000_000, "collectives": {"all-reduce": {"count": 2, "bytes": 10**9}},
        **found,
    }  # fmt: skip


def test_tables_say_what_was_found(tmp_path):
    plan = scaling.PAPER_BATCH[0]
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- tables -->\nold\n<!-- end -->\nafter\n")
    scaling.write_tables(page, {plan.name: row(plan)})
    text = page.read_text()
    assert text.startswith("before\n<!-- tables -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    assert "Compiled by libtpu 1.2, not run." in text
    # 10 ms at the peak, 1 ms of memory; 2 GB go over the interconnect in 10 ms; 30 million cycles take 20 ms.
    assert "0.50, 0.50, 1.50 | 1970 (1000) | 0.8 | 2 all-reduce 1000 MB | 10.0, 1.0, 10.0 | 30.0 | 17,067" in text
    assert "largest batch" not in text


def test_the_largest_batch_is_shown_of_networks_for_which_it_was_sought():
    weak, sought = scaling.WEAK[16], scaling.Plan(size="b8", stage="pretrain", slice="v5e:4x4", fsdp=1, batch_size=1024)
    small = dataclasses.replace(sought, batch_size=512)
    text = scaling.tables(
        {
            weak.name: row(weak),
            small.name: row(small),
            sought.name: row(sought, fits=False, wanted_gib=20.0, limit_gib=15.75),
        }
    )
    assert "| B/8 | 512 | yes | 2.5 | 17,067 |\n| B/8 | 1024 | no | 20.0 of 15.75 |  |" in text
    assert "S/8 | 1024 | yes" not in text
    assert "images a chip" not in text  # one row has nothing to be compared with


def test_slices_are_compared_a_chip_with_the_first():
    found = {plan.name: row(plan, chips=chips) for chips, plan in scaling.WEAK.items() if chips in (4, 16)}
    text = scaling.tables(found)
    four, sixteen = [line for line in text.split("a chip\n\n")[1].splitlines() if line.startswith(("| 4 ", "| 16 "))]
    assert four.endswith("| 8,533 | 100% |")  # 256 images in 30 ms
    assert sixteen.endswith("| 34,133 | 100% |")


def test_what_does_not_fit_is_told_from_other_errors():
    newer = "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Used 20.11G of 15.75G hbm. Exceeded"
    older = "the total memory required for HLO temporaries (27.28G) exceeds available HBM (15.75G)."
    assert scaling.wanted_memory(newer) == (20.11, 15.75)
    assert scaling.wanted_memory(older) == (27.28, 15.75)
    assert scaling.wanted_memory("INTERNAL: something else (3G)") is None


def test_a_gpu_s_row_stands_beside_a_chip_of_each_tpu():
    plan, (tpu,) = (
        scaling.ON_GPU[1],
        [plan for plan in scaling.PAPER_BATCH if plan.name == "s8 pretrain v5e:4x4 fsdp=1 batch=512"],
    )
    xla = dataclasses.replace(plan, xla_attention=True)
    assert plan.name == "s8 pretrain h100:1 fsdp=1 batch=512"
    assert xla.name == f"{plan.name} attention=xla"
    about = {
        "chips": 1, "jax-cuda12-pjrt": "3.4", "collectives": {}, "cycles": 0, "flops": 9.89e12, "attention_flops": 2e12,
        "hbm_bytes": 67 * 10**9, "images_bytes": 2**33, "argument_bytes": 9 * 2**30, "temporary_bytes": 16 * 2**30,
        "code_bytes": 0,
    }  # fmt: skip
    found = {
        tpu.name: row(tpu),
        plan.name: {**row(plan), **about},
        xla.name: {**row(xla), **about, "attention_flops": 0, "fits": False},
    }
    text = scaling.tables(found)
    assert "Compiled by jax-cuda12-pjrt 3.4 and libtpu 1.2, not run." in text
    # 10 ms at the peak, 20 ms of memory; a chip of the TPU has 32 of 512 images in 20 ms.
    line = "8.0, 1.0, 16.0 | 9.9 ({}, 1.0) | 67 | 10.0, 20.0 | 25,600 | 1,600 |"
    assert f"| S/8 | cuDNN | 512 | yes | {line.format('2.0')}" in text
    assert f"| S/8 | XLA | 512 | no | {line.format('0.0')}" in text


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
    inside, called = gpu_compiler.matrix_products(CUDA_PROGRAM)
    assert inside == (2 * 3 * 5 * 8, ("bf16", "bf16"), "blocks_1/mlp/dot")
    assert called == (2 * 2 * 3 * 7 * 8, ("bf16", "f32"), "blocks_0/dot")
    assert gpu_compiler.cudnn_attention(CUDA_PROGRAM, gpu_compiler.CUDNN_FORWARD) == [(2, 4, 6, 8)]
    assert gpu_compiler.cudnn_attention(CUDA_PROGRAM, gpu_compiler.CUDNN_BACKWARD) == [(2, 4, 6, 8)]
    stores = list(gpu_compiler.float32_stores(CUDA_PROGRAM))  # what stays inside a kernel does not count
    assert stores == [(2 * 3 * 7, "blocks_0/dot"), (2 * 4 * 6, "blocks_0/attention"), (3 * 5, "loss")]
