"""What training would cost on slices of TPUs and on a GPU, by their compilers' figures. No TPU and no GPU is used.

  bash launch/compilers.sh --tables

The very steps of training are compiled for the devices of `PLANS`: memory, operations and what goes over the
interconnect are read from the compiled programs; times are estimated from them. For a slice of TPUs a compilation takes
minutes, for a GPU one; what the output has already is not compiled again.
"""

from __future__ import annotations

import argparse
import bisect
import dataclasses
import functools
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding

from benchmarks import flops, gpu_compiler, program
from scemae_jax import config as configuration
from scemae_jax.config import Config
from scemae_jax.data.pipeline import Batches, index_batches
from scemae_jax.faces.frame import FRAME
from scemae_jax.model import Architecture
from scemae_jax.systems.sce_mae import pretrain, refine
from scemae_jax.training import feed, loop, sharding

CELEBA = 162_770
"""Training images."""
EPOCHS = 400
IMAGE = (FRAME.image_size, FRAME.image_size, 3)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """What the vendor states: docs.cloud.google.com/tpu/docs/v5e, v5p; nvidia.com/en-us/data-center/h100 (SXM)."""

    flops: float
    """Operations per second in bfloat16."""
    hbm: float
    """Bytes per second."""
    ici: float
    """Bytes per second that leave the chip, over all its links."""
    clock: float = math.inf
    """Cycles per second: of the peak and the size of the matrix units. The CUDA compiler gives no cycles."""


CHIPS = {
    "v5e": Chip(flops=197e12, hbm=819e9, ici=200e9, clock=1.5e9),
    "v5p": Chip(flops=459e12, hbm=2765e9, ici=600e9, clock=1.75e9),
    "h100": Chip(flops=989e12, hbm=3.35e12, ici=450e9),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A training step, and the slice it is for."""

    size: str
    """Of the paper's networks: a name in `config.PAPER_ENCODERS`."""
    stage: str
    slice: str
    """Chip and topology, such as `v5e:4x4`, or `h100:1` for one GPU."""
    fsdp: int
    batch_size: int
    xla_attention: bool = False
    """Attention by XLA where cuDNN would be taken, for comparison."""

    @property
    def name(self) -> str:
        attention = " attention=xla" if self.xla_attention else ""
        return f"{self.size} {self.stage} {self.slice} fsdp={self.fsdp} batch={self.batch_size}{attention}"

    @property
    def chip(self) -> Chip:
        return CHIPS[self.slice.split(":")[0]]


def _plans(sizes: Sequence[str], stage: str, slice: str, fsdp: int, batch_size: int) -> list[Plan]:
    return [Plan(size=size, stage=stage, slice=slice, fsdp=fsdp, batch_size=batch_size) for size in sizes]


SIZES = ("t8", "s8", "b8")
PAPER_BATCH = [
    *_plans(SIZES, "pretrain", "v5e:4x4", 1, 512),
    *_plans(("t8",), "pretrain", "v5e:4x4", 4, 512),
    *_plans(SIZES, "refine", "v5e:4x4", 1, 256),
    *_plans(SIZES, "pretrain", "v5p:2x2x4", 4, 512),
    *_plans(SIZES, "refine", "v5p:2x2x4", 4, 256),
]
SLICES = {1: "v5e:1x1", 4: "v5e:2x2", 16: "v5e:4x4", 64: "v5e:8x8", 256: "v5e:16x16"}
PER_CHIP, GLOBAL = 64, 4096
"""Images: of a chip where each has as many, and of all chips."""
WEAK = {chips: _plans(("s8",), "pretrain", slice, 1, PER_CHIP * chips)[0] for chips, slice in SLICES.items()}
STRONG = {chips: _plans(("s8",), "pretrain", SLICES[chips], 1, GLOBAL)[0] for chips in (16, 64, 256)}
PLANS = list(dict.fromkeys([*PAPER_BATCH, *WEAK.values(), *STRONG.values()]))
BATCHES = [512 * count for count in (1, 2, 4, 8, 12, 16, 24, 32)]
"""Among which the largest that fits is sought."""
ON_GPU = _plans(SIZES, "pretrain", "h100:1", 1, 512)
XLA_ATTENTION = [
    dataclasses.replace(plan, batch_size=batch_size, xla_attention=xla)
    for plan, batch_size in ((ON_GPU[1], 1024), (ON_GPU[2], 512))
    for xla in (False, True)
]
GPU_PLANS = list(dict.fromkeys([*ON_GPU, *XLA_ATTENTION]))
GPU_BATCHES = [256 * count for count in (2, 3, 4, 6, 8, 10, 12, 16)]
GPU_SHARE = 0.75
"""Of its memory that JAX takes, unless `XLA_PYTHON_CLIENT_MEM_FRACTION` says otherwise."""


def describe_chips() -> None:
    """Tells JAX, before it looks for devices, that compilers are wanted and neither TPU nor GPU."""
    os.environ["TPU_SKIP_MDS_QUERY"] = "1"  # else libtpu asks the network which TPU this machine has
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # else it takes itself to be the one that uses the TPU
    gpu_compiler.describe_gpus()
    jax.config.update("jax_platforms", "cpu")


def described_mesh(slice: str, fsdp: int) -> Mesh:
    """A mesh of chips that are only described: programs can be compiled for it, not run. After `describe_chips`."""
    if slice.startswith("h100:"):
        return gpu_compiler.h100_mesh(int(slice.removeprefix("h100:")), fsdp)
    one_chip = {"chips_per_host_bounds": (1, 1, 1)} if slice.endswith(":1x1") else {}  # else a host has four
    topology = topologies.get_topology_desc(platform="tpu", topology_name=slice, **one_chip)
    return sharding.make_mesh(topology.devices, fsdp=fsdp)


def compile_training(
    config: Config, stage: str, mesh: Mesh, num_images: int = CELEBA, *, xla_attention: bool = False
) -> jax.stages.Compiled:
    """The step of a stage as `training.loop` compiles it, with so many images held by the mesh's devices.

    Raises:
      jax.errors.JaxRuntimeError: among others where it does not fit into a TPU's memory.
    """
    # The default device decides how attention is computed, the mesh what the program is compiled for.
    with jax.default_device(jax.local_devices(backend="cpu")[0] if xla_attention else mesh.devices.flat[0]):
        step, arguments = training_step(config, stage, mesh, num_images)
        return step.lower(*arguments).compile()


def training_step(
    config: Config, stage: str, mesh: Mesh, num_images: int = CELEBA
) -> tuple[jax.stages.Wrapped, tuple[Any, ...]]:
    """The step of a stage as `training.loop` has it, not traced yet, and its arguments as shapes."""
    task = _task(config, stage, mesh)
    held = jax.ShapeDtypeStruct(
        feed.held_shape(mesh, num_images, IMAGE), jnp.int32, sharding=NamedSharding(mesh, sharding.BATCH)
    )
    numbers = {"number": jax.ShapeDtypeStruct((task.input.batch_size,), jnp.int32, sharding=sharding.replicated(mesh))}
    return step_of(task, mesh, config.mesh.rules, held, numbers)


def step_of(
    task: loop.Task, mesh: Mesh, rules: sharding.Rules, resident: Any, batch: Any
) -> tuple[jax.stages.Wrapped, tuple[Any, ...]]:
    """A task's step, not traced yet, and its arguments as shapes; `resident` and `batch` are shapes already."""
    state = jax.eval_shape(lambda params: loop.initial_state(dataclasses.replace(task, params=params)), task.params)

    def divided(leaf: jax.ShapeDtypeStruct, placed: NamedSharding) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed)

    return cast(jax.stages.Wrapped, loop.compile_step(task, mesh, rules)), (
        jax.tree.map(divided, state, sharding.by_rules(mesh, state, rules)),
        on_every_chip(jax.eval_shape(loop.gathered_metrics(task).empty), mesh),
        on_every_chip(task.constants, mesh),
        resident,
        batch,
    )


def on_every_chip(tree: Any, mesh: Mesh) -> Any:
    """The shapes of a tree of arrays (or shapes) that each chip holds."""
    everywhere = sharding.replicated(mesh)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), tree)


def _task(config: Config, stage: str, mesh: Mesh) -> loop.Task:
    """The stage's task, with shapes for parameters."""
    architecture, batch_size = configuration.architecture(config), config[stage].batch_size
    source = feed.Input(
        batches=Batches(index_batches([batch_size], weights=[1.0], batch_size=batch_size, seed=0)),
        batch_size=batch_size,
        read=functools.partial(feed.read_images, mesh, IMAGE),
        replicated=True,
    )
    params = jax.eval_shape(lambda: pretrain.initial_params(architecture, 0))
    steps = configuration.num_steps(config[stage], CELEBA)
    if stage == "pretrain":
        return pretrain.task(config, architecture, params, source, steps)
    projector = jax.eval_shape(lambda: refine.initial_projector(architecture, 0))
    return refine.task(config, architecture, params["encoder"], projector, source, steps)


def celeba_config(plan: Plan) -> Config:
    """As configs/celeba.py has it."""
    config = configuration.default()
    configuration.paper_network(config, plan.size)
    config.dtype = "bfloat16"
    config[plan.stage].batch_size = plan.batch_size
    return config


def measure(plan: Plan) -> dict[str, Any]:
    """Compiles a plan's step and says what it costs; where it does not fit into memory, how much it wants."""
    on_gpu, architecture = plan.slice.startswith("h100:"), configuration.architecture(celeba_config(plan))
    mesh, started = described_mesh(plan.slice, plan.fsdp), time.monotonic()
    compiler = "jax-cuda12-pjrt" if on_gpu else "libtpu"
    found: dict[str, Any] = {**dataclasses.asdict(plan), "chips": mesh.size, compiler: version(compiler)}
    try:
        compiled: Any = compile_training(celeba_config(plan), plan.stage, mesh, xla_attention=plan.xla_attention)
    except jax.errors.JaxRuntimeError as error:
        if not (memory := wanted_memory(str(error))):
            raise
        return found | {"fits": False, "wanted_gib": memory[0], "limit_gib": memory[1]}
    memory, text = compiled.memory_analysis(), compiled.as_text()
    wanted = memory.argument_size_in_bytes + memory.temp_size_in_bytes + memory.generated_code_size_in_bytes
    needed = flops.pretrain_step if plan.stage == "pretrain" else flops.refine_step
    images_on_chip = plan.batch_size / mesh.size
    return found | {
        # The compiler for TPUs refuses what does not fit.
        "fits": not on_gpu or wanted <= GPU_SHARE * gpu_compiler.H100_MEMORY,
        "compile_seconds": round(time.monotonic() - started),
        "images_bytes": 4 * math.prod(feed.held_shape(mesh, CELEBA, IMAGE)) // mesh.size,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "code_bytes": memory.generated_code_size_in_bytes,
        **(_gpu_flops(plan, architecture, text, images_on_chip) if on_gpu else _cost(compiled)),
        "model_flops": needed(architecture) * images_on_chip,
        **dataclasses.asdict(program.read_program(text)),
    }


def _cost(compiled: Any) -> dict[str, float]:
    cost = compiled.cost_analysis()
    return {"flops": cost["flops"], "bytes_accessed": cost["bytes accessed"]}


def _gpu_flops(plan: Plan, architecture: Architecture, text: str, images: float) -> dict[str, float]:
    """XLA counts none for a GPU: those of the matrix products in the program, and of cuDNN's attention by hand."""
    in_program = sum(product.flops for product in gpu_compiler.matrix_products(text))
    by_cudnn = 0 if plan.xla_attention else flops.pretrain_attention(architecture) * images
    return {"flops": in_program + by_cudnn, "attention_flops": by_cudnn}


def wanted_memory(error: str) -> tuple[float, float] | None:
    """GiB that a program wants and that the chip has, from the compiler's error; None of another error."""
    forms = (r"Used ([\d.]+)G of ([\d.]+)G hbm", r"HLO temporaries \(([\d.]+)G\) exceeds available HBM \(([\d.]+)G\)")
    found = next((match for form in forms if (match := re.search(form, error))), None)
    return (float(found[1]), float(found[2])) if found else None


def measure_all(plans: Iterable[Plan], output: Path) -> dict[str, dict[str, Any]]:
    """`measure` of each plan, by its name; kept in `output`, and taken from there if it is there already."""
    found = json.loads(output.read_text()) if output.exists() else {}
    for plan in plans:
        if plan.name not in found:
            print(plan.name, flush=True)
            found[plan.name] = measure(plan)
            output.write_text(json.dumps(found, indent=1) + "\n")
    return found


def largest_batch(size: str, output: Path, slice: str = "v5e:4x4") -> dict[str, dict[str, Any]]:
    """Seeks the largest of `BATCHES` or `GPU_BATCHES` that stage 1 can take; returns all that is in `output` then."""

    def does_not_fit(batch_size: int) -> bool:
        plan = Plan(size=size, stage="pretrain", slice=slice, fsdp=1, batch_size=batch_size)
        return not measure_all([plan], output)[plan.name]["fits"]

    bisect.bisect_left(GPU_BATCHES if slice.startswith("h100:") else BATCHES, True, key=does_not_fit)
    return measure_all([], output)


def seconds(row: dict[str, Any], chip: Chip) -> dict[str, float]:
    """Estimates of a step's time.

    `least` if every operation ran at the chip's peak, or every byte at its memory's, whichever takes longer; `expected`
    by the compiler's cycles. To both comes the time on the interconnect, all links in use, nothing overlapped.
    """
    # A ring sends what an all-reduce sums twice: once to sum it, once to hand the sum round.
    sent = sum((2 if kind == "all-reduce" else 1) * each["bytes"] for kind, each in row["collectives"].items())
    exchange = sent / chip.ici
    compute, memory = row["flops"] / chip.flops, row["hbm_bytes"] / chip.hbm
    return {
        "compute": compute,
        "memory": memory,
        "exchange": exchange,
        "least": max(compute, memory) + exchange,
        "expected": row["cycles"] / chip.clock + exchange,
    }


COMPILERS = ("libtpu", "jax-cuda12-pjrt")


def tables(found: dict[str, dict[str, Any]]) -> str:
    """What was found, as Markdown; comparisons that have something to compare."""
    runs = [_run_row(plan, found[plan.name]) for plan in PLANS if plan.name in found]
    used = {(name, row[name]) for row in found.values() for name in COMPILERS if name in row}
    compilers = " and ".join(f"{name} {number}" for name, number in sorted(used))
    parts = [f"Compiled by {compilers}, not run.", "### One step of CelebA's training", _markdown(_RUN_HEADER, runs)]
    if on_gpu := [row for row in found.values() if row["slice"] == "h100:1"]:
        on_gpu.sort(key=lambda row: (SIZES.index(row["size"]), row["batch_size"], row["xla_attention"]))
        rows = [_gpu_row(row, found) for row in on_gpu]
        parts += ["### Stage 1 on one H100 with 80 GB, beside a TPU's chip", _markdown(_GPU_HEADER, rows)]
    sought = [row for row in found.values() if row["batch_size"] in BATCHES and row["fsdp"] == 1]
    sought = [row for row in sought if row["slice"] == "v5e:4x4" and row["stage"] == "pretrain"]
    found_for = {row["size"] for row in sought if not row["fits"] or row["batch_size"] == BATCHES[-1]}
    sought = [row for row in sought if row["size"] in found_for]
    if sought:
        sought.sort(key=lambda row: (SIZES.index(row["size"]), row["batch_size"]))
        rows = [_batch_row(row) for row in sought]
        parts += ["### The largest batch of stage 1 on 16 chips of v5e", _markdown(_BATCH_HEADER, rows)]
    for title, plans in {
        f"### S/8, stage 1, v5e: {PER_CHIP} images a chip": WEAK,
        f"### S/8, stage 1, v5e: a batch of {GLOBAL}": STRONG,
    }.items():
        rows = list(_scaling_rows(plans, found))
        if len(rows) > 1:
            parts += [title, _markdown(_SCALING_HEADER, rows)]
    return "\n\n".join(parts)


GIB = 2**30
_RUN_HEADER = [
    "network, stage", "slice, data x fsdp", "batch", "GiB per chip: images, state, temporary",
    "GFLOP per chip (needed)", "GB read and written", "collectives per chip", "ms: peak, memory, interconnect",
    "ms expected", "images/s", "hours",
]  # fmt: skip
_GPU_HEADER = [
    "network", "attention", "batch", "fits", "GiB: images, state, temporary", "TFLOP (attention, needed)",
    "GB read and written", "ms: peak, memory", "images/s", "a chip of v5e, of v5p",
]  # fmt: skip
_BATCH_HEADER = ["network", "batch", "fits", "GiB per chip", "images/s"]
_SCALING_HEADER = [
    "chips", "batch", "GFLOP per chip", "collectives, MB per chip", "ms: peak, memory, interconnect", "ms expected",
    "images/s", "of the first, a chip",
]  # fmt: skip


def _run_row(plan: Plan, row: dict[str, Any]) -> list[Any]:
    about = [
        f"{configuration.PAPER_ENCODERS[plan.size]}, {plan.stage}",
        f"{plan.slice}, {row['chips'] // plan.fsdp} x {plan.fsdp}",
        plan.batch_size,
    ]
    if not row["fits"]:
        return [*about, f"does not fit: {row['wanted_gib']} of {row['limit_gib']}", *[""] * (len(_RUN_HEADER) - 4)]
    took = seconds(row, plan.chip)
    state = row["argument_bytes"] - row["images_bytes"]
    memory = (row["images_bytes"], state, row["temporary_bytes"] + row["code_bytes"])
    collectives = ", ".join(
        f"{each['count']} {kind} {each['bytes'] / 1e6:.0f} MB" for kind, each in sorted(row["collectives"].items())
    )
    steps = celeba_config(plan)[plan.stage].epochs * CELEBA / plan.batch_size
    return [
        *about,
        ", ".join(f"{part / GIB:.2f}" for part in memory),
        f"{row['flops'] / 1e9:.0f} ({row['model_flops'] / 1e9:.0f})",
        f"{row['hbm_bytes'] / 1e9:.1f}",
        collectives,
        *_times(took),
        *(_range(took, lambda s: plan.batch_size / s, ",.0f"), _range(took, lambda s: steps * s / 3600, ".2f")),
    ]


def _gpu_row(row: dict[str, Any], found: dict[str, dict[str, Any]]) -> list[Any]:
    took = seconds(row, CHIPS["h100"])
    state = row["argument_bytes"] - row["images_bytes"]
    memory = (row["images_bytes"], state, row["temporary_bytes"] + row["code_bytes"])
    tera = [f"{row[name] / 1e12:.1f}" for name in ("flops", "attention_flops", "model_flops")]
    beside = []
    for plan in PAPER_BATCH:
        if (plan.size, plan.stage) == (row["size"], "pretrain") and (other := found.get(plan.name)):
            least = {"v5e:4x4": 1, "v5p:2x2x4": 4}[plan.slice] == plan.fsdp
            if least and other["fits"]:
                beside.append(f"{plan.batch_size / seconds(other, plan.chip)['least'] / other['chips']:,.0f}")
    return [
        configuration.PAPER_ENCODERS[row["size"]],
        "XLA" if row["xla_attention"] else "cuDNN",
        row["batch_size"],
        "yes" if row["fits"] else "no",
        ", ".join(f"{part / GIB:.1f}" for part in memory),
        f"{tera[0]} ({tera[1]}, {tera[2]})",
        f"{row['hbm_bytes'] / 1e9:.0f}",
        f"{1e3 * took['compute']:.1f}, {1e3 * took['memory']:.1f}",
        f"{row['batch_size'] / took['least']:,.0f}",
        ", ".join(beside),
    ]


def _batch_row(row: dict[str, Any]) -> list[Any]:
    used = row["argument_bytes"] + row["temporary_bytes"] + row["code_bytes"] if row["fits"] else 0
    memory = f"{used / GIB:.1f}" if row["fits"] else f"{row['wanted_gib']:.1f} of {row['limit_gib']:.2f}"
    chip = CHIPS[row["slice"].split(":")[0]]
    speed = f"{row['batch_size'] / seconds(row, chip)['expected']:,.0f}" if row["fits"] else ""
    return [configuration.PAPER_ENCODERS[row["size"]], row["batch_size"], "yes" if row["fits"] else "no", memory, speed]


def _scaling_rows(plans: dict[int, Plan], found: dict[str, dict[str, Any]]) -> Iterator[list[Any]]:
    reference = None
    for chips, plan in plans.items():
        row = found.get(plan.name)
        if not row:
            continue
        if not row["fits"]:
            yield [chips, plan.batch_size, "does not fit", *[""] * (len(_SCALING_HEADER) - 3)]
            continue
        took = seconds(row, plan.chip)
        per_chip = plan.batch_size / took["expected"] / chips
        reference = reference or per_chip
        yield [
            chips,
            f"{plan.batch_size:,}",
            f"{row['flops'] / 1e9:.0f}",
            f"{sum(each['bytes'] for each in row['collectives'].values()) / 1e6:.0f}",
            *_times(took),
            f"{plan.batch_size / took['expected']:,.0f}",
            f"{per_chip / reference:.0%}",
        ]


def _times(took: dict[str, float]) -> list[str]:
    parts = ", ".join(f"{1e3 * took[name]:.1f}" for name in ("compute", "memory", "exchange"))
    return [parts, f"{1e3 * took['expected']:.1f}"]


def _range(took: dict[str, float], of: Callable[[float], float], form: str) -> str:
    """By the compiler's cycles, and (in brackets) by the peaks."""
    return f"{of(took['expected']):{form}} ({of(took['least']):{form}})"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def write_tables(page: Path, found: dict[str, dict[str, Any]]) -> None:
    """Puts the tables between the page's two marks."""
    before, _, after = re.split(r"(?<=<!-- tables -->\n)(.*?)(?=<!-- end -->)", page.read_text(), flags=re.DOTALL)
    page.write_text(f"{before}\n{tables(found)}\n\n{after}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="JSON file; what is in it is not compiled again")
    parser.add_argument("--only", default="", help="pattern (a regular expression) of the names of plans to compile")
    parser.add_argument("--largest", nargs="*", default=(), choices=SIZES, help="networks to seek the largest batch of")
    parser.add_argument("--largest_on", default="v5e:4x4", choices=("v5e:4x4", "h100:1"), help="devices to seek it for")
    parser.add_argument("--page", type=Path, help="Markdown file to write the tables to")
    arguments = parser.parse_args()
    describe_chips()
    plans = [plan for plan in [*PLANS, *GPU_PLANS] if re.search(arguments.only, plan.name)]
    found = measure_all(plans, arguments.output)
    for size in arguments.largest:
        found = largest_batch(size, arguments.output, arguments.largest_on)
    if arguments.page:
        write_tables(arguments.page, found)


if __name__ == "__main__":
    main()
