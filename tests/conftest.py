"""What several test folders share: one small Ray of our own for the whole session."""

from __future__ import annotations

import fcntl
import gc
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
import s3_server
from inline_prepare import without_ray
from made_corpus import write_corpus

from manta.corpus.manifest import Manifest

# A test asserts on no absolute time: how long an example takes is the machine's business.
hypothesis.settings.register_profile("manta", deadline=None)
hypothesis.settings.load_profile("manta")

# What the tests import stays. By default it is looked through for garbage with each 700 objects
# more, for a tenth of the time of the tests of pure functions.
gc.set_threshold(50_000)

# A shell starts what it puts in the background with this signal ignored, and so would we start
# the commands that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Test processes run beside each other, one for a core or so, and models here are tiny: two threads
# each spend most of their time waiting for each other. Torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Containers often forbid Python to keep compiled modules. Then each command, worker and server that
# a test starts compiles the whole package anew, and each test process all tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Ray reads this when it is imported, so it is set before any test module imports Ray.
os.environ["RAY_AUTH_MODE"] = "disabled"
# A name that is no folder is not looked for on the Hub, whose library would try again for 20 s
# where there is no network. It reads this when it is imported.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Ray's workers have the environment of the process that started Ray, which comes first.
os.environ.update(s3_server.ENVIRONMENT)


# The folders whose tests take longest, so that they come first, and in each folder and in the rest
# the files with slow tests: what is left for the end is short, and the processes of a parallel run
# (one file at a time each) end together.
LONGEST_FIRST = ("e2e", "chaos", "cluster", "corpus", "tune", "elastic", "train", "stream")
# What starts Ray, or a server or a host that stands for a part of a cluster.
SLOW_FIXTURES = {"ray_local", "nodes", "head", "cluster", "three", "s3", "browser"}
# Folders and files that start such things, or processes that train, by themselves.
SLOW_PLACES = {
    *("e2e", "chaos", "test_smoke.py", "test_gpu_benchmark.py"),
    *("test_aws.py", "test_doctor.py", "test_embedded.py", "test_machine.py", "test_package.py"),
    *("test_setup.py", "test_submit.py", "test_full_disk.py", "test_restart.py"),
    *("test_preload.py", "test_threads.py", "test_before_ray.py", "test_leftovers.py"),
    *("test_damage.py", "test_exact.py", "test_guards.py", "test_snapshot.py", "test_store.py"),
    *("test_kept.py", "test_sharding.py", "test_compiling.py", "test_pages_in_a_browser.py"),
    *("test_log_rows.py", "test_param_dtype.py", "test_reduce_dtype.py", "test_comparison_page.py"),
    *("test_language_model.py", "test_loss.py", "test_checkpoint.py"),
    *("test_imports.py", "test_devices.py", "test_fork.py", "test_export.py"),
    *("test_wandb.py", "test_wandb_sweep.py", "test_wandb_trial.py"),
    *("test_chats.py", "test_chat_session.py", "test_expert_bias.py", "test_own_objective.py"),
    *("test_courier.py", "test_warm_start.py", "test_frozen.py", "test_distilled.py"),
    *("test_adapter.py", "test_preferences.py", "test_labelled_texts_run.py"),
    *("test_host_memory.py", "test_reward_run.py", "test_pause.py"),
    *(
        "test_evaluate.py",
        "test_evaluated_kinds.py",
        "test_damaged_leftovers.py",
        "test_reproducible.py",
        "test_replay.py",
        "test_mixed_run.py",
    ),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make check` leaves to `make test`, and put the longest first."""
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if SLOW_FIXTURES & fixtures or SLOW_PLACES & {item.path.name, item.path.parent.name}:
            item.add_marker(pytest.mark.slow)
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (_rank(item.path.parent.name), item.path not in slow))


def _rank(folder: str) -> int:
    return LONGEST_FIRST.index(folder) if folder in LONGEST_FIRST else len(LONGEST_FIRST)


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One process that workers are copies of, for all that tests start.

    Also for commands, which otherwise have one each, for four seconds of processor time, and for
    the other processes that run tests beside this one. A Ray that this process starts has all its
    workers so, and no dashboard's agent, as one that Manta starts.
    """
    from manta.cluster.embedded import light_processes
    from manta.elastic.worker.preload import VARIABLE, preloaded

    with ExitStack() as stack:
        if "PYTEST_XDIST_WORKER" in os.environ:
            known = tmp_path_factory.getbasetemp().parent / "preloaded"
            with known.open("a+") as file:
                fcntl.flock(file, fcntl.LOCK_EX)
                file.seek(0)
                os.environ[VARIABLE] = file.read()  # nothing of the first to ask
                stack.enter_context(preloaded({"CPU": 1}, "llama"))
                known.write_text(os.environ[VARIABLE])
        else:
            stack.enter_context(preloaded({"CPU": 1}, "llama"))
        stack.enter_context(light_processes())
        yield


@pytest.fixture(scope="session")
def ray_local(copies: None) -> Iterator[None]:
    """A fresh local Ray with two CPUs, that no other Ray on the machine can see or share.

    Its workers are copies, as those of `manta train` on one machine.
    """
    import ray
    from ray._private import node

    from manta.cluster.embedded import SoleNode

    if ray.is_initialized():
        raise RuntimeError("a test started Ray itself; use the fixture ray_local instead")
    # Sockets lie below this folder, and their paths may be 107 characters long: keep it short.
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(node, "Node", SoleNode)
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            logging_level=logging.WARNING,
            _temp_dir=str(folder),
        )
    try:
        yield
    finally:
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def s3() -> Iterator[s3_server.S3Server]:
    """An S3 server with a bucket."""
    found = s3_server.S3Server()
    try:
        yield found
    finally:
        found.close()


@pytest.fixture(scope="session")
def make_corpus() -> Callable[..., Manifest]:
    """The function `write_corpus`, for tests that need a corpus but no text."""
    return write_corpus


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the passes of `prepare` in this process, in order: the same code without Ray's start."""
    without_ray(monkeypatch)
