"""The console: what stands in the line, how it fits, and that files get plain text."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest

from manta.config.objective import ObjectiveSection
from manta.record import number_format
from manta.record.run_state import CheckpointState, Group, Results, RunState, WandbState
from manta.show.console.live_line import LiveLine
from manta.show.console.run_summary import loss_rows
from manta.show.console.terminal import PLAIN_SECONDS, RunConsole

ROW = {
    "step": 123_456,
    "tokens": 12_345_678_901,
    "loss": 3.41234,
    "lr": 3e-4,
    "tokens_per_s": 1_234_567.8,
    "world_size": 128,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make_state() -> RunState:
    group = Group(
        attempt=0,
        world_size=4,
        devices=4,
        step=0,
        tokens=0,
        last_step=0,
        last_tokens=0,
        started="2026-01-01T00:00:00+00:00",
    )
    return RunState(
        name="one",
        created="",
        updated="",
        manta_version="1",
        corpus="c",
        corpus_fingerprint="f" * 64,
        total_steps=1_000_000,
        total_tokens=100_000_000_000,
        groups=[group, group.model_copy(update={"world_size": 3})],
        checkpoint=CheckpointState(step=1, tokens=1, path="/long/path", seconds=1),
        wandb=WandbState(
            id="i",
            mode="offline",
            folder="/elsewhere/w/o",
            sync_command="wandb sync /elsewhere/w/o",
        ),
    )


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 200])
def test_the_line_fits(width: int, clock: Any) -> None:
    line = LiveLine(1_000_000, 100_000_000_000, clock)
    line.group_started(128, 0, 0)
    line.update(ROW)
    text = line.text(width)
    assert len(text) <= width
    if width >= 80:
        for part in ("123", "12.3B", "3.4123", "3.00e-04", "1.23M", "128", "–"):
            assert part in text


def test_the_time_left_follows_the_clock(clock: Any) -> None:
    line = LiveLine(100, 1000, clock)
    line.group_started(2, 0, 0)
    clock.now += 10
    line.update({"step": 10, "tokens": 100, "loss": 1.0})
    assert line.text(200).endswith("ETA 1:30")
    line.wait("waiting for workers")
    assert line.text(200).endswith("waiting for workers")
    line.group_started(1, 8, 80)
    clock.now += 20
    line.update({"step": 10, "tokens": 100, "loss": 1.0})
    assert line.text(200).endswith("ETA 15:00")


def test_a_file_gets_plain_lines_now_and_then(clock: Any) -> None:
    out = io.StringIO()
    console = RunConsole(make_state(), enabled=True, file=out, clock=clock)
    console.group_started(make_state())
    for step in range(100):
        clock.now += PLAIN_SECONDS / 20
        console.row({**ROW, "step": step})
    console.row({"step": 99, "tokens": 1000, "val_loss": 2.5})
    console.note("[bold]not markup[/bold]")
    console.summary(make_state(), "/elsewhere/one")
    text = out.getvalue()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", text)
    assert 4 <= text.count("tok/s") <= 8
    assert "val 2.5000" in text
    assert "[bold]not markup[/bold]" in text
    assert "wandb sync /elsewhere/w/o\n" in text
    assert "4 → 3 (1 restart)" in text
    assert all(line == line.rstrip() for line in text.splitlines())


def test_the_last_step_has_one_line_with_its_validation_loss(clock: Any) -> None:
    out = io.StringIO()
    console = RunConsole(make_state(), enabled=True, file=out, clock=clock)
    clock.now += 2 * PLAIN_SECONDS
    console.row({**ROW, "step": 1_000_000})
    console.row({"step": 1_000_000, "tokens": 1000, "val_loss": 2.5})
    console.summary(make_state(), "x")
    assert out.getvalue().count("step 1,000,000/") == 1
    assert "val 2.5000" in out.getvalue()


def test_the_head_says_what_is_trained_on_what(clock: Any) -> None:
    out = io.StringIO()
    state = make_state()
    head = ["1.02K tokens a step, 2 epochs over the corpus"]
    console = RunConsole(state, enabled=True, head=head, file=out, clock=clock)
    assert out.getvalue().splitlines()[2] == f"  {head[0]}"
    state.hardware["workers"] = {
        "device": "cpu",
        "threads": 1,
        "model": "llama",
        "parameters": 5_010_000,
        "trained_parameters": 5_010_000,
        "precision": "no",
    }
    console.group_started(state)
    console.group_started(state)
    said = "llama, 5.01M parameters, all trained; float32 on CPU, 1 thread a worker"
    assert out.getvalue().count(said) == 1
    state.hardware["workers"] |= {"gpu": "NVIDIA H100", "trained_parameters": 1000}
    console.group_started(state)
    assert (
        "5.01M parameters, 1.00K trained; float32 without TF32 on NVIDIA H100\n" in out.getvalue()
    )
    state.hardware["workers"] |= {"host_memory": 2**30 - 1}
    console.group_started(state)
    assert out.getvalue().count("NVIDIA H100") == 1, "what is little is not said"
    state.hardware["workers"] |= {"host_memory": 36e9}
    console.group_started(state)
    assert "; snapshots and checkpoints take up to 33.5 GiB of a node's memory\n" in out.getvalue()
    state.hardware["workers"] |= {"precision": "bf16", "param_dtype": "bf16"}
    console.group_started(state)
    assert "; bf16 weights with float32 masters on NVIDIA H100;" in out.getvalue()


def test_an_evaluation_shows_how_far_it_is(clock: Any) -> None:
    out = io.StringIO()
    console = RunConsole(make_state(), enabled=True, file=out, clock=clock)
    console.busy("loading", 0.0)
    console.group_started(make_state())
    clock.now += PLAIN_SECONDS
    console.busy("evaluating", 0.4)
    console.busy("evaluating", 0.5)
    console.busy("", 1.0)
    assert out.getvalue().splitlines()[2] == "starting workers: loading …"
    assert out.getvalue().count("evaluating 40%") == 1


def test_only_a_loss_of_tokens_has_a_perplexity() -> None:
    results = Results(loss=0.5, val_loss=0.6, best_val_loss=0.6, best_val_step=1)
    state = make_state().model_copy(update={"results": results})
    assert "Perplexity" in dict(loss_rows(state))
    of_pairs = ObjectiveSection(type="preference").loss_is
    assert "Perplexity" not in dict(loss_rows(state.model_copy(update={"loss_is": of_pairs})))


def test_the_terms_of_the_last_evaluation_are_beside_the_loss() -> None:
    state = make_state()
    state.take_results({"step": 1, "val_loss": 0.6, "val_term/accuracy": 0.5})
    values = {"cross_entropy": 0.4, "accuracy": 0.75, "f1": 0.7}
    row = {f"val_term/{name}": value for name, value in values.items()}
    state.take_results({"step": 2, "val_loss": 0.4, **row})
    found = dict(loss_rows(state))
    assert (found["Validation accuracy"], found["Validation f1"]) == ("0.7500", "0.7000")
    assert "Validation cross entropy" not in found  # it is the loss


def test_a_loss_as_perplexity() -> None:
    assert number_format.perplexity(0.0) == "1.00"
    assert number_format.perplexity(9.2131) == "10,027.63"
    assert number_format.perplexity(1e9).startswith("more than 3e+43")


def test_a_loss_in_bits_a_byte_is_that_of_any_tokenizer() -> None:
    """A model that knows nothing: all bytes alike, one a token, or all pairs of them."""
    assert number_format.bits_per_byte(math.log(256), 1.0) == pytest.approx(8)
    assert number_format.bits_per_byte(math.log(256**2), 0.5) == pytest.approx(8)
    state = make_state()
    assert state.bits_per_byte(3.0) is None  # an older corpus doesn't say its bytes


def test_the_last_row_is_shown(clock: Any) -> None:
    out = io.StringIO()
    console = RunConsole(make_state(), enabled=True, file=out, clock=clock)
    console.row(ROW)
    console.row({**ROW, "step": 777})
    assert "777" not in out.getvalue()
    console.summary(make_state(), "x")
    assert "step 777/" in out.getvalue()


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_gets_one_line_in_place(width: int, clock: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    out = Terminal()
    console = RunConsole(make_state(), enabled=True, file=out, width=width, clock=clock)
    console.group_started(make_state())
    for step in range(5):
        clock.now += 1
        console.row({**ROW, "step": step})
    before = out.getvalue()
    assert before.count("\n") == 3  # Two lines of the head, one note; the live line has none.
    console.summary(make_state(), "x")
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", before)
    assert all(len(frame) < width for frame in re.split(r"[\r\n]", shown))
    assert out.getvalue().rstrip().endswith("x/report.html\x1b[0m")


def test_a_broken_pipe_ends_the_showing_only(clock: Any) -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    console = RunConsole(make_state(), enabled=True, file=Broken(), clock=clock)
    console.row(ROW)
    console.note("x")
    console.summary(make_state(), "x")


def test_silence(capsys: pytest.CaptureFixture[str]) -> None:
    console = RunConsole(make_state(), enabled=False)
    console.row(ROW)
    console.note("x")
    console.summary(make_state(), "x")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00K"),
        (999_999, "1.00M"),
        (12_345, "12.3K"),
        (123_456, "123K"),
        (1.5e9, "1.50B"),
        (2e12, "2.00T"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert number_format.count(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (59.7, "1:00"), (3723, "1:02:03"), (90_000, "1d 01h")],
)
def test_durations(seconds: float, text: str) -> None:
    assert number_format.duration(seconds) == text
