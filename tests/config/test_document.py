"""Numbers are those of YAML 1.2, and where text belongs, what was written is taken."""

import math

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from written_configs import CORPUS, RUN

from manta.config import CorpusConfig, RunConfig, SweepConfig, document
from manta.config.document import parse, parse_value, unparse
from manta.config.load import COMMAND_LINE, build, change, read

# Numbers.


@pytest.mark.parametrize(
    ("written", "number"),
    [
        # Where YAML 1.1 says 8, 511, 15 as text, and float as text.
        ("010", 10),
        ("0777", 777),
        ("0o17", 15),
        ("08", 8),
        ("1e-3", 1e-3),
        ("1.5e3", 1500.0),
        ("1E5", 1e5),
        # Where both say the same.
        ("0x1F", 31),
        ("-010", -10),
        ("+7", 7),
        ("1_000", 1000),
        ("1_000.5", 1000.5),
        (".5", 0.5),
        ("5.", 5.0),
        ("-.5e-2", -0.005),
        (".inf", math.inf),
        ("-.INF", -math.inf),
    ],
)
def test_numbers_of_yaml_1_2(written, number):
    for found in (parse(written).data, parse(f"[{written}]").data[0], parse_value(written).data):
        assert (type(found), found) == (type(number), number)


@pytest.mark.parametrize(
    "written", ["1:30", "190:20:30.15", "0b11", "0o8", "0o", "2026-11-28", "1e", "e5", "=", "1K"]
)
def test_what_is_no_number_is_text(written):
    assert parse(written).data == written


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("run.seed=0777", 777),
        ("run.seed=0o17", 15),
        ("schedule.batch=010", 10),
        ("eval.every=0o100", 64),
        ("schedule.lr=1e-3", 1e-3),
        ("log.every=2e5", 200_000),
        ("cost.per_device_hour=.5", 0.5),
    ],
)
def test_numeric_keys_read_them(loaded, override, value):
    section, _, name = override.partition("=")[0].partition(".")
    assert getattr(getattr(loaded(RUN, override), section), name) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedule.horizon=1:30", "schedule.horizon = '1:30': write a token count"),
        ("schedule.batch=1:30", "schedule.batch = '1:30': input should be a valid integer"),
        ("run.seed=0b11", "run.seed = '0b11': input should be a valid integer"),
        ("run.seed=2026-11-28", "run.seed = '2026-11-28': input should be a valid integer"),
        ("schedule.lr=1e400", "schedule.lr = 1e400: input should be a finite number"),
        ("train.seq_len=yes", "train.seq_len = yes: write a number, not true or false"),
        # Also within lists and mappings, where Python would take them for 1 and 0.
        ("optimizer.betas=[yes, 0.9]", "optimizer.betas: write a number, not true or false"),
        ("checkpoint.at=[on]", "checkpoint.at: write a number, not true or false"),
        (
            "scaling.resources_per_worker.GPU=on",
            "scaling.resources_per_worker: write a number, not true or false",
        ),
    ],
)
def test_or_are_refused_with_the_key(refused, override, message):
    (line,) = refused(RUN, override)
    assert line.startswith(f"{COMMAND_LINE}: {message}")


@given(
    st.text("0123456789+-._eExXoOab:~ ", min_size=1)
    | st.sampled_from(["yes", "no", "null", "true", "2026-11-28", "=", "<<", "1e5", "0o7"])
)
def test_any_text_comes_back_from_a_dump_for_any_reader(text):
    written = unparse({"a": text, "b": [text], text: 1})
    for data in (parse(written).data, yaml.safe_load(written)):
        assert data == {"a": text, "b": [text], text: 1}


# Two readers.

# Few letters, so that signs with a meaning come often.
YAML_LIKE = st.text(" \n:-[]{},#&*'\"%@`ab01.~\x85\u2028", max_size=20)
VALUES = st.none() | st.booleans() | st.floats(allow_nan=False) | st.integers() | st.text()
NESTED = st.recursive(
    VALUES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(YAML_LIKE | NESTED.map(unparse))
def test_the_fast_reader_reads_as_the_other_one_does(text):
    """Wherever it is asked; what it refuses, the other one decides."""
    try:
        fast = document._parse(document._FastLoader(text))
    except yaml.YAMLError:
        return
    if not document.READ_DIFFERENTLY.search(text):
        assert repr(document._parse(document._Loader(text))) == repr(fast)


# Text.

HARD = ["007", "2026-11-28", "1e5", "1.10", "0x1F", "1_000", "no", "off", "true"]
TEXTS = {
    RunConfig: [
        "run.name",
        "run.storage",
        "corpus",
        "model.type",
        "wandb.project",
        "wandb.entity",
        "wandb.group",
        "wandb.tags.0",
    ],
    CorpusConfig: [
        "out",
        "sources.0.name",
        "sources.0.paths.0",
        "sources.0.text_column",
        "tokenizer.path",
        "tokenizer.eos",
    ],
    SweepConfig: ["sweep.name", "sweep.storage", "space", "metric", "overrides.0", "base"],
}
BASES = {
    RunConfig: RUN + "wandb: {tags: [x]}\n",
    CorpusConfig: CORPUS.replace("{vocab_size: 300}", "{path: x}"),
    SweepConfig: "sweep: {name: x}\nbase: run.yaml\nspace: x\noverrides: [x]\n",
}


@pytest.mark.parametrize("written", HARD)
@pytest.mark.parametrize("kind", TEXTS)
def test_where_text_belongs_it_is_what_was_written(loaded, kind, written):
    for key in TEXTS[kind]:
        assert value_at(loaded(BASES[kind], f"{key}={written}", kind=kind), key) == written


def value_at(config, dotted):
    for part in dotted.split("."):
        config = config[int(part)] if part.isdigit() else getattr(config, part)
    return config


def test_also_in_a_file(loaded):
    text = BASES[RunConfig].replace("demo", "007").replace("[x]", "[v1, no, 2024, 1.10, '08']")
    config = loaded(text)
    assert (config.run.name, config.wandb.tags) == ("007", ["v1", "no", "2024", "1.10", "08"])


def test_also_within_a_list_on_the_command_line(loaded):
    tags = loaded(RUN, "wandb.tags=[v1, no, 2024]", "wandb.tags.0=010").wandb.tags
    assert tags == ["010", "no", "2024"]


@pytest.mark.parametrize(
    "written", ["exp #3", "#7", "[EOS]", "{a}", "a: b", "&x", "---", "|", "- x"]
)
def test_text_on_the_command_line_needs_no_quotes_for_yaml(loaded, written):
    assert loaded(RUN, f"wandb.group={written}").wandb.group == written


def test_quotes_are_those_of_yaml(loaded):
    assert loaded(RUN, "wandb.group='007'").wandb.group == "007"
    assert loaded(RUN, 'wandb.group="a b"').wandb.group == "a b"


def test_nothing_is_nothing(loaded):
    for written in ("", "null", "~"):
        assert loaded(RUN + "wandb: {group: g}\n", f"wandb.group={written}").wandb.group is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("wandb.mode=off", "wandb.mode = 'off': input should be 'auto', 'online', 'offline' or"),
        ("guards.spike=no", "guards.spike = 'no': input should be 'off', 'stop', 'skip' or"),
        (
            "run.name=[a]",
            "run.name = '[a]': a name has letters, digits, '.', '_' and '-' only, up to",
        ),
        ("run.name=null", "run.name = nothing: input should be a valid string"),
        ("train.micro_batch=[2]", "train.micro_batch = [2]: input should be a valid integer"),
    ],
)
def test_a_mistake_is_shown_as_it_was_written(refused, override, message):
    (line,) = refused(RUN, override)
    assert line.startswith(f"{COMMAND_LINE}: {message}")


@pytest.mark.parametrize("written", ["no", "'no'"])
def test_words_that_yaml_takes_for_false_are_read_where_they_belong(loaded, written):
    assert loaded(RUN + f"train: {{precision: {written}}}\n").train.precision == "no"
    assert loaded(RUN, f"train.precision={written}").train.precision == "no"
    assert loaded(RUN, "guards.spike=off").guards.spike == "off"
    assert loaded(RUN, "train.compile=no").train.compile is False
    assert loaded(RUN, "model.sizes.use_cache=no").model.sizes == {"use_cache": False}


def test_a_number_for_the_model_is_a_number(loaded):
    """A model would be given a string without a word."""
    sizes = loaded(RUN, "model.sizes.eps=1e-5", "model.sizes.heads=010").model.sizes
    assert sizes == {"eps": 1e-5, "heads": 10}


def test_what_replaces_a_value_is_not_mistaken_for_what_was_written(write, loaded):
    text = RUN.replace("demo", "007")
    assert loaded(text, "run={name: '1'}").run.name == "1"
    written = change(read(write(text), ()), {"run.name": "other"}, {"run.name": "space"})
    assert (build(written, RunConfig).run.name, written.texts.get(("run", "name"))) == (
        "other",
        None,
    )


def test_a_secret_in_what_was_written_is_not_repeated(refused):
    (line,) = refused(RUN, "run.name={a: b}, s3://user:secret@host/x")
    assert "secret" not in line
