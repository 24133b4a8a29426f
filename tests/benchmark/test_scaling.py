from scemae_jax.benchmark import scaling

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
    work = scaling.read_program(PROGRAM)
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
    assert scaling.array_bytes(types) == 15 + 7 + 2 + 8
    assert scaling.array_bytes(types, in_hbm=True) == 7 + 2 + 8


def test_time_is_the_longest_of_compute_and_memory_and_the_interconnect_on_top():
    chip = scaling.Chip(flops=100, hbm=10, ici=1, clock=1000)
    row = {
        "flops": 100, "hbm_bytes": 30, "cycles": 5000,
        "collectives": {"all-reduce": {"count": 1, "bytes": 2}, "all-gather": {"count": 5, "bytes": 3}},
    }  # fmt: skip
    took = scaling.seconds(row, chip)
    assert took == {"compute": 1, "memory": 3, "exchange": 7, "least": 10, "expected": 12}
