"""Configs on the command line: printed whole, refused in one clean message, and at once."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from written_configs import CORPUS, RUN, SEGMENTS

from manta import cli
from manta.config import CorpusConfig, RunConfig, load

ROOT = Path(__file__).parents[2]


@pytest.fixture
def manta(monkeypatch, capsys):
    """Runs the command line in this process: exit status, stdout, stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["manta", *map(str, arguments)])
        status = 0
        try:
            cli.main()
        except SystemExit as left:
            status = left.code
        out, err = capsys.readouterr()
        return status, out, err

    yield command
    signal.signal(signal.SIGTERM, before)


def test_printed_run_config_loads_equal(write, manta, loaded):
    path = write(SEGMENTS)
    status, out, err = manta("train", path, "train.seq_len=64", "--print-config")
    assert (status, err) == (0, "")
    printed = load(write(out, "printed.yaml"), RunConfig)
    written = load(path, RunConfig, ["train.seq_len=64"])
    # Paths are printed absolute: on a cluster, workers start in other folders.
    assert (printed.corpus, printed.run.storage) == (
        os.path.abspath("shards"),
        os.path.abspath("runs"),
    )
    run = written.run.model_copy(update={"storage": printed.run.storage})
    assert printed == written.model_copy(update={"corpus": printed.corpus, "run": run})
    again = manta("train", "printed.yaml", "--print-config")
    assert again == (0, out, "")


def test_printed_run_config_comes_with_what_is_odd_about_it(write, manta, make_corpus, tmp_path):
    make_corpus(tmp_path / "shards", {"train": [[10_000]]})
    status, out, err = manta("train", write(RUN), "scaling.min=9", "--print-config")
    assert status == 0
    assert load(write(out, "printed.yaml"), RunConfig).scaling.min == 9
    assert [line.partition(",")[0] for line in err.splitlines()] == [
        "note: schedule.horizon = 1M is 109 epochs of the corpus",
        "note: scaling.min = 9",
    ]


def test_printed_corpus_config_loads_equal(write, manta):
    path = write(CORPUS)
    status, out, err = manta("prepare", path, "shard_tokens=2M", "--print-config")
    assert (status, err) == (0, "")
    assert load(write(out, "printed.yaml"), CorpusConfig) == load(
        path, CorpusConfig, ["shard_tokens=2M"]
    )


@pytest.mark.parametrize("command", ["train", "prepare", "schedule"])
def test_config_error_is_one_clean_message(write, manta, command):
    path = write("nonsense: 1\n")
    status, out, err = manta(command, path)
    assert (status, out) == (1, "")
    assert err.startswith("error: run.yaml")
    assert "run.yaml:1: unknown key 'nonsense'" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["verify", "run.yaml"], "error: run.yaml: no run here"),
        (["inspect", "run.yaml"], "error: run.yaml/manifest.json: no prepared corpus here"),
        (["train", "run.yaml", "corpus=run.yaml"], "manifest.json: no prepared corpus here"),
        (["compare", "run.yaml"], "error: run.yaml: neither a run"),
    ],
)
def test_a_file_where_a_folder_belongs_is_no_damage(write, manta, arguments, says):
    write(RUN)
    status, _, err = manta(*arguments)
    assert status == 1
    assert says in err


def run_python(*arguments, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def test_config_error_from_the_shell(write, tmp_path):
    done = run_python("-m", "manta.cli", "train", write(RUN), "train.seqlen=3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: command line: unknown key 'train.seqlen'; did you mean 'train.seq_len'?\n"
    )


HEAVY = ["torch", "ray", "transformers", "wandb", "optuna", "plotly", "pyarrow", "accelerate"]
HEAVY += ["pandas"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--help"], ""),
        (["train", "--help"], ""),
        (["sweep", "--help"], ""),
        (["train", "run.yaml", "train.seqlen=3"], "train.seqlen"),
        (["train", "run.yaml", "corpus=nowhere"], "nowhere"),
        (["schedule", "run.yaml", "train.seqlen=3"], "train.seqlen"),
    ],
)
def test_help_and_errors_answer_at_once(write, tmp_path, arguments, says):
    """Nothing heavy is imported before it is needed."""
    write(RUN)
    code = (
        "import sys, manta.cli\n"
        f"sys.argv = ['manta', *{arguments}]\n"
        "try:\n    manta.cli.main()\n"
        f"finally:\n    print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"
    assert says in done.stderr
    assert done.returncode == (1 if says else 0)
