"""Checks a run on the driver, before a worker is held."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from manta.config.alerts import check_command, with_absolute_command
from manta.config.errors import ConfigError, CorpusError, RunError
from manta.config.evaluation_files import check_there
from manta.config.load import with_evaluators
from manta.config.model_names import NamedModel, named_models
from manta.config.own_code import with_code
from manta.config.run import RunConfig
from manta.config.scaling import gpus_of
from manta.config.urls import is_url
from manta.corpus.manifest import Manifest
from manta.elastic.checks.evaluators_data import check_evaluators
from manta.elastic.checks.frozen_source import base_fingerprint, check_frozen, pinned
from manta.elastic.checks.objective_trial import try_objective
from manta.elastic.checks.warm_start import export_if_needed, exported_folder
from manta.model.source import check_names
from manta.state.skips import read_skips, restore_skips
from manta.storage.place import Place, place_of
from manta.storage.probe import check_writable
from manta.storage.run_folder import SKIPS
from manta.storage.working import working_folder

if TYPE_CHECKING:
    from manta.model.trial_result import Tried
    from manta.record.context import RunContext
    from manta.schedule import Schedule
    from manta.show.tracker import Tracker
    from manta.stream.eval_sample import EvalSample
    from manta.stream.plan import Corpus
    from manta.train.loop import TrainingJob


@dataclass(frozen=True)
class Checked:
    """A checked config, with the corpus, schedule and model facts resolved for it."""

    config: RunConfig
    manifest: Manifest
    schedule: Schedule
    corpus: Corpus
    validation: EvalSample | None
    place: Place
    """The run's folder, or its URL in a store."""
    tried: Tried | None = None
    """The facts about the model; None until it was tried."""
    frozen: str = ""
    """The fingerprint of the frozen model that the objective compares with; "" without one."""
    base: str = ""
    """The fingerprint of the model some of whose weights stay frozen; "" if it isn't known."""

    @property
    def run_dir(self) -> Path:
        """The folder in which a driver on this node works on the run."""
        return working_folder(self.place)

    def without_shards(self) -> Checked:
        """A copy to send to workers, which find the shards on their node by the fingerprint."""
        return replace(self, manifest=self.manifest.model_copy(update={"shards": []}))

    def remarks(self) -> list[str]:
        """Remarks on what is odd but valid about the run, one sentence each."""
        from manta.show.console.remarks import PlannedRun, remarks

        return remarks(PlannedRun(self.config, self.manifest, self.schedule))

    def head(self) -> list[str]:
        """Header lines: what is known of the run before there are workers."""
        from manta.show.console.header import plan_lines
        from manta.show.console.remarks import PlannedRun

        plan = PlannedRun(self.config, self.manifest, self.schedule)
        return plan_lines(plan, self.validation.samples if self.validation else 0)

    @property
    def binding(self) -> str:
        """The digest of what binds the run: config and corpus."""
        from manta.record.identity import binding_of

        return binding_of(self.config, self.manifest.fingerprint)

    def tracker(self, *, console: bool, context: RunContext | None = None) -> Tracker:
        """Open the run's tracker; raises as `Tracker.open`."""
        from manta.show.tracker import Tracker

        tracker = Tracker.open(
            self.config,
            self.manifest,
            total_steps=self.schedule.steps,
            total_tokens=self.schedule.positions * self.schedule.seq_len,
            eval_sample=self.validation.digest if self.validation else "",
            frozen=self.frozen,
            base=self.base,
            console=console,
            context=context,
            remarks=self.remarks(),
            head=self.head(),
        )
        if lost := restore_skips(self.place, tracker.skips):
            spans = ", ".join(f"{first} to {last}" for first, last in lost)
            tracker.note(
                f"{SKIPS} was missing, or lacked the steps {spans}, which the run leaves out "
                "according to its record: they were restored"
            )
        return tracker

    def job(self, attempt: int, node: str) -> TrainingJob:
        """The job of one rank of group `attempt` on the node named `node`."""
        from manta.train.loop import TrainingJob

        return TrainingJob(
            config=self.config,
            schedule=self.schedule,
            corpus=self.corpus,
            validation=self.validation,
            place=self.place,
            attempt=attempt,
            binding=self.binding,
            node=node,
        )


def check(config: RunConfig) -> Checked:
    """Check a run against its corpus, storage and devices, without slow imports.

    Raises:
        MantaError: naming the mistake and the remedy.
    """
    config = with_evaluators(with_code(config))
    check_there(config)
    manifest = Manifest.read(config.corpus)
    export_if_needed(config)
    check_names(config, manifest)
    frozen, base = check_frozen(config, manifest), base_fingerprint(config)
    from manta.schedule import Schedule  # imports NumPy (0.2 s), which most mistakes don't need
    from manta.schedule.lengths import Lengths

    schedule = Schedule.resolve(config.schedule, config.train.seq_len)
    Lengths.resolve(config.train, config.schedule.horizon)
    _check_devices(config)
    from manta.show.wandb.uploader import check_environment

    check_environment(config.wandb)
    check_command(config.alerts)
    storage = place_of(config.run.storage)
    check_writable(storage, "run.storage")
    place = storage / config.run.name
    from manta.elastic.checks.kept_state import check_kept

    check_kept(place)
    corpus, validation = _open_splits(config, manifest, frozen)
    return Checked(config, manifest, schedule, corpus, validation, place, frozen=frozen, base=base)


def remarks_of(config: RunConfig) -> list[str]:
    """Remarks on a run that isn't checked yet; empty if its corpus doesn't exist."""
    try:
        manifest = Manifest.read(config.corpus)
    except CorpusError:
        return []
    from manta.schedule import Schedule
    from manta.show.console.remarks import PlannedRun, remarks

    return remarks(
        PlannedRun(config, manifest, Schedule.resolve(config.schedule, config.train.seq_len))
    )


def refuse_existing(config: RunConfig) -> None:
    """Raise ConfigError if the run exists already."""
    folder = place_of(config.run.storage) / config.run.name
    if folder.exists():
        raise ConfigError(
            f"--fresh: the run {folder} exists; give another run.name, or leave --fresh out to "
            "continue it"
        )


def check_continues(checked: Checked) -> None:
    """Refuse a run that can't continue the existing one of its name.

    Raises:
        RunError: naming the difference.
    """
    from manta.record.opening import check_same_run
    from manta.record.run_state import read_state_if_any

    state = read_state_if_any(checked.place)
    check_same_run(
        checked.place, state, checked.config, checked.manifest, checked.frozen, checked.base
    )
    read_skips(checked.place)


def check_model(checked: Checked) -> Checked:
    """Try the model before it is trained, and check W&B.

    Its imports take seconds: run it while Ray starts.

    Returns:
        The same run with the facts about its model.

    Raises:
        ConfigError: naming the mistake and the remedy.
    """
    from manta.show.wandb.uploader import check_wandb

    tried = checked.tried or try_model(checked)
    check_wandb(checked.config.wandb)
    return replace(checked, tried=tried)


def try_model(checked: Checked) -> Tried:
    """Build the model of a run, or a small one of its type, and try it.

    Raises:
        ConfigError: naming the mistake and the remedy.
    """
    from manta.model import hf_config, tryout
    from manta.model.own_net import OwnNet
    from manta.model.quantized import check_driver

    model, resources = checked.config.model, checked.config.scaling.resources_per_worker
    if model.quantize is not None:
        check_driver(model.quantize, on_gpus=gpus_of(resources) > 0)
    vocabulary = checked.manifest.vocabulary
    resolved = hf_config.resolve(checked.config, vocabulary)
    if isinstance(resolved, OwnNet):
        tried = tryout.try_own(checked.config, resolved)
    else:
        assert vocabulary is not None  # a causal model of Transformers was resolved by it
        tried = tryout.try_out(checked.config, resolved, vocabulary.size)
    check_evaluators(checked.config)
    try_objective(checked.config, checked.manifest, resolved)
    return tried


def _check_devices(config: RunConfig) -> None:
    scaling = config.scaling
    gpus = gpus_of(scaling.resources_per_worker)
    if gpus > 1:
        raise ConfigError(
            f"scaling.resources_per_worker.GPU = {gpus:g}: a worker uses only one GPU, so the "
            "others would idle; set GPU: 1 and use more workers (scaling.min, scaling.max)"
        )
    if 0 < gpus < 1 < scaling.upper:
        raise ConfigError(
            f"scaling.resources_per_worker.GPU = {gpus:g} with up to {scaling.upper} workers: two "
            "on one GPU can't exchange gradients; set GPU: 1, or scaling.max = 1 to share "
            "a GPU with other runs"
        )
    if config.train.precision == "fp16" and not gpus:
        raise ConfigError(
            "train.precision = 'fp16' needs a GPU: set scaling.resources_per_worker.GPU, or "
            "use 'bf16' or 'no'"
        )
    if config.train.precision == "fp16" and config.parallel.shard:
        raise ConfigError("parallel.shard can't be used with train.precision = 'fp16': use 'bf16'")


def _open_splits(
    config: RunConfig, manifest: Manifest, frozen: str
) -> tuple[Corpus, EvalSample | None]:
    from manta.elastic.checks.precomputed_columns import with_precomputed
    from manta.stream.eval_sample import SEED, draw
    from manta.stream.mixed_sources import mixed_of
    from manta.stream.own_format import format_of
    from manta.stream.plan import open_corpus

    seq_len, seed, form = config.train.seq_len, config.run.seed, format_of(config, manifest)
    train = with_precomputed(config, manifest, frozen, form, "train")
    together = config.train.micro_batch if config.train.reproducible else 1
    mixed = mixed_of(config, manifest)
    corpus = open_corpus(config.corpus, manifest, "train", seq_len, seed, train, together, mixed)
    if config.eval.every is None and not config.eval.at:
        return corpus, None
    if manifest.tokens_of("validation") < seq_len:
        raise ConfigError(
            f"the config asks for evaluations, but the validation split of {config.corpus} has "
            f"{manifest.tokens_of('validation')} tokens, less than one sample of {seq_len}: "
            "prepare the corpus with a larger split.validation, or leave out eval.every and eval.at"
        )
    held_out = with_precomputed(config, manifest, frozen, form, "validation")
    validation = open_corpus(config.corpus, manifest, "validation", seq_len, SEED, held_out)
    return corpus, draw(validation, manifest, config.eval.tokens)


def absolute(config: RunConfig) -> RunConfig:
    """The config with absolute local paths, and the commit of a frozen model on the Hub.

    So it means the same in any folder, and at any time.
    """
    run = config.run.model_copy(update={"storage": absolute_path(config.run.storage)})
    for model in list(named_models(config)):
        if folder := _folder_of(model):
            config = model.renamed(config, str(folder))
        elif os.path.isdir(model.name):
            config = model.renamed(config, absolute_path(model.name))
    alerts = with_absolute_command(config.alerts, Path.cwd())
    changed = {"run": run, "corpus": absolute_path(config.corpus), "alerts": alerts}
    return pinned(config.model_copy(update=changed))


def _folder_of(model: NamedModel) -> Path | None:
    """The folder that stands for a model of a run or a registry; None for any other."""
    try:
        return exported_folder(model.name)
    except (ConfigError, RunError) as error:
        raise ConfigError(f"{model.key} = {model.name!r}: {error}") from None


def absolute_path(path: str) -> str:
    """A local path made absolute; a URL unchanged."""
    return path if is_url(path) else os.path.abspath(os.path.expanduser(path))
