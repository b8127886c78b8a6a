"""A model that is loaded to be evaluated: logits, answers and scores, one text at a time."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers import StoppingCriteriaList, StopStringCriteria
from transformers.generation.streamers import BaseStreamer

from manta.config.errors import ConfigError, RunError
from manta.config.evaluation import EvaluationConfig
from manta.config.objective import SCORES
from manta.config.run import RunConfig
from manta.model import model_class
from manta.model.forward import documents_of, options_of
from manta.record.run_config import recorded_config
from manta.storage.place import Place
from manta.storage.run_folder import CONFIG
from manta.train.adapter_folder import AdapterFolder
from manta.train.export import WHOLE, load_generator, sampling_of
from manta.train.scoring import Scorer

# Bytes of weights that are hashed at a time.
PIECE = 64 * 2**20


@dataclass(frozen=True)
class Answer:
    """What a model wrote to a prompt.

    Attributes:
        text: the answer, without special tokens and without the text that ended it.
        tokens: number of tokens that were written.
        cut_off: whether the answer ended for lack of tokens.
        first_token: seconds to the first token.
        seconds: seconds to the whole answer.
    """

    text: str
    tokens: int
    cut_off: bool
    first_token: float
    seconds: float


class ModelAtHand:
    """A run's model at a step, or an exported one, on a device.

    Args:
        where: the directory of a run, its place in a store, or a folder that `export` wrote.
        step: step of a run's checkpoint; by default the newest.
        config: device and precision of the evaluation.
        tell: takes lines for people while something takes long.

    Attributes:
        tell: function that takes lines for people.
        where: place of the model.
        run_config: config of the run; None for an exported folder.
        device: device of the weights.
        precision: `no` for float32, or `bf16`.

    Raises:
        RunError: if there is no such model.
        ConfigError: if there is no such device.
    """

    def __init__(
        self,
        where: Place,
        step: int | None,
        config: EvaluationConfig,
        tell: Callable[[str], None] = lambda line: None,
    ):
        self.tell = tell
        self.where, self._step, self.precision = where, step, config.precision
        self.run_config = run_config_of(where)
        self.device = _device(config.device)
        self._scorer: Scorer | None = None
        if scores(where, self.run_config):
            self._scorer = Scorer(where, step)
            self.lm: Any = self._scorer.model
            self.tokenizer: Any = None
        else:
            self.lm, self.tokenizer = load_generator(where, step)
        self.fingerprint = weights_sha256(self.lm)
        # Of a model in int8, what isn't rounded is in float32, and Transformers allows no cast.
        if self.precision == "no" and getattr(self.lm, "hf_quantizer", None) is None:
            self.lm.float()
        self.lm.to(self.device)
        if self.device.type == "cuda":
            torch.set_float32_matmul_precision("highest")
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(parameter.numel() for parameter in self.lm.parameters())

    @property
    def writes(self) -> bool:
        """Whether it is a language model, not one that gives scores."""
        return self._scorer is None

    @property
    def speaks(self) -> bool:
        """Whether its tokenizer has a chat template."""
        return bool(self.tokenizer is not None and self.tokenizer.chat_template)

    @cached_property
    def longest(self) -> int:
        """Most tokens of a text by the model's config; 0 if it has no limit."""
        text_config = self.lm.config.get_text_config()
        return int(getattr(text_config, "max_position_embeddings", None) or 0)

    @torch.inference_mode()
    def logits(self, tokens: Tensor, position_ids: Tensor | None = None) -> Tensor:
        """Logits of each token's successor in one text, float32 (tokens, vocabulary).

        Args:
            tokens: int64 (1, tokens).
            position_ids: int64 (1, tokens), restarting at each document; None if documents don't
                matter.
        """
        documents = documents_of(self.lm, position_ids)
        with self.autocast():
            found: Tensor = self.lm(input_ids=tokens, **documents, **options_of(self.lm)).logits
        return found[0].float()

    @torch.inference_mode()
    def log_probs(self, ids: Sequence[int]) -> Tensor:
        """The log-probability of each token after the first, in nats, float64 (tokens - 1,)."""
        tokens = torch.tensor([list(ids)], device=self.device)
        found = self.logits(tokens)[:-1].log_softmax(-1)
        return found.gather(1, tokens[0, 1:, None])[:, 0].double().cpu()

    def ids_of(self, text: str) -> list[int]:
        """The tokens of a text, with those that texts begin with."""
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids or [self._beginning()]

    def ids_of_chat(self, messages: Sequence[dict[str, Any]]) -> list[int]:
        """The tokens of a conversation, and of the beginning of its answer.

        Raises:
            RunError: if the chat template refuses it.
        """
        try:
            ids: list[int] = self.tokenizer.apply_chat_template(
                list(messages), add_generation_prompt=True, return_dict=False
            )
        except Exception as error:  # a template raises what it likes
            raise RunError(f"the chat template refuses it: {error}") from None
        return ids

    def _beginning(self) -> int:
        for token in (self.lm.generation_config.bos_token_id, self.tokenizer.eos_token_id):
            if token is not None:
                return int(token)
        raise RunError("an empty prompt: the model knows neither a BOS nor an EOS to begin from")

    @torch.inference_mode()
    def answer(
        self,
        ids: Sequence[int],
        *,
        tokens: int,
        temperature: float = 0.0,
        seed: int = 0,
        stop: Sequence[str] = (),
    ) -> Answer:
        """What the model writes after some tokens.

        Args:
            ids: the prompt's tokens.
            tokens: most tokens to write.
            temperature: sampling temperature; 0 takes the likeliest token each time.
            seed: seed of the sampling, for this answer alone.
            stop: texts that end the answer, and are cut off.
        """
        given = torch.tensor([list(ids)], device=self.device)
        ends: dict[str, Any] = {}
        if stop:
            criteria = StopStringCriteria(self.tokenizer, list(stop))
            ends["stopping_criteria"] = StoppingCriteriaList([criteria])
        torch.manual_seed(seed)
        clock = _FirstToken()
        began = self._now()
        with self.autocast():
            made = self.lm.generate(
                input_ids=given,
                attention_mask=torch.ones_like(given),
                max_new_tokens=tokens,
                pad_token_id=self.tokenizer.eos_token_id,
                streamer=clock,
                **sampling_of(temperature),
                **ends,
            )
        ended = self._now()
        new = made[0, len(ids) :].tolist()
        text: str = self.tokenizer.decode(new, skip_special_tokens=True)
        stopped = [text.index(end) for end in stop if end in text]
        cut = len(new) == tokens and not stopped and new[-1] not in self._ends
        text = text[: min(stopped)] if stopped else text
        return Answer(text, len(new), cut, (clock.at or ended) - began, ended - began)

    @property
    def _ends(self) -> list[int]:
        ends = self.lm.generation_config.eos_token_id
        return ends if isinstance(ends, list) else [ends]

    def said_of(self, record: dict[str, Any], place: str) -> dict[str, Any]:
        """What a model with a head says of one record; see `Scorer.score`."""
        assert self._scorer is not None
        with self.autocast():
            return self._scorer.score([record], [place])[0]

    @property
    def peak_memory(self) -> int:
        """Most bytes of memory so far: of the GPU, or of this process on a CPU."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def autocast(self) -> Iterator[None]:
        """In it, products are in the evaluation's precision."""
        rounded = self.precision == "bf16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
            yield


class _FirstToken(BaseStreamer):  # type: ignore[misc]
    """Notes when the first token of an answer has come to the host."""

    def __init__(self) -> None:
        self.at: float | None = None
        self._prompt = True

    def put(self, value: Any) -> None:
        """Take the prompt, then each token."""
        if not self._prompt and self.at is None:
            self.at = time.perf_counter()
        self._prompt = False

    def end(self) -> None:
        """Do nothing at the end."""


def run_config_of(where: Place) -> RunConfig | None:
    """The config of a run; None for an exported folder."""
    return recorded_config(where) if (where / CONFIG).exists() else None


def scores(where: Place, run_config: RunConfig | None) -> bool:
    """Whether the model there has a head for scores.

    Raises:
        RunError: if there is no model.
    """
    if run_config is not None:
        return run_config.objective.type in SCORES
    if isinstance(where, Path) and (adapter := AdapterFolder.read(where)):
        return adapter.scores
    if isinstance(where, Path) and (where / WHOLE).exists():
        from transformers import AutoConfig

        return model_class.names_head(AutoConfig.from_pretrained(where))
    raise RunError(f"{where}: neither the directory of a run nor an exported model")


def _device(wanted: str) -> torch.device:
    there = torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise ConfigError("device = 'cuda': Torch finds no GPU here: set device: cpu, or auto")
    return torch.device("cuda" if there and wanted != "cpu" else "cpu")


def weights_sha256(lm: nn.Module) -> str:
    """The SHA-256 of a model's weights: names, types, shapes and values; read on the CPU."""
    told = hashlib.sha256()
    parts = (part for named in lm.state_dict().items() for part in _stored(*named))
    for name, tensor in sorted(parts, key=lambda part: part[0]):
        told.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
        for first in range(0, len(flat), PIECE):
            told.update(flat[first : first + PIECE].cpu().numpy().data)
    return told.hexdigest()


def _stored(name: str, tensor: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that a weight consists of, by name: codes and scales of one in int8, else one."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for part in tensor.__tensor_flatten__()[0]:
        yield from _stored(f"{name}.{part}", getattr(tensor, part))
