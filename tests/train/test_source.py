"""What is read from Transformers' source is what Transformers itself says."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from manta.config.errors import ConfigError
from manta.model import source

# Their classes are not where the others' are, or refuse their own defaults.
UNREAD = {"data2vec-text", "gemma4_assistant", "gpt-sw3"}


def test_the_types_are_those_of_transformers() -> None:
    assert source.causal_types() == set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


@pytest.mark.parametrize("model_type", sorted(set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - UNREAD))
def test_the_keys_of_a_type_are_those_of_its_class(model_type) -> None:
    kind = type(AutoConfig.for_model(model_type))
    fields = {field.name for field in dataclasses.fields(kind)}
    assert source.keys_of(model_type) == fields | set(kind.attribute_map)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.type": "lama"}, "did you mean 'llama'"),
        ({"model.sizes": {"hiden_size": 3}}, "'model.sizes.hiden_size'.*'hidden_size'"),
        ({"model.sizes": {"vocab_size": 60}}, "at least 61"),
        ({"model.sizes": {"max_position_embeddings": 15}}, "the model's context is 15"),
    ],
)
def test_a_wrong_name_or_size_is_told_before_anything_is_imported(
    checked, changes, message
) -> None:
    with pytest.raises(ConfigError, match=message):
        checked(changes)


def make_library(folder: Path, llama: str) -> None:
    """As much of Transformers as is read for a Llama, with this text for its config."""
    models = folder / "models"
    for part in ("auto", "llama"):
        (models / part).mkdir(parents=True)
    (models / "llama" / "configuration_llama.py").write_text(llama)
    (models / "auto" / "auto_mappings.py").write_text(
        "CONFIG_MAPPING_NAMES = OrderedDict([('llama', 'LlamaConfig')])\n"
    )


@pytest.mark.parametrize("broken", ["class LlamaConfig(Gone): x: int = 1", "class {", ""])
def test_what_can_not_be_read_is_not_held_against_the_model(tmp_path, monkeypatch, broken) -> None:
    """Another version of Transformers may lie differently; it is asked itself later."""
    make_library(tmp_path, broken)
    (tmp_path / "models" / "auto" / "modeling_auto.py").write_text(broken)
    monkeypatch.setattr(source, "_library", lambda: tmp_path)
    assert source.keys_of("llama") is None
    assert source.causal_types() is None


def test_a_key_is_found_wherever_it_is_in_its_class(tmp_path, monkeypatch) -> None:
    (tmp_path / "configuration_utils.py").write_text(
        "class PreTrainedConfig:\n    architectures: list | None = None\n"
    )
    make_library(
        tmp_path,
        "from ...configuration_utils import (\n    PreTrainedConfig,\n)\n\n\n"
        "class LlamaConfig(PreTrainedConfig):\n"
        '    """Its words."""\n\n    first: int = 1\n\n'
        "    @property\n    def one(\n        self,\n    ) -> int:\n\n        return 1\n\n"
        "    last: int = 2",
    )
    monkeypatch.setattr(source, "_library", lambda: tmp_path)
    assert source.keys_of("llama") == {"architectures", "first", "last"}
