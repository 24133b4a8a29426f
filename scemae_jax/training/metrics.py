"""Metrics of training: averaged on the device, written to metrics.jsonl and TensorBoard."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Self

import jax.numpy as jnp
from clu import metrics
from flax import struct
from jaxtyping import Array, Float, Int

NEVER = jnp.iinfo(jnp.int32).max


@struct.dataclass
class FirstNonFinite(metrics.Metric):
    """The first step whose loss or gradient was not finite; `NEVER` if all were."""

    step: Int[Array, ""]

    @classmethod
    def from_model_output(cls, step: Int[Array, ""], finite: Float[Array, ""], **_) -> Self:
        return cls(jnp.where(finite, NEVER, step))

    @classmethod
    def empty(cls) -> Self:
        return cls(jnp.asarray(NEVER, jnp.int32))  # with a weak type the step would compile twice

    def merge(self, other: Self) -> Self:  # pyright: ignore[reportIncompatibleMethodOverride] - clu's is of any Metric
        return type(self)(jnp.minimum(self.step, other.step))

    def compute(self) -> Int[Array, ""]:
        return self.step


@functools.cache
def collection(names: tuple[str, ...]) -> type[metrics.Collection]:
    """A collection that averages the named outputs and watches for the first non-finite step."""
    averages = {name: metrics.Average.from_output(name) for name in names}
    return metrics.Collection.create(first_nonfinite=FirstNonFinite, **averages)


class MetricsWriter:
    """Appends to `<workdir>/metrics.jsonl`, one object a line, and to `<workdir>/tensorboard/<stage>`."""

    def __init__(self, workdir: Path, stage: str, *, resumed_at: int = 0):
        """Drops rows of this stage after step `resumed_at`, which a run that was cut off wrote."""
        self._stage = stage
        self._path = workdir / "metrics.jsonl"
        rows = [row for row in read_metrics(workdir) if row["stage"] != stage or row["step"] <= resumed_at]
        partial = self._path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for row in rows))
        partial.replace(self._path)
        from tensorboardX import SummaryWriter  # slow: where PyTorch is installed it imports that

        self._events = SummaryWriter(str(workdir / "tensorboard" / stage), purge_step=resumed_at + 1)

    def write(self, step: int, values: dict[str, float]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps({"stage": self._stage, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._events.add_scalar(name, value, step)

    def close(self) -> None:
        self._events.close()


def read_metrics(workdir: Path) -> list[dict]:
    """The rows of metrics.jsonl, without a last line that is incomplete."""
    path = workdir / "metrics.jsonl"
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
