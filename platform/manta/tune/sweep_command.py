"""The `manta sweep` command: check, plan, run, compare."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime

from rich.console import Console

from manta.cluster.session import cluster_of, ray_session
from manta.config.credentials import without_credentials
from manta.config.errors import ConfigError, CorpusError, TrainingError
from manta.config.run import RunConfig
from manta.config.sweep import SweepConfig
from manta.corpus.manifest import Manifest
from manta.elastic.checks.machine import check_machine
from manta.elastic.checks.preflight import Checked, absolute, absolute_path, check, try_model
from manta.elastic.driver.model_trial import trying
from manta.elastic.worker.preload import preloaded_for
from manta.show.compare.comparing import compare
from manta.show.wandb.uploader import check_wandb
from manta.state.state_size import state_bytes
from manta.storage.place import place_of
from manta.storage.probe import check_writable
from manta.storage.run_folder import COMPARISON, SWEEP
from manta.storage.store import StorePath, reason
from manta.storage.working import push
from manta.tune.plan_report import plan
from manta.tune.sweep_plan import Outline
from manta.tune.trials import in_wandb


def show_plan(config: SweepConfig) -> None:
    """Print what the sweep would train.

    Raises:
        ConfigError: if config, space or a trial isn't valid.
    """
    outline = Outline(_absolute(config))
    outline.ask_searcher()
    manifest = _manifest(outline)
    Console(highlight=False).print(plan(outline, manifest, _sizes(outline, manifest)))


def run_sweep(config: SweepConfig, address: str | None = None) -> bool:
    """Run or continue the sweep; returns whether it finished, and was not interrupted.

    Raises:
        MantaError: naming what is wrong and what to do.
    """
    console = Console(highlight=False, file=sys.stdout)  # Ray Tune's output is redirected

    def say(line: str) -> None:
        console.print(f"{_now()}  {without_credentials(line)}", soft_wrap=True)

    outline = Outline(_absolute(config))
    outline.ask_searcher()
    outline.state()  # another sweep's folder is refused before anything starts
    check_writable(place_of(outline.config.sweep.storage), "sweep.storage")
    first = _first(outline)
    here = cluster_of(address) is None
    if here:
        check_machine(first)
    with preloaded_for(first, address), ThreadPoolExecutor(1) as background:
        checked = check(first)
        models_checked = background.submit(check_models, outline, checked, elsewhere=here)
        if here:
            models_checked.result()
        with ray_session(address):
            models_checked.result()
            from manta.tune.run_sweep import sweep

            console.print(plan(outline, checked.manifest))
            try:
                _, status = sweep(outline, say)
            except TrainingError:
                _show_in_wandb(outline, say)
                raise
    if status == "finished":
        compare([outline.folder], console=console)
    _show_in_wandb(outline, say)
    _publish(outline, say)
    return status == "finished"


def check_models(outline: Outline, first: Checked, *, elsewhere: bool = False) -> None:
    """Try each model that the sweep's known trials have, and check W&B.

    Args:
        outline: the sweep's outline.
        first: a trial of the sweep that was checked.
        elsewhere: whether the preload server, which has imported Torch, tries the models.

    Raises:
        ConfigError: naming the first trial whose model can't be trained, and why.
    """
    check_wandb(first.config.wandb)
    models = _models(outline, first)
    with trying([run for _, run in models] if elsewhere else []) as trials:
        for index, (name, run) in enumerate(models):
            try:
                known = trials.checked(index).tried if elsewhere else None
                if known is None:
                    try_model(run)
            except ConfigError as error:
                raise ConfigError(f"trial {name}: {error}" if name else str(error)) from None


def _models(outline: Outline, first: Checked) -> list[tuple[str, Checked]]:
    """Runs whose models differ, each with the name of its trial; the first run has no name."""
    runs = [("", first)]
    for trial in outline.trials:
        config = trial.config
        if all(
            (config.model, config.data, config.train.seq_len)
            != (run.config.model, run.config.data, run.config.train.seq_len)
            for _, run in runs
        ):
            runs.append((trial.name, replace(first, config=config)))
    return runs


def _publish(outline: Outline, say: Callable[[str], None]) -> None:
    """Copy the sweep's state and comparison to its store, if it is kept in one."""
    if isinstance(outline.place, StorePath):
        try:
            push(outline.folder, outline.place, [SWEEP, COMPARISON])
        except OSError as error:
            say(f"{SWEEP} and {COMPARISON} can't be written to {outline.place}: {reason(error)}")


def _show_in_wandb(outline: Outline, say: Callable[[str], None]) -> None:
    from manta.show.wandb.sweep_run import show_sweep

    section = in_wandb(outline.base.config.wandb, outline.config, outline.space)
    show_sweep(outline.folder, section, say)


def _first(outline: Outline) -> RunConfig:
    """The config of one trial, which slow checks are made with for all trials."""
    return outline.trials[0].config if outline.trials else absolute(outline.base.config)


def _absolute(config: SweepConfig) -> SweepConfig:
    section = config.sweep.model_copy(update={"storage": absolute_path(config.sweep.storage)})
    return config.model_copy(update={"sweep": section})


def _manifest(outline: Outline) -> Manifest | None:
    """The corpus's manifest; None if there is no corpus yet."""
    try:
        return Manifest.read(_first(outline).corpus)
    except CorpusError:
        return None


def _sizes(outline: Outline, manifest: Manifest | None) -> dict[str, int]:
    """Bytes of a checkpoint of each trial; nothing without the corpus, which has the vocabulary."""
    from manta.model import hf_config, language_model

    if manifest is None:
        return {}
    found = list[tuple[RunConfig, tuple[int, int]]]()  # of runs with models that differ
    sizes = dict[str, int]()
    for trial in outline.trials:
        config = trial.config
        counts = next((counts for run, counts in found if run.model == config.model), None)
        if counts is None:
            resolved = hf_config.resolve(config, manifest.vocabulary)
            counts = language_model.saved_and_trained(config, resolved)
            found.append((config, counts))
        sizes[trial.name] = state_bytes(*counts, config.optimizer.numbers_kept)
    return sizes


def _now() -> str:
    return datetime.now().strftime("%H:%M:%S")
