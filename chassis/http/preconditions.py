"""Optimistic concurrency: `ETag` is the aggregate's version, and an update names the one it read."""

import re

from starlette.requests import Request

from chassis.http.problem import Problem

IF_MATCH = r'^(\*|"[0-9]{1,9}"(, ?"[0-9]{1,9}")*)$'
"""What `If-Match` may be: any version, or some."""
_IF_MATCH = re.compile(IF_MATCH)


def etag(version: int) -> str:
    """Return the entity tag of a version, as in `"3"`."""
    return f'"{version}"'


def require_match(request: Request, version: int) -> None:
    """Problem 428 without `If-Match`, 400 for one that is none, 412 if it names a version that is over."""
    given = request.headers.get("if-match")
    if given is None:
        raise Problem(428, "precondition-required", "Send If-Match with the ETag of the version you read.")
    if not _IF_MATCH.fullmatch(given):
        raise Problem(400, "malformed-precondition", 'If-Match has the ETag that you read, as in "3", or *.')
    if given.strip() != "*" and etag(version) not in (tag.strip() for tag in given.split(",")):
        raise Problem(
            412,
            "precondition-failed",
            f"It has changed: you sent {given}, the current version is {etag(version)}.",
        )
