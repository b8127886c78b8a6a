"""The watch for the clouds' notices, against a metadata service on this machine."""

from __future__ import annotations

import time

import pytest
from mock_metadata import metadata_service

from manta.cluster.notice import AwsNotices, GcpNotices, Notice, watch


@pytest.fixture
def service():
    with metadata_service() as service:
        yield service


def test_aws_says_nothing_until_it_takes_the_instance(service):
    look = AwsNotices(service.url)
    assert look() is None
    service.announce(seconds=120)
    notice = look()
    assert notice.deadline == service.ends.timestamp()
    assert "terminate" in notice.reason
    assert [line.split()[0] for line in service.asked] == ["PUT", "GET", "GET"]


def test_an_expired_token_is_renewed(service):
    look = AwsNotices(service.url)
    assert look() is None
    service.token = "second"
    assert look() is None
    assert [line.split()[2] for line in service.asked] == ["200", "404", "401", "200", "404"]


def test_gcp(service):
    look = GcpNotices(service.url)
    assert look() is None
    service.announce(seconds=30)
    assert time.time() < look().deadline < time.time() + 60


def test_the_watch_outlives_a_service_that_is_away_and_a_ray_that_is_busy():
    seen = iter(
        [OSError("no route"), None, ValueError("not JSON"), Notice(time.time() + 60, "it goes")]
    )
    answers = iter([RuntimeError("busy"), None])
    drained = []

    def look():
        found = next(seen)
        if isinstance(found, Exception):
            raise found
        return found

    def drain(notice):
        drained.append(notice.reason)
        if error := next(answers):
            raise error

    watch(look, drain, poll_seconds=0.001)
    assert drained == ["it goes", "it goes"]


def test_the_watch_gives_up_when_the_time_is_over():
    tried = []

    def drain(notice):
        tried.append(notice)
        raise RuntimeError("no such cluster")

    watch(lambda: Notice(time.time() - 1, "it went"), drain, poll_seconds=0.001)
    assert len(tried) == 1
