"""Each model of a sweep is tried before any trial is trained, not the first one alone."""

import pytest

from manta.config.errors import ConfigError
from manta.elastic.checks.preflight import check
from manta.tune.sweep_command import check_models
from manta.tune.sweep_plan import Outline

RUN = """\
run: {name: base}
corpus: shards
model:
  type: llama
  sizes: {hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 4}
train: {seq_len: 16}
schedule: {horizon: 1M, lr: 0.1, batch: 8}
eval: {every: 100K}
"""


@pytest.fixture
def outline(sweep, make_corpus, tmp_path):
    """A sweep's outline, and its first trial, checked."""
    make_corpus(tmp_path / "shards", {"train": [[48_000]], "validation": [[100]]})

    def build(space):
        found = Outline(sweep(space, run=RUN).config)
        return found, check(found.trials[0].config)

    return build


def test_a_later_trial_whose_model_cannot_be_trained_is_named(outline):
    found, first = outline("space = {'model.type': tune.grid_search(['llama', 'bert'])}")
    with pytest.raises(ConfigError, match=r"^trial \S*: model.type = 'bert': it sees later tokens"):
        check_models(found, first)


def test_a_model_that_several_trials_have_is_tried_once(outline, monkeypatch):
    tried = []
    monkeypatch.setattr("manta.tune.sweep_command.try_model", tried.append)
    found, first = outline(
        "space = {'model.sizes.num_hidden_layers': tune.grid_search([2, 3]),"
        " 'schedule.batch': tune.grid_search([4, 8])}"
    )
    check_models(found, first)
    assert [one.config.model.sizes["num_hidden_layers"] for one in tried] == [2, 3]
