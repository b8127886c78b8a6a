"""A metric over tokens and device time, as it stands in the rows of a history."""

from __future__ import annotations

from typing import Any

import pytest

from manta.record.curve import read_curve


def training(tokens: int, speed: float | None, world: int, loss: float = 1.0) -> dict[str, Any]:
    row = {"step": tokens, "tokens": tokens, "loss": loss, "world_size": world}
    return row if speed is None else {**row, "tokens_per_s": speed}


def validation(tokens: int, value: float | None) -> dict[str, Any]:
    return {"step": tokens, "tokens": tokens, "val_loss": value}


def test_device_seconds_add_up_over_other_speeds_and_world_sizes() -> None:
    rows = [
        training(10, 5.0, 2),  # 2 s on two devices
        validation(10, 3.0),
        training(20, 10.0, 1),  # 1 s on one
        validation(20, 2.0),
    ]
    curve = read_curve(rows, "val_loss")
    assert curve.tokens == (10, 20)
    assert curve.values == (3.0, 2.0)
    assert curve.seconds == pytest.approx((4.0, 5.0))
    assert curve.device_seconds == pytest.approx(5.0)
    assert curve.seconds_at(15) == pytest.approx(4.5)
    assert curve.seconds_at(0) == 0.0
    assert curve.seconds_at(99) == pytest.approx(5.0)


def test_a_worker_with_several_devices_counts_them_all() -> None:
    curve = read_curve([training(10, 5.0, 2)], "loss", devices_per_worker=4)
    assert curve.device_seconds == pytest.approx(16.0)


def test_a_skipped_step_takes_the_time_of_the_one_before() -> None:
    rows = [training(10, 5.0, 2), training(20, None, 2), training(30, 0.0, 2)]
    assert read_curve(rows, "loss").trained_seconds == pytest.approx((4.0, 8.0, 12.0))


def test_an_evaluation_between_rows_is_timed_between_them() -> None:
    rows = [training(10, 5.0, 1), validation(15, 2.5), training(20, 5.0, 1)]
    curve = read_curve(rows, "val_loss")
    assert curve.seconds == pytest.approx((3.0,))
    assert curve.reached == 20


def test_without_a_speed_there_is_no_time() -> None:
    curve = read_curve([training(10, None, 2), validation(10, 3.0)], "val_loss")
    assert curve.seconds == ()
    assert curve.device_seconds is None
    assert curve.seconds_at(10) is None


def test_values_that_are_no_numbers_are_left_out() -> None:
    curve = read_curve([validation(10, None), validation(20, 2.0)], "val_loss")
    assert (curve.tokens, curve.values) == ((20,), (2.0,))
    assert read_curve([], "loss").reached == 0


def test_the_loss_of_steps_is_smoothed_over_two_hundredths_of_the_run() -> None:
    rows = [training(n, 1.0, 1, loss=float(n % 2)) for n in range(1, 101)]
    curve = read_curve(rows, "loss")
    assert curve.values[0] == 1.0
    assert set(curve.values[1:]) == {0.5}
