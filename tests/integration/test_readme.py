"""The walk through the API that the README shows a newcomer is one that works."""

import asyncio
import re
import secrets
import shutil
from pathlib import Path

import pytest

from deploy.stack.stack import Stack

README = Path(__file__).parents[2] / "README.md"


async def test_the_walk_through_the_api_works_as_written(stack: Stack) -> None:
    missing = [tool for tool in ("bash", "curl", "jq") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"the README's walk needs {', '.join(missing)}")
    (walk,) = re.findall(r"```bash\n(.*?)```", README.read_text(), re.DOTALL)
    _, password = stack.administrator
    walk = walk.replace("http://127.0.0.1:8000", stack.gateway_url).replace("password=…", f"password={password}")
    walk = walk.replace("acme", f"acme-{secrets.token_hex(4)}")  # the servers may know it from an earlier run
    process = await asyncio.create_subprocess_exec(
        "bash", "-euo", "pipefail", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(120):
        printed, _ = await process.communicate(walk.encode())
    output = printed.decode()
    assert process.returncode == 0, output
    assert output.count('"status": "succeeded"') == 4
    assert '"amount_minor": 8000' in output
    assert '"number": "INV-000001"' in output
