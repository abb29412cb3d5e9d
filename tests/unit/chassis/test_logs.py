"""Every line is JSON, holds no secret, and has a bounded size."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chassis.telemetry.logs import LONGEST_LINE, clean, render
from chassis.telemetry.redaction import LONGEST_TEXT

SECRET = "hunter2-correct-horse"


def line(**event: Any) -> str:
    return render(None, "info", clean(None, "info", event)).decode()


@pytest.mark.parametrize(
    "event",
    [
        {"password": SECRET},
        {"Authorization": SECRET},
        {"settings": {"jwt_secret_key": SECRET}},
        {"requests": [{"headers": {"set-cookie": SECRET}}]},
        {"api_key": [SECRET, {"a": SECRET}]},
        {"token": SECRET.encode()},
        {"access_token": 4711_0815, "note": "numbers are secrets too"},
        {"error": f"postgresql://billing_api:{SECRET}@127.0.0.1:5432/dotmac_billing refused"},
        {"error": f"alter role billing_api login password '{SECRET}'"},
        {"error": f"Authorization: Bearer {SECRET}"},
        {"error": f"BootstrapSettings(admin_password='{SECRET}', port=1)"},
        {"body": f'{{"client_secret": "{SECRET}"}}'},
        {"body": f"grant_type=password&password={SECRET}&tenant=acme"},
        {"error": f"eyJhbGciOiJFZDI1NTE5In0.eyJzdWIiOiJ4In0.{SECRET}"},
        {"error": f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"},
    ],
)
def test_secrets_are_hidden_wherever_they_stand(event: dict[str, Any]) -> None:
    written = line(**event)
    assert SECRET not in written
    assert "47110815" not in written
    assert "[hidden]" in written


def test_what_is_no_secret_stays() -> None:
    event = {
        "event": "request",
        "path": "/api/v1/auth/token",
        "error": "the token is over",
        "address": "http://127.0.0.1:8000/api",
        "status": 200,
        "ok": True,
        "nothing": None,
    }
    assert json.loads(line(**event)) == event


text = st.text(st.characters(exclude_categories=()))  # with halves of surrogate pairs
leaves = st.none() | st.booleans() | st.integers() | st.floats() | text | st.binary() | st.datetimes() | st.uuids()
nested = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(text | st.uuids(), inner),
    max_leaves=50,
)


@settings(deadline=None)
@given(value=nested, repeat=st.integers(1, 5_000), name=text)
def test_a_line_is_json_of_bounded_size_whatever_is_logged(value: Any, repeat: int, name: str) -> None:
    written = line(event="x", name={name: value}, many=[value] * repeat, long=str(value) * repeat)
    assert len(written.encode()) <= LONGEST_LINE
    assert json.loads(written)["event"] == "x"


def test_a_long_text_keeps_its_beginning_and_its_end() -> None:
    text = json.loads(line(exception="Traceback" + "x" * 50_000 + "ValueError: why"))["exception"]
    assert len(text) < LONGEST_TEXT + 50
    assert text.startswith("Traceback")
    assert text.endswith("ValueError: why")


@pytest.mark.parametrize(
    "piece",
    [
        "token",
        "token=",
        "://a:",
        "-eyJaaaaaa",
        "eyJaaaaaa.",
        "-----BEGIN AAAA",
        "bearer ",
        "passw   ",
        "secret'",
        "a",
        "é",
    ],
)
def test_no_text_makes_it_slow(piece: str) -> None:
    text = "token" + piece * (1_000_000 // len(piece))
    started = time.process_time()
    assert len(line(text=text)) <= LONGEST_LINE
    assert time.process_time() - started < 1  # it takes milliseconds; a repetition without a bound takes minutes


def test_a_secret_on_the_edge_of_a_cut_is_hidden() -> None:
    for place in range(LONGEST_TEXT // 4 - 60, LONGEST_TEXT // 4 + 20, 5):
        assert SECRET[-8:] not in line(text="x" * place + f" password={SECRET} " + "y" * 20_000)
    for place in range(3 * LONGEST_TEXT // 4 - 60, 3 * LONGEST_TEXT // 4 + 20, 5):
        assert SECRET[-8:] not in line(text="x" * 20_000 + f" password={SECRET} " + "y" * place)


_PROGRAM = """
import asyncio, logging, warnings
import structlog
from chassis import telemetry
from chassis.settings import TelemetrySettings
from chassis.telemetry import traces

telemetry.configure("customer", TelemetrySettings())
logger = structlog.get_logger()
logger.info("ours", path="/x")
with traces.request("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", "GET"):
    logger.info("traced")
    for name in ("uvicorn.error", "aiokafka.cluster", "asyncpg.pool"):
        logging.getLogger(name).error("can't reach %s", "postgresql://u:hunter2-correct-horse@h/d")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("uvicorn.error").exception("failed")
logging.getLogger("aiokafka").info("too much to tell")
warnings.warn("old", DeprecationWarning, stacklevel=1)

async def forgotten():
    raise OSError("nobody waits for this")

async def main():
    task = asyncio.create_task(forgotten())
    await asyncio.sleep(0)

asyncio.run(main())
raise RuntimeError("the end")
"""


def test_libraries_warnings_and_crashes_log_as_the_platform_does() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", _PROGRAM], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    lines = [json.loads(text) for text in done.stdout.splitlines()]
    assert SECRET not in done.stdout
    assert all({"event", "level", "timestamp", "service"} <= item.keys() for item in lines)
    by_logger = {item["logger"]: item for item in lines if "logger" in item}
    assert by_logger.keys() == {"uvicorn.error", "aiokafka.cluster", "asyncpg.pool", "py.warnings", "asyncio"}
    trace = "0af7651916cd43dd8448eb211c80319c"
    traced = [item for item in lines if item.get("trace_id") == trace]
    assert [item.get("logger", item["event"]) for item in traced] == [
        "traced",
        "uvicorn.error",
        "aiokafka.cluster",
        "asyncpg.pool",
        "uvicorn.error",
    ]
    assert "ValueError: why" in traced[-1]["exception"]
    assert "nobody waits for this" in by_logger["asyncio"]["exception"]
    crash = lines[-1]
    assert (crash["event"], crash["level"]) == ("crashed", "critical")
    assert "RuntimeError: the end" in crash["exception"]
