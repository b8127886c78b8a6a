"""Keys of other tools are answered with the place in our configs where the thing lives."""

import re
from itertools import chain

import pytest
from typer.main import get_command
from written_configs import CORPUS, RUN

from manta import cli
from manta.config import CorpusConfig, RunConfig, SweepConfig
from manta.config.elsewhere import TABLES
from manta.config.load import COMMAND_LINE
from manta.config.mistakes import keys

SWEEP = "sweep: {name: x}\nbase: run.yaml\nspace: x\noverrides: [eval.every=44K]\n"
KINDS = {
    "schedule": (RunConfig, RUN),
    "sources": (CorpusConfig, CORPUS),
    "search": (SweepConfig, SWEEP),
}
ENTRIES = [(mark, names, says) for mark, table in TABLES.items() for names, says in table]
NOTHING = ("not supported", "there is nothing to set")
OTHERS_KEYS = {"run.seed", "train.seq_len", "split.validation", "tokenizer", "pretrained"}


def valid_keys(kind):
    """Keys and sections of a config."""
    leaves = keys(kind)
    parts = [key.split(".") for key in leaves]
    return {".".join(p[:end]) for p in parts for end in range(1, len(p) + 1)}


@pytest.mark.parametrize(("mark", "names", "says"), ENTRIES, ids=[e[1].split()[0] for e in ENTRIES])
def test_every_key_that_is_named_exists(mark, names, says):
    own = valid_keys(KINDS[mark][0])
    everywhere = set(chain.from_iterable(valid_keys(kind) for kind, _ in KINDS.values()))
    named = set(re.findall(r"\b[a-z_]+(?:\.[a-z_]+)+\b", says))
    quoted = set(re.findall(r"`([^`]+)`", says))
    commands = {text for text in quoted if text.startswith("manta ")}
    named |= quoted - commands
    assert named <= everywhere, named - everywhere
    assert named & own or commands or says.startswith(NOTHING) or "corpus's config" in says
    for command in commands:
        known = get_command(cli.app).commands[command.split()[1]]
        options = {option for parameter in known.params for option in parameter.opts}
        assert set(command.split()[2:]) <= options


@pytest.mark.parametrize("mark", TABLES)
def test_each_name_is_once_in_a_table_and_no_key(mark):
    names = list(chain.from_iterable(names.split() for names, _ in TABLES[mark]))
    assert sorted(set(names)) == sorted(names)
    assert not set(names) & set(KINDS[mark][0].model_fields)
    assert all(re.fullmatch(r"[a-z0-9_]+", name) for name in names)


@pytest.mark.parametrize("mark", TABLES)
def test_each_name_is_answered_wherever_it_is_tried(refused, mark):
    kind, base = KINDS[mark]
    for names, says in TABLES[mark]:
        for name in names.split():
            (line,) = refused(base, f"{name}=1", kind=kind)
            assert line == f"{COMMAND_LINE}: unknown key '{name}': {says}"


@pytest.mark.parametrize(
    ("override", "names"),
    [
        ("train.batch_size=8", ["schedule.batch", "train.micro_batch"]),
        ("train.learning_rate=1e-3", ["schedule.lr"]),
        ("train.epochs=3", ["schedule.horizon"]),
        ("train.max_steps=3", ["schedule.horizon", "schedule.batch", "train.seq_len"]),
        ("train.gradient-accumulation-steps=3", ["train.micro_batch"]),
        ("train.resume=true", ["run.name", "model.pretrained"]),
        ("train.freeze=[embed]", ["model.train", "model.freeze"]),
        ("train.lora_r=8", ["model.adapter", "model.train"]),
        ("model.load_in_4bit=true", ["model.quantize", "model.adapter"]),
        ("train.assistant_only_loss=true", ["objective.type: chat"]),
        ("train.loss=mse", ["the next token"]),
        ("data.num_workers=4", ["read ahead"]),
        ("train.num_workers=4", ["scaling.min"]),
        ("run.output_dir=x", ["run.storage"]),
        ("train.fp16=true", ["train.precision"]),
        ("train.BF16=true", ["train.precision"]),
        ("model.hidden_size=64", ["model.sizes"]),
        ("model.name=gpt2", ["model.pretrained"]),
        ("model.path=gpt2", ["model.pretrained"]),
        ("wandb.name=x", ["run.name"]),
        ("eval.steps=100", ["eval.every"]),
        ("checkpoint.steps=100", ["checkpoint.every"]),
        ("log.steps=100", ["log.every"]),
        ("optimizer.name=adam", ["optimizer.type"]),
        ("optimizer.beta1=0.9", ["optimizer.betas"]),
        ("data.path=x", ["`corpus`"]),
        ("scaling.num_gpus=2", ["scaling.min", "scaling.resources_per_worker"]),
        # The right name in the wrong section, as ever.
        ("optimizer.lr=1e-3", ["did you mean 'schedule.lr'?"]),
        ("train.warmup=1K", ["did you mean 'schedule.lr.warmup'?"]),
        ("seed=1", ["did you mean 'run.seed'?"]),
        ("name=x", ["did you mean 'run.name'?"]),
    ],
)
def test_what_everyone_tries(refused, override, names):
    (line,) = refused(RUN, override)
    assert all(name in line for name in names), line


def test_what_belongs_to_the_base_of_a_sweep_is_said_as_an_override(refused):
    assert refused(SWEEP, "schedule.horizon=12K", "run.seed=3", kind=SweepConfig) == [
        f"{COMMAND_LINE}: unknown key 'schedule'; it belongs to the base: "
        "overrides=[eval.every=44K, schedule.horizon=12K]",
        f"{COMMAND_LINE}: unknown key 'run'; it belongs to the base: "
        "overrides=[eval.every=44K, run.seed=3]",
    ]
    text = SWEEP + "eval: {every: 1K}\noptimizer: {betas: [0.9, 0.99], decay_all: true}\n"
    assert refused(text, kind=SweepConfig) == [
        "run.yaml:5: unknown key 'eval'; it belongs to the base: overrides=[eval.every=1K]",
        "run.yaml:6: unknown key 'optimizer'; it belongs to the base: overrides=[eval.every=44K, "
        '"optimizer.betas=[0.9, 0.99]", optimizer.decay_all=true]',
    ]


def test_those_overrides_can_be_given_as_they_are_said(loaded, refused):
    line = refused(SWEEP, "optimizer.betas=[0.9, 0.99]", kind=SweepConfig)[0]
    given = line.partition("base: ")[2]
    assert loaded(SWEEP, given, kind=SweepConfig).overrides == [
        "eval.every=44K",
        "optimizer.betas=[0.9, 0.99]",
    ]
