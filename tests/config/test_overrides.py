"""Overrides: what they set, and whose fault a mistake is, the file's or theirs."""

import pytest
from written_configs import CORPUS, RUN, SEGMENTS

from manta.config import CorpusConfig
from manta.config.load import COMMAND_LINE


def test_override_sets_new_and_given_keys(loaded):
    config = loaded(RUN, "run.name=other", "train.seq_len=512", "model.sizes.deep.er=[1, a]")
    assert (config.run.name, config.train.seq_len) == ("other", 512)
    assert config.model.sizes == {"deep": {"er": [1, "a"]}}


def test_override_of_a_list_item(loaded):
    config = loaded(SEGMENTS, "schedule.lr.0.to=0.3", "schedule.lr.1={from: 0.3}")
    assert [segment.end for segment in config.schedule.lr] == [0.3, None]
    assert config.schedule.lr[1].start == 0.3


def test_values_for_the_model_are_plain_data(loaded, refused):
    """What is not would not come back from a dump."""
    assert loaded(RUN, "model.sizes={day: 2026-01-01, 1: 2}").model.sizes == {
        "day": "2026-01-01",
        "1": 2,
    }
    (line,) = refused(RUN, "model.sizes={day: !!timestamp 2026-01-01}")
    assert line.startswith(f"{COMMAND_LINE}: model.sizes.day = 2026-01-01: input was not")


def test_later_override_wins_and_value_may_hold_equals_signs(loaded):
    assert loaded(RUN, "run.seed=1", "run.seed=2").run.seed == 2
    assert loaded(RUN, "corpus=s3://b/x?a=b").corpus == "s3://b/x?a=b"


def test_value_that_is_no_yaml_is_text(loaded):
    assert loaded(RUN, "corpus=*.arrow").corpus == "*.arrow"
    assert loaded(RUN, "corpus=[x").corpus == "[x"
    assert loaded(RUN, "corpus=2026-13-01").corpus == "2026-13-01"


def test_override_of_an_alias_changes_one_place(loaded):
    text = CORPUS.replace("sources:\n  - {", "sources:\n  - &s {") + "split: {train: 0.9}\n"
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
        ("schedule.lr.2.to=3", "'2' must be an index of a list with 2 items: 0 to 1"),
        ("schedule.lr.2={to: 3}", "'2' must be an index of a list with 2 items: 0 to 1"),
        ("schedule.lr.-1.to=3", "'-1' must be an index of a list with 2 items: 0 to 1"),
        ("schedule.lr.²=3", "'²' must be an index of a list with 2 items: 0 to 1"),
        ("schedule.lr.first=3", "'first' must be an index of a list with 2 items: 0 to 1"),
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
        ("train=3", "train = 3: this is a section: give its keys: seq_len, seq_len_warmup, "),
        ("checkpoint.at=3K", "checkpoint.at = '3K': give a list: [3K]"),
        ("train={seq_len: x}", "train.seq_len = 'x': input should be a valid integer"),
        ("run.name=", "run.name = nothing: input should be a valid string"),
        # They replace a number of the file by a mapping, so the file's line is not to blame.
        ("train.seq_len.a=3", "train.seq_len = {'a': 3}: input should be a valid integer"),
        ("schedule.batch.name=ramp", "key 'schedule.batch.from' is missing"),
        ("train.seq_len={a: 3}", "train.seq_len = {a: 3}: input should be a valid integer"),
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
        "run.yaml with the command line: eval.patience needs evaluations: set eval.every"
    ]
    assert refused(RUN + "cost: {per_device_hour: -1}\n", "run.seed=1")[0].startswith(
        "run.yaml:8: cost"
    )
