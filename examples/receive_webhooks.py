"""An outside system that receives webhooks, and believes only what is signed (Standard Webhooks).

Prints one line of JSON for each event. `WEBHOOK_SECRET` is what `POST /api/v1/webhook-endpoints` told; more of them,
with commas between, while one is rotated.
"""

import argparse
import json
import os

from aiohttp import web
from standardwebhooks import Webhook, WebhookVerificationError

SECRETS = [Webhook(secret) for secret in os.environ["WEBHOOK_SECRET"].split(",")]
SEEN: set[str] = set()
"""The ids of what was handled; a real one keeps them, with a retention of a few days, where it keeps its effects."""


async def receive(request: web.Request) -> web.Response:
    body = await request.read()
    for secret in SECRETS:
        try:
            event = secret.verify(body, dict(request.headers))
            break
        except WebhookVerificationError:
            continue
    else:
        return web.Response(status=401)
    # Delivery is at least once: an event that comes again has the same id.
    if event["id"] not in SEEN:
        SEEN.add(event["id"])
        print(json.dumps({"type": event["type"], "id": event["id"], "data": event["data"]}), flush=True)
    return web.Response(status=204)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8080)
    app = web.Application()
    app.router.add_post("/webhooks", receive)
    web.run_app(app, host="127.0.0.1", port=parser.parse_args().port, print=None)
