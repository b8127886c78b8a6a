"""Configs as people write them, short."""

RUN = """\
run: {name: demo}
corpus: shards
model: {type: llama}
schedule:
  horizon: 1M
  lr: 0.1
  batch: 8
"""
SEGMENTS = RUN.replace(
    "lr: 0.1", "lr: [{shape: linear, from: 0.0, to: 0.1, tokens: 10%}, {from: 0.1}]"
)
CORPUS = """\
out: shards
sources:
  - {name: a, format: text, paths: [a.txt]}
tokenizer: {vocab_size: 300}
"""
