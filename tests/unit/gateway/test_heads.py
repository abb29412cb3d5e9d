"""What of a head goes on."""

from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.heads import HOP_BY_HOP, RequestHead, answer_head

names = st.sampled_from(sorted(HOP_BY_HOP | {b"x-a", b"x-b", b"accept", b"content-type"}))
fields = st.lists(st.tuples(names, st.sampled_from([b"1", b"x-a", b"close, X-A", b"keep-alive"])))


@settings(deadline=None)  # the machine may be busy
@given(fields)
def test_only_what_concerns_both_ends_goes_on_in_order_and_as_often(headers: list[tuple[bytes, bytes]]) -> None:
    named = {token.strip().lower() for name, value in headers if name == b"connection" for token in value.split(b",")}
    expected = [(name, value) for name, value in headers if name not in HOP_BY_HOP | named]
    given_on = b"".join(RequestHead(headers).fields)
    assert given_on == b"".join(name + b": " + value + b"\r\n" for name, value in expected)
    head, _, _ = answer_head(200, headers, b"x-ours: 1\r\n", chunks=True, bodiless=False, keep_alive=True)
    text = b"".join(head)
    assert text.startswith(b"HTTP/1.1 200 OK\r\n" + given_on + b"x-ours: 1\r\n")
    assert text.count(b"\r\n\r\n") == 1


def test_how_an_answer_is_delimited() -> None:
    length = [(b"content-length", b"5")]
    for headers, status, chunks, bodiless, chunked, keep_alive in (
        (length, 200, True, False, False, True),
        ([], 200, True, False, True, True),
        ([], 200, False, False, False, False),  # HTTP/1.0: the end of the connection
        ([], 204, True, False, False, True),
        ([], 304, True, False, False, True),
        ([], 200, True, True, False, True),  # to HEAD
    ):
        head, was_chunked, was_kept = answer_head(
            status, headers, b"", chunks=chunks, bodiless=bodiless, keep_alive=True
        )
        assert (was_chunked, was_kept) == (chunked, keep_alive)
        assert (b"transfer-encoding: chunked\r\n" in head) is chunked
        assert (b"connection: close\r\n" in head) is not keep_alive


def test_a_status_without_a_name_is_passed_on() -> None:
    head, _, _ = answer_head(799, [], b"", chunks=True, bodiless=False, keep_alive=True)
    assert head[0] == b"HTTP/1.1 799 \r\n"
