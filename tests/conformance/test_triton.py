"""A real Triton and poise with the same models: the same clients hear the same, but for what ``known.py`` lists.

Triton is installed by ``triton.sh`` where it is not yet. This test is never skipped.
"""

from collections.abc import Callable, Iterator

import pytest
from tests.conformance import peers
from tests.conformance.clients import Clients, Tree
from tests.conformance.comparison import ANSWERED, unexplained, verdict
from tests.conformance.conversation import hold
from tests.conformance.conversation_grpc import hold_grpc
from tests.conformance.conversation_http import hold_http
from tests.conformance.conversation_state import hold_repository, hold_statistics, hold_timeouts
from tests.conformance.known import KNOWN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

CONVERSATIONS: tuple[Callable[[Clients], dict[str, Tree]], ...] = (
    hold,
    hold_http,
    hold_grpc,
    hold_statistics,
    hold_timeouts,
    hold_repository,
)
LEAST_CALLS = 570
"""Fewer would mean that a part of the conversation was not held."""


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, dict[str, Tree]]]:
    """What each server said, by its name."""
    answers: dict[str, dict[str, Tree]] = {}
    for run in (peers.triton, peers.poise):
        with run(tmp_path_factory.mktemp(run.__name__)) as peer:
            clients = Clients(peer)
            try:
                answers[peer.name] = {}
                for talk in CONVERSATIONS:
                    answers[peer.name] |= talk(clients)
            finally:
                clients.close()
    yield answers


def test_all_is_said_to_both(heard):
    assert heard["triton"].keys() == heard["poise"].keys()
    assert len(heard["triton"]) >= LEAST_CALLS


def test_triton_itself_answers_as_it_should(heard):
    """The reference must be sound: an installation that refuses everything would agree with much."""
    triton = heard["triton"]
    answered = [call for call, answer in triton.items() if verdict(answer) in ANSWERED]
    assert len(answered) > len(triton) / 2
    for name in ("http", "http.aio", "grpc", "grpc.aio"):
        arrays = triton[f"{name}: infer"]["value"]["arrays"]
        assert arrays["sum"]["values"] == [[11, 22, 33, 44], [1, 4.5, 0.25, 0]]
        assert arrays["difference"]["values"] == [[-9, -18, -27, -36], [-3, -3.5, -0.25, 16]]


def test_poise_answers_as_triton_does_but_for_what_is_known(heard):
    unknown, unmet = unexplained(heard["triton"], heard["poise"], KNOWN)
    words = [f"  {difference}"[:600] for difference in unknown]
    assert not unknown, "\n".join(["differences that known.py does not list:", *words])
    assert not unmet, "\n".join(
        ["differences in known.py that are no more:", *(f"  {each}" for each in unmet)]
    )
