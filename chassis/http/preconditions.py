"""Optimistic concurrency: `ETag` is the aggregate's version, and an update names the one it read."""

from starlette.requests import Request

from chassis.http.problem import Problem


def etag(version: int) -> str:
    """Return the entity tag of a version, as in `"3"`."""
    return f'"{version}"'


def require_match(request: Request, version: int) -> None:
    """Problem 428 without `If-Match`, 412 if it names another version than the current one."""
    given = request.headers.get("if-match")
    if given is None:
        raise Problem(428, "precondition-required", "Send If-Match with the ETag of the version you read.")
    if given.strip() != "*" and etag(version) not in (tag.strip() for tag in given.split(",")):
        raise Problem(
            412,
            "precondition-failed",
            f"It has changed: you sent {given}, the current version is {etag(version)}.",
        )
