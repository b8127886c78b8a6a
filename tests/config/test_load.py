"""Loading: every mistake is named with its place and remedy; dump and load are inverse."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from manta import cli
from manta.config import ConfigError, CorpusConfig, RunConfig, dump, load
from manta.config.load import COMMAND_LINE, keys
from manta.config.units import format_tokens, parse_span, parse_tokens, span_tokens

ROOT = Path(__file__).parents[2]
any_machine = settings(deadline=None)

RUN = """\
run: {name: demo}
corpus: shards
model: {type: llama}
schedule:
  horizon: 1M
  lr: 0.1
  batch: 8
"""
SEGMENTS = RUN.replace(
    "lr: 0.1", "lr: [{shape: linear, from: 0.0, to: 0.1, tokens: 10%}, {from: 0.1}]"
)
CORPUS = """\
out: shards
sources:
  - {name: a, format: text, paths: [a.txt]}
tokenizer: {vocab_size: 300}
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a config into the current folder, so that messages name it shortly."""
    monkeypatch.chdir(tmp_path)

    def to_file(text, name="run.yaml"):
        Path(name).write_text(text, encoding="utf-8")
        return name

    return to_file


@pytest.fixture
def refused(write):
    """Loads a text that must be refused; returns the lines of the message."""

    def message(text, *overrides, kind=RunConfig):
        with pytest.raises(ConfigError) as caught:
            load(write(text), kind, overrides)
        return str(caught.value).splitlines()

    return message


@pytest.fixture
def loaded(write):
    def from_text(text, *overrides, kind=RunConfig):
        return load(write(text), kind, overrides)

    return from_text


# Unknown keys.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {seqlen: 8}", "unknown key 'train.seqlen'; did you mean 'train.seq_len'?"),
        ("rnu: 1", "unknown key 'rnu'; did you mean 'run'?"),
        ("optimiser: {eps: 1}", "unknown key 'optimiser'; did you mean 'optimizer'?"),
        ("train: {lr: 1}", "unknown key 'train.lr'; did you mean 'schedule.lr'?"),
        ("data: {seq_len: 1}", "unknown key 'data.seq_len'; did you mean 'train.seq_len'?"),
        ("horizon: 1M", "unknown key 'horizon'; did you mean 'schedule.horizon'?"),
        ("wandb: {tag: a}", "unknown key 'wandb.tag'; did you mean 'wandb.tags'?"),
        # Nothing is near: a name in the same section must not seem near for its section's sake.
        (
            "optimizer: {x: 1}",
            "unknown key 'optimizer.x'; valid here: betas, decay_all, eps, type, weight_decay",
        ),
        ("cost: {gpu: 1}", "unknown key 'cost.gpu'; valid here: per_device_hour"),
    ],
)
def test_unknown_key_is_named_with_the_nearest_valid_one(refused, text, message):
    assert refused(f"{RUN}{text}\n") == [f"run.yaml:8: {message}"]


def test_unknown_key_within_a_list_is_named_with_its_place(refused):
    text = SEGMENTS.replace("shape: linear", "shap: linear")
    first = refused(text)[0]
    assert first == (
        "run.yaml:6: unknown key 'schedule.lr.0.shap'; did you mean 'schedule.lr.shape'?"
    )


def test_every_valid_key_is_its_own_nearest_name(refused):
    """A slip in any key, by one letter more, is answered with that key."""
    for key in keys(RunConfig):
        *parents, leaf = key.split(".")
        listed = parents == ["faults"] or (parents[:1] == ["schedule"] and len(parents) > 1)
        if listed or leaf == key:
            continue  # a list or a shorthand; a top-level key is tested above
        line = refused(RUN, f"{key}z=1")[-1]
        assert line == f"{COMMAND_LINE}: unknown key '{key}z'; did you mean '{key}'?"


# Places, values, what is allowed.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "train:\n  micro_batch: 0",
            "run.yaml:9: train.micro_batch = 0: input should be greater than or equal to 1",
        ),
        (
            "train: {precision: fp64}",
            "run.yaml:8: train.precision = 'fp64': input should be 'no', 'bf16' or 'fp16'",
        ),
        ("scaling: {min: 3, max: 2}", "run.yaml:8: scaling: max 2 is below min 3"),
        (
            "scaling: {resources_per_worker: {GPU: -1}}",
            "run.yaml:8: scaling.resources_per_worker.GPU = -1: "
            "input should be greater than or equal to 0",
        ),
        (
            "optimizer: {betas: [0.9, 1.5]}",
            "run.yaml:8: optimizer.betas.1 = 1.5: input should be less than 1",
        ),
        ("train: 3", "run.yaml:8: train = 3: this is a section, with keys of its own"),
        ("train:", "run.yaml:8: train = nothing: this is a section, with keys of its own"),
        ("train: {seq_len: yes}", "run.yaml:8: train.seq_len = True: write a number, not"),
        ("cost: {per_device_hour: yes}", "run.yaml:8: cost.per_device_hour = True: write a"),
        ("train: {seq_len: {a: 1}}", "run.yaml:8: train.seq_len = {'a': 1}: input should be"),
        (
            "eval: {every: 0.5}",
            "run.yaml:8: eval.every = 0.5: a token count is a whole number of tokens",
        ),
        (
            "eval: {every: soon}",
            "run.yaml:8: eval.every = 'soon': write a token count such as 2000000, 2M or 1.5B",
        ),
        ("eval: {every: 0}", "run.yaml:8: eval.every = 0: input should be greater than 0"),
        ("eval: {patience: 2}", "run.yaml: eval.patience needs eval.every"),
        ("train: {2: 1}", "run.yaml:8: key 2 in train: a key is text; put it in quotes"),
        ("no: 1", "run.yaml: key False in the config: a key is text; put it in quotes"),
    ],
)
def test_wrong_value_is_named_with_line_key_value_and_remedy(refused, text, message):
    (line,) = refused(f"{RUN}{text}\n")
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{}", "give either 'type' (with 'sizes') or 'pretrained'"),
        ("{type: llama, pretrained: x}", "give either 'type' (with 'sizes') or 'pretrained'"),
        ("{pretrained: x, sizes: {a: 1}}", "'sizes' belongs to 'type'"),
    ],
)
def test_model_has_one_origin(refused, model, message):
    (line,) = refused(RUN.replace("{type: llama}", model))
    assert line.startswith(f"run.yaml:3: model: {message}")


def test_patience_with_evaluations_and_max_at_min_are_fine(loaded):
    config = loaded(RUN, "eval.patience=2", "eval.every=1K", "scaling.min=2", "scaling.max=2")
    assert (config.eval.patience, config.scaling.upper) == (2, 2)
    assert loaded(RUN, "scaling.min=3").scaling.upper == 3


@pytest.mark.parametrize(
    "name", ["../x", "a/b", "", "..", ".", ".hidden", "/tmp/x", "a\\b", "a\n", "~", "-x", "x" * 129]
)
def test_run_name_stays_within_the_storage_folder(refused, name):
    (line,) = refused(RUN.replace("name: demo", f"name: {json.dumps(name)}"))
    assert line.startswith("run.yaml:1: run.name = ")


def test_several_errors_are_reported_at_once(refused):
    text = RUN.replace("horizon: 1M", "horizon: never") + "rnu: 1\ntrain:\n  seq_len: 1\n"
    assert sorted(line.split(": ")[0] for line in refused(text, "log.every=x")) == [
        COMMAND_LINE,
        "run.yaml:10",
        "run.yaml:5",
        "run.yaml:8",
    ]


def test_missing_key_is_named_with_what_it_is_for(refused):
    assert refused(RUN.replace("corpus: shards\n", "")) == [
        "run.yaml: key 'corpus' is missing: path or URL of prepared token shards"
    ]
    assert refused(RUN.replace("  batch: 8\n", "")) == [
        "run.yaml:4: key 'schedule.batch' is missing: "
        "samples a step: a number, {name: ramp, …}, or a list of segments"
    ]


# The file.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (RUN + "corpus: other\n", "run.yaml:8: not valid YAML: key 'corpus' is given twice"),
        (
            RUN + "train:\n  seq_len: 8\n  seq_len: 9\n",
            "run.yaml:10: not valid YAML: key 'seq_len' is given twice",
        ),
        ("a: [\n", "run.yaml:2: not valid YAML: expected the node content"),
        ("a: b: c\n", "run.yaml:1: not valid YAML: mapping values are not allowed here"),
        ("a: *x\n", "run.yaml:1: not valid YAML: found undefined alias 'x'"),
        ("a: \x00\n", "run.yaml: not valid YAML: unacceptable character"),
        ("a: 1\n---\nb: 2\n", "run.yaml:2: not valid YAML: but found another document"),
        ("? [a, b]\n: 1\n", "run.yaml:1: not valid YAML: a key is a word"),
        ("a: &x\n  b: *x\n", "run.yaml: not valid YAML: an anchor that contains itself"),
        ("a: 2026-13-01\n", "run.yaml: not valid YAML: month must be in 1..12"),
        ("a: !!python/name:os.system\n", "run.yaml:1: not valid YAML: could not determine a"),
        ("- a\n", "run.yaml: a config is a mapping of sections, not ['a']"),
        ("just text\n", "run.yaml: a config is a mapping of sections, not 'just text'"),
        ("", "run.yaml: a config is a mapping of sections, not nothing"),
        ("# only a comment\n", "run.yaml: a config is a mapping of sections, not nothing"),
    ],
)
def test_broken_file_is_one_message(refused, text, message):
    assert refused(text)[0].startswith(message)


def test_missing_unreadable_and_binary_files(tmp_path):
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}/none.yaml: no such config file")):
        load(tmp_path / "none.yaml", RunConfig)
    with pytest.raises(ConfigError, match=re.escape(f"{tmp_path}: can't be read: ")):
        load(tmp_path, RunConfig)
    (tmp_path / "binary.yaml").write_bytes(b"a: \xff\xfe\n")
    with pytest.raises(ConfigError, match=r"binary\.yaml: can't be read: .*utf-8"):
        load(tmp_path / "binary.yaml", RunConfig)


def test_merged_keys_are_read_and_located(loaded, refused):
    assert loaded(RUN + "wandb: {<<: {group: g}, project: p}\n").wandb.group == "g"
    text = RUN + "train:\n  <<:\n    seq_len: 1\n    clip_norm: -1\n  clip_norm: 0\n"
    assert [line.split(" = ")[0] for line in refused(text)] == [
        "run.yaml:10: train.seq_len",
        "run.yaml:12: train.clip_norm",
    ]


def test_precision_may_be_written_bare(loaded):
    """YAML 1.1 reads a bare `no` as false."""
    assert loaded(RUN + "train: {precision: no}\n").train.precision == "no"
    assert loaded(RUN + "train: {precision: 'no'}\n").train.precision == "no"
    assert loaded(RUN, "train.precision=no").train.precision == "no"


def test_number_in_scientific_notation_is_a_number(loaded):
    """YAML 1.1 reads 1e-5, without a point, as text; a model would be given a string."""
    config = loaded(RUN + "optimizer: {eps: 1e-5}\n", "model.sizes.eps=1e-5", "eval.every=2e5")
    assert config.model.sizes == {"eps": 1e-5}
    assert (config.optimizer.eps, config.eval.every) == (1e-5, 200_000)


# Overrides.


def test_override_sets_new_and_given_keys(loaded):
    config = loaded(RUN, "run.name=other", "train.seq_len=512", "model.sizes.deep.er=[1, a]")
    assert (config.run.name, config.train.seq_len) == ("other", 512)
    assert config.model.sizes == {"deep": {"er": [1, "a"]}}


def test_override_of_a_list_item(loaded):
    config = loaded(SEGMENTS, "schedule.lr.0.to=0.3", "schedule.lr.1={from: 0.3}")
    assert [segment.end for segment in config.schedule.lr] == [0.3, None]
    assert config.schedule.lr[1].start == 0.3


def test_values_for_the_model_are_plain_data(refused):
    """What is not would not come back from a dump."""
    (line,) = refused(RUN, "model.sizes.day=2026-01-01")
    assert line.startswith(f"{COMMAND_LINE}: model.sizes.day = datetime.date(2026, 1, 1): ")


def test_later_override_wins_and_value_may_hold_equals_signs(loaded):
    assert loaded(RUN, "run.seed=1", "run.seed=2").run.seed == 2
    assert loaded(RUN, "corpus=s3://b/x?a=b").corpus == "s3://b/x?a=b"


def test_value_that_is_no_yaml_is_text(loaded):
    assert loaded(RUN, "corpus=*.arrow").corpus == "*.arrow"
    assert loaded(RUN, "corpus=[x").corpus == "[x"
    assert loaded(RUN, "corpus=2026-13-01").corpus == "2026-13-01"


def test_override_of_an_alias_changes_one_place(loaded):
    text = CORPUS.replace("sources:\n  - {", "sources:\n  - &s {") + "split: {train: 1}\n"
    text = text.replace("tokenizer", "  - {<<: *s, name: b, paths: &p [b.txt]}\ntokenizer")
    text = text.replace("tokenizer:", "  - {<<: *s, name: c, paths: *p}\ntokenizer:", 1)
    config = loaded(text, "sources.1.paths.0=x.txt", kind=CorpusConfig)
    assert [source.paths for source in config.sources] == [["a.txt"], ["x.txt"], ["b.txt"]]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seq_len", "write an override as dotted.key=value, such as train.seq_len=512"),
        ("=3", "write an override as dotted.key=value, such as train.seq_len=512"),
        ("", "write an override as dotted.key=value, such as train.seq_len=512"),
        ("train..seq_len=3", "write an override as dotted.key=value"),
        (".train=3", "write an override as dotted.key=value"),
        ("schedule.lr.2.to=3", "'2' must be an index of a list of 2: 0 to 1"),
        ("schedule.lr.2={to: 3}", "'2' must be an index of a list of 2: 0 to 1"),
        ("schedule.lr.-1.to=3", "'-1' must be an index of a list of 2: 0 to 1"),
        ("schedule.lr.²=3", "'²' must be an index of a list of 2: 0 to 1"),
        ("schedule.lr.first=3", "'first' must be an index of a list of 2: 0 to 1"),
        ("run.0=3", "run.0 is not an item of a list"),
        ("run.0.name=3", "run.0 is not an item of a list"),
        ("model.sizes={a: 1, a: 2}", "key 'a' is given twice"),
        ("model.sizes=&x {a: *x}", "an anchor that contains itself"),
    ],
)
def test_bad_override_is_one_message(refused, override, message):
    (line,) = refused(SEGMENTS, override)
    assert line.startswith(f"{COMMAND_LINE}: '{override}': {message}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.seqlen=3", "unknown key 'train.seqlen'; did you mean 'train.seq_len'?"),
        ("train.seq_len=x", "train.seq_len = 'x': input should be a valid integer"),
        ("train=3", "train = 3: this is a section"),
        ("train={seq_len: x}", "train.seq_len = 'x': input should be a valid integer"),
        ("run.name=", "run.name = nothing: input should be a valid string"),
        # They replace a number of the file by a mapping, so the file's line is not to blame.
        ("train.seq_len.a=3", "train.seq_len = {'a': 3}: input should be a valid integer"),
        ("schedule.batch.name=ramp", "key 'schedule.batch.from' is missing"),
        ("model.sizes={1: 2}", "key 1 in model.sizes: a key is text; put it in quotes"),
    ],
)
def test_error_from_an_override_says_so(refused, override, message):
    text = RUN + "train:\n  seq_len: 64\n"
    assert refused(text, override)[0].startswith(f"{COMMAND_LINE}: {message}")


def test_contradiction_of_file_and_override_names_both(refused):
    assert refused(RUN, "model.pretrained=x")[0].startswith(
        "run.yaml:3 with the command line: model: give either"
    )
    assert refused(RUN, "train.seq_len=8", "eval.patience=2") == [
        "run.yaml with the command line: eval.patience needs eval.every"
    ]
    assert refused(RUN + "cost: {per_device_hour: -1}\n", "run.seed=1")[0].startswith(
        "run.yaml:8: cost"
    )


# Units.


@any_machine
@given(st.integers(0, 2**63))
def test_token_counts_are_read_as_printed(count):
    assert parse_tokens(format_tokens(count)) == count


@any_machine
@given(st.sampled_from("KMBT"), st.integers(1, 999), st.integers(0, 99))
def test_round_token_counts_are_printed_short(suffix, whole, hundredths):
    count = (100 * whole + hundredths) * 1000 ** (" KMBT".index(suffix)) // 100
    printed = format_tokens(count)
    assert printed == re.sub(r"\.?0+$", "", f"{whole}.{hundredths:02d}") + suffix
    assert parse_tokens(printed.lower()) == parse_tokens(count) == count


@pytest.mark.parametrize(
    ("count", "printed"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1K"),
        (1234, "1234"),
        (1_230_000, "1.23M"),
        (2**21, "2097152"),
        (10**15, "1000T"),
    ],
)
def test_token_counts_are_printed_exactly(count, printed):
    assert format_tokens(count) == printed


@pytest.mark.parametrize(
    ("written", "count"),
    [
        ("2M", 2 * 10**6),
        ("1.5B", 15 * 10**8),
        ("1.5 k", 1500),
        ("2_000_000", 2 * 10**6),
        ("0.001K", 1),
        (1e9, 10**9),
        (0, 0),
        ("1T", 10**12),
    ],
)
def test_token_counts_as_people_write_them(written, count):
    assert parse_tokens(written) == count


@pytest.mark.parametrize(
    "written",
    ["-1", -1, "1.5", 1.5, "0.0001K", "M", "2 MB", "5%", True, None, [1], "", "nan", 1e999],
)
def test_other_token_counts_are_refused(written):
    with pytest.raises(ValueError, match="token count"):
        parse_tokens(written)


@any_machine
@given(st.integers(0, 100), st.integers(0, 99), st.integers(0, 10**15))
def test_spans_are_counts_or_exact_shares(whole, hundredths, horizon):
    written = f"{whole}.{hundredths:02d}%" if whole < 100 else "100%"
    share = 100 * whole + (hundredths if whole < 100 else 0)
    span = parse_span(f" {written} ")
    assert parse_span(span) == span == written
    assert span_tokens(span, horizon) == share * horizon // 10_000
    assert span_tokens(parse_span(format_tokens(horizon)), 0) == horizon


@pytest.mark.parametrize("written", ["100.1%", "-5%", "%", "5 percent", True, "1.5"])
def test_other_spans_are_refused(written):
    with pytest.raises(ValueError, match="share of the horizon"):
        parse_span(written)


# dump → load.

text = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)
words = text | st.sampled_from(
    ["no", "1e5", "1e-5", "0x1", "2026-01-01", "1:30", "~", "<<", "=", ""]
)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True) | st.sampled_from(
    ["1e5", "12", "true", "1.0", "2026-01-01"]
)
tokens = st.integers(1, 10**15)
spans = tokens | st.integers(0, 100).map("{}%".format)
positive = st.floats(1e-12, 1e3)
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(words, inner, max_size=2),
    max_leaves=4,
)


def some(**fields):
    """Mappings with some of these keys."""
    return st.fixed_dictionaries({}, optional=fields)


def segments(value):
    ends = st.fixed_dictionaries({"from": value, "to": value})
    lengths = (
        st.none() | spans.map(lambda span: ("tokens", span)) | spans.map(lambda s: ("until", s))
    )

    def segment(shape, ends, length, period):
        keys = {"shape": shape, **ends} if shape != "constant" else {"from": ends["from"]}
        return {
            **keys,
            **(dict([length]) if length else {}),
            **({"period": period} if shape == "cyclic" else {}),
        }

    shapes = st.sampled_from(["constant", "linear", "cosine", "1-sqrt", "exponential", "cyclic"])
    return st.lists(st.builds(segment, shapes, ends, lengths, tokens), min_size=1, max_size=3)


sizes = st.integers(1, 4096)
rates = (
    positive
    | segments(positive)
    | st.fixed_dictionaries(
        {"name": st.just("wsd"), "peak": st.floats(0.5, 1), "decay": spans},
        optional={"warmup": spans, "floor": st.floats(0, 0.5)},
    )
    | st.fixed_dictionaries(
        {"name": st.sampled_from(["cosine", "linear", "constant"]), "peak": positive},
        optional={"warmup": spans},
    )
)
batches = (
    sizes
    | segments(sizes)
    | st.fixed_dictionaries(
        {"name": st.just("ramp"), "from": sizes, "to": sizes, "over": spans},
        optional={"start": spans, "multiple_of": sizes},
    )
)
models = st.fixed_dictionaries({"pretrained": text}) | st.fixed_dictionaries(
    {"type": text}, optional={"sizes": st.dictionaries(words, plain, max_size=3)}
)
runs = st.fixed_dictionaries(
    {
        "run": st.fixed_dictionaries(
            {"name": names}, optional={"seed": st.integers(0, 2**63 - 1), "storage": words}
        ),
        "corpus": words,
        "model": models,
        "schedule": st.fixed_dictionaries({"horizon": tokens, "lr": rates, "batch": batches}),
    },
    optional={
        "train": some(
            seq_len=st.integers(2, 10**6),
            precision=st.sampled_from(["no", "bf16", "fp16"]),
            clip_norm=st.none() | positive,
            compile=st.booleans(),
        ),
        "optimizer": some(
            betas=st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(list), eps=positive
        ),
        "scaling": some(
            max=st.none() | sizes,
            resources_per_worker=st.dictionaries(words, st.floats(0, 8), max_size=2),
        ),
        "checkpoint": some(every=st.none() | tokens, keep=sizes),
        "eval": st.fixed_dictionaries({"every": tokens}, optional={"patience": sizes}),
        "log": some(every=tokens | st.just(0)),
        "wandb": some(
            mode=st.sampled_from(["auto", "online", "offline", "disabled"]),
            entity=st.none() | words,
            tags=st.lists(words, max_size=3),
        ),
    },
)
sources = st.fixed_dictionaries(
    {
        "format": st.sampled_from(["text", "jsonl", "parquet", "arrow"]),
        "paths": st.lists(words, min_size=1, max_size=3),
    },
    optional={"text_column": words, "weight": positive},
) | st.just({"format": "python-stdlib"})
corpora = st.fixed_dictionaries(
    {
        "out": words,
        "sources": st.lists(sources, min_size=1, max_size=3).map(
            lambda found: [{"name": f"s{i}", **source} for i, source in enumerate(found)]
        ),
        "tokenizer": st.fixed_dictionaries({"path": words}, optional={"eos": words})
        | some(sample_bytes=sizes).map(lambda keys: {"vocab_size": 300, **keys}),
    },
    optional={
        "split": some(train=positive, validation=positive, test=st.just(0)),
        "shard_tokens": st.integers(1, 10**9),
        "on_error": st.sampled_from(["stop", "quarantine"]),
    },
)
per_example = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@per_example
@given(runs)
def test_dumped_run_config_loads_equal(tmp_path, data):
    config = RunConfig.model_validate(data)
    (tmp_path / "run.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "run.yaml", RunConfig) == config


@per_example
@given(corpora)
def test_dumped_corpus_config_loads_equal(tmp_path, data):
    config = CorpusConfig.model_validate(data)
    (tmp_path / "corpus.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "corpus.yaml", CorpusConfig) == config


def test_config_never_changes(loaded):
    config = loaded(RUN)
    with pytest.raises(ValueError, match="frozen"):
        config.train.seq_len = 3


# The command.


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


def run_python(*arguments, cwd):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "platform")}
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )


def test_config_error_from_the_shell(write, tmp_path):
    done = run_python("-m", "manta.cli", "train", write(RUN), "train.seqlen=3", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: command line: unknown key 'train.seqlen'; did you mean 'train.seq_len'?\n"
    )


def test_command_line_is_light():
    """Help and config errors answer at once: nothing heavy is imported before it is needed."""
    heavy = ["torch", "ray", "transformers", "wandb", "plotly", "pyarrow", "accelerate", "pandas"]
    code = f"import manta.cli, sys; print([m for m in {heavy} if m in sys.modules])"
    done = run_python("-c", code, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")
