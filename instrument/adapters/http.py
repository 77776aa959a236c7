"""One request over HTTP to an instrument, and what went wrong with it in one sentence."""

from __future__ import annotations

import urllib.error
import urllib.request

LARGEST = 1 << 20
"""Bytes of an answer."""
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(
    method: str,
    url: str,
    body: bytes | None = None,
    *,
    headers: dict[str, str],
    timeout: float,
    what: str,
    hint: str,
    error: type[Exception],
) -> bytes:
    """Send a request to an instrument, past any proxy of the machine, and return the content of its answer.

    Args:
        method: "GET", "PUT", "POST".
        url: of the resource.
        body: of the request.
        headers: besides those that HTTP needs.
        timeout: s.
        what: the request in words, for messages.
        hint: what to look at where nothing answers, as a question.
        error: raised where the instrument refuses or does not answer.
    """
    request = urllib.request.Request(url, data=body, method=method, headers=headers)
    try:
        with _direct.open(request, timeout=timeout) as answer:
            return bytes(answer.read(LARGEST))
    except urllib.error.HTTPError as refusal:
        told = refusal.read(300).decode(errors="replace").strip()
        msg = f"{what}: refused with {refusal.code} {refusal.reason}" + (f" ({told})" if told else "")
        raise error(msg) from refusal
    except OSError as fault:
        msg = f"{what}: no answer ({fault}); {hint}"
        raise error(msg) from fault
