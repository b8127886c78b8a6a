"""What users can type, frozen: adding a command, an option or a config key is a decision.

If a test here fails, you have changed the public surface. Every name in it must be explained,
kept working and never renamed lightly. If you mean it, say so by changing the list; if a
default that nobody has to set would do instead, take that.
"""

from typer.main import get_command

from manta.cli import app
from manta.config import CorpusConfig, RunConfig, SweepConfig
from manta.config.drift import DriftConfig
from manta.config.evaluation import EvaluationConfig
from manta.config.gate import GateConfig
from manta.config.mistakes import keys
from manta.config.retraining import RetrainConfig
from manta.config.tuning import TuningConfig

COMMANDS = {
    "prepare": "CONFIG.yaml KEY=VALUE --print-config --dry-run --address",
    "join": "OUT CORPUS",
    "inspect": "CORPUS --samples --dropped --output",
    "schedule": "CONFIG.yaml KEY=VALUE --html",
    "precompute": "CONFIG.yaml KEY=VALUE --address",
    "train": "CONFIG.yaml KEY=VALUE --print-config --fresh --restart --plan --address",
    "fork": "RUN@STEP NEW KEY=VALUE",
    "replay": "RUN FROM TO KEY=VALUE --keep --address",
    "sweep": "SWEEP.yaml KEY=VALUE --plan --address",
    "tune": "CONFIG.yaml KEY=VALUE --plan --address",
    "sweep-status": "SWEEP --json",
    "sweep-stop": "SWEEP TRIAL",
    "sweep-add": "SWEEP KEY=VALUE --like",
    "sweep-fork": "SWEEP TRIAL[@STEP] KEY=VALUE",
    "submit": "CONFIG.yaml KEY=VALUE --address --follow --model --go",
    "status": "JOB --address",
    "logs": "JOB --follow --address",
    "stop": "JOB --address",
    "verify": "RUN --no-shards --weights",
    "compare": "RUN|SWEEP --output --metric --top --evaluation",
    "mixture": "SWEEP --towards --tokens --max-epochs --json",
    "export": "RUN OUT --step --merge --average --quantize",
    "generate": "RUN PROMPT --tokens --temperature --seed",
    "chat": "RUN --system --tokens --temperature --seed",
    "score": "RUN FILE --output",
    "evaluate": "RUN[@STEP] EVAL.yaml KEY=VALUE --output --final",
    "gate": "RUN|EVALUATION GATE.yaml KEY=VALUE --evaluation",
    "promote": "RUN[@STEP] NAME[@ALIAS] --registry --gate --without-gate",
    "rollback": "NAME@ALIAS --registry",
    "models": "NAME[@TAG] --registry --json --verify",
    "card": "RUN[@STEP] --output",
    "audit": "RUN",
    "lineage": "MODEL|RUN|CORPUS --of --json --output",
    "forget": "CORPUS DOCUMENT --out --runs --json",
    "arena": "MODEL MODEL PROMPTS.jsonl --output --tokens --temperature --seed --page --choices",
    "economics": "MODEL --evaluation --quality --gate --price --json --output",
    "drift": "NEW --against KEY=VALUE --config --json --output",
    "retrain": "TRIGGERS.yaml KEY=VALUE --go --json",
    "keys": "PREFIX --markdown",
    "doctor": "CLUSTER.yaml --config",
}

RUN_KEYS = """
    run.name run.storage run.seed
    corpus
    model.type model.sizes model.pretrained
    model.parametrization.type model.parametrization.base_width model.parametrization.base_depth
    model.adapter.type model.adapter.rank model.adapter.alpha model.adapter.dropout
    model.adapter.targets model.adapter.rslora model.adapter.dora
    model.train model.freeze model.frozen_dtype model.quantize model.grow_vocabulary
    data.document_mask data.format
    data.mixture.sources.NAME.weight.shape data.mixture.sources.NAME.weight.tokens
    data.mixture.sources.NAME.weight.until data.mixture.sources.NAME.weight.from
    data.mixture.sources.NAME.weight.to data.mixture.sources.NAME.max_epochs
    data.mixture.temperature
    data.mixture.history.until data.mixture.history.horizon
    data.mixture.history.mixture.sources.NAME.weight.shape
    data.mixture.history.mixture.sources.NAME.weight.tokens
    data.mixture.history.mixture.sources.NAME.weight.until
    data.mixture.history.mixture.sources.NAME.weight.from
    data.mixture.history.mixture.sources.NAME.weight.to
    data.mixture.history.mixture.sources.NAME.max_epochs
    data.mixture.history.mixture.temperature
    objective.type objective.per
    objective.loss objective.beta objective.reference objective.label_smoothing objective.gamma
    objective.teacher
    objective.divergence objective.kd_ratio objective.temperature objective.jsd_beta
    objective.top_k objective.options objective.balance objective.bias_rate
    train.seq_len train.seq_len_warmup.until train.seq_len_warmup.length
    train.micro_batch train.precision train.param_dtype train.matmul_precision
    train.clip_norm train.compile train.activation_checkpointing train.reproducible
    parallel.shard parallel.reduce_dtype
    optimizer.type optimizer.betas optimizer.eps optimizer.weight_decay optimizer.decay_all
    optimizer.cautious optimizer.momentum optimizer.nesterov optimizer.adjust_lr
    optimizer.by_adamw
    optimizer.groups.names optimizer.groups.lr optimizer.groups.decay
    optimizer.average.half_life
    schedule.horizon
    schedule.lr.name schedule.lr.peak schedule.lr.warmup schedule.lr.hold schedule.lr.exponent
    schedule.lr.decay
    schedule.lr.decay_shape schedule.lr.floor
    schedule.lr.shape schedule.lr.tokens schedule.lr.until schedule.lr.from schedule.lr.to
    schedule.lr.period schedule.lr.multiple_of
    schedule.batch.name schedule.batch.from schedule.batch.to schedule.batch.start
    schedule.batch.over schedule.batch.shape schedule.batch.multiple_of
    schedule.batch.tokens schedule.batch.until schedule.batch.period schedule.batch.exponent
    schedule.history.until schedule.history.horizon
    schedule.history.lr.name schedule.history.lr.peak schedule.history.lr.warmup
    schedule.history.lr.hold schedule.history.lr.exponent
    schedule.history.lr.decay schedule.history.lr.decay_shape schedule.history.lr.floor
    schedule.history.lr.shape schedule.history.lr.tokens schedule.history.lr.until
    schedule.history.lr.from schedule.history.lr.to
    schedule.history.lr.period schedule.history.lr.multiple_of
    schedule.history.batch.name schedule.history.batch.from schedule.history.batch.to
    schedule.history.batch.start schedule.history.batch.over schedule.history.batch.shape
    schedule.history.batch.multiple_of
    schedule.history.batch.tokens schedule.history.batch.until schedule.history.batch.period
    schedule.history.batch.exponent
    scaling.min scaling.max scaling.resources_per_worker scaling.spares
    scaling.prefer scaling.prefer_wait scaling.avoid scaling.node_stay
    scaling.throughput scaling.settle scaling.hang_timeout
    guards.nonfinite guards.spike guards.window guards.threshold guards.rewind
    checkpoint.every checkpoint.at checkpoint.keep
    checkpoint.best.metric checkpoint.best.better
    checkpoint.best.require.NAME.at_least checkpoint.best.require.NAME.at_most
    checkpoint.snapshot_every
    eval.every eval.at eval.tokens eval.patience eval.min_delta
    eval.evaluators.config eval.evaluators.every eval.evaluators.resources
    log.every
    wandb.project wandb.mode wandb.entity wandb.group wandb.tags wandb.system wandb.console
    cost.per_device_hour cost.by_kind cost.kind_label cost.budget cost.deadline
    alerts.command alerts.timeout alerts.stall alerts.wandb
    faults.kind faults.at faults.step faults.rank faults.attempt faults.seconds
    faults.until
    code
"""

CORPUS_KEYS = """
    out extends
    sources.name sources.format sources.paths sources.text_column
    sources.only.column sources.only.at_least sources.only.below
    tokenizer.path tokenizer.vocab_size tokenizer.sample_bytes tokenizer.eos tokenizer.bos
    tokenizer.add
    chat.records chat.length chat.template chat.template_args chat.supervise chat.turns
    chat.too_long chat.packing
    chat.context.paths chat.context.passages chat.context.words chat.context.lacking
    chat.context.refusal chat.context.place
    chat.columns
    labelled.length labelled.labels labelled.text labelled.label labelled.too_long
    labelled.packing
    filters.boilerplate.enabled filters.boilerplate.documents filters.boilerplate.share
    filters.boilerplate.characters
    filters.repair.enabled filters.repair.mojibake filters.repair.unicode
    filters.privacy.enabled filters.privacy.find
    filters.lists.enabled filters.lists.name filters.lists.path filters.lists.action
    filters.lists.at_most
    filters.quality.enabled filters.quality.rules filters.quality.limits
    filters.quality.stop_words
    filters.own.enabled filters.own.function
    filters.near_duplicates.enabled filters.near_duplicates.threshold
    filters.near_duplicates.words
    filters.decontaminate.enabled
    filters.decontaminate.evaluations.name filters.decontaminate.evaluations.format
    filters.decontaminate.evaluations.paths filters.decontaminate.evaluations.columns
    filters.decontaminate.test_split filters.decontaminate.words
    filters.caps.enabled filters.caps.name filters.caps.sources filters.caps.column
    filters.caps.documents
    split.train split.validation split.test
    shard_tokens
    on_error
"""

SWEEP_KEYS = """
    sweep.name sweep.storage
    base overrides space
    search.type search.trials search.seed search.options
    scheduler.type scheduler.rungs scheduler.first scheduler.factor
    scheduler.interval scheduler.quantile scheduler.factors scheduler.resample
    workers.min workers.max
    concurrent seeds horizon metric mode
"""

TUNING_KEYS = """
    tuning.name tuning.storage
    base overrides phases
    range.rates range.tokens range.seeds
    critical.sizes critical.depths critical.tokens critical.tolerance critical.seeds
    confirm.tokens confirm.seeds
    devices concurrent
"""

EVALUATION_KEYS = """
    name
    splits.NAME.corpus splits.NAME.split splits.NAME.tokens splits.NAME.length
    splits.NAME.document_mask
    generations.NAME.file generations.NAME.tokens generations.NAME.style
    generations.NAME.system generations.NAME.temperature generations.NAME.seed
    generations.NAME.stop generations.NAME.slices generations.NAME.refusals
    generations.NAME.faithfulness.model generations.NAME.faithfulness.support
    generations.NAME.policy.unwanted generations.NAME.policy.wanted
    generations.NAME.sandbox.seconds generations.NAME.sandbox.memory_mb
    generations.NAME.sandbox.file_mb generations.NAME.sandbox.processes
    generations.NAME.judge.path generations.NAME.judge.url generations.NAME.judge.model
    generations.NAME.judge.key_variable generations.NAME.judge.prompt
    generations.NAME.judge.tokens generations.NAME.judge.seconds
    calibration.NAME.file calibration.NAME.normalize calibration.NAME.bins
    calibration.NAME.slices
    tasks.NAME.task tasks.NAME.fewshot tasks.NAME.limit tasks.NAME.chat
    own.NAME.measure own.NAME.options own.NAME.better
    precision device
    price.per_device_hour
    code
"""

DRIFT_KEYS = """
    documents seed split text language_model length device permutations
    limits.lengths_psi limits.lengths_ks limits.tokens_psi limits.sources_psi limits.loss_rise
    limits.loss_ks limits.embedding_mmd
"""

RETRAIN_KEYS = """
    champion registry
    triggers.drift.new triggers.drift.config triggers.age.days
    triggers.metric.name triggers.metric.evaluation triggers.metric.at_least
    triggers.metric.at_most triggers.new_data.paths triggers.new_data.megabytes
    pause_days prepare train overrides evaluate gate
    alerts.command alerts.timeout
"""

GATE_KEYS = """
    name
    thresholds.NAME.at_least thresholds.NAME.at_most
    baseline
    regressions.NAME.margin regressions.NAME.proven
    alerts.command alerts.timeout
"""


def typed(parameter):
    """How a parameter is typed: the long and short names of an option, or an argument's."""
    if parameter.param_type_name == "option":
        return " ".join([*parameter.opts, *parameter.secondary_opts])
    return parameter.metavar or parameter.name.upper()


def test_commands_and_their_options():
    group = get_command(app)
    assert [typed(parameter) for parameter in group.params] == ["--version"]
    found = {
        name: " ".join(typed(parameter) for parameter in command.params)
        for name, command in group.commands.items()
    }
    assert found == COMMANDS


def test_run_config_keys():
    assert keys(RunConfig) == RUN_KEYS.split()


def test_corpus_config_keys():
    assert keys(CorpusConfig) == CORPUS_KEYS.split()


def test_sweep_config_keys():
    assert keys(SweepConfig) == SWEEP_KEYS.split()


def test_tuning_config_keys():
    assert keys(TuningConfig) == TUNING_KEYS.split()


def test_evaluation_config_keys():
    assert keys(EvaluationConfig) == EVALUATION_KEYS.split()


def test_drift_config_keys():
    assert keys(DriftConfig) == DRIFT_KEYS.split()


def test_retrain_config_keys():
    assert keys(RetrainConfig) == RETRAIN_KEYS.split()


def test_gate_config_keys():
    assert keys(GateConfig) == GATE_KEYS.split()
