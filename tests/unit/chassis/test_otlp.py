"""Spans on their way to a collector, read by OpenTelemetry's own messages."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from chassis.telemetry.otlp import Exporter, encoded

SAMPLED = TraceFlags(TraceFlags.SAMPLED)
ids = st.integers(1, 2**64 - 1)
values = st.text(max_size=50) | st.integers(-(2**63), 2**63 - 1)
spans = st.builds(
    lambda trace, span, parent, **fields: ReadableSpan(
        context=SpanContext(trace, span, False, SAMPLED),
        parent=SpanContext(trace, parent, True, SAMPLED) if parent else None,
        resource=Resource.get_empty(),
        **fields,
    ),
    st.integers(1, 2**128 - 1),
    ids,
    st.none() | ids,
    name=st.text(max_size=50),
    kind=st.sampled_from(SpanKind),
    attributes=st.dictionaries(st.text(min_size=1, max_size=20), values, max_size=12),
    status=st.just(Status()) | st.builds(Status, st.just(StatusCode.ERROR), st.text(max_size=50)),
    start_time=st.integers(0, 2**63),
    end_time=st.integers(0, 2**63),
)


@given(st.lists(spans, max_size=5))
def test_a_collector_reads_what_was_written(given_spans: list[ReadableSpan]) -> None:
    request = ExportTraceServiceRequest.FromString(encoded(given_spans, {"service.name": "dotmac-test"}))
    (group,) = request.resource_spans
    assert [(item.key, item.value.string_value) for item in group.resource.attributes] == [
        ("service.name", "dotmac-test")
    ]
    read = group.scope_spans[0].spans
    assert len(read) == len(given_spans)
    for found, span in zip(read, given_spans, strict=True):
        assert span.context is not None
        assert int.from_bytes(found.trace_id, "big") == span.context.trace_id
        assert int.from_bytes(found.span_id, "big") == span.context.span_id
        assert int.from_bytes(found.parent_span_id, "big") == (span.parent.span_id if span.parent else 0)
        assert (found.name, found.kind) == (span.name, span.kind.value + 1)
        assert (found.start_time_unix_nano, found.end_time_unix_nano) == (span.start_time, span.end_time)
        attributes = {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in found.attributes}
        assert attributes == span.attributes
        failed = span.status.status_code is StatusCode.ERROR
        assert found.status.code == (2 if failed else 0)
        assert found.status.message == (span.status.description or "" if failed else "")


def test_a_collector_that_does_not_answer_is_tried_once_when_the_process_ends() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.setblocking(False)
        exporter = Exporter(f"http://127.0.0.1:{silent.getsockname()[1]}", {}, patience_seconds=0.1)
        assert exporter.export([]) is SpanExportResult.FAILURE
        silent.accept()[0].close()
        assert exporter.export([]) is SpanExportResult.FAILURE  # it may be well again
        silent.accept()[0].close()
        exporter.closing = True
        assert exporter.export([]) is SpanExportResult.FAILURE
        with pytest.raises(BlockingIOError):  # nobody came
            silent.accept()
