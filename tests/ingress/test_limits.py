"""Which limits a server takes."""

import pytest
from tests.security.target import attacked, infer, wave

from poise.ingress.limits import Limits


@pytest.mark.parametrize(
    "given",
    [
        {"body_bytes": 2**31},
        {"body_bytes": 99_999_999_999_999_999_999},
        {"bodies_bytes": 2**50 + 1},
        {"head_bytes": 2**31},
        {"headers": 2**31},
        {"tensors": 2**31},
        {"connections": 2**31},
        {"json_depth": 2**31},
        {"idle_s": 1e6 + 1},
        {"head_s": 1e300},
        {"take_s": float("inf")},
        {"connections": 0},
    ],
)
def test_a_limit_that_nothing_could_hold_is_refused(given):
    (name,) = given
    with pytest.raises(ValueError, match=f"got {name} .*, expected"):
        Limits(**given)


def test_the_greatest_limits_are_taken_by_grpc_too():
    with attacked(grpc=True, body_bytes=2**31 - 1, bodies_bytes=2**50, idle_s=1e6, head_s=1e6) as target:
        assert target.ask(infer(wave()))[0] == 200
