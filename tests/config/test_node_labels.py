"""Labels of nodes in `scaling.prefer` and `scaling.avoid`."""

from __future__ import annotations

import pytest

from manta.config.scaling import ScalingSection


def test_one_value_or_several() -> None:
    found = ScalingSection(prefer={"ray.io/market-type": "spot"}, avoid={"zone": ["a", "b"]})
    assert found.prefer == {"ray.io/market-type": ["spot"]}
    assert found.avoid == {"zone": ["a", "b"]}
    assert ScalingSection.model_validate(found.model_dump()) == found


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"prefer": {"zone": "a"}, "avoid": {"zone": ["b", "a"]}}, "both have zone: a"),
        ({"avoid": {"zone": []}}, "at least 1 item"),
        ({"avoid": {"": "a"}}, "at least 1 character"),
        ({"prefer": {"zone": 3}}, "valid string"),
        ({"prefer": "spot"}, "valid dictionary"),
    ],
)  # fmt: skip
def test_mistakes(given, said) -> None:
    with pytest.raises(ValueError, match=said):
        ScalingSection(**given)
