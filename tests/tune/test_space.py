"""Space files: what they may declare, and each mistake named with file, line and remedy."""

import re

import pytest

from manta.config import ConfigError
from manta.tune.space import find_space, load_space


def refused(sweep, space, **sections):
    with pytest.raises(ConfigError) as caught:
        sweep(space, **sections)
    return str(caught.value)


def test_a_space_is_read_as_it_is_declared(sweep):
    space = sweep(
        """
        '''not the docstring: it isn't the first statement'''
        space = {"train.seq_len": 32}
        metric = "loss"
        mode = "max"
        horizon = "2M"
        seeds = range(3)
        """
    ).space
    assert (space.name, space.metric, space.mode) == ("mine", "loss", "max")
    assert (space.horizon, space.seeds) == (2_000_000, (0, 1, 2))
    assert space.where("train.seq_len").endswith("mine.py:4")


def test_what_is_left_out_has_defaults(sweep):
    space = sweep("space = {}").space
    assert (space.metric, space.mode, space.horizon, space.seeds) == ("val_loss", "min", None, None)
    assert space.question == ""


def test_which_direction_is_better_follows_from_the_metric(sweep):
    """Unless somebody says it: the fastest trial of a sweep over throughput is the best."""
    assert sweep("space = {}\nmetric = 'tokens_per_s'").space.mode == "max"
    assert sweep("space = {}", metric="tokens_per_s").space.mode == "max"
    of_a_term = sweep("space = {}\nmetric = 'loss'\nmode = 'max'", metric="val_term/divergence")
    assert of_a_term.space.mode == "min"
    assert sweep("space = {}\nmode = 'min'\nmetric = 'tokens_per_s'").space.mode == "min"
    assert sweep("space = {}\nmetric = 'tokens_per_s'", metric="loss").space.mode == "min"


def test_the_docstring_is_the_question(tmp_path):
    (tmp_path / "s.py").write_text('"""What?"""\nspace = {}\n')
    assert load_space(tmp_path / "s.py").question == "What?"


def test_what_the_sweep_says_counts(sweep):
    given = {"metric": "loss", "mode": "max", "horizon": "3M", "seeds": [5]}
    opened = sweep("space = {}\nseeds = [1, 2]\nhorizon = 500", **given)
    space = opened.space
    assert (space.metric, space.mode, space.horizon, space.seeds) == (
        "loss",
        "max",
        3_000_000,
        (5,),
    )
    assert opened.base.horizon == 3_000_000


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ("x = 1", "mine.py: 'space' is missing; it must be a mapping of dotted keys"),
        ("space = [1]", "mine.py:2: 'space' is list; it must be a mapping"),
        ("space = {3: 1}", "mine.py:2: 3 is no key; write it as dotted.key"),
        ("space = {'a..b': 1}", "mine.py:2: 'a..b' is no key; write it as dotted.key"),
        (
            "space = {\n'train.seq_len': {1, 2}}",
            "mine.py:3: train.seq_len: set is neither a plain value",
        ),
        (
            "space = {'a': lambda c: 1}",
            "mine.py:2: a: function is neither a plain value nor a sampler",
        ),
        ("space = {'a': [{'b': object()}]}", "mine.py:2: a: object is neither a plain value"),
        ("space = {'a': tune.choice([1, {2}])}", "mine.py:2: a: set is neither a plain value"),
        ("space = {'a': tune.grid_search([])}", "mine.py:2: a: the list of choices is empty"),
        ("space = {'a': tune.choice([])}", "mine.py:2: a: the list of choices is empty"),
        ("space = {'a': tune.grid_search(3)}", "mine.py:2: a: give tune.grid_search a list"),
        (
            "space = {'a': {'eval': '1 + 1'}}",
            "mine.py:2: a: Ray Tune runs a mapping whose only key is 'eval' as code",
        ),
        ("space = {'a': {1: 2}}", "mine.py:2: a: the keys of a mapping must be text"),
        (
            "space = {}\nmetric = 'val_los'",
            "mine.py:3: metric = 'val_los': unknown metric; did you mean",
        ),
        ("space = {}\nmetric = 'zzz'", "unknown metric; give one of val_loss, "),
        ("space = {}\nmode = 'best'", "mine.py:3: mode = 'best': write 'min' or 'max'"),
        ("space = {}\nhorizon = '10%'", "mine.py:3: horizon = '10%': write a token count such"),
        ("space = {}\nhorizon = 0", "mine.py:3: horizon = 0: give at least one token"),
        ("space = {}\nseeds = []", "mine.py:3: seeds = []: give a list of different whole numbers"),
        ("space = {}\nseeds = 3", "mine.py:3: seeds = 3: give a list of different whole numbers"),
        ("space = {}\nseeds = [1, 1]", "mine.py:3: seeds = [1, 1]: give a list of different"),
        ("space = {}\nseeds = [True]", "mine.py:3: seeds = [True]: give a list of different"),
        ("space = {}\nseeds = [-1]", "mine.py:3: seeds = [-1]: give a list of different"),
        ("space = {", "mine.py:2: not valid Python: '{' was never closed"),
        ("space = {'a': 1}\nspace['b'] = tune.uniform()", "mine.py:3: TypeError: "),
        ("import no_such_module", "mine.py:2: ModuleNotFoundError: No module named"),
        ("space = {'run.name': 'x'}", "mine.py:2: run.name: the sweep names its trials"),
        ("space = {'run': {'name': 'x'}}", "mine.py:2: run: the sweep names its trials"),
        ("space = {'run.seed': 1}\nseeds = [1]", "mine.py:2: run.seed is set twice, here and by"),
        (
            "space = {'schedule.horizon': 9}\nhorizon = 9",
            "mine.py:2: schedule.horizon is set twice, here and by 'horizon'; remove one",
        ),
    ],
)
def test_mistakes_are_named_with_file_line_and_remedy(sweep, space, message):
    assert message in refused(sweep, space)


def test_an_error_deeper_down_is_named_with_the_line_of_the_space(sweep):
    text = refused(sweep, "import json\n\nspace = json.loads('{')")
    assert re.search(r"mine\.py:4: JSONDecodeError: ", text)


def test_a_metric_of_the_sweep_is_checked_too(sweep):
    text = refused(sweep, "space = {}", metric="los")
    assert text == "metric of the sweep = 'los': unknown metric; did you mean 'loss'?"


def test_spaces_are_found_by_name_or_path(tmp_path, monkeypatch):
    assert find_space("seeds").stem == "seeds"
    with pytest.raises(ConfigError, match=r"space = 'sedes': .*did you mean 'seeds'\?"):
        find_space("sedes")
    with pytest.raises(ConfigError, match=r"space = '\./none\.py': there is no such file"):
        find_space("./none.py")
    # One's own tune_spaces, where the command is run, goes first.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tune_spaces").mkdir()
    (tmp_path / "tune_spaces/seeds.py").write_text("space = {}")
    assert find_space("seeds").resolve() == tmp_path / "tune_spaces/seeds.py"


def test_a_base_that_never_measures_the_metric_is_refused(sweep):
    quiet = "run: {name: a}\ncorpus: c\nmodel: {type: llama}\n"
    quiet += "schedule: {horizon: 1M, lr: 0.1, batch: 8}\n"
    assert "eval.every is missing" in refused(sweep, "space = {}", run=quiet)
    sweep("space = {}", run=quiet, overrides=["eval.every=1K"])
    sweep("space = {}", run=quiet, metric="loss")


def test_a_metric_of_an_evaluator_is_there_only_when_a_trial_has_ended(sweep):
    metric = "answers/success"
    run = "run: {name: a}\ncorpus: c\nmodel: {type: llama}\n"
    run += "schedule: {horizon: 1M, lr: 0.1, batch: 8}\n"
    assert "the base has none" in refused(sweep, "space = {}", run=run, metric=metric)
    run += "eval: {evaluators: {config: {name: q, splits: {NAME: {}}}}}\n"
    answers, other = run.replace("NAME", "answers"), run.replace("NAME", "held_out")
    said = refused(sweep, "space = {}", run=other, metric=metric)
    assert "no evaluator called 'answers': there are held_out" in said
    assert sweep("space = {}", run=answers, metric=metric).space.mode == "max"
    halving = {"type": "halving", "rungs": ["50%"]}
    said = refused(sweep, "space = {}", run=answers, metric=metric, scheduler=halving)
    assert "some have a value and others don't" in said
    said = refused(sweep, "space = {}", run=answers, metric="answers/mine")
    assert "isn't known whether less or more is better: set mode" in said
    assert sweep("space = {}", run=answers, metric="answers/mine", mode="min").space.mode == "min"
