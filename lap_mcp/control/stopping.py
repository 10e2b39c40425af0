"""Telling a runtime to end a turn, with its own verb; what goes wrong becomes words."""

from __future__ import annotations

import logging

import anyio
from lap_runtimes.base import Ref, Runtime
from lap_runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)

_NO_ID = "The runtime gave no id yet and could not be told to stop; it may still be working."


async def tell_to_stop(runtime: Runtime, ref: Ref, timeout: float) -> str:
    """Words on what went wrong, or none.  `ref`: the turn's own; empty while it has none.

    Boundary: what an adapter raises here never keeps a turn from being ended on our side.
    """
    verb = runtime.capabilities.cancel
    if verb == "none":
        return "This runtime cannot be told to stop; it may still be working."
    if verb == "disconnect":
        return ""
    if not ref:
        # An earlier turn's would end something else, and look like a success.
        ends = runtime.capabilities.on_disconnect == "aborts"
        return "" if ends else _NO_ID
    try:
        with anyio.fail_after(timeout):
            await runtime.cancel(ref)
    except RuntimeFailure as failure:
        return f"The runtime refused to stop: {failure.message}"
    except TimeoutError:
        return "The runtime did not react to being told to stop; it may still be working."
    except Exception as error:
        log.exception("the adapter of a runtime broke when told to stop")
        return f"The runtime could not be told to stop ({type(error).__name__})."
    return ""
