"""An objective of the user's own: its file's text is in the config, and part of what a run is."""

from __future__ import annotations

import pytest

from manta.config.errors import ConfigError, RunError
from manta.config.load import dump, load
from manta.config.run import RunConfig
from manta.record.identity import binding_of, check_free_changes_only

MINE = "class Mine:\n    pass\n"


@pytest.fixture
def written(tmp_path):
    """Writes a run's config and the file of its objective into a folder; returns the config's."""

    def write(text=MINE, objective="{type: ./mine.py:Mine}", folder="a"):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "mine.py").write_text(text)
        path = tmp_path / folder / "run.yaml"
        path.write_text(
            "run: {name: own}\ncorpus: nowhere\nmodel: {type: llama}\n"
            f"schedule: {{horizon: 1M, lr: 1e-3, batch: 8}}\nobjective: {objective}\n"
        )
        return path

    return write


def test_its_path_is_seen_from_the_config_and_its_text_is_kept(written, tmp_path, monkeypatch):
    path = written()
    monkeypatch.chdir(tmp_path)
    config = load(path, RunConfig)
    assert config.objective.type == "mine.py:Mine"
    assert config.code == {"mine.py": MINE}
    elsewhere = tmp_path / "kept.yaml"
    elsewhere.write_text(dump(config))
    path.with_name("mine.py").unlink()
    assert load(elsewhere, RunConfig) == config, "with its text, it needs the file no more"


def test_an_override_is_seen_from_the_current_folder(written, tmp_path, monkeypatch):
    path = written(objective="{}")
    monkeypatch.chdir(tmp_path)
    config = load(path, RunConfig, ["objective.type=a/mine.py:Mine"])
    assert config.code == {"mine.py": MINE}


@pytest.mark.parametrize(
    ("text", "objective", "message"),
    [
        (
            MINE,
            "{type: ./other.py:Mine}",
            r"run\.yaml:5: objective\.type = .*other\.py can't be read: No such",
        ),
        (MINE, "{type: ./mine.py:Yours}", r"defines no 'Yours'.* it defines Mine"),
        ("class Mine\n", "{type: ./mine.py:Mine}", r"mine\.py:1: not valid Python"),
        (MINE, "{type: mine}", r"objective\.type"),
        (MINE, "{options: {a: 1}}", r"for type ./FILE.py:NAME, not for causal"),
        ("def f():\n    Mine = 3\n", "{type: ./mine.py:Mine}", r"defines no 'Mine'.* it defines f"),
        (MINE, "{type: ./mine.py:Mine, balance: 1}", r"is for type causal, not for"),
    ],
)
def test_mistakes_name_file_and_key(written, text, objective, message):
    with pytest.raises(ConfigError, match=message):
        load(written(text, objective), RunConfig)


@pytest.mark.parametrize(
    "text",
    [
        "from torch.nn import MSELoss as Mine\n",
        "Mine: object = 3\n",
        "def Mine():\n    return 3\n",
        "try:\n    import mine\nexcept ImportError:\n    Mine = None\n",
        "from elsewhere import *\n",
    ],
)
def test_a_name_may_come_about_in_any_way(written, text):
    assert load(written(text), RunConfig).code == {"mine.py": text}


def test_a_changed_file_is_another_run_and_the_same_file_elsewhere_is_not(written):
    first = load(written(), RunConfig)
    moved = load(written(folder="b"), RunConfig)
    assert binding_of(moved, "corpus") == binding_of(first, "corpus")
    assert check_free_changes_only("there", first, moved) == []
    changed = load(written(MINE + "\n\nEXTRA = 1\n"), RunConfig)
    assert binding_of(changed, "corpus") != binding_of(first, "corpus")
    with pytest.raises(RunError, match=r"code\.mine\.py: a text of 2 lines with SHA-256 \w+…"):
        check_free_changes_only("there", first, changed)


def test_the_default_leaves_the_digests_of_older_runs_as_they_are(written):
    plain = load(written(objective="{type: causal}"), RunConfig)
    assert binding_of(plain, "corpus") == binding_of(
        plain.model_copy(update={"objective": type(plain.objective)()}), "corpus"
    )
    assert (
        "objective" not in plain.model_dump(exclude_defaults=True)
        or not plain.model_dump(exclude_defaults=True)["objective"]
    )
