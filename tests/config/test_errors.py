"""An error of ours arrives between processes as what it was."""

import pickle

import pytest

from manta.config.errors import DivergedError, MantaError, Problem, RunError


@pytest.mark.parametrize("kind", [MantaError, RunError, DivergedError])
def test_class_and_text_of_an_error_arrive(kind):
    problem = pickle.loads(pickle.dumps(Problem.of(kind("run.yaml: run.name: is taken"))))
    error = problem.error()
    assert type(error) is kind
    assert str(error) == "run.yaml: run.name: is taken"


def test_of_a_class_that_is_not_known_here_the_text_arrives():
    assert type(Problem("NewError", "text").error()) is MantaError
