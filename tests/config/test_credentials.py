"""Nothing that opens a store gets into a config, and no message repeats it."""

from __future__ import annotations

from pathlib import Path

import pytest
from written_configs import CORPUS, RUN

from manta.config import ConfigError, CorpusConfig, RunConfig, load, load_sweep
from manta.config.credentials import has_credentials, without_credentials
from manta.config.sweep import read_base

PLANTED = "hunter2-planted"
SECRET = [
    f"s3://key:{PLANTED}@bucket/corpus",
    f"s3://bucket/corpus?region=eu-west-1&secret_key={PLANTED}",
    f"s3://bucket/corpus?access_key={PLANTED}",
    f"https://{PLANTED}@host/corpus",
    f"https://host/corpus?X-Amz-Signature={PLANTED}&X-Amz-Date=1",
    f"https://account.blob.example/c?sv=1&sig={PLANTED}",
    f"hdfs://user:{PLANTED}@host:8020/corpus",
]
OPEN = [
    "s3://bucket/corpus?endpoint_override=127.0.0.1:9000&scheme=http",
    "gs://anonymous@bucket/corpus",
    "abfs://container@account.dfs.example/corpus",
    "hf://datasets/someone/some@main/data",
    "https://host:8080/a@b/c",
    "/shared/corpora/demo",
    "someone@host:path",
]


@pytest.mark.parametrize("url", SECRET)
def test_credentials_are_found_and_taken_out(url: str) -> None:
    assert has_credentials(url)
    masked = without_credentials(f"can't read {url} now")
    assert PLANTED not in masked
    assert not has_credentials(masked.replace("***", ""))
    assert masked.startswith("can't read ")
    assert masked.endswith(" now")


@pytest.mark.parametrize("url", OPEN)
def test_what_is_no_secret_is_left_alone(url: str) -> None:
    assert not has_credentials(url)
    assert without_credentials(url) == url


@pytest.mark.parametrize("url", SECRET)
@pytest.mark.parametrize("key", ["corpus", "run.storage", "model.pretrained", "wandb.tags.0"])
def test_a_config_with_credentials_is_refused(tmp_path: Path, key: str, url: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN + "wandb: {tags: [a]}\n")
    with pytest.raises(ConfigError, match="set it in the environment") as refused:
        load(path, RunConfig, [f"{key}={url}"])
    assert str(refused.value).startswith(f"command line: {key}: ")
    assert PLANTED not in str(refused.value)


def test_the_line_of_the_file_is_named_and_not_repeated(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN.replace("corpus: shards", f"corpus: {SECRET[0]}"))
    with pytest.raises(ConfigError, match=r"run\.yaml:2: corpus: ") as refused:
        load(path, RunConfig)
    assert PLANTED not in str(refused.value)


def test_a_corpus_config_with_credentials_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "corpus.yaml"
    path.write_text(CORPUS)
    with pytest.raises(ConfigError, match=r"sources\.0\.paths\.0: ") as refused:
        load(path, CorpusConfig, [f"sources.0.paths=[{SECRET[0]}]"])
    assert PLANTED not in str(refused.value)


def test_a_sweep_whose_overrides_hold_credentials_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(RUN)
    path = tmp_path / "sweep.yaml"
    path.write_text("sweep: {name: s}\nbase: run.yaml\nspace: lr_peak\n")
    with pytest.raises(ConfigError, match=r"overrides\.0: ") as refused:
        read_base(load_sweep(path, [f"overrides=[corpus={SECRET[0]}]"]))
    assert PLANTED not in str(refused.value)


@pytest.mark.parametrize("override", [f"wandb.api_key={PLANTED}", f"={SECRET[0]}", SECRET[0]])
def test_a_mistake_beside_a_secret_does_not_repeat_it(tmp_path: Path, override: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(RUN)
    with pytest.raises(ConfigError) as refused:
        load(path, RunConfig, [override])
    assert PLANTED not in str(refused.value)
