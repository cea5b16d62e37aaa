"""HTTP responses out of bytes, however they are cut."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poise.client.response import BrokenResponseError, Response, ResponseReader

FORMS = {
    "length": b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\nInference-Header-Content-Length: 3\r\n\r\nabcdefg",
    "chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\ninference-header-content-length: 3\r\n\r\n"
    b"3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n",
    "announced": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 7\r\n"
    b"Inference-Header-Content-Length: 3\r\n\r\nabcdefg",
}


@given(form=st.sampled_from(sorted(FORMS)), cuts=st.lists(st.integers(1, 200)))
def test_any_cuts(form, cuts):
    data = FORMS[form]
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    reader = ResponseReader()
    got = [reader.feed(data[first:last]) for first, last in pairwise(places)]
    assert got[:-1] == [None] * (len(got) - 1)
    assert got[-1] == Response(200, b"abcdefg", 3, True)


def test_a_body_that_ends_with_the_connection():
    reader = ResponseReader()
    assert reader.feed(b"HTTP/1.1 500 Oh\r\n\r\nabc") is None
    assert reader.end() == Response(500, b"abc", None, False)


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nabc", FORMS["chunks"][:-4]],
)
def test_cut_short(data):
    reader = ResponseReader()
    if data:
        assert reader.feed(data) is None
    with pytest.raises(BrokenResponseError, match="was closed"):
        reader.end()


def test_a_connection_that_is_not_to_be_used_again():
    data = b"HTTP/1.1 204 No\r\nConnection: close\r\n\r\n"
    assert ResponseReader().feed(data) == Response(204, b"", None, False)


@given(st.binary(min_size=1, max_size=60))
def test_rubbish(data):
    try:
        response = ResponseReader().feed(data)
    except BrokenResponseError:
        return
    assert response is None  # the beginning of something
