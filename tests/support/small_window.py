"""An endpoint whose model holds few tokens, and that refuses what is longer in the words of a real server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.support.provider_loopback import Behaviour, Seen, Write, completion_body, http

# Bytes a token: what its tokenizer comes to.
BYTES = 4


def prompt_tokens(body: dict[str, Any]) -> int:
    """Return what the endpoint counts of a request's messages."""
    return sum(-(-len(message["content"].encode()) // BYTES) + 4 for message in body["messages"])


def small_window(
    window: int, reply: Callable[[list[dict[str, str]]], str], *, numbers: bool = True
) -> Behaviour:
    """Answer what fits with `reply`; without `numbers`, a refusal says only that it is one."""

    def behave(seen: Seen, write: Write) -> None:
        body: dict[str, Any] = seen.body
        asked, cap = prompt_tokens(body), int(body["max_completion_tokens"])
        if asked + cap > window:
            told = "Please reduce the length of the messages or completion."
            if numbers:
                told = (
                    f"This model's maximum context length is {window} tokens. However, you requested "
                    f"{asked + cap} tokens ({asked} in the messages, {cap} in the completion). {told}"
                )
            error = {"message": told, "type": "invalid_request_error", "code": "context_length_exceeded"}
            write(http("400 Bad Request", json.dumps({"error": error})))
            return
        text = reply(body["messages"])
        usage = {"prompt_tokens": asked, "completion_tokens": -(-len(text) // BYTES)}
        write(http("200 OK", completion_body(text, usage=usage)))

    return behave


def talkative(turns: int) -> Callable[[list[dict[str, str]]], str]:
    """Return a root that prints much in each of its turns, remembers the last, and then finishes."""

    def reply(messages: list[dict[str, str]]) -> str:
        last = messages[-1]["content"]
        if messages[0]["role"] != "system":
            return "about a page"
        if "no more room" in last:
            return "I have seen pages up to now; `seen` holds their numbers."
        turn = int(last.rpartition("Turn ")[2].partition("/")[0])
        if turn == 1:
            return "I begin.\n```repl\nseen = []\n```"
        if turn > turns:
            return "```repl\nFINAL([len(seen), llm_query('what is a page?')])\n```"
        return f"I read page {turn}.\n```repl\nseen.append({turn})\nprint('page {turn} ' * 150)\n```"

    return reply
