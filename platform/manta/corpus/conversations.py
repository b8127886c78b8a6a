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
    named = {
        name: record[columns.get(name, name)] for name in COLUMNS if _has(record, columns, name)
    }
    for needed, _ in SHAPES:
        if all(name in named for name in needed):
            return _text(_MAKERS[needed](named), named)
    there = ", ".join(map(repr, list(record)[:8])) or "nothing"
    raise UnusableRecord(
        f"no conversation: only {there} here; needed is 'messages', 'conversations', 'prompt' and "
        "'completion', or 'instruction' and 'output': name the source's columns in chat.columns"
    )


def _has(record: Record, columns: Mapping[str, str], name: str) -> bool:
    return record.get(columns.get(name, name)) is not None


def _text(messages: list[dict[str, Any]], named: Record) -> str:
    whole: dict[str, Any] = {"messages": messages}
    for name in ("tools", "documents"):
        if given := named.get(name):
            whole[name] = _parsed(given, name)
    text = json.dumps(whole, ensure_ascii=False, sort_keys=True)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UnusableRecord("a text holds half of a surrogate pair, which is no Unicode") from None
    return text


def _parsed(given: Any, name: str) -> Any:
    """A structure, also where a column of text holds it as JSON."""
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
    listed = _parsed(named["messages"], "messages")
    return [_message(entry, "messages", place) for place, entry in enumerate(listed)]


def _of_sharegpt(named: Record) -> list[dict[str, Any]]:
    found = _system(named)
    for place, entry in enumerate(_parsed(named["conversations"], "conversations")):
        if not isinstance(entry, Mapping):
            raise UnusableRecord(f"conversations[{place}] is not an object")
        if "role" in entry:
            found.append(_message(entry, "conversations", place))
            continue
        if "from" not in entry or "value" not in entry:
            raise UnusableRecord(f"conversations[{place}] has no 'from' and 'value'")
        role = ROLES.get(entry["from"], entry["from"])
        said: dict[str, Any] = {"role": role, "content": entry["value"]}
        if entry["from"] == "function_call":
            call = _call(entry["value"], place)
            said = {"role": role, "content": "", "tool_calls": [call]}
        if "weight" in entry:
            said["weight"] = entry["weight"]
        found.append(_message(said, "conversations", place))
    return found


def _call(value: Any, place: int) -> dict[str, Any]:
    try:
        function = json.loads(value) if isinstance(value, str) else dict(value)
        return {"type": "function", "function": {"name": function["name"], **function}}
    except (ValueError, TypeError, KeyError):
        raise UnusableRecord(
            f"conversations[{place}]: a function_call is an object with 'name' and 'arguments'"
        ) from None


def _of_completion(named: Record) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, role in (("prompt", "user"), ("completion", "assistant")):
        given = named[name]
        said = (
            [{"role": role, "content": given}] if isinstance(given, str) else _parsed(given, name)
        )
        messages = [_message(entry, name, place) for place, entry in enumerate(said)]
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
    return [*_system(named), *({"role": role, "content": text} for role, text in said)]


def _system(named: Record) -> list[dict[str, Any]]:
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


def _message(entry: Any, column: str, place: int) -> dict[str, Any]:
    where = f"{column}[{place}]"
    if not isinstance(entry, Mapping):
        raise UnusableRecord(f"{where} is not an object")
    said = {key: value for key, value in entry.items() if value is not None and key in KEPT}
    if not isinstance(said.get("role"), str):
        raise UnusableRecord(f"{where} has no 'role'")
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
