"""Estimates what training costs on slices of TPUs and on a GPU, from their compilers. It needs no TPU and no GPU.

  python -m benchmarks.scaling --output docs/scaling.json --page docs/scaling.md

It compiles the training steps for the devices of `PLANS`, reads memory, operations and traffic over the interconnect
from the compiled programs, and estimates times from these. A compilation takes minutes for a slice of TPUs, one minute
for a GPU. Plans that are already in the output are not compiled again.
"""

import argparse
import dataclasses
import functools
import json
import math
import os
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from humanize import naturalsize
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from benchmarks import program
from benchmarks.suites import Settings, stage_task
from scemae_jax.config import Config
from scemae_jax.faces.frame import FRAME
from scemae_jax.systems.sce_mae.settings import PAPER_ENCODERS
from scemae_jax.training import feed, loop, sharding

CELEBA = 162_770
"""Training images."""
IMAGE = feed.Layout((FRAME.image_size, FRAME.image_size, 3), jnp.uint8)

CHIPS = {
    "v5e": {"flops": 197e12, "hbm": 819e9, "ici": 200e9, "clock": 1.5e9},
    "v5p": {"flops": 459e12, "hbm": 2765e9, "ici": 600e9, "clock": 1.75e9},
    "h100": {"flops": 989e12, "hbm": 3.35e12, "ici": 450e9, "clock": math.inf},  # its compiler gives no cycles
}
"""What the vendors state: docs.cloud.google.com/tpu/docs/v5e, v5p; nvidia.com/en-us/data-center/h100 (SXM).

Operations per second in bfloat16, bytes per second of the memory and (`ici`) out of the chip over all its links; the
clock is that of the peak and the size of the matrix units.
"""

H100 = Path(__file__).with_name("h100.textproto")
GPU_MEMORY = 0.75 * 84_929_347_584
"""Bytes that JAX takes of it, unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says otherwise."""
PLANS = Path(__file__).with_name("plans.txt").read_text().splitlines()
"""Names of training steps: a network of `config.PAPER_ENCODERS`, the stage, chip and topology, and so on."""


def describe_chips() -> None:
    """Sets JAX up, before it looks for devices, to use the compilers without a TPU or GPU."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # else libtpu asks the network for this machine's TPU
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # else it locks the TPU for this process
    os.environ["JAX_SKIP_CUDA_CONSTRAINTS_CHECK"] = "1"  # else JAX wants a driver
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    # XLA measures on the GPU whether Triton's matrix products are faster than cuBLAS's; without a GPU use cuBLAS's.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_triton_gemm=false".strip()
    jax.config.update("jax_platforms", "cpu")


def described_mesh(slice: str, fsdp: int) -> Mesh:
    """A mesh of chips that are only described: programs compile for it but do not run. Call `describe_chips` first."""
    chip, topology = slice.split(":")
    if chip == "h100":  # all in one machine
        found = topologies.get_topology_desc(
            platform="cuda", target_config=H100.read_text(), topology=f"1x1x{topology}"
        )
    else:
        one_chip = {"chips_per_host_bounds": (1, 1, 1)} if topology == "1x1" else {}  # else a host has four
        found = topologies.get_topology_desc(platform="tpu", topology_name=slice, **one_chip)
    return sharding.make_mesh(found.devices, fsdp=fsdp)


def compile_training(config: Config, stage: str, mesh: Mesh, *, xla_attention: bool = False) -> jax.stages.Compiled:
    """The step of a stage as `training.loop` compiles it, with CelebA's images held by the mesh's devices.

    Raises:
      jax.errors.JaxRuntimeError: among others where it does not fit into a TPU's memory.
    """
    # The default device decides how attention is computed, the mesh what the program is compiled for.
    with jax.default_device(jax.local_devices(backend="cpu")[0] if xla_attention else mesh.devices.flat[0]):
        step, arguments = training_step(config, stage, mesh)
        return step.lower(*arguments).compile()


def training_step(config: Config, stage: str, mesh: Mesh, num_images: int = CELEBA) -> tuple[Any, tuple[Any, ...]]:
    """The step of a stage as `training.loop` builds it, not traced yet, and its arguments as shapes."""
    batch_size = config[stage].batch_size
    source = feed.Input(
        batches=cast(Any, None),  # none is drawn
        batch_size=batch_size,
        read=functools.partial(feed.read_held, mesh, {"image": IMAGE}),
        replicated=True,
    )
    task = stage_task(config, stage, source, lambda build: functools.partial(jax.eval_shape, build))
    rows = NamedSharding(mesh, sharding.BATCH)
    held = jax.ShapeDtypeStruct(feed.held_shape(mesh, num_images, IMAGE), jnp.int32, sharding=rows)
    numbers = {"number": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
    batch = on_every_chip({"unlabelled": numbers}, mesh)
    return step_of(task, mesh, config.mesh.rules, {"unlabelled": {"image": held}}, batch)


def step_of(
    task: loop.Task, mesh: Mesh, rules: sharding.Rules, resident: Any, batch: Any
) -> tuple[Any, tuple[Any, ...]]:
    """A task's step, not traced yet, and its arguments as shapes; `resident` and `batch` are shapes already."""
    state = jax.eval_shape(lambda params: loop.initial_state(dataclasses.replace(task, params=params)), task.params)
    divided = jax.tree.map(_placed, state, sharding.by_rules(mesh, state, rules))
    seen = on_every_chip(jax.eval_shape(loop.gathered_metrics(task).empty), mesh)
    return loop.compile_step(task, mesh, rules), (divided, seen, on_every_chip(task.constants, mesh), resident, batch)


def on_every_chip(tree: Any, mesh: Mesh) -> Any:
    """The shapes of arrays (or shapes) that every chip holds."""
    return jax.tree.map(lambda leaf: _placed(leaf, sharding.replicated(mesh)), tree)


def _placed(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)


def measure(plan: str) -> dict[str, Any]:
    """Compiles a plan's step and returns its costs for a chip."""
    size, stage, slice, fsdp, batch_size, *attention = re.split(r" (?:\w+=)?", plan)
    on_gpu, mesh = slice.startswith("h100:"), described_mesh(slice, int(fsdp))
    compiler = "jax-cuda12-pjrt" if on_gpu else "libtpu"
    found: dict[str, Any] = {"compiler": f"{compiler} {version(compiler)}", "chips": mesh.size, "fits": False}
    config = Settings(encoder=PAPER_ENCODERS[size], dtype="bfloat16", batch_size=int(batch_size)).config
    try:
        compiled: Any = compile_training(config, stage, mesh, xla_attention=attention == ["xla"])
    except jax.errors.JaxRuntimeError as error:  # the compiler for TPUs refuses what does not fit
        if "hbm" not in str(error).lower():
            raise
        return found
    memory = compiled.memory_analysis()
    temporary = memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    step, arguments = training_step(config, stage, sharding.make_mesh(jax.devices("cpu")[:1]))
    flops = step.lower(*arguments).cost_analysis()["flops"]  # as written, before a compiler recomputes parts of it
    return found | {
        "fits": not on_gpu or memory.argument_size_in_bytes + temporary <= GPU_MEMORY,
        "images_bytes": 4 * math.prod(feed.held_shape(mesh, CELEBA, IMAGE)) // mesh.size,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": temporary,
        "flops": flops / mesh.size,
        **program.read_program(compiled.as_text()),
    }


def seconds(row: dict[str, Any], chip: dict[str, float]) -> tuple[float, float, float, float]:
    """Estimates of a step's time: of all operations, of memory, of the interconnect, and of the compiler's cycles."""
    # A ring sends the bytes of an all-reduce twice: once to sum them, once to distribute the sum.
    sent = sum((2 if kind == "all-reduce" else 1) * each["bytes"] for kind, each in row["collectives"].items())
    compute, memory = row["flops"] / chip["flops"], row["hbm_bytes"] / chip["hbm"]
    return compute, memory, sent / chip["ici"], row["cycles"] / chip["clock"]


HEADER = (
    "step", "of a chip: images", "state", "temporary", "GFLOP", "read and written", "collectives",
    "ms: peak, memory, interconnect, cycles", "images/s: at the peaks", "by the cycles",
)  # fmt: skip


def table(found: dict[str, dict[str, Any]]) -> str:
    """The costs in Markdown. A step takes the time at the peaks, or of the cycles, plus that of the exchange."""
    lines = [HEADER, ["---"] * len(HEADER)]
    for plan, row in ((plan, found[plan]) for plan in PLANS if plan in found):
        lines.append([plan if row["fits"] else f"{plan}: does not fit"])
        if "flops" in row:
            took = compute, memory, exchange, cycles = seconds(row, CHIPS[plan.split()[2].split(":")[0]])
            images = int(plan.split("batch=")[1].split()[0])
            sizes = row["images_bytes"], row["argument_bytes"] - row["images_bytes"], row["temporary_bytes"]
            lines[-1] += [naturalsize(each, binary=True) for each in sizes]
            lines[-1] += [f"{row['flops'] / 1e9:,.0f}", naturalsize(row["hbm_bytes"])]
            sent = sorted(row["collectives"].items())
            lines[-1] += [", ".join(f"{each['count']} {kind} {naturalsize(each['bytes'])}" for kind, each in sent)]
            lines[-1] += [", ".join(f"{1e3 * each:.1f}" for each in took)]
            lines[-1] += [f"{images / (max(compute, memory) + exchange):,.0f}"]
            lines[-1] += [f"{images / (cycles + exchange):,.0f}" if cycles else ""]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file; what is in it is not compiled again")
    parser.add_argument("--only", default="", help="pattern (a regular expression) of the names of plans to compile")
    parser.add_argument("--page", type=Path, help="Markdown file to write the table to")
    arguments = parser.parse_args()
    describe_chips()
    found = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    for plan in [plan for plan in PLANS if re.search(arguments.only, plan) and plan not in found]:
        print(plan, flush=True)
        found[plan] = measure(plan)
        arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.page:  # between the page's two marks
        page = arguments.page.read_text()
        before, _, after = re.split(r"(?<=<!-- table -->\n)(.*?)(?=<!-- end -->)", page, flags=re.S)
        arguments.page.write_text(f"{before}\n{table(found)}\n\n{after}")


if __name__ == "__main__":
    main()
