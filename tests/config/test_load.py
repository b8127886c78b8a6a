"""Loading: every mistake in a file is named with its place and remedy."""

import json
import re
from pathlib import Path

import pytest
from written_configs import CORPUS, RUN, SEGMENTS

from manta.config import ConfigError, CorpusConfig, RunConfig, load
from manta.config.gate import load_gate
from manta.config.load import COMMAND_LINE
from manta.config.load_evaluation import load_evaluation
from manta.config.mistakes import keys
from manta.config.sweep import load_sweep
from manta.config.tuning import load_tuning

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
            "unknown key 'optimizer.x'; valid here: adjust_lr, average, betas, by_adamw, "
            "cautious, decay_all, eps, groups, momentum, nesterov, type, weight_decay",
        ),
        (
            "cost: {x: 1}",
            "unknown key 'cost.x'; valid here: budget, by_kind, deadline, kind_label, "
            "per_device_hour",
        ),
        # Another tool's name for it.
        ("cost: {gpu: 1}", "unknown key 'cost.gpu': use cost.per_device_hour"),
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
        listed = (
            parents in (["faults"], ["optimizer", "groups"], ["train", "seq_len_warmup"])
            or (parents[:1] == ["schedule"] and len(parents) > 1)
            or (parents[:2] == ["data", "mixture"] and {"history", "weight"} & set(parents))
        )
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
        ("train: 3", "run.yaml:8: train = 3: this is a section: give its keys"),
        ("train:", "run.yaml:8: train = nothing: this is a section: give its keys"),
        ("train: {seq_len: yes}", "run.yaml:8: train.seq_len = yes: write a number, not"),
        ("cost: {per_device_hour: yes}", "run.yaml:8: cost.per_device_hour = yes: write a"),
        ("train: {seq_len: {a: 1}}", "run.yaml:8: train.seq_len = {'a': 1}: input should be"),
        (
            "eval: {every: 0.5}",
            "run.yaml:8: eval.every = 0.5: a token count must be a whole number of tokens",
        ),
        (
            "eval: {every: soon}",
            "run.yaml:8: eval.every = 'soon': write a token count such as 2000000, 2M or 1.5B",
        ),
        ("eval: {every: 0}", "run.yaml:8: eval.every = 0: input should be greater than 0"),
        ("eval: {patience: 2}", "run.yaml: eval.patience needs evaluations: set eval.every"),
        ("train: {2: 1}", "run.yaml:8: unknown key 'train.2'; valid here: activation_check"),
        ("no: 1", "run.yaml:8: unknown key 'no'; "),
    ],
)
def test_wrong_value_is_named_with_line_key_value_and_remedy(refused, text, message):
    (line,) = refused(f"{RUN}{text}\n")
    assert line.startswith(message)


def test_a_corpus_is_written_to_a_folder(refused):
    (line,) = refused(CORPUS, "out=s3://bucket/corpus", kind=CorpusConfig)
    assert line.startswith(f"{COMMAND_LINE}: out = 's3://bucket/corpus': give a folder that")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("{}", "give either 'type' (with 'sizes') or 'pretrained'"),
        ("{type: llama, pretrained: x}", "give either 'type' (with 'sizes') or 'pretrained'"),
        ("{pretrained: x, sizes: {a: 1}}", "'sizes' is only for 'type'"),
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
    text = RUN.replace("horizon: 1M", "horizon: never") + "rnu: 1\ntrain:\n  seq_len: 0\n"
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
        "samples a step: a number, {name: ramp, …} or {name: seesaw, …}, or a list of "
        "segments"
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
        ("? [a, b]\n: 1\n", "run.yaml:1: not valid YAML: a key must be a word"),
        ("a: &x\n  b: *x\n", "run.yaml: not valid YAML: an anchor that contains itself"),
        (f"a: {'1' * 5000}\n", "run.yaml: not valid YAML: Exceeds the limit"),
        ("a: !!python/name:os.system\n", "run.yaml:1: not valid YAML: could not determine a"),
        ("- a\n", "run.yaml: a config must be a mapping of sections, not ['a']"),
        ("just text\n", "run.yaml: a config must be a mapping of sections, not 'just text'"),
        ("", "run.yaml: a config must be a mapping of sections, not nothing"),
        ("# only a comment\n", "run.yaml: a config must be a mapping of sections, not nothing"),
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
    text = RUN + "train:\n  <<:\n    seq_len: 0\n    clip_norm: -1\n  clip_norm: 0\n"
    assert [line.split(" = ")[0] for line in refused(text)] == [
        "run.yaml:10: train.seq_len",
        "run.yaml:12: train.clip_norm",
    ]


JOBS = Path(__file__).parents[2] / "jobs"


@pytest.mark.parametrize(
    "path", sorted(JOBS.glob("*/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.name}"
)
def test_the_configs_of_the_examples_are_valid(path: Path) -> None:
    own = {"sweep.yaml": load_sweep, "eval.yaml": load_evaluation, "tune.yaml": load_tuning}
    if path.name == "gate.yaml":  # compares with a model that the demo makes
        load_gate(path, [f"baseline={JOBS}"])
    elif path.name in own:
        own[path.name](path)
    else:
        load(path, RunConfig if "schedule:" in path.read_text() else CorpusConfig)
