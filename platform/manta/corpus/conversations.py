"""Records of chats, in the shapes in which they are kept, as conversations of one shape.

A conversation is an object with ``messages``, and ``tools`` and ``documents`` where it has them, as
chat templates take them. Its text, from which its hash and split follow, is that object as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
# What a record may be: the columns that it needs, and what else it may have.
SHAPES = (
    (("messages",), ("tools", "documents")),
    (("conversations",), ("system", "tools")),
    (("prompt", "completion"), ("tools",)),
    (("instruction", "output"), ("input", "system")),
)
COLUMNS = tuple(dict.fromkeys(name for needed, more in SHAPES for name in (*needed, *more)))
# ShareGPT's names of roles.
ROLES = {
    "human": "user",
    "gpt": "assistant",
    "observation": "tool",
    "function_call": "assistant",
    "bot": "assistant",
}
KEPT = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content", "weight")


class UnusableRecord(ValueError):
    """Why a record is no conversation, for people."""


def conversation_text(record: Record, columns: Mapping[str, str]) -> str:
    """A record as the text of a conversation: JSON with sorted keys.

    Args:
        record: a row of a source.
        columns: a column's name here → what the source calls it.

    Raises:
        UnusableRecord: if it is none of the shapes, or a message is none.
    """
    named = by_our_names(record, columns, COLUMNS)
    for needed, _ in SHAPES:
        if all(name in named for name in needed):
            return as_text({"messages": _MAKERS[needed](named)}, named)
    there = ", ".join(map(repr, list(record)[:8])) or "nothing"
    raise UnusableRecord(
        f"no conversation: only {there} here; needed is 'messages', 'conversations', 'prompt' and "
        "'completion', or 'instruction' and 'output': name the source's columns in chat.columns"
    )


def by_our_names(record: Record, columns: Mapping[str, str], names: Sequence[str]) -> Record:
    """The columns of a record that are not null, of those that have one of our names."""
    found = {name: record.get(columns.get(name, name)) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def as_text(whole: dict[str, Any], named: Record) -> str:
    """The text of a record: JSON with sorted keys, with the record's tools and documents.

    Raises:
        UnusableRecord: if tools or documents are no lists, or a text is no Unicode.
    """
    for name in ("tools", "documents"):
        if given := named.get(name):
            whole[name] = listed(given, name)
    text = json.dumps(whole, ensure_ascii=False, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableRecord("a text holds half of a surrogate pair, which is no Unicode") from None
    return text


def listed(given: Any, name: str) -> list[Any]:
    """A list, also where a column of text holds it as JSON.

    Raises:
        UnusableRecord: if it is none.
    """
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError as error:
            raise UnusableRecord(f"'{name}' is not valid JSON: {error}") from None
    if not isinstance(given, list):
        raise UnusableRecord(f"'{name}' is not a list")
    return [_without_null(entry) for entry in given]


# ------------------------------------------------------------------------------------- the shapes


def _of_messages(named: Record) -> list[dict[str, Any]]:
    return messages_of(named["messages"], "messages")


def _of_sharegpt(named: Record) -> list[dict[str, Any]]:
    return [*system_of(named), *messages_of(named["conversations"], "conversations")]


def _of_sharegpt_message(entry: Any, where: str) -> Any:
    """A message as OpenAI has it, of one that may be ShareGPT's."""
    if not isinstance(entry, Mapping) or "role" in entry or "from" not in entry:
        return entry
    if "value" not in entry:
        raise UnusableRecord(f"{where} has 'from', but no 'value'")
    role = ROLES.get(entry["from"], entry["from"])
    said: dict[str, Any] = {"role": role, "content": entry["value"]}
    if entry["from"] == "function_call":
        call = _call(entry["value"], where)
        said = {"role": role, "content": "", "tool_calls": [call]}
    if "weight" in entry:
        said["weight"] = entry["weight"]
    return said


def _call(value: Any, where: str) -> dict[str, Any]:
    try:
        function = json.loads(value) if isinstance(value, str) else dict(value)
        return {"type": "function", "function": {"name": function["name"], **function}}
    except (ValueError, TypeError, KeyError):
        raise UnusableRecord(
            f"{where}: a function_call is an object with 'name' and 'arguments'"
        ) from None


def _of_completion(named: Record) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        messages = said_by(named[name], role, name)
        if role == "user":  # of the completion alone something is learned
            messages = [message | {"weight": 0} for message in messages]
        found += messages
    return found


def _of_instruction(named: Record) -> list[dict[str, Any]]:
    given = [named["instruction"], named.get("input") or ""]
    if not all(isinstance(part, str) for part in (*given, named["output"])):
        raise UnusableRecord("'instruction', 'input' and 'output' are not all texts")
    question = "\n\n".join(part for part in given if part)
    said = [("user", question), ("assistant", named["output"])]
    return [*system_of(named), *({"role": role, "content": text} for role, text in said)]


def system_of(named: Record) -> list[dict[str, Any]]:
    """The message of the system that a column holds as a text, if there is one."""
    system = named.get("system")
    if not system:
        return []
    if not isinstance(system, str):
        raise UnusableRecord("'system' is not a text")
    return [{"role": "system", "content": system}]


_MAKERS: dict[tuple[str, ...], Callable[[Record], list[dict[str, Any]]]] = {
    ("messages",): _of_messages,
    ("conversations",): _of_sharegpt,
    ("prompt", "completion"): _of_completion,
    ("instruction", "output"): _of_instruction,
}


# ------------------------------------------------------------------------------------ one message


def said_by(given: Any, role: str, column: str) -> list[dict[str, Any]]:
    """The messages of a column that holds a text of `role`, a message, or a list of messages."""
    if isinstance(given, str):
        given = [{"role": role, "content": given}]
    if isinstance(given, Mapping):
        given = [given]
    return messages_of(given, column)


def messages_of(given: Any, column: str) -> list[dict[str, Any]]:
    """The messages of a column, OpenAI's or ShareGPT's, checked and in OpenAI's shape.

    Raises:
        UnusableRecord: naming the message that is none.
    """
    entries = enumerate(listed(given, column))
    return [_message(entry, f"{column}[{place}]") for place, entry in entries]


def _message(entry: Any, where: str) -> dict[str, Any]:
    entry = _of_sharegpt_message(entry, where)
    if not isinstance(entry, Mapping):
        raise UnusableRecord(f"{where} is not an object")
    said = {key: value for key, value in entry.items() if value is not None and key in KEPT}
    if not isinstance(said.get("role"), str):
        raise UnusableRecord(f"{where} has no 'role', or 'from' and 'value'")
    said["content"] = _content(said.get("content"), where)
    if not said["content"] and "tool_calls" not in said and "content" not in entry:
        raise UnusableRecord(f"{where} has neither 'content' nor 'tool_calls'")
    if "tool_calls" in said:
        said["tool_calls"] = [_with_arguments(call, where) for call in _listed(said, where)]
    if said.get("weight", 1) not in (0, 1):
        raise UnusableRecord(f"{where}: weight {said['weight']} is neither 0 nor 1")
    return said


def _content(content: Any, where: str) -> str:
    """A message's text; of the parts of a list those of text, joined."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, Sequence):
        parts = [part for part in content if isinstance(part, Mapping)]
        if len(parts) == len(content) and all(part.get("type") == "text" for part in parts):
            return "".join(str(part["text"]) for part in parts)
        raise UnusableRecord(f"{where}: its content has parts that are no text, such as an image")
    raise UnusableRecord(f"{where}: its content is not a text")


def _listed(said: Record, where: str) -> list[Any]:
    calls = said["tool_calls"]
    if not isinstance(calls, list) or not all(isinstance(call, Mapping) for call in calls):
        raise UnusableRecord(f"{where}: 'tool_calls' is not a list of objects")
    return calls


def _with_arguments(call: Record, where: str) -> dict[str, Any]:
    """A tool call whose arguments are an object, as templates take them, not JSON in a text."""
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UnusableRecord(f"{where}: a tool call has no name")
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise UnusableRecord(
                f"{where}: arguments of '{function['name']}' are not valid JSON: {error}"
            ) from None
    made = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return made | ({"id": call["id"]} if call.get("id") else {})


def _without_null(value: Any) -> Any:
    """A structure without the nulls that Arrow gives each row for keys that other rows have."""
    if isinstance(value, Mapping):
        return {key: _without_null(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_null(inner) for inner in value]
    return value
