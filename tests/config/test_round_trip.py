"""Dump and load are inverse, whatever a config holds; loaded, it never changes."""

from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written_configs import RUN

from manta.config import CorpusConfig, RunConfig, dump, load
from manta.config.schedule import Shape

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
shares = st.floats(1e-12, 0.01)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
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
        keys = {"shape": shape, **ends}
        if shape in ("constant", "power"):
            del keys["to"]
        return {
            **keys,
            **(dict([length]) if length else {}),
            **({"period": period} if shape == "cyclic" else {}),
            **({"exponent": 0.5} if shape == "power" else {}),
        }

    shapes = st.sampled_from(get_args(Shape))
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
        {"name": st.just("power"), "peak": positive, "hold": spans},
        optional={"warmup": spans, "exponent": positive, "decay": spans},
    )
    | st.fixed_dictionaries(
        {"name": st.sampled_from(["cosine", "linear", "constant"]), "peak": positive},
        optional={"warmup": spans},
    )
)
weights = positive | st.lists(
    st.fixed_dictionaries({"from": positive}, optional={"tokens": spans})
    | st.fixed_dictionaries({"shape": st.just("linear"), "to": positive}),
    min_size=1,
    max_size=3,
)
mixtures = st.fixed_dictionaries(
    {
        "sources": st.dictionaries(
            names, st.fixed_dictionaries({"weight": weights}), min_size=1, max_size=3
        )
    },
    optional={"temperature": positive},
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
        "data": some(mixture=st.none() | mixtures),
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
    optional={
        "text_column": words,
    },
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
        "split": some(train=shares, validation=shares, test=st.just(0)),
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
