"""What is not told, in logs and in spans (law 10): secrets by the name of their field or by their form, and no end."""

import re
from functools import lru_cache

LONGEST_TEXT = 8_192
"""Characters of one text; of a longer one the beginning and the end are kept."""
HIDDEN = "[hidden]"
_SECRET_NAME = re.compile(r"passw|secret|token|authorization|cookie|credential|api_?key|private_?key", re.IGNORECASE)
# One cheap look at every text; the patterns below only run on the few that could hold a secret.
_SUSPECT = re.compile(r"eyJ|://|bearer|basic |passw|secret|token|private key", re.IGNORECASE)
# Each repetition is bounded: a client's text must not be able to make them slow.
_SECRETS_IN_TEXT = (
    (re.compile(r"\beyJ[\w-]{5,2000}\.[\w-]{1,2000}\.[\w-]{0,2000}"), HIDDEN),  # a JSON Web Token
    (re.compile(r"(://[^\s:/@]{0,200}):[^\s@]{1,200}@"), rf"\1:{HIDDEN}@"),  # the password in an address
    (re.compile(r"\b(bearer|basic)\s{1,5}[\w.~+/=-]{8,4000}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(-----END|$)", re.DOTALL), HIDDEN),
    (
        re.compile(
            r"""((?:passw|secret|token)\w{0,40}["']?\s{0,5}[=:]\s{0,5}|password\s{1,5}(?=['"]))"""
            r"""("[^"]{0,4000}"|'[^']{0,4000}'|[^\s"',;&)}]{1,4000})""",
            re.IGNORECASE,
        ),
        rf"\1{HIDDEN}",
    ),
)
_LONGEST_SECRET = 4_096
_HEAD, _TAIL = LONGEST_TEXT // 4, 3 * LONGEST_TEXT // 4


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Whether what bears this name is not to be told."""
    return _SECRET_NAME.search(name) is not None


def redacted(value: str) -> str:
    """Return a text in UTF-8 without the secrets in it, and without its middle where it is too long."""
    if len(value) <= LONGEST_TEXT:
        return _without_secrets(value)
    # The end of a traceback says what happened, its beginning where. Secrets first: a cut could take away the part by
    # which one is known.
    head = _without_secrets(value[: _HEAD + _LONGEST_SECRET])[:_HEAD]
    tail = _without_secrets(value[-_TAIL - _LONGEST_SECRET :])[-_TAIL:]
    return f"{head}…[of {len(value)} characters]…{tail}"


def _without_secrets(value: str) -> str:
    if not value.isascii():
        value = value.encode(errors="replace").decode()  # half a surrogate pair is no UTF-8
    if _SUSPECT.search(value):
        for pattern, replacement in _SECRETS_IN_TEXT:
            value = pattern.sub(replacement, value)
    return value
