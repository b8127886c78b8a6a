"""A folder of PEFT: an adapter alone, which names the model that it is for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from manta.config.errors import RunError
from manta.config.model_names import ADAPTER_CONFIG, holds_adapter_alone
from manta.model import model_class
from manta.model.adapter import adapter_weights, import_peft, load_adapter

BASE, TASK, REVISION = "base_model_name_or_path", "task_type", "revision"
HEAD = f"{model_class.HEAD}.weight"


@dataclass(frozen=True)
class AdapterFolder:
    """An adapter in a folder.

    Attributes:
        folder: the folder.
        base: path or name on the Hub of the model that the adapter is for.
        revision: revision of that name.
        scores: whether the model has a head for scores; else it is a language model.
    """

    folder: Path
    base: str
    revision: str
    scores: bool

    @classmethod
    def read(cls, folder: Path) -> AdapterFolder | None:
        """What is in a folder; None if that is no adapter alone.

        Raises:
            RunError: if it doesn't name a model that is there.
        """
        if not holds_adapter_alone(folder):
            return None
        path = folder / ADAPTER_CONFIG
        try:
            found = json.loads(path.read_bytes())
            base = found[BASE]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path}: can't be read as PEFT's: {error!r}") from None
        if not isinstance(base, str) or not base:
            raise RunError(
                f"{path}: it names no model that the adapter is for: set {BASE} to its folder, or "
                "its name on the Hub"
            )
        read = cls(folder, base, found.get(REVISION) or "main", found.get(TASK) == "SEQ_CLS")
        if (Path(base).is_absolute() or base.startswith(".")) and not Path(base).is_dir():
            raise read._without_base("there is no such folder")
        return read

    def language_model(self) -> PreTrainedModel:
        """The language model with the adapter, as Transformers loads it.

        Raises:
            RunError: if the model that the adapter is for can't be had, or does not fit.
        """
        import_peft()
        with self._told():
            lm: PreTrainedModel = AutoModelForCausalLM.from_pretrained(self.folder)
        return lm

    def scoring_model(self) -> PreTrainedModel:
        """The model with the adapter and the head that lies beside it, in fp32.

        Raises:
            RunError: if the model that the adapter is for can't be had or does not fit, or there
                is no head in the folder.
        """
        import_peft()
        with self._told():
            weights = adapter_weights(self.folder)
            if HEAD not in weights:
                raise RunError(
                    f"{self.folder}: its adapter is for a model with a head for scores, but the "
                    f"head ('{HEAD}') is not in the folder: train it with modules_to_save: "
                    f"[{model_class.HEAD}], or take the merged model"
                )
            resolved = AutoConfig.from_pretrained(self.base, revision=self.revision)
            if resolved.num_labels != len(weights[HEAD]):
                resolved.num_labels = len(weights[HEAD])
            one = resolved.num_labels == 1
            resolved.problem_type = model_class.NUMBER if one else model_class.CLASSES
            lm = model_class.from_pretrained(self.base, resolved, self.revision)
            load_adapter(lm, self.folder, weights)
        return lm

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer in the folder, or else that of the model that the adapter is for."""
        try:
            return AutoTokenizer.from_pretrained(self.folder)
        except (OSError, ValueError):
            with self._told():
                return AutoTokenizer.from_pretrained(self.base, revision=self.revision)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """In it, errors of loading the model become one that names the folder and the model."""
        try:
            yield
        except (OSError, ValueError) as error:
            raise self._without_base(" ".join(str(error).split())) from None
        except RuntimeError as error:
            raise RunError(
                f"{self.folder}: the adapter does not fit {self.base!r}, for which it is according "
                f"to {ADAPTER_CONFIG}: {' '.join(str(error).split())}"
            ) from None

    def _without_base(self, why: str) -> RunError:
        return RunError(
            f"{self.folder}: an adapter for the model {self.base!r}, which can't be loaded: {why}; "
            f"put that model there, or set {BASE} in {self.folder / ADAPTER_CONFIG} to where it is"
        )
