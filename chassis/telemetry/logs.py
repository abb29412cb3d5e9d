"""Logs: one JSON object a line on standard output, ours and every library's; no secret, bounded size (law 10)."""

import logging
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict

from chassis.telemetry import traces
from chassis.telemetry.redaction import HIDDEN, LONGEST_TEXT, is_secret, redacted

LONGEST_LINE = 65_536
"""Bytes of one line; of a longer one only what it is about is kept."""
_MOST_ITEMS = 50
_LONGEST_NAME = 200
_DEEPEST = 6


def configure(service: str, level: str) -> None:
    """Send the logs of this process to standard output as JSON; libraries speak from WARNING on."""
    threshold = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)

    def named(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        named,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, clean, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(sys.stdout.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                clean,
                _render_text,
            ],
        )
    )
    logging.basicConfig(level=max(threshold, logging.WARNING), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _crashed


def _add_trace(_logger: Any, _method: str, event: EventDict) -> EventDict:
    traceparent = traces.here()
    if traceparent:
        event["trace_id"], event["span_id"] = traceparent[3:35], traceparent[36:52]
    return event


def clean(_logger: Any, _method: str, event: EventDict) -> EventDict:
    """Hide secrets, by name and inside texts, at any depth, and cut what is too long, too many or too deep."""
    return {redacted(name): _cleaned(name, value, 0) for name, value in event.items()}


def _cleaned(name: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if is_secret(name):
        return HIDDEN
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**63 else redacted(f"{value:#x}")  # JSON's numbers end there
    if isinstance(value, float):
        return value
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, bytes):
        return redacted(value[: LONGEST_TEXT + 1].decode(errors="replace"))
    if isinstance(value, Mapping):
        return _bounded_mapping(value, depth) if depth < _DEEPEST else "…"
    if isinstance(value, (list, tuple, set, frozenset)):
        return _bounded_list(name, value, depth) if depth < _DEEPEST else "…"
    return redacted(str(value))


def _bounded_mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, item in value.items():
        if len(kept) == _MOST_ITEMS:
            kept["…"] = f"{len(value) - _MOST_ITEMS} more"
            break
        name = str(key)[:_LONGEST_NAME]
        kept[redacted(name)] = _cleaned(name, item, depth + 1)
    return kept


def _bounded_list(name: str, value: Any, depth: int) -> list[Any]:
    kept: list[Any] = []
    for item in value:
        if len(kept) == _MOST_ITEMS:
            kept.append(f"… {len(value) - _MOST_ITEMS} more")
            break
        kept.append(_cleaned(name, item, depth + 1))
    return kept


def render(_logger: Any, _method: str, event: EventDict) -> bytes:
    """Return the line, never longer than `LONGEST_LINE`."""
    line = orjson.dumps(event)
    if len(line) <= LONGEST_LINE:
        return line
    names = ("event", "level", "timestamp", "service", "logger", "trace_id", "span_id")
    kept = {name: event[name] for name in names if name in event}
    return orjson.dumps({**kept, "cut": f"the line had {len(line)} bytes", "fields": list(event)[:_MOST_ITEMS]})


def _render_text(logger: Any, method: str, event: EventDict) -> str:
    return render(logger, method, event).decode()


def _crashed(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger().critical("crashed", exc_info=(kind, error, traceback))
