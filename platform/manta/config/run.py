"""The config of a training run: every key a user can set, its default and why."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from manta.config import reproducible
from manta.config.alerts import AlertsSection
from manta.config.best import BestSection
from manta.config.cost import CostSection
from manta.config.evaluators import EvaluatorsSection
from manta.config.mixture import MixtureSection
from manta.config.model import ModelSection
from manta.config.objective import ObjectiveSection
from manta.config.on_change import OnChange, key
from manta.config.optimizer import OptimizerSection
from manta.config.scaling import ScalingSection
from manta.config.schedule import ScheduleSection
from manta.config.section import Section
from manta.config.train import ParallelSection, TrainSection
from manta.config.units import PositiveTokens, Tokens


class RunSection(Section):
    """Which run this is. The name identifies it: the same name continues the run."""

    on_change: ClassVar[OnChange] = OnChange.START

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$",
        description="name of the run and of its folder: letters, digits and . _ -",
    )
    storage: str = key(
        OnChange.KEEP,
        default="runs",
        description="folder, or URL in an object store, that holds the runs",
    )
    seed: int = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="seed of the first weights and of the order of samples",
    )


class DataSection(Section):
    """How samples are cut and read."""

    on_change: ClassVar[OnChange] = OnChange.FORK

    document_mask: bool = Field(
        default=False, description="no attention or loss across a document boundary"
    )
    format: str | None = key(
        OnChange.START,
        default=None,
        description="what a sample is, for a corpus that is not tokens: a name in a file of your "
        "own, such as ./mine.py:Name",
    )
    mixture: MixtureSection | None = Field(
        default=None,
        description="how much comes from which source, and when; if left out, every sample of the "
        "corpus once an epoch",
    )


class GuardsSection(Section):
    """What happens at a bad step, whose update is never applied."""

    on_change: ClassVar[OnChange] = OnChange.NOTE

    nonfinite: Literal["stop", "skip", "rewind"] = Field(
        default="stop",
        description="loss or gradient is not finite: stop, continue without the step, or go back; "
        "overflows of fp16 are left to its gradient scaler",
    )
    spike: Literal["off", "stop", "skip", "rewind"] = Field(
        default="off", description="loss or gradient norm far above those of the steps before"
    )
    window: int = Field(
        default=64, ge=8, description="applied steps that a spike is measured against"
    )
    # At this threshold a loss 8 % above the median is a spike, and a gradient norm five times it.
    threshold: float = Field(
        default=8.0,
        gt=0,
        description="robust standard deviations (MAD) above the median that make a spike",
    )
    rewind: int = Field(
        default=8,
        ge=0,
        description="steps before the bad one that are undone, and skipped too, when going back",
    )


class CheckpointSection(Section):
    """Durable checkpoints, and snapshots in memory. A run always ends with a checkpoint."""

    on_change: ClassVar[OnChange] = OnChange.KEEP

    every: PositiveTokens | None = Field(
        default=None, description="tokens between two checkpoints; if left out, only one at the end"
    )
    at: list[PositiveTokens] = Field(
        default_factory=list,
        description="token counts at which a checkpoint is written and kept for good",
    )
    keep: int = Field(
        default=2,
        ge=1,
        description="number of newest checkpoints to keep; the best one is kept, too",
    )
    best: BestSection = key(
        OnChange.NOTE,
        default=BestSection(),
        description="what decides which checkpoint is the best",
    )
    snapshot_every: int | None = Field(
        default=None,
        ge=0,
        description="steps between snapshots in memory; 0: none; chosen by their cost if left out",
    )


class EvalSection(Section):
    """Validation on about `tokens` tokens of the validation split, every source in proportion."""

    on_change: ClassVar[OnChange] = OnChange.NOTE

    every: PositiveTokens | None = Field(
        default=None, description="tokens between two evaluations; if left out, there are none"
    )
    at: list[PositiveTokens] = Field(
        default_factory=list, description="token counts at which the model is evaluated as well"
    )
    tokens: PositiveTokens = key(
        OnChange.FORK,
        default=500_000,
        description="most tokens of the validation split in each evaluation",
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description="stop after this many evaluations without an improvement of checkpoint.best",
    )
    min_delta: float = Field(
        default=0.0,
        ge=0,
        description="how much better than the best before it a value must be to count as better, "
        "in the unit of the metric: nats of a loss",
    )
    evaluators: EvaluatorsSection | None = Field(
        default=None,
        description="evaluators that measure checkpoints beside training; none if left out",
    )


class LogSection(Section):
    """Metrics."""

    on_change: ClassVar[OnChange] = OnChange.NOTE

    every: Tokens = Field(
        default=0, description="tokens between two rows of metrics; 0 writes one for each step"
    )


class WandbSection(Section):
    """Weights & Biases. `auto` is online if an API key is set, else offline."""

    on_change: ClassVar[OnChange] = OnChange.LABEL

    project: str = Field(default="manta", description="project that the run belongs to")
    mode: Literal["auto", "online", "offline", "disabled"] = Field(
        default="auto", description="auto: online if an API key is set, else offline"
    )
    entity: str | None = Field(
        default=None, description="user or team; the API key's default if left out"
    )
    group: str | None = Field(
        default=None,
        description="group under which runs are shown together; in a sweep, the sweep's name",
    )
    tags: list[str] = Field(default_factory=list, description="the run's tags in W&B")
    system: bool = Field(default=False, description="send the load of the driver's machine, too")
    console: bool = Field(
        default=False, description="send progress and events as the run's log, too"
    )


class Fault(Section):
    """A fault injected on purpose, to test that the run survives it."""

    kind: Literal["kill", "hang", "slow", "hold", "out_of_memory", "nan", "error"] = Field(
        description="what happens to the worker; nan: its loss is NaN"
    )
    at: Literal["start", "step", "checkpoint", "snapshot", "evaluation"] = Field(
        default="step",
        description="where it happens: before a step, or while its state is saved or evaluated",
    )
    step: int | None = Field(
        default=None,
        ge=0,
        description="number of the step, or of the first snapshot's step; any if left out",
    )
    rank: int | None = Field(
        default=None, ge=0, description="rank of the worker; every worker, if left out"
    )
    attempt: int | None = Field(
        default=1, ge=1, description="number of the worker group, from 1; null for any"
    )
    seconds: float = Field(default=0.05, gt=0, description="extra seconds of a slow worker")
    until: str | None = Field(
        default=None,
        description="file that a held worker waits for: a path, or a name in the run's folder",
    )

    @model_validator(mode="after")
    def _a_hold_has_an_end(self) -> Fault:
        if (self.kind == "hold") != (self.until is not None):
            raise ValueError("kind 'hold' needs 'until', and no other kind takes it")
        return self


class RunConfig(Section):
    """Everything that defines a training run."""

    run: RunSection
    # Only where the corpus lies: the record's fingerprint says what is in it.
    corpus: str = key(OnChange.NOTE, description="path or URL of prepared token shards")
    model: ModelSection
    data: DataSection = DataSection()
    objective: ObjectiveSection = ObjectiveSection()
    train: TrainSection = TrainSection()
    parallel: ParallelSection = ParallelSection()
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection
    scaling: ScalingSection = ScalingSection()
    guards: GuardsSection = GuardsSection()
    checkpoint: CheckpointSection = CheckpointSection()
    eval: EvalSection = EvalSection()
    log: LogSection = LogSection()
    wandb: WandbSection = WandbSection()
    cost: CostSection = CostSection()
    alerts: AlertsSection = AlertsSection()
    faults: list[Fault] = key(
        OnChange.LABEL,
        default_factory=list,
        description="faults injected on purpose, for tests of elasticity",
    )

    code: dict[str, str] = key(
        OnChange.FORK,
        default_factory=dict,
        description="text of each file of your own that the config names; Manta fills it in",
    )

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> RunConfig:
        beside = self.checkpoint.best.by_evaluators
        if self.eval.patience is not None and self.eval.every is None and not beside:
            raise ValueError("eval.patience needs evaluations: set eval.every")
        return self

    @model_validator(mode="after")
    def _best_is_measured(self) -> RunConfig:
        for name in self.checkpoint.best.beside:
            if self.eval.evaluators is None:
                raise ValueError(
                    f"checkpoint.best: nothing measures '{name}': set eval.evaluators to an "
                    f"evaluation with an evaluator called '{name.partition('/')[0]}'"
                )
        return self

    @model_validator(mode="after")
    def _rounded_weights_need_autocast(self) -> RunConfig:
        if self.train.param_dtype == "bf16" and self.train.precision != "bf16":
            raise ValueError(
                "train.param_dtype = 'bf16' can't be used with train.precision = "
                f"{self.train.precision!r}: set "
                "train.precision to 'bf16' too, or leave train.param_dtype out"
            )
        return self

    @model_validator(mode="after")
    def _parametrized_for_adamw(self) -> RunConfig:
        if self.model.parametrization and self.optimizer.type != "adamw":
            raise ValueError(
                "model.parametrization has the rates and eps of AdamW: leave optimizer.type = "
                f"{self.optimizer.type!r} out, or the parametrization"
            )
        return self

    @model_validator(mode="after")
    def _frozen_weights_fit_the_pass(self) -> RunConfig:
        if self.model.frozen_dtype == "bf16" and self.train.precision != "bf16":
            raise ValueError(
                "model.frozen_dtype = 'bf16' can't be used with train.precision = "
                f"{self.train.precision!r}: set train.precision to 'bf16' too, or leave "
                "model.frozen_dtype out"
            )
        return self

    @model_validator(mode="after")
    def _pieces_are_of_text(self) -> RunConfig:
        if self.train.seq_len_warmup and self.objective.type != "causal":
            raise ValueError(
                f"train.seq_len_warmup with objective.type = {self.objective.type!r}: only text "
                "that is trained on as it stands can be cut into pieces; remove it"
            )
        return self

    @model_validator(mode="after")
    def _workers_hold_a_whole_model(self) -> RunConfig:
        shard = self.parallel.shard
        if shard is not True and shard > self.scaling.min:
            raise ValueError(
                f"parallel.shard = {shard}: fewer workers than that would each hold a larger part "
                f"of the model; set scaling.min to {shard} or more, or parallel.shard to true"
            )
        return self

    @model_validator(mode="after")
    def _reproducible_at_any_world_size(self) -> RunConfig:
        if problem := reproducible.problem_of(self.train, self.parallel, self.scaling):
            raise ValueError(problem)
        return self

    @model_validator(mode="after")
    def _router_can_be_read(self) -> RunConfig:
        for name in ("balance", "bias_rate"):
            if getattr(self.objective, name) and self.train.compile:
                raise ValueError(
                    f"objective.{name} with train.compile: the router's choice can't be read in "
                    "compiled code; leave one of them out"
                )
        if self.objective.bias_rate and self.train.precision == "fp16":
            raise ValueError(
                "objective.bias_rate with train.precision: fp16: the loss scaler alone knows which "
                "updates it skipped; take bf16"
            )
        return self

    @model_validator(mode="after")
    def _reference_is_pretrained(self) -> RunConfig:
        if self.objective.compares and self.model.pretrained is None:
            raise ValueError(
                f"objective.loss = {self.objective.loss!r} compares with the model that the run "
                "begins with: set model.pretrained to one that was trained on chats, or take "
                "objective.loss: orpo"
            )
        beside = self.model.keeps_what_it_began_with and self.objective.reference == "model"
        if self.objective.compares and self.model.rounds_the_base and not beside:
            quantize = self.model.quantize
            key = f"quantize = '{quantize}'" if quantize else "frozen_dtype = 'bf16'"
            raise ValueError(
                f"model.{key} rounds weights of the model that is trained, but not "
                f"those that objective.loss = {self.objective.loss!r} compares with: leave it out, "
                "or train an adapter alone (model.adapter without model.train) with "
                "objective.reference: model"
            )
        return self

    @model_validator(mode="after")
    def _spikes_need_true_gradients(self) -> RunConfig:
        if self.guards.spike != "off" and self.train.precision == "fp16":
            raise ValueError(
                "guards.spike can't be used with train.precision = 'fp16': use 'bf16' instead"
            )
        return self
