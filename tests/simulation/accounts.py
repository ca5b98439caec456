"""What the books know of one run: its tree of conversations, what each asked for, spent and may still spend.

Every amount is kept for each conversation and all above it, as sums of what was seen to be charged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from rlm_wasm.ids import RequestId
from rlm_wasm.scheduler.inputs import ChildRequested, QueryReceived, RunStarted

Amounts = dict[str, int]
# A conversation: the number of the request that it answers; None: the root's.
Node = RequestId | None
FIRST_TURN: Final[Amounts] = {"calls": 1, "iterations": 1, "fuel": 1}
NS_PER_MS: Final = 1_000_000
OPEN_QUERY: Final = ("queued", "flying", "backoff")
OPEN: Final = (*OPEN_QUERY, "running")


@dataclass(slots=True)
class Request:
    """A query, or the request for a child."""

    asked: QueryReceived | ChildRequested
    bound: Amounts
    # queued, flying, backoff; a child: running. Within one input: answering, failing, cancelled, refused.
    where: str
    deadline_ns: int = 0
    attempts: int = 0
    # Whether it is asked for with a larger cap, after an answer that stands if that comes to nothing.
    longer: bool = False

    @property
    def node(self) -> Node:
        """The conversation that asked."""
        return self.asked.parent

    @property
    def is_child(self) -> bool:
        return isinstance(self.asked, ChildRequested)


@dataclass(slots=True)
class Talk:
    """A conversation."""

    depth: int
    parent: Node
    limits: Amounts
    deadline_ns: int
    spent: Amounts = field(default_factory=dict)
    stopping: bool = False  # takes no more requests
    told: bool = False  # a StopChild was sent
    told_ns: int = 0
    gone: bool = False
    fuel: int | None = None  # what the cell that runs was given; None: no cell runs
    cell_requests: int = 0
    cell_children: int = 0


@dataclass(slots=True)
class RunAccount:
    """One run."""

    facts: RunStarted
    began_ns: int
    talks: dict[Node, Talk] = field(init=False)
    requests: dict[RequestId, Request] = field(default_factory=dict)
    late: dict[tuple[RequestId, int], Amounts] = field(default_factory=dict)
    corrected: set[tuple[RequestId, int]] = field(default_factory=set)
    timers: dict[str, int] = field(default_factory=dict)
    # Requests beyond the room for them, by the first one's number: how many, and whether they may be denied.
    surplus: dict[RequestId, tuple[int, bool]] = field(default_factory=dict)
    responses: dict[RequestId, int] = field(default_factory=dict)
    seq: int = 0
    at_ns: int = 0
    ending: bool = False
    ended_ns: int = 0
    # What only the last question may use; whether that was asked, or may not be any more.
    kept: Amounts = field(default_factory=dict)
    last: RequestId | None = None
    no_last: bool = False

    def __post_init__(self) -> None:
        budget = self.facts.budget
        names = [name for name in budget.__slots__ if name.endswith("_max")]  # type: ignore[attr-defined]
        limits = {name.removesuffix("_max"): getattr(budget, name) for name in names}
        deadline_ns = self.began_ns + self.facts.run.wall_ms_max * NS_PER_MS
        self.talks = {None: Talk(0, None, limits, deadline_ns)}
        percent = self.facts.run.reserve_percent
        shares = ("calls", "input_tokens", "output_tokens", "cost_microdollars") if percent else ()
        self.kept = {name: (limits[name] * percent + 99) // 100 for name in shares}
        if percent:
            self.kept["requests"] = 1

    @property
    def root(self) -> Talk:
        return self.talks[None]

    def chain(self, node: Node) -> list[Node]:
        """Return a conversation and all above it, the root's last."""
        found = [node]
        while node is not None:
            node = self.talks[node].parent
            found.append(node)
        return found

    def live(self, node: Node) -> bool:
        """Whether a conversation may ask."""
        talk = self.talks.get(node)
        return talk is not None and not (self.ending or talk.stopping or talk.gone)

    def pay(self, amounts: Amounts, node: Node, times: int = 1) -> None:
        """Count what was spent, or take it back with -1."""
        for each in self.chain(node):
            spent = self.talks[each].spent
            for name, amount in amounts.items():
                spent[name] = spent.get(name, 0) + times * amount

    def spent(self, name: str, node: Node = None) -> int:
        return self.talks[node].spent.get(name, 0)

    def reserved(self, name: str, node: Node = None) -> int:
        holding = [r for r in self.requests.values() if r.where in ("queued", "flying")]
        held = sum(r.bound.get(name, 0) for r in holding if node is None or node in self.chain(r.node))
        if name == "fuel":
            held += sum(t.fuel or 0 for each, t in self.talks.items() if t.fuel and node in self.chain(each))
        return held

    def available(self, name: str, node: Node = None) -> int:
        """Return what a conversation may still ask for: the least that it and any above it have left."""
        left = []
        for each in self.chain(node):
            limit = self.talks[each].limits.get(name)
            if limit is not None:
                limit -= self.kept.get(name, 0) if each is None else 0
                left.append(max(0, limit - self.spent(name, each) - self.reserved(name, each)))
        return min(left)

    def fits(self, amounts: Amounts, node: Node = None) -> bool:
        return all(amount == 0 or amount <= self.available(name, node) for name, amount in amounts.items())

    def overdrawn(self) -> bool:
        return any(self.spent(name) > limit for name, limit in self.root.limits.items())

    def count(self, node: Node, *, of_guest: bool) -> bool:
        """Count one request as far as it can be; return whether it may go on."""
        if not self.fits({"requests": 1}, node):
            return False
        self.pay({"requests": 1}, node)
        talk = self.talks[node]
        talk.cell_requests += of_guest
        return not of_guest or talk.cell_requests <= self.facts.cell_requests_max

    # -- admission ----------------------------------------------------------------------------------

    def admit(self, asked: QueryReceived | ChildRequested, now_ns: int) -> bool:
        """Take a request into the books as it should be decided; return whether it is to be accepted."""
        if not self.live(asked.parent):
            self.requests[asked.request_id] = Request(asked, {}, "refused")
            return False
        if isinstance(asked, ChildRequested):
            return self._admit_child(asked, now_ns)
        return self._admit_query(asked, now_ns)

    def admit_last(self, asked: QueryReceived, now_ns: int) -> None:
        """Take in the question for the best answer: of a run that ends, and once."""
        may_ask, self.ending, self.no_last = not self.no_last, True, True
        if not may_ask:
            self.requests[asked.request_id] = Request(asked, {}, "refused")
            return
        self.kept = {}
        if not self.fits({"observation_bytes": asked.observed_bytes}):
            self.requests[asked.request_id] = Request(asked, {}, "refused")
            return
        self.pay({"observation_bytes": asked.observed_bytes}, None)
        if self._admit_query(asked, now_ns):
            self.last = asked.request_id

    def refuse(self, asked: QueryReceived | ChildRequested) -> None:
        """Take a request into the books as refused, and counted: one of its batch was."""
        if self.live(asked.parent):
            self.count(asked.parent, of_guest=True)
        self.requests[asked.request_id] = Request(asked, {}, "refused")

    def take_back(self, number: RequestId) -> None:
        """Undo an admission: another one of its batch was refused."""
        request = self.requests[number]
        if request.where == "running":
            del self.talks[number]
            self.pay({"children": 1}, request.node, -1)
            self.talks[request.node].cell_children -= 1
        request.where = "refused"

    def _admit_query(self, asked: QueryReceived, now_ns: int) -> bool:
        facts = self.facts
        of_guest = asked.origin == "guest"
        counted = self.count(asked.parent, of_guest=of_guest)
        price = facts.prices.get(asked.model)
        texts = [text for message in asked.prompt_messages for text in (message.role, message.content)]
        tokens = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)
        most = facts.query.output_tokens_max
        output = min(most, asked.output_tokens_max or most)
        if asked.origin == "last" and price is not None:
            tokens_in = tokens + facts.query.input_overhead_tokens
            output = min(output, self.available("output_tokens"))
            if price.output_microdollars_per_mtok:
                left = self.available("cost_microdollars") * 1_000_000
                left -= tokens_in * price.input_microdollars_per_mtok
                output = min(output, left // price.output_microdollars_per_mtok)
            output = max(1, output)
        bound = {} if price is None else cost(price, tokens + facts.query.input_overhead_tokens, output)
        accepted = counted and price is not None and self.fits(bound, asked.parent)
        wait_ms = facts.query.timeout_ms_max
        if of_guest:
            wait_ms = min(wait_ms, facts.boundary.host_wait_ms_max)
        if asked.origin == "last":
            wait_ms = max(1, min(wait_ms, (self.root.deadline_ns - now_ns) // NS_PER_MS))
        deadline_ns = now_ns + wait_ms * NS_PER_MS
        where = "queued" if accepted else "refused"
        self.requests[asked.request_id] = Request(asked, bound, where, deadline_ns)
        return accepted

    def lengthen(self, number: RequestId) -> None:
        """Take in that an answer was cut off: it is asked for once more where it may and can be."""
        request, limits = self.requests[number], self.facts.query
        asked = request.asked
        assert isinstance(asked, QueryReceived)
        most = limits.output_tokens_retry_max
        own_cap = asked.origin == "last" or asked.output_tokens_max is not None
        if own_cap or request.longer or request.attempts >= limits.attempts_max:
            return
        bound = cost(self.facts.prices[asked.model], request.bound["input_tokens"], most)
        if most > request.bound["output_tokens"] and self.fits(bound, request.node):
            request.bound, request.where, request.longer = bound, "queued", True

    def _admit_child(self, asked: ChildRequested, now_ns: int) -> bool:
        facts, parent = self.facts, self.talks[asked.parent]
        limits = facts.run
        counted = self.count(asked.parent, of_guest=True)
        model = asked.model or facts.child_models[min(parent.depth, len(facts.child_models) - 1)]
        caps = {str(name): cap for name, cap in asked.caps.items()}
        if limits.child_share_percent < 100:
            for name in self.root.limits:
                share = self.available(name, asked.parent) * limits.child_share_percent // 100
                caps[name] = min(share, caps.get(name, share))
        sessions = sum(not talk.gone for talk in self.talks.values())
        accepted = (
            counted
            and parent.depth < limits.depth_max
            and parent.cell_children < limits.fanout_max
            and sessions < limits.sessions_max
            and model in facts.prices
            and self.fits({**FIRST_TURN, "children": 1}, asked.parent)
            and all(caps.get(name, amount) >= amount for name, amount in FIRST_TURN.items())
        )
        wait_ms = min(limits.child_wall_ms_max, facts.boundary.host_wait_ms_max)
        deadline_ns = min(now_ns + wait_ms * NS_PER_MS, parent.deadline_ns)
        where = "running" if accepted else "refused"
        self.requests[asked.request_id] = Request(asked, {}, where, deadline_ns)
        if accepted:
            self.talks[asked.request_id] = Talk(parent.depth + 1, asked.parent, caps, deadline_ns)
            self.pay({"children": 1}, asked.parent)
            parent.cell_children += 1
        return accepted


def cost(price: Any, input_tokens: int, output_tokens: int) -> Amounts:
    """Return what one attempt costs: the sum again, rounded up."""
    exact = (
        input_tokens * price.input_microdollars_per_mtok + output_tokens * price.output_microdollars_per_mtok
    )
    return {
        "calls": 1,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cost_microdollars": (exact + 999_999) // 1_000_000,
    }
