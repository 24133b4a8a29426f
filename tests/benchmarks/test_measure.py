import time

import pytest

from benchmarks.measure import Contender, calls_per_second, measure


def test_contenders_take_turns_and_are_compared_with_the_first():
    log = []

    def contender(name, seconds):
        def run(count):
            log.append(name)
            time.sleep(count * seconds)

        return Contender(name=name, images=2, run=run)

    rows = measure([contender("slow", 0.02), contender("fast", 0.01)], repeats=3, seconds=0.0)
    assert log == ["slow", "fast"] * 4  # once before
    assert [row["name"] for row in rows] == ["slow", "fast"]
    assert rows[0]["relative"] == 1
    assert rows[1]["relative"] > 1
    assert rows[0]["min"] <= rows[0]["images/s"] <= rows[0]["max"] <= 100


def test_calls_go_on_until_the_time_has_passed():
    calls = []

    def run(count):
        calls.append(count)
        time.sleep(0.01 * count)

    start = time.perf_counter()
    speed = calls_per_second(run, 0.2)
    took = time.perf_counter() - start
    assert took >= 0.2
    assert speed == pytest.approx(sum(calls) / took, rel=0.05)
    assert calls[0] == 1
    assert len(calls) < 10  # few waits
