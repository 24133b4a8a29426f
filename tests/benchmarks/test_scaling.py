import json

from benchmarks import program, scaling

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
    assert work["collectives"] == {
        "all-reduce": {"count": 3, "bytes": 3 * 4 * 128 * 2},
        "all-gather": {"count": 1, "bytes": 32 * 128 * 4},
    }
    assert work["cycles"] == 700
    block = 8 * 128 * 4
    # Each turn of the loop reads its bf16 array; the gathered one stays on the chip, its source is named twice.
    assert work["hbm_bytes"] == 3 * 4 * 128 * 2 + 2 * block + 2 * block


def test_arrays_on_the_chip_are_not_in_its_memory():
    types = "(u8[3,5]{1,0:T(8,128)(4,1)S(1)}, pred[7]{0}, bf16[], s32[2]{0:T(128)})"
    assert program.array_bytes(types) == 15 + 7 + 2 + 8
    assert program.array_bytes(types, in_hbm=True) == 7 + 2 + 8


def row(**found):
    """Of a plan that fits, with numbers to recognise."""
    return {
        "fits": True, "images_bytes": 2**29, "argument_bytes": 2**30, "temporary_bytes": 3 * 2**29, "flops": 1.97e12,
        "hbm_bytes": 819_000_000, "cycles": 30_000_000,
        "collectives": {"all-reduce": {"count": 2, "bytes": 10**9}}, **found,
    }  # fmt: skip


def test_times_are_those_at_the_chip_s_figures():
    chip = {"flops": 100, "hbm": 10, "ici": 1, "clock": 1000}
    collectives = {"all-reduce": {"count": 1, "bytes": 2}, "all-gather": {"count": 5, "bytes": 3}}
    found = row(flops=100, hbm_bytes=30, cycles=5000, collectives=collectives)
    assert scaling.seconds(found, chip) == (1, 3, 7, 5)


def test_a_page_gets_the_table(tmp_path, monkeypatch):
    page, output = tmp_path / "page.md", tmp_path / "found.json"
    page.write_text("before\n<!-- table -->\nold\n<!-- end -->\nafter\n")
    tpu, large, gpu = "t8 pretrain v5e:4x4 fsdp=1 batch=512", scaling.PLANS[-4], scaling.PLANS[-1]
    found = {tpu: row(), large: {"fits": False}, gpu: row(cycles=0, collectives={}, hbm_bytes=67 * 10**9)}
    output.write_text(json.dumps(found))
    monkeypatch.setattr(scaling, "describe_chips", lambda: None)
    monkeypatch.setattr("sys.argv", ["scaling", "--output", str(output), "--page", str(page), "--only", "^$"])
    scaling.main()
    text = page.read_text()
    assert text.startswith("before\n<!-- table -->\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "old" not in text
    # 10 ms at the peak, 1 ms of memory; 2 GB go over the interconnect in 10 ms; 30 million cycles take 20 ms.
    sizes = "512.0 MiB | 512.0 MiB | 1.5 GiB"
    assert (
        f"| {tpu} | {sizes} | 1,970 | 819.0 MB | 2 all-reduce 1.0 GB | 10.0, 1.0, 10.0, 20.0 | 25,600 | 17,067 |"
        in text
    )
    assert f"| {large}: does not fit |" in text
    assert f"| {gpu} | {sizes} | 1,970 | 67.0 GB |  | 2.0, 20.0, 0.0, 0.0 | 25,600 |  |" in text
    assert json.loads(output.read_text()) == found
