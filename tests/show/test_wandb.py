"""The real W&B client: offline, online on a server of this machine, and with none at all."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from manta.config import ConfigError, RunConfig
from manta.config.metrics import in_wandb
from manta.corpus.manifest import Counts, Manifest
from manta.record.alert_record import AlertCause
from manta.record.run_state import GroupStart, read_state
from manta.show.console.run_summary import summary_rows, wandb_text
from manta.show.tracker import Tracker
from manta.show.wandb.run_facts import numbers
from manta.show.wandb.uploader import MODES, START

WANDB = Path(sys.executable).with_name("wandb")
LONG = 300.0

Open = Callable[..., Tracker]
Row = Callable[[int], dict[str, Any]]


@pytest.fixture
def open_tracker(make_config: Callable[..., RunConfig], manifest: Manifest) -> Open:
    def open_(mode: str = "auto", console: bool = False, **sections: Any) -> Tracker:
        config = make_config(wandb={"mode": mode, "project": "p", "tags": ["t"]}, **sections)
        return Tracker.open(config, manifest, total_steps=40, total_tokens=400, console=console)

    return open_


def train(tracker: Tracker, row: Row, begin: int, end: int) -> None:
    tracker.group_started(
        GroupStart(world_size=2, attempt=0, step=begin - 1, tokens=begin * 10 - 10, hardware={})
    )
    for step in range(begin, end + 1):
        tracker.metrics(row(step))
        if step % 10 == 0:
            tracker.metrics({"step": step, "tokens": step * 10, "val_loss": 6.0 / step})


def state_of(tracker: Tracker) -> dict[str, Any]:
    return dict(json.loads((tracker.run_dir / "run.json").read_text()))


def inspect(folder: Path, *options: str) -> str:
    command = [str(WANDB), "leet", "inspect", *options, "--json", str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def history(folder: Path) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in inspect(folder).splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    return [{k: v for k, v in row.items() if not k.startswith("_")} for row in rows]


NAMES = {
    "tokens": "tokens",
    "loss": "train/loss",
    "lr": "optim/lr",
    "batch_size": "optim/batch_size",
    "grad_norm": "optim/grad_norm",
    "tokens_per_s": "perf/tokens_per_s",
    "world_size": "perf/workers",
    "epoch": "train/epoch",
}


def expected(row: Row, steps: range) -> list[dict[str, Any]]:
    """The rows as W&B has them: both kinds of a step in one."""
    rows = []
    for step in steps:
        merged = {NAMES[k]: v for k, v in row(step).items() if k != "step"}
        rows.append({**merged, **({"val/loss": 6.0 / step} if step % 10 == 0 else {})})
    return rows


def test_disabled_leaves_nothing(open_tracker: Open, training_row: Row) -> None:
    tracker = open_tracker("disabled")
    train(tracker, training_row, 1, 3)
    tracker.finish("finished")
    assert state_of(tracker)["wandb"]["mode"] == "disabled"
    assert not (tracker.run_dir / "wandb").exists()


def test_without_a_key_auto_is_offline_and_asks_nothing(
    open_tracker: Open, training_row: Row, manifest: Manifest, capfd: pytest.CaptureFixture[str]
) -> None:
    tracker = open_tracker("auto", cost={"per_device_hour": 1.0})
    train(tracker, training_row, 1, 12)
    tracker.finish("finished", final={"start_seconds": 1.5})

    known = state_of(tracker)["wandb"]
    folder = Path(known["folder"])
    assert known["mode"] == "offline"
    assert known["sync_command"] == f"wandb sync {folder}"
    assert folder.is_relative_to(tracker.run_dir)
    assert history(folder) == expected(training_row, range(1, 13))
    summary = json.loads(inspect(folder, "--summary"))
    assert summary["run_id"] == known["id"]
    assert summary["name"] == "one"
    assert summary["state"] == "finished"
    assert summary["config"]["corpus_fingerprint"] == manifest.fingerprint
    assert summary["config"]["optimizer"]["weight_decay"] == 0.1
    assert summary["summary"]["status"] == "finished"
    assert summary["summary"]["start_seconds"] == 1.5
    assert "project" in summary
    assert capfd.readouterr() == ("", "")


def test_what_evaluators_found_is_drawn_over_the_tokens_that_it_is_of(
    open_tracker: Open, training_row: Row
) -> None:
    """It comes when training is further, and W&B's steps can't go back."""
    tracker = open_tracker("auto")
    train(tracker, training_row, 1, 7)
    found = {"step": 3, "tokens": 30, "evaluation": "quality", "answers/success": 0.5}
    tracker.evaluated([found])
    train(tracker, training_row, 8, 9)
    tracker.finish("finished")
    rows = history(Path(state_of(tracker)["wandb"]["folder"]))
    assert [row["tokens"] for row in rows] == [10 * step for step in range(1, 10)]
    evaluated = [row for row in rows if "eval/answers/success" in row]
    (row,) = evaluated
    assert row["eval/answers/success"] == 0.5
    assert (row["eval/tokens"], row["eval/step"], row["tokens"]) == (30, 3, 70)
    kept = [
        json.loads(line) for line in (tracker.run_dir / "metrics.jsonl").read_text().splitlines()
    ]
    assert [row for row in kept if "evaluation" in row] == [found]


def test_bits_per_byte_where_the_bytes_of_the_text_are_known(
    make_config: Callable[..., RunConfig], manifest: Manifest, training_row: Row
) -> None:
    """On the console, in the report and in W&B, all from what run.json says."""
    counts = {
        "a": Counts(documents=1, tokens=60, bytes=140),
        "b": Counts(documents=1, tokens=40, bytes=260),
    }
    known = manifest.model_copy(update={"counts": {"validation": counts}})
    config = make_config(wandb={"mode": "offline"})
    tracker = Tracker.open(config, known, total_steps=40, total_tokens=400, console=False)
    train(tracker, training_row, 1, 10)
    tracker.finish("finished")
    state = read_state(tracker.run_dir)
    bits = 0.6 / math.log(2) * 100 / 400
    assert state.bits_per_byte(0.6) == pytest.approx(bits)
    assert ("Bits per byte", f"{bits:.4f}") in summary_rows(state, "")
    assert f"{bits:.4f} bits per byte" in (tracker.run_dir / "report.html").read_text()
    *_, last = history(Path(state.wandb.folder or ""))
    assert last["val/bits_per_byte"] == pytest.approx(bits)


def test_what_uploads_a_run_can_be_pasted_into_a_shell(
    open_tracker: Open, training_row: Row, tmp_path: Path
) -> None:
    """Also where a folder has a space in its name; also in the summary."""
    folder = tmp_path / "my runs"
    tracker = open_tracker("auto", run={"name": "one", "storage": str(folder)})
    train(tracker, training_row, 1, 3)
    tracker.finish("finished")
    state = read_state(tracker.run_dir)
    for command in (state.wandb.sync_command, wandb_text(state).partition("upload with: ")[2]):
        *_, place = shlex.split(command)
        assert Path(place) == Path(state.wandb.folder)


def test_a_mode_that_wandb_does_not_know_is_refused(
    open_tracker: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "foo")
    with pytest.raises(ConfigError, match="WANDB_MODE = 'foo' in the environment: W&B knows onl"):
        open_tracker("auto")
    open_tracker("disabled").finish("finished")


def test_those_are_the_modes_that_wandb_knows() -> None:
    from wandb.sdk.wandb_settings import Settings

    assert get_args(Settings.model_fields["mode"].annotation) == MODES


def test_why_wandb_was_given_up_is_in_the_summary(
    open_tracker: Open, training_row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a line, and not in the words of the library that checks its settings."""
    monkeypatch.setenv("WANDB_BASE_URL", "foo")
    tracker = open_tracker("auto")
    train(tracker, training_row, 1, 3)
    tracker.finish("finished")
    state = read_state(tracker.run_dir)
    assert state.wandb.mode == "failed"
    assert wandb_text(state).startswith("failed: W&B was given up ('base_url': ")
    assert "\n" not in wandb_text(state)


def test_online_without_a_key_is_refused_before_anything_is_made(
    open_tracker: Open, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"wandb\.mode = 'online'.*WANDB_API_KEY"):
        open_tracker("online")
    assert not (tmp_path / "runs").exists()
    assert "WANDB_SERVICE" not in os.environ


def test_online_run_and_the_same_run_again(
    open_tracker: Open,
    training_row: Row,
    manifest: Manifest,
    wandb_server: Any,
    api_key: str,
) -> None:
    first = open_tracker()
    train(first, training_row, 1, 15)
    first.finish("interrupted")
    name = state_of(first)["wandb"]["id"]
    assert state_of(first)["wandb"]["mode"] == "online"
    assert state_of(first)["wandb"]["url"].startswith(wandb_server.url)
    assert wandb_server.ended[name] == 1

    again = open_tracker()
    train(again, training_row, 11, 25)  # Steps 11 to 15 are trained a second time.
    again.finish("finished", final={"note": "x"})
    assert state_of(again)["wandb"]["id"] == name
    assert wandb_server.opened == [name, name]
    rows = wandb_server.history(name)
    assert [row.pop("_step") for row in rows] == list(range(1, 26))
    assert rows == expected(training_row, range(1, 26))
    config = wandb_server.config(name)
    assert config["corpus_fingerprint"] == manifest.fingerprint
    assert config["schedule"]["horizon"] == "1K"
    assert config["numbers"]["horizon_tokens"] == 1000
    assert "faults" not in config, "a hook for tests is nobody's setting"
    run = wandb_server.runs[name]
    assert (run["displayName"], run["jobType"], run["tags"]) == ("one", "train", ["t", "gpt2"])
    summary = wandb_server.summary(name)
    assert summary["status"] == "finished"
    assert summary["totals"]["tokens"] == 250
    assert summary["best_val_loss"] == 0.3
    assert summary["val/loss"] == {"min": 0.3, "last": 0.3}
    assert summary["note"] == "x"
    assert wandb_server.ended[name] == 0
    assert wandb_server.keys != {""}
    for path in again.run_dir.rglob("*"):
        assert not path.is_file() or api_key.encode() not in path.read_bytes(), path


def test_a_key_in_netrc_is_found_and_the_link_is_shown(
    open_tracker: Open,
    training_row: Row,
    wandb_server: Any,
    api_key: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    host = wandb_server.url.removeprefix("http://")
    netrc = Path(os.environ["NETRC"])
    netrc.write_text(f"machine {host}\n  login user\n  password {api_key}\n")
    netrc.chmod(0o600)
    tracker = open_tracker(console=True)
    train(tracker, training_row, 1, 3)
    tracker.finish("finished")
    known = state_of(tracker)["wandb"]
    assert known["mode"] == "online"
    assert f"W&B: {known['url']}\n" in capsys.readouterr().out, "for those who read a job's log"
    assert len(wandb_server.history(known["id"])) == 3


def test_the_ledger_digest_is_in_the_summary(
    open_tracker: Open, training_row: Row, wandb_server: Any
) -> None:
    from manta.stream.ledger import Ledger, LedgerRow

    tracker = open_tracker()
    train(tracker, training_row, 1, 2)
    ledger = Ledger(tracker.run_dir / "ledger.parquet")
    row = {"first_position": 0, "last_position": 0, "tokens": 10, "world_size": 1, "attempt": 0}
    ledger.append([LedgerRow(step=1, digest=7, **row)])
    tracker.finish("finished")
    digest = state_of(tracker)["ledger_digest"]
    assert digest == ledger.digest()
    name = state_of(tracker)["wandb"]["id"]
    assert wandb_server.summary(name)["ledger_digest"] == digest


def test_alerts_are_sent_once_where_people_can_be_reached(
    open_tracker: Open, training_row: Row, wandb_server: Any
) -> None:
    first = open_tracker(alerts={"command": ["true", "secret-address"]})
    train(first, training_row, 1, 3)
    spikes = [AlertCause("bad_step", f"step {step}") for step in (2, 3)]
    for about in spikes:
        first.alert(about, f"{about.cause}: a spike")
    first.finish("interrupted")
    again = open_tracker()
    train(again, training_row, 4, 6)
    again.alert(spikes[0], "step 2: a spike")
    again.alert(AlertCause("failed", "no memory"), "no memory")
    again.finish("failed")
    name = state_of(again)["wandb"]["id"]
    assert wandb_server.alerts[name] == [
        ("bad_step: one", "step 2: a spike", "WARN"),
        ("bad_step: one", "step 3: a spike", "WARN"),
        ("failed: one", "no memory", "ERROR"),
    ]
    assert "alerts" not in wandb_server.config(name), "a command may have a secret address"
    silent = open_tracker(alerts={"wandb": False})
    silent.alert(AlertCause("stall", "after step 6"), "no new step")
    silent.finish("finished")
    assert len(wandb_server.alerts[name]) == 3


def closed_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_an_unreachable_server_is_said_once_and_the_run_can_be_uploaded_later(
    open_tracker: Open,
    training_row: Row,
    wandb_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", closed_port())
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "2")
    tracker = open_tracker()
    begin = time.monotonic()
    train(tracker, training_row, 1, 30)
    # The client is still trying: training did not wait for it.
    assert state_of(tracker)["wandb"]["mode"] == "starting"
    trained = time.monotonic() - begin
    tracker.finish("finished")
    assert trained < time.monotonic() - begin

    state = state_of(tracker)
    assert state["status"] == "finished"
    assert state["wandb"]["mode"] == "offline"
    said = [e["message"] for e in state["events"] if "W&B" in e["message"]]
    assert len(said) == 1
    assert f"wandb sync {state['wandb']['folder']}" in said[0]
    assert history(Path(state["wandb"]["folder"])) == expected(training_row, range(1, 31))

    monkeypatch.setenv("WANDB_BASE_URL", wandb_server.url)
    command = [str(WANDB), "sync", state["wandb"]["folder"]]
    subprocess.run(command, check=True, capture_output=True, timeout=LONG)
    assert len(wandb_server.history(state["wandb"]["id"])) == 30

    # The run goes on, still offline: what was uploaded before comes again, and none of it twice.
    tracker = open_tracker("offline")
    train(tracker, training_row, 28, 40)
    tracker.finish("finished")
    command[-1] = state_of(tracker)["wandb"]["folder"]
    subprocess.run(command, check=True, capture_output=True, timeout=LONG)
    sent = wandb_server.history(state["wandb"]["id"])
    assert [row["_step"] for row in sent] == list(range(1, 41))
    assert wandb_server.summary(state["wandb"]["id"])["restarts"] == 1


def test_a_connection_lost_on_the_way(
    open_tracker: Open, training_row: Row, wandb_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "2")
    tracker = open_tracker()
    train(tracker, training_row, 1, 10)
    wait_until(lambda: bool(wandb_server.opened))
    wandb_server.close()
    train(tracker, training_row, 11, 20)
    tracker.finish("finished")
    state = state_of(tracker)
    assert state["wandb"]["mode"] == "offline"
    assert history(Path(state["wandb"]["folder"])) == expected(training_row, range(1, 21))


def test_a_client_that_hangs_is_given_up(open_tracker: Open, training_row: Row) -> None:
    tracker = open_tracker("offline")
    train(tracker, training_row, 1, 3)
    client = tracker._wandb._process
    assert client is not None
    os.killpg(client.pid, signal.SIGSTOP)
    tracker._wandb.finish({}, exit_code=0, limit=0.5)
    tracker.finish("finished")
    state = state_of(tracker)
    assert state["status"] == "finished"
    assert state["wandb"]["mode"] == "failed"
    said = [e["message"] for e in state["events"] if "W&B" in e["message"]]
    assert len(said) == 1
    assert "give the same command again" in said[0]


def test_a_client_that_dies_is_given_up(open_tracker: Open, training_row: Row) -> None:
    tracker = open_tracker("offline")
    train(tracker, training_row, 1, 3)
    client = tracker._wandb._process
    assert client is not None
    os.killpg(client.pid, signal.SIGKILL)
    tracker.finish("finished")
    state = state_of(tracker)
    assert (state["status"], state["wandb"]["mode"]) == ("finished", "failed")
    (said,) = [e["message"] for e in state["events"] if "W&B" in e["message"]]
    assert "its client ended" in said


def test_a_signal_to_all_below_the_driver_spares_the_client(
    open_tracker: Open, training_row: Row
) -> None:
    """As Ray does to a job that is stopped."""
    import psutil

    tracker = open_tracker("offline")
    train(tracker, training_row, 1, 3)
    wait_until(lambda: bool(list(tracker.run_dir.glob("wandb/offline-run-*/*.wandb"))))
    command = next(part for part in START.split() if part.startswith("manta"))
    below = psutil.Process().children(recursive=True)
    # One that has ended and that nobody has waited for has no command line any more.
    known = [p.as_dict(["name", "cmdline"]) for p in below if p.is_running()]
    assert not [process for process in known if command in " ".join(process["cmdline"] or ())]
    assert not [process for process in known if "wandb" in (process["name"] or "")]
    train(tracker, training_row, 4, 6)
    tracker.finish("finished")
    folder = Path(state_of(tracker)["wandb"]["folder"])
    assert history(folder) == expected(training_row, range(1, 7))


DRIVER = """
import sys
from manta.config import RunConfig
from manta.corpus.manifest import Counts, Manifest
from manta.record.run_state import GroupStart
from manta.show.tracker import Tracker
config = RunConfig.model_validate_json(sys.argv[1])
manifest = Manifest.model_validate_json(sys.argv[2])
tracker = Tracker.open(config, manifest, total_steps=40, total_tokens=400, console=False)
tracker.group_started(GroupStart(2, attempt=0, step=0, tokens=0, hardware={}))
for line in sys.stdin:
    tracker.metrics(eval(line))
    print("taken", flush=True)
"""


def test_a_killed_driver_loses_no_row(
    open_tracker: Open,
    training_row: Row,
    make_config: Callable[..., RunConfig],
    manifest: Manifest,
) -> None:
    config = make_config(wandb={"mode": "offline", "project": "p", "tags": ["t"]})
    driver = subprocess.Popen(
        [sys.executable, "-P", "-c", DRIVER, config.model_dump_json(), manifest.model_dump_json()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None
    assert driver.stdout is not None
    for step in range(1, 16):
        print(training_row(step), file=driver.stdin, flush=True)
        assert driver.stdout.readline() == "taken\n"
    run_dir = Path(config.run.storage) / "one"
    wait_until(lambda: bool(list(run_dir.glob("wandb/offline-run-*/*.wandb"))))
    driver.kill()
    driver.communicate()
    wait_until(lambda: free(run_dir / ".wandb.lock"))
    (folder,) = run_dir.glob("wandb/offline-run-*")
    assert [row["tokens"] for row in history(folder)] == [step * 10 for step in range(1, 16)]
    assert json.loads(inspect(folder, "--summary"))["summary"]["status"] == "interrupted"

    tracker = open_tracker("offline")
    # The last checkpoint was at step 12 and carries its rows.
    tracker.backfill([training_row(step) for step in range(5, 13)])
    train(tracker, training_row, 13, 25)
    tracker.finish("finished")
    steps = [json.loads(line)["step"] for line in (run_dir / "metrics.jsonl").open()]
    assert sorted(set(steps)) == list(range(1, 26))
    (folder,) = run_dir.glob("wandb/offline-run-*")
    assert [row["tokens"] for row in history(folder)] == [step * 10 for step in range(1, 26)]
    state = state_of(tracker)
    assert state["totals"]["tokens"] == 250
    assert state["drivers"] == 2


def free(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait for another process to have done its part, for a generous time."""
    deadline = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_run_that_went_back_spoils_nothing(
    open_tracker: Open, training_row: Row, wandb_server: Any
) -> None:
    """W&B keeps what it was told of the void steps and takes the ones after them."""
    tracker = open_tracker()
    train(tracker, training_row, 1, 6)
    deadline = time.monotonic() + LONG
    while tracker._wandb.status.mode != "online" and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1.5)  # until the client has looked at the file once more
    tracker.rewound(3)
    for step in range(4, 10):
        tracker.metrics({**training_row(step), "loss": 9.0})
    tracker.finish("finished")
    state = state_of(tracker)
    assert state["wandb"]["mode"] == "online"
    sent = wandb_server.history(state["wandb"]["id"])
    assert [row["_step"] for row in sent] == list(range(1, 10))
    assert [row["train/loss"] for row in sent[6:]] == [9.0] * 3


def test_the_machines_load_and_the_log_are_sent_where_they_are_asked_for(
    make_config: Callable[..., RunConfig],
    manifest: Manifest,
    training_row: Row,
    wandb_server: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def events(id: str) -> str:
        return "".join(wandb_server._content(id, "wandb-events.jsonl"))

    monkeypatch.setenv("WANDB__STATS_SAMPLING_INTERVAL", "0.1")
    for name, asked in (("plain", False), ("open", True)):
        wandb = {"mode": "auto", "system": asked, "console": asked}
        config = make_config(run={"name": name}, wandb=wandb)
        tracker = Tracker.open(config, manifest, total_steps=9, total_tokens=90, console=False)
        train(tracker, training_row, 1, 3)
        tracker.note("a worker was lost")
        id = state_of(tracker)["wandb"]["id"]
        if asked:
            wait_until(lambda id=id: "system." in events(id))  # type: ignore[misc]
        tracker.finish("finished")
        log = "".join(wandb_server._content(id, "output.log"))
        assert log.count("a worker was lost") == asked
        assert ("step 3, 30 tokens loss 1.6667" in log) == asked
        load = events(id)
        assert ("system." in load) == asked
        assert socket.gethostname() not in log + load


def test_what_is_written_as_text_is_there_as_numbers(make_config: Callable[..., RunConfig]) -> None:
    lr = {"name": "wsd", "peak": 1e-3, "warmup": "5%", "decay": 200}
    batch = {"name": "ramp", "from": 4, "to": 8, "over": "50%"}
    schedule = {"horizon": "1K", "lr": lr, "batch": batch}
    found = numbers(make_config(schedule=schedule, eval={"every": "2K"}))
    assert found["horizon_tokens"] == 1000
    assert (found["lr_warmup_tokens"], found["lr_warmup_share"]) == (50, 0.05)
    assert (found["lr_decay_tokens"], found["lr_decay_share"]) == (200, 0.2)
    assert found["lr_peak"] == 1e-3
    assert (found["batch_from"], found["batch_to"], found["batch_over_tokens"]) == (4, 8, 500)
    assert found["eval_every_tokens"] == 2000
    assert all(isinstance(value, int | float) for value in found.values())
    assert numbers(make_config())["lr"] == 0.1


def test_each_metric_has_a_section_in_w_and_b() -> None:
    assert in_wandb("val_loss/code") == "val/loss/code"
    assert in_wandb("time_data") == "perf/wait_data_s"
    assert in_wandb("a_term_of_an_objective") == "train/a_term_of_an_objective"


def test_the_best_value_stays_the_best_after_a_restart(
    open_tracker: Open, training_row: Row, wandb_server: Any
) -> None:
    for step, value in ((10, 0.1), (20, 0.5)):
        tracker = open_tracker()
        train(tracker, training_row, step - 5, step - 1)
        tracker.metrics({"step": step, "tokens": step * 10, "val_loss": value})
        tracker.finish("interrupted" if step == 10 else "finished")
    summary = wandb_server.summary(state_of(tracker)["wandb"]["id"])
    assert summary["val/loss"] == {"min": 0.1, "last": 0.5}
