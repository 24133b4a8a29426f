"""Measures the training steps, clustering, features and inputs, beside PyTorch on request.

  python -m benchmarks --suite pretrain,refine,cluster,features,input --encoder S/8 --output results.json
  python -m benchmarks --encoder B/8 --dtype bfloat16 --peer torch --compile --output b8.json
  python -m benchmarks --suite agreement,profile
  python -m benchmarks --smoke

Suites:
  pretrain   the step of stage 1 as it is trained, and the masked autoencoder alone, which the peer runs too
  refine     the step of stage 2; with all tokens; with hypercolumns (by a linear projector, and one of two
             layers); clustering alone
  cluster    density peaks of 512 images, and of more and more tokens (--plot draws that)
  features   what `Model.features` gives, at strides 8 and 4
  input      the step of stage 1 with images on the device, in memory, or decoded for every batch
  agreement  every operation on the CPU and on the default device: errors and whether they pass
  profile    where the time of both stages' steps goes, by operation

Contenders take turns, --repeats times, each time for --seconds or more. The utilisation is that of the operations which
the method needs (scemae_jax/benchmark/flops.py) against what the chip is stated, or on a CPU measured, to do. --output
is written after every suite, and the same command goes on after those it has. Exit status: 0 done, 1 error or a
disagreement.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from absl import app, flags, logging

from benchmarks.run import SUITES, TIMED, check_suites, run_suites
from benchmarks.settings import Settings, decoder_sizes
from scemae_jax.allocator import restart_keeping_freed_memory

PEER_MEMORY = "0.45"
"""Share of a GPU's memory that JAX takes for itself where PyTorch needs some too."""

SUITE = flags.DEFINE_list("suite", None, f"Of {', '.join(SUITES)}; without it the first {len(TIMED)}.")
ENCODER = flags.DEFINE_string("encoder", None, "Such as S/8.")
DECODER = flags.DEFINE_string("decoder", None, "Of stage 1: width x depth x heads, such as 512x8x16.")
BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "Of both stages; without it each has the config's.", 1)
DTYPE = flags.DEFINE_string("dtype", None, "Of the networks' arithmetic: float32 or bfloat16.")
SCAN_LAYERS = flags.DEFINE_bool("scan_layers", None, "In stage 1, as config.pretrain.scan_layers: compiles sooner.")
REMAT = flags.DEFINE_bool(
    "remat", None, "In stage 1, as config.pretrain.remat: less memory, more time; on a CPU with --scan_layers."
)
PEER = flags.DEFINE_enum("peer", None, ["torch"], "Measure PyTorch in turns with ours.")
COMPILE = flags.DEFINE_bool("compile", False, "The peer by torch.compile too; needs a C compiler and minutes.")
REPEATS = flags.DEFINE_integer("repeats", None, "Timed blocks of each.", 1)
SECONDS = flags.DEFINE_float("seconds", None, "Least length of a timed block.", 0.0)
WORKERS = flags.DEFINE_integer("workers", 0, "Processes that decode images; 0: threads.", 0)
OUTPUT = flags.DEFINE_string("output", None, "JSON file for everything that was measured.")
PLOT = flags.DEFINE_string("plot", None, "PNG file for the time and memory of clustering by the number of tokens.")
SMOKE = flags.DEFINE_bool("smoke", False, "All suites at tiny sizes, a few minutes on a CPU.")


def settings_of_flags() -> Settings:
    """What the flags ask for.

    Raises:
      ValueError: a flag has a value that does not exist.
    """
    given = {
        "encoder": ENCODER.value,
        "decoder": None if DECODER.value is None else decoder_sizes(DECODER.value),
        "batch_size": BATCH_SIZE.value,
        "dtype": DTYPE.value,
        "repeats": REPEATS.value,
        "seconds": SECONDS.value,
        "scan_layers": SCAN_LAYERS.value,
        "remat": REMAT.value,
        "peer": PEER.value is not None,
        "compile_peer": COMPILE.value,
        "workers": WORKERS.value,
    }
    given = {name: value for name, value in given.items() if value is not None}
    settings = Settings.smoke(**given) if SMOKE.value else Settings(**given)
    settings.config  # noqa: B018 - checks encoder, dtype and sizes before anything is measured
    return settings


def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"not understood: {' '.join(argv[1:])}")
    if PEER.value:
        os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", PEER_MEMORY)
    try:
        names = SUITE.value or list(SUITES if SMOKE.value else TIMED)
        check_suites(names)
        settings = settings_of_flags()
        output, plot = (Path(value) if value else None for value in (OUTPUT.value, PLOT.value))
        results = run_suites(names, settings, output, plot)
    except (ValueError, FileNotFoundError) as error:
        logging.debug("where it happened", exc_info=True)
        print(f"error: {error}\n(--verbosity=1 shows where)", file=sys.stderr)
        sys.exit(1)
    compared = results["suites"].get("agreement", {"rows": []})["rows"]
    if failed := [f"{row['name']} ({row['dtype']})" for row in compared if not row["passed"]]:
        print(f"error: {', '.join(failed)} of {jax.devices()[0].device_kind} disagree with the CPU", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    restart_keeping_freed_memory()
    logging.set_verbosity(logging.WARNING)
    app.run(main)
