"""`python -m chassis.http.probe`: fails unless the process beside it is ready; the health check of a container."""

import http.client
import os
import sys


def main() -> None:
    """Ask `/health/ready` on `PORT`, and end with its reasons where it isn't."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or 8000), timeout=4)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        sys.exit(f"no answer: {error or type(error).__name__}")
    if answer.status != http.client.OK:
        sys.exit(text)


if __name__ == "__main__":
    main()
