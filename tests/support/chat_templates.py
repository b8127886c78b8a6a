"""Chat templates of the kinds that are in use, and a tokenizer that has their special tokens."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

# <|im_start|>role … <|im_end|>, tools in a system turn, calls in tags.
CHATML = """
{%- if tools %}{{ '<|im_start|>system\nTools:' }}{% for tool in tools %}{{ '\n' ~ tool | tojson }}
{%- endfor %}{{ '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' ~ message.content }}
{%- for call in message.tool_calls or [] %}{{ '<tool_call>' ~ call.function | tojson }}
{{- '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# A BOS, headers of two tokens, contents stripped of white space.
HEADERS = """{{ bos_token }}
{%- for message in messages %}{{ '<|start|>' ~ message.role ~ '<|end|>\n\n' }}
{{- message.content | trim ~ '<|eot|>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant<|end|>\n\n' }}{% endif %}"""

# Each exchange between <s> and </s>; no prompt of its own before an answer.
BRACKETS = """
{%- for message in messages %}{% if message.role == 'user' %}
{{- bos_token ~ '[INST] ' ~ message.content ~ ' [/INST]' }}{% else %}
{{- ' ' ~ message.content ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"""

# The thinking of all turns but the last is dropped; without thinking the prompt holds an empty one.
THINKING = """
{%- for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\n' }}
{%- if message.role == 'assistant' and loop.last %}
{{- '<think>\n' ~ (message.reasoning_content or '') ~ '\n</think>\n\n' }}{% endif %}
{{- message.content ~ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"""

# An EOS in a line of its own ends the text, not the turn; tools and their calls are left out.
CLOSED = """
{%- for message in messages %}{{ '<|start|>' ~ message.role ~ '\n' ~ message.content }}
{{- '<|end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% else %}{{ eos_token }}{% endif %}"""

# No token says that an answer is over.
ENDLESS = """
{%- for message in messages %}
{{- '### ' ~ message.role ~ ':\n' ~ message.content ~ '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '### assistant:\n' }}{% endif %}"""

TEMPLATES = {
    "chatml": CHATML,
    "headers": HEADERS,
    "brackets": BRACKETS,
    "thinking": THINKING,
    "closed": CLOSED,
    "endless": ENDLESS,
}
SPECIAL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start|>",
    "<|end|>",
    "<|eot|>",
    "<think>",
)
TEXTS = [
    "Say it again, please.\n\n\nWhat is a shard?\n\n\n\n" * 4,
    "assistant user system\n  def f(x): return x",
]


def chat_tokenizer(folder: Path, template: str | None = CHATML, vocab_size: int = 300) -> Path:
    """A byte-level BPE with the special tokens of all templates, and one of them, as a folder."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"bos_token": "<s>", "eos_token": "</s>"}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **named}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder
