"""What people are told of the nodes that an autoscaler brings, or can't bring."""

from collections import Counter

import pytest

from manta.elastic.cluster_state.autoscaler import Outlook


@pytest.mark.parametrize(
    ("outlook", "told"),
    [
        (Outlook(Counter(), 2, refused=False, failure=""), []),
        (
            Outlook(Counter({"spot": 2, "gpu": 1}), 0, refused=False, failure=""),
            ["on their way: 1 × gpu, 2 × spot"],
        ),
        (
            Outlook(Counter(), 4, refused=True, failure=""),
            ["the cluster is at its maximum size, with room for 4 in all"],
        ),
        (
            Outlook(Counter({"gpu": 1}), 0, refused=True, failure="gpu: no capacity"),
            ["on their way: 1 × gpu", "a node could not be started (gpu: no capacity)"],
        ),
    ],
)
def test_the_outlook_in_words(outlook: Outlook, told: list[str]) -> None:
    assert outlook.explained() == told


def test_a_worker_that_no_node_can_hold_names_the_keys() -> None:
    (told,) = Outlook(Counter(), 0, refused=True, failure="").explained()
    assert "scaling.resources_per_worker" in told
    assert "max_workers" in told
