import pytest

from benchmarks.chips import Peak, stated_peak
from benchmarks.measure import Contender, alternate, measure, summary


class Machine:
    """A clock that only work moves on, and a log of what ran."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def contender(self, name, images, seconds):
        def run(count):
            self.log.append(name)
            self.now += count * seconds

        return Contender(name=name, images=images, run=run)


def test_contenders_take_turns():
    machine = Machine()
    contenders = [machine.contender(name, 2, 0.25) for name in ("a", "b", "c")]
    speeds = alternate(contenders, repeats=3, seconds=1.0, clock=lambda: machine.now)
    assert machine.log[-9:] == ["a", "b", "c"] * 3
    assert speeds == [[8.0] * 3] * 3


def test_a_block_goes_on_until_its_time_has_passed():
    """On a machine that becomes faster after the first look at it."""
    machine, started = Machine(), []
    durations = iter([0.5, 0.5] + [0.1] * 30)

    def run(count):
        started.append(machine.now)
        machine.now += count * next(durations)

    contender = Contender(name="a", images=1, run=run)
    (speeds,) = alternate([contender], repeats=1, seconds=1.0, clock=lambda: machine.now)
    assert speeds == pytest.approx([10.0])
    assert machine.now - started[2] >= 1.0  # the first two calls were looks


def test_summary():
    found = summary([4.0, 1.0, 3.0, 2.0, 10.0])
    assert (found["median"], found["iqr"], found["min"], found["max"]) == (3.0, 2.0, 1.0, 10.0)
    assert found["values"] == [4.0, 1.0, 3.0, 2.0, 10.0]


def test_utilisation_is_of_all_devices():
    machine = Machine()

    def run(count):
        machine.now += count

    contender = Contender(name="a", images=4, run=run, flops=5.0, devices=2, about={"note": 1})
    rows = measure([contender], repeats=2, seconds=0.0, peak=Peak(1e6, "stated"))
    speed = rows[0]["images_per_second"]["median"]
    assert rows[0]["utilisation"] == pytest.approx(speed * 5.0 / 2e6)
    assert rows[0]["milliseconds_per_call"] == pytest.approx(4000 / speed)
    assert rows[0]["note"] == 1


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA L4", 121),
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5e", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA L40", None),
        ("cpu", None),
    ],
)
def test_peaks_by_the_device_s_name(kind, tera):
    peak = stated_peak(kind)
    assert (peak.flops / 1e12 if peak else None) == tera
