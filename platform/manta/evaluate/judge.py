"""A judge: another model that says whether an answer meets a criterion, yes or no."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.error
import urllib.request
from typing import Any, Protocol

from manta.config.errors import ConfigError, RunError
from manta.config.evaluation import EvaluationConfig, JudgeSection
from manta.evaluate.model_at_hand import ModelAtHand, run_config_of, scores
from manta.storage.place import Place, place_of

YES, NO = re.compile(r"\byes\b", re.IGNORECASE), re.compile(r"\bno\b", re.IGNORECASE)
# Times that a server is asked in all, and seconds before the second and third time.
PAUSES = (1.0, 4.0)
# Codes of HTTP after which asking again may help.
AGAIN = {408, 429, 500, 502, 503, 504}


class Judge(Protocol):
    """Replies to a text.

    Attributes:
        name: name of the judge, for people.
    """

    name: str

    def reply(self, text: str) -> str:
        """What it says to a text.

        Raises:
            RunError: if it can't be asked.
        """
        ...


def made_judge(section: JudgeSection, key: str, config: EvaluationConfig) -> Judge:
    """The judge of a config, checked as far as that goes without loading a model.

    Args:
        section: keys of the judge.
        key: dotted key of the section, for messages.
        config: device and precision of a judge that is a model here.

    Raises:
        ConfigError, RunError: if there is no such model, or the server doesn't answer.
    """
    if section.url is not None:
        judge = RemoteJudge(section, key)
        judge.reply("Reply with the word yes.")
        return judge
    assert section.path is not None
    place = place_of(section.path)
    if scores(place, run_config_of(place)):
        raise ConfigError(
            f"{key}.path = '{section.path}': its model gives scores and writes nothing"
        )
    return LocalJudge(place, section.tokens, config)


def asked_of(section: JudgeSection, prompt: str, answer: str, criterion: str) -> str:
    """The text that a judge is given."""
    said = {"{prompt}": prompt, "{answer}": answer, "{criterion}": criterion}
    return re.sub("|".join(map(re.escape, said)), lambda found: said[found[0]], section.prompt)


def verdict(reply: str) -> bool | None:
    """Whether a reply says yes; None if it says neither yes nor no, or no word before both."""
    yes, no = YES.search(reply), NO.search(reply)
    if yes is None and no is None:
        return None
    return no is None or (yes is not None and yes.start() < no.start())


class LocalJudge:
    """A run's model or an exported one, loaded when it is first asked."""

    def __init__(self, where: Place, tokens: int, config: EvaluationConfig):
        self.name = str(where)
        self._where, self._tokens, self._config = where, tokens, config
        self._model: ModelAtHand | None = None

    def reply(self, text: str) -> str:
        """What the model writes, by its chat template if it has one."""
        if self._model is None:
            self._model = ModelAtHand(self._where, None, self._config)
        model = self._model
        ids = (
            model.ids_of_chat([{"role": "user", "content": text}])
            if model.speaks
            else model.ids_of(text)
        )
        return model.answer(ids, tokens=self._tokens).text


class RemoteJudge:
    """A server with OpenAI's interface for chats, such as vLLM."""

    def __init__(self, section: JudgeSection, key: str):
        assert section.url is not None
        self.name = f"{section.model} at {section.url}"
        self._section, self._key = section, key
        self._url = f"{section.url.rstrip('/')}/chat/completions"
        variable = section.key_variable
        self._headers = {"Content-Type": "application/json"}
        if variable is not None:
            if not os.environ.get(variable):
                raise ConfigError(f"{key}.key_variable = '{variable}': it is not set")
            self._headers["Authorization"] = f"Bearer {os.environ[variable]}"

    def reply(self, text: str) -> str:
        """What the server's model says; a server that is busy is asked three times."""
        body = {
            "model": self._section.model,
            "messages": [{"role": "user", "content": text}],
            "max_tokens": self._section.tokens,
            "temperature": 0,
            "seed": 0,
        }
        for pause in (*PAUSES, None):
            try:
                return self._said(json.dumps(body).encode())
            except urllib.error.HTTPError as error:
                said, final = f"it answers {error.code}: {_start(error)}", error.code not in AGAIN
            except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
                said, final = f"{type(error).__name__}: {error}", False
            if final or pause is None:
                break
            time.sleep(pause)
        raise RunError(f"{self._key}: the judge {self.name} can't be asked: {said}")

    def _said(self, body: bytes) -> str:
        request = urllib.request.Request(self._url, body, self._headers)
        with urllib.request.urlopen(request, timeout=self._section.seconds) as answer:
            found: Any = json.load(answer)
        return str(found["choices"][0]["message"]["content"])


def _start(error: urllib.error.HTTPError) -> str:
    return " ".join(error.read(200).decode(errors="replace").split())
