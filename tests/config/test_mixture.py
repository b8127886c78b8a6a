"""What the section `data.mixture` refuses by itself."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from manta.config.mixture import MixtureSection


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"sources": {}}, "at least 1 item"),
        ({"sources": {"web": {"weight": 0}, "code": {"weight": 1}}}, "'sources.web.weight' is alw"),
        (
            {"sources": {"web": {"weight": [{"from": 0, "until": "5%"}, {"from": 0}]}}},
            "is always 0: remove the source",
        ),
        ({"sources": {"web": {"weight": 1}, "code": {}}}, "'sources.code' has none: give one to"),
        ({"sources": {"web": {"weight": -1}}}, "greater than or equal to 0"),
        ({"sources": {"web": {"weight": True}}}, "write a number, not true or false"),
        ({"sources": {"web": {"max_epochs": 0}}}, "greater than 0"),
        ({"sources": {"web": {}}, "temperature": 0}, "greater than 0"),
        (
            {"sources": {"web": {"weight": [{"shape": "cosine", "from": 1, "to": 2}]}}},
            "'constant' or 'linear'",
        ),
        ({"sources": {"web": {"weight": [{"shape": "linear"}]}}}, "a linear segment needs 'to'"),
        (
            {"sources": {"web": {"weight": [{"from": 1, "tokens": 5, "until": 9}]}}},
            "give 'tokens' or 'until', not both",
        ),
        (
            {"sources": {"web": {}}, "history": [{"until": 9}, {"until": 9}]},
            "each 'until' must be above the one before",
        ),
    ],
)
def test_refused(section: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        MixtureSection.model_validate(section)
    assert message in str(caught.value)
