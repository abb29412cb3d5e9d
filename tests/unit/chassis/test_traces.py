"""Where spans exist, how they connect, and that none exists where nobody asked."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import SpanKind

from chassis.telemetry import traces
from tests.collector import Collector, collecting, tree

KNOWN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = KNOWN[3:35]
MALFORMED = ["", "x", KNOWN[:-1], f"{KNOWN}-", KNOWN.upper(), f"ff{KNOWN[2:]}", f"00-{'0' * 32}{KNOWN[35:]}", "é" * 55]


@contextmanager
def tracing(ratio: float) -> Iterator[Callable[[], Collector]]:
    """Trace to a collector; gives what returns it once all spans have arrived."""
    with collecting() as collector:
        traces.configure("test", collector.endpoint, ratio)

        def arrived() -> Collector:
            traces.flush()
            return collector

        try:
            yield arrived
        finally:
            traces.configure("test", None, 1.0)


def test_without_a_collector_there_are_no_spans_but_a_trace_to_find_logs_by() -> None:
    traces.configure("test", None, 1.0)
    with traces.request(KNOWN, "GET") as span:
        assert span is None
        assert traces.here() == KNOWN  # what the caller asked for is not ours to take back
        with traces.span("work", {}) as inner:
            assert inner is None
            assert traces.here() == KNOWN
        assert traces.start("send", SpanKind.CLIENT, KNOWN, {}) is None
    with traces.request(None, "GET") as span:
        assert span is None
        here = traces.here()
        assert here is not None
        assert not traces.sampled(here)
    assert traces.here() is None


def test_spans_form_one_tree_with_their_attributes() -> None:
    with tracing(1.0) as arrived:
        with traces.request(KNOWN, "POST") as request:
            assert request is not None
            request.update_name("POST /things")
            with traces.span("work", {"items": 3}):
                traces.annotate(traces.TENANT, "t-1")
                sent = traces.start("send", SpanKind.PRODUCER, traces.here(), {}, started_ns=1_000)
                assert sent is not None
                sent.end()
        spans = arrived().trace(TRACE)
        assert tree(spans) == ["dotmac-test: POST /things", "  dotmac-test: work", "    dotmac-test: send"]
        send, http, work = spans
        assert (http.kind, http.parent, send.start) == ("server", KNOWN[36:52], 1_000)
        assert work.attributes == {"items": 3, traces.TENANT: "t-1"}


def test_a_failure_is_on_the_span_and_goes_on() -> None:
    with tracing(1.0) as arrived:
        with pytest.raises(ValueError, match="why"), traces.request(KNOWN, "GET"), traces.span("work", {}):
            raise ValueError("why")
        spans = arrived().trace(TRACE)
        assert [(span.failed, span.attributes["error.type"]) for span in spans] == [(True, "ValueError")] * 2


def test_a_failure_tells_no_secret_and_is_utf_8() -> None:
    with tracing(1.0) as arrived:
        with pytest.raises(OSError, match="refused"), traces.request(KNOWN, "GET"):
            raise OSError("postgresql://api:hunter2-correct@db/x refused \ud800")
        (span,) = arrived().trace(TRACE)
        assert span.reason == "postgresql://api:[hidden]@db/x refused ?"


def test_a_span_that_is_never_ended_never_was() -> None:
    with tracing(1.0) as arrived:
        with traces.request(KNOWN, "GET"):
            assert traces.start("undone", SpanKind.PRODUCER, traces.here(), {}) is not None
        assert [span.name for span in arrived().trace(TRACE)] == ["GET"]


def test_a_caller_decides_and_a_stranger_does_not() -> None:
    with tracing(0.0):
        with traces.request(KNOWN, "GET") as span:
            assert span is not None
        with traces.request(KNOWN, "GET", edge=True) as span:
            assert span is None
            assert traces.here() == traces.unsampled(KNOWN)
    with tracing(1.0):
        with traces.request(traces.unsampled(KNOWN), "GET") as span:
            assert span is None
            assert traces.here() == traces.unsampled(KNOWN)
        with traces.request(traces.unsampled(KNOWN), "GET", edge=True) as span:
            assert span is not None
            assert traces.sampled(here := traces.here())
            assert here is not None
            assert TRACE in here


def test_the_ratio_decides_at_the_edge() -> None:
    with tracing(0.1) as arrived:
        for _ in range(2_000):
            with traces.request(None, "GET", edge=True):
                pass
        found = arrived().spans
        assert 120 < len(found) < 290  # 200 of 2,000: 6 standard deviations to each side
        assert len({span.trace for span in found}) == len(found)
        assert all(span.parent == "" for span in found)


@pytest.mark.parametrize("malformed", MALFORMED)
def test_a_malformed_traceparent_begins_a_trace_of_its_own(malformed: str) -> None:
    with tracing(1.0):
        assert traces.start("process", SpanKind.CONSUMER, malformed, {}) is None
        with traces.request(malformed, "GET") as span:
            assert span is not None
            assert TRACE not in span.traceparent


@given(st.text() | st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True))
def test_no_header_breaks_a_request(header: str) -> None:
    traces.configure("test", None, 1.0)
    with traces.request(header, "GET", edge=True):
        here = traces.here()
        assert here is not None
        assert len(here) == 55
