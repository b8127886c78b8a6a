"""An error of ours arrives between processes as what it was."""

import pickle

import pytest

from manta.config.errors import DivergedError, ErrorReport, MantaError, RunError


@pytest.mark.parametrize("kind", [MantaError, RunError, DivergedError])
def test_class_and_text_of_an_error_arrive(kind):
    report = pickle.loads(pickle.dumps(ErrorReport.of(kind("run.yaml: run.name: is taken"))))
    error = report.error()
    assert type(error) is kind
    assert str(error) == "run.yaml: run.name: is taken"


def test_of_a_class_that_is_not_known_here_the_text_arrives():
    assert type(ErrorReport("NewError", "text").error()) is MantaError
