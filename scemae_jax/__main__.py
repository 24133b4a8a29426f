"""One command for all programs.

scemae run --config configs/quickstart.py --workdir runs/quickstart     (python -m scemae_jax.main)
scemae predict --model runs/parts/export/parts.msgpack FOLDER --parts OUT
scemae sweep | compare | prepare | convert | first_step | paper                   (--help says what each takes)
"""

import runpy
import sys

PROGRAMS = {
    "run": "scemae_jax.main",
    "predict": "scemae_jax.predict",
    "sweep": "scemae_jax.sweep",
    "compare": "scemae_jax.compare",
    "prepare": "scemae_jax.prepare",
    "convert": "scemae_jax.convert",
    "first_step": "scemae_jax.first_step",
    "paper": "scemae_jax.systems.sce_mae.paper",
}


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name not in PROGRAMS:
        what = f"unknown program {name!r}" if name else "no program named"
        sys.exit(f"scemae: {what}: choose one of {', '.join(PROGRAMS)}, as in scemae run --help")
    sys.argv[:2] = [f"scemae {name}"]
    runpy.run_module(PROGRAMS[name], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
