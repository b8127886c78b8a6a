"""Bad steps: never applied, and skipped, stopped at or gone back before as the config says."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing as mp
from plain_runs import Fault, engine_of, loop_of, losses, streams_of, train

from manta.config.errors import ConfigError, DivergedError, TrainingError
from manta.config.load import load
from manta.config.run import GuardsSection, RunConfig
from manta.state.checkpoint_files import newest, read_state, whole
from manta.state.loading import load as load_checkpoint
from manta.state.skips import add_skip, is_void, read_skips
from manta.stream.ledger import Ledger
from manta.stream.plan import order_of
from manta.stream.verify_ledger import verify_ledger
from manta.train.guards import Guard, Rewind

STEP = 16 * 7
NAN, SPIKE = math.nan, 50.0
LONG = {
    "schedule.horizon": STEP * 24,
    "checkpoint": {"every": 3 * STEP, "keep": 3},
    "guards": {"spike": "skip", "window": 12},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As the ranks of `train` have: runs in this process are compared with theirs bitwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train_here(run, fault=None, attempt: int = 1, watch=None) -> list[dict[str, Any]]:
    """Train in this process; returns what was reported by now, even if it raises."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    engine = engine_of(run)
    if fault:
        fault(engine)
    if watch is not None:
        step = engine.step

        def watched(batch, **asked):
            state = engine.trained.optimizer.state_dict()["state"]
            watch[batch.step.number] = (
                [p.detach().clone() for p in engine.trained.lm.parameters()],
                [torch.as_tensor(v).clone() for s in state.values() for v in s.values()],
            )
            return step(batch, **asked)

        engine.step = watched
    loop_of(run, engine, run.run_dir / "rows.jsonl", attempt).run(streams_of(run))
    return reported(run)


def reported(run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.run_dir / "rows.jsonl").read_text().splitlines()]


def skipped(run) -> list[int]:
    """Skipped steps by the ledger, which must hold what it has to."""
    found = verify_ledger(
        Ledger(run.run_dir / "ledger.parquet"), run.schedule, order_of(run.corpus)
    )
    assert found.steps == run.schedule.steps
    return found.skipped


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def weights_at_end(run) -> list[torch.Tensor]:
    engine = engine_of(run)
    load_checkpoint(newest(run.run_dir / "checkpoints"), engine.trained)
    return [p.detach() for p in engine.trained.lm.parameters()]


@pytest.fixture(scope="module")
def undisturbed(checked_module):
    """A run with a spike at step 14, without any interruption."""
    run = checked_module({**LONG, "run.name": "undisturbed"})
    rows = train_here(run, Fault((14,), SPIKE))
    return run, rows


def test_a_skipped_step_changes_nothing(checked, caplog) -> None:
    run = checked({"guards.nonfinite": "skip"})
    before: dict[int, Any] = {}
    with caplog.at_level(logging.WARNING, "manta"):
        rows = train_here(run, Fault((5,), NAN), watch=before)
    assert same(before[5][0], before[6][0])
    assert same(before[5][1], before[6][1])  # AdamW's moments and step count
    assert not same(before[4][0], before[5][0])
    assert not same(before[6][0], before[7][0])
    assert skipped(run) == [5]
    row = next(row for row in rows if row.get("step") == 5)
    assert row["skipped"] is True
    assert not {"loss", "grad_norm"} & row.keys()
    assert not any("skipped" in row for row in rows if row.get("step") != 5)
    ids = ", ".join(map(str, order_of(run.corpus).ids(28, 35)))
    assert "step 5: loss or gradient is not finite; the update was not applied. " in caplog.text
    assert f"Positions 28 to 34, sample ids {ids}; going on without it" in caplog.text


def test_a_spike_is_skipped_and_only_it(undisturbed) -> None:
    run, rows = undisturbed
    assert skipped(run) == [14]
    found = losses(rows)
    assert len(found) == 24
    assert found[14] > 20 * found[13]
    state = read_state(newest(run.run_dir / "checkpoints"))
    assert state.skips == ((14, 14),)
    # What was dropped is no part of what later steps are measured against.
    applied = [found[step] for step in range(1, 25) if step != 14][-12:]
    assert [loss for loss, _ in state.window] == pytest.approx(applied)


@pytest.mark.parametrize("kill", [13, 14])
def test_killed_and_resumed_takes_the_same_decisions(checked, undisturbed, kill) -> None:
    run = checked({**LONG, "run.name": "killed"})
    fault = Fault((14,), SPIKE)
    train(run, die_after=kill, fault=fault)
    train_here(run, fault, attempt=2)
    assert losses(reported(run)) == losses(undisturbed[1])
    assert skipped(run) == [14]
    assert same(weights_at_end(run), weights_at_end(undisturbed[0]))
    ends = [read_state(newest(r.run_dir / "checkpoints")) for r in (run, undisturbed[0])]
    assert ends[0] == ends[1]


@pytest.mark.parametrize("changes", [{}, {"parallel.shard": True}], ids=["replicated", "sharded"])
def test_two_ranks_take_the_same_decisions(checked, undisturbed, changes) -> None:
    run = checked({**LONG, **changes, "run.name": "two"})
    rows = train(run, 2, fault=Fault((14,), SPIKE))
    assert skipped(run) == [14]
    one, two = losses(undisturbed[1]), losses(rows)
    assert one.keys() == two.keys()
    assert all(one[step] == pytest.approx(two[step], rel=1e-5) for step in one)


def test_stopping_at_a_spike_says_how_far_off_it_is(checked) -> None:
    run = checked({**LONG, "guards": {"spike": "stop", "window": 12}})
    with pytest.raises(TrainingError, match=r"step 14: .*spikes \(z-scores \d+\.\d and \d+") as e:
        train_here(run, Fault((14,), SPIKE))
    assert "guards.spike=skip" in str(e.value)
    assert read_state(newest(run.run_dir / "checkpoints")).step == 12
    # The way on that the message names.
    again = checked(LONG)
    train_here(again, Fault((14,), SPIKE), attempt=2)
    assert skipped(again) == [14]


def test_skipping_has_a_bound(checked) -> None:
    run = checked({"guards": {"nonfinite": "skip", "window": 8}})
    with pytest.raises(TrainingError, match=r"step 8: .*3 bad stretches .* last 8 steps"):
        train_here(run, Fault((2, 4, 5, 8), NAN))


def test_bad_steps_far_apart_are_no_bound(checked) -> None:
    run = checked({"guards": {"nonfinite": "skip", "window": 8}})
    train_here(run, Fault((1, 2, 4, 9, 11), NAN))
    assert skipped(run) == [1, 2, 4, 9, 11]


REWIND = {
    "checkpoint": {"every": 3 * STEP, "keep": 4},
    "guards": {"nonfinite": "rewind", "rewind": 1},
    "schedule.horizon": STEP * 14,
}
# Bad at step 9: back to 7, from the checkpoint of step 6; steps 8 and 9 are passed over.
BAD = Fault((9,), NAN)


def history(rows: list[dict[str, Any]]) -> dict[int, dict[str, Any]]:
    """Training rows by step, as the tracker keeps them."""
    kept: dict[int, dict[str, Any]] = {}
    for row in rows:
        if "rewound" in row:
            kept = {step: old for step, old in kept.items() if step <= row["rewound"]}
        elif "lr" in row:
            kept.setdefault(row["step"], row)
    return kept


def test_a_rewind_goes_back_and_passes_over_the_stretch(checked) -> None:
    run = checked(REWIND)
    with pytest.raises(Rewind) as caught:
        train_here(run, BAD)
    assert (caught.value.first, caught.value.last) == (8, 9)
    folder = run.run_dir / "checkpoints"
    assert [read_state(path).step for path in whole(folder)] == [3, 6]
    assert read_skips(run.run_dir) == ((8, 9),)
    first = len(reported(run))
    rows = train_here(run, BAD, attempt=2)
    assert rows[first] == {"rewound": 7}
    assert rows[first + 1]["resumed"] == 6
    assert skipped(run) == [8, 9]
    state = read_state(newest(folder))
    assert (state.step, state.skips) == (14, ((8, 9),))
    final = history(rows)
    assert sorted(final) == list(range(1, 15))
    assert [step for step, row in final.items() if row.get("skipped")] == [8, 9]
    # Taken up again, nothing is void any more.
    assert train_here(run, attempt=3)[-1]["resumed"] == 14


def test_two_ranks_go_back_together_and_to_the_same_run(checked) -> None:
    one, two = checked({**REWIND, "run.name": "one"}), checked({**REWIND, "run.name": "two"})
    with pytest.raises(Rewind):
        train_here(one, BAD)
    with pytest.raises(mp.ProcessRaisedException, match=r"Rewind: going back before step 8"):
        train(two, 2, fault=BAD)
    ends = [losses(train_here(one, BAD)), losses(train(two, 2, fault=BAD))]
    assert skipped(one) == skipped(two) == [8, 9]
    for step in (7, 10, 14):
        assert ends[0][step] == pytest.approx(ends[1][step], rel=1e-5)


def test_a_crash_amid_a_rewind_is_made_good(checked) -> None:
    """The file is there, the checkpoints behind it still are: they are void all the same."""
    run = checked({**REWIND, "guards": {"nonfinite": "stop"}})
    rows = train_here(run)
    reference = losses(rows)
    add_skip(run.run_dir, (8, 9))
    add_skip(run.run_dir, (8, 9))
    rows = train_here(run, attempt=2)
    assert [row["resumed"] for row in rows if "resumed" in row] == [0, 6]
    assert skipped(run) == [8, 9]
    assert {"rewound": 7} in rows
    assert [row["loss"] for row in rows if row.get("step") == 7] == [reference[7]] * 2


def test_without_an_older_checkpoint_the_oldest_good_one_is_taken(checked) -> None:
    run = checked({**REWIND, "checkpoint": {"every": STEP, "keep": 2}, "guards.rewind": 5})
    with pytest.raises(Rewind) as caught:
        train_here(run, BAD)
    # Those of steps 7 and 8 are all there is.
    assert (caught.value.first, caught.value.last) == (8, 9)
    none = checked({**REWIND, "run.name": "none", "checkpoint": {"keep": 1}})
    with pytest.raises(Rewind, match="going on from step 0"):
        train_here(none, BAD)
    train_here(none, BAD, attempt=2)
    assert skipped(none) == [8, 9]


def late_looks(run, fault) -> None:
    """Train as on an accelerator, where the host looks at log steps, saves and evaluations."""
    run.run_dir.mkdir(parents=True, exist_ok=True)
    engine = engine_of(run)
    fault(engine)
    loop = loop_of(run, engine, run.run_dir / "rows.jsonl")
    loop._looks_each_step = False
    loop.run(streams_of(run))


def test_bad_steps_that_are_noticed_late_are_skipped_all_the_same(checked) -> None:
    runs = [checked({**LONG, "run.name": name, "log.every": 5 * STEP}) for name in ("now", "late")]
    fault = Fault((13, 14), SPIKE)
    train_here(runs[0], fault)
    late_looks(runs[1], fault)
    assert skipped(runs[0]) == skipped(runs[1]) == [13, 14]
    assert same(*map(weights_at_end, runs))


def test_a_bad_step_that_is_noticed_late_is_gone_back_before(checked) -> None:
    run = checked({**REWIND, "log.every": 50 * STEP, "checkpoint": {"every": 5 * STEP}})
    with pytest.raises(Rewind) as caught:
        late_looks(run, BAD)  # noticed as step 10 is to be saved
    assert (caught.value.first, caught.value.last) == (8, 9)
    assert [read_state(path).step for path in whole(run.run_dir / "checkpoints")] == [5]
    train_here(run, BAD, attempt=2)
    assert skipped(run) == [8, 9]


def test_what_is_void() -> None:
    assert not is_void(7, (), ((8, 9),))
    assert is_void(8, (), ((8, 9),))
    assert is_void(12, ((8, 8),), ((8, 9),))
    assert not is_void(12, ((8, 9),), ((8, 9),))
    assert is_void(12, ((8, 9),), ((8, 9), (5, 13)))


def _guard(**keys: Any) -> Guard:
    return Guard(GuardsSection(spike="skip", **keys), torch.device("cpu"))


def _judge(guard: Guard, step: int, loss: float, norm: float) -> bool:
    return bool(guard.observe(step, torch.tensor([loss, norm], dtype=torch.float64)))


def test_the_guard_looks_upwards_and_needs_values_first() -> None:
    guard = _guard(window=20)
    for step in range(1, 11):  # ten of twenty
        wild = 1000.0 if step == 9 else 0.0
        assert not _judge(guard, step, 4 + 0.01 * (step % 3) + wild, 1.0 + 0.02 * (step % 5))
    assert not _judge(guard, 11, 4.0, 1e-9)
    assert not _judge(guard, 11, -100.0, 1.0)
    assert not _judge(guard, 12, 4.0, 4.0)  # clipping's business
    assert _judge(guard, 13, 4.0, 8.0)
    assert _judge(guard, 14, 5.0, 1.0)
    assert not _judge(guard, 15, 4.01, 1.0)
    assert [(v.step, v.kind, v.action) for v in guard.judgements().verdicts()] == [
        (13, "spike", "skip"),
        (14, "spike", "skip"),
    ]
    assert guard.judgements().verdicts() == []


def test_the_window_survives_json_to_the_last_bit() -> None:
    random = torch.Generator().manual_seed(0)
    values = torch.rand(40, 2, dtype=torch.float64, generator=random)
    values[30, 0] = 9.0
    for cut in (3, 15, 29, 31):
        whole, parts = _guard(window=16), _guard(window=16)
        for step in range(40):
            if step == cut:
                saved = json.loads(json.dumps(parts.window))
                parts = _guard(window=16)
                parts.restore(tuple(tuple(pair) for pair in saved))
            assert torch.equal(whole.observe(step, values[step]), parts.observe(step, values[step]))
        assert whole.window == parts.window
        assert len(whole.window) == 16


def test_after_a_step_that_is_not_just_skipped_every_update_is_dropped() -> None:
    guard = Guard(GuardsSection(), torch.device("cpu"))
    assert not _judge(guard, 1, 1.0, 1.0)
    assert _judge(guard, 2, 1.0, NAN)
    assert _judge(guard, 3, 1.0, 1.0)
    assert [v.step for v in guard.judgements().verdicts()] == [2]


def test_keys_that_do_not_go_together(tmp_path: Path) -> None:
    base = {
        "run": {"name": "a"},
        "corpus": "c",
        "model": {"type": "gpt2"},
        "schedule": {"horizon": 100, "lr": 0.1, "batch": 1},
    }
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(base))
    assert load(path, RunConfig, ["guards.spike=off"]).guards.spike == "off"
    with pytest.raises(ConfigError, match=r"guards\.spike can't be used with train\.precision"):
        load(path, RunConfig, ["guards.spike=stop", "train.precision=fp16"])


def test_an_fp16_run_whose_loss_stays_nan_stops(checked) -> None:
    """Its scaler drops each bad update and goes on with half the scale, for ever."""

    def scaled(engine) -> None:
        Fault(tuple(range(4, 25)), NAN)(engine)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        engine.trained = replace(engine.trained, scaler=scaler)
        engine._passes = replace(engine._passes, scaler=scaler)
        engine._sums = engine._sums_by_rank()

    run = checked({**LONG, "guards": {}})
    with pytest.raises(
        DivergedError, match=r"^step 6: the loss scale.*set train\.precision to bf16"
    ):
        train_here(run, scaled)
    assert read_state(newest(run.run_dir / "checkpoints")).step == 3
