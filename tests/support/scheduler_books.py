"""Books of a scheduler's runs, kept by its tests: every amount is summed anew from what was charged."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from rlm_wasm.ids import RequestId
from rlm_wasm.scheduler.ledger import Dimension

D = Dimension
Amounts = dict[D, int]
# A conversation: the number of the request that it answers, or None for the root's.
Node = RequestId | None
REQUEST: Amounts = {D.REQUESTS: 1}
FIRST_TURN: Amounts = {D.CALLS: 1, D.ITERATIONS: 1, D.FUEL: 1}


def charge(input_tokens: int, output_tokens: int) -> Amounts:
    """Price a call the way the test's price list says: 2 and 4 micro-dollars a token."""
    cost = ceil(2 * input_tokens + 4 * output_tokens)
    return {D.CALLS: 1, D.INPUT_TOKENS: input_tokens, D.OUTPUT_TOKENS: output_tokens, D.COST: cost}


@dataclass
class BookOfRequest:
    bound: Amounts
    node: Node
    model: str = "m"
    where: str = "queued"  # queued, flying, backoff, answered; a child: running, then answered
    attempts: int = 0


@dataclass
class BookOfChild:
    """A child from its admission until its session is gone."""

    depth: int
    parent: Node
    limits: Amounts
    stopping: bool = False  # takes no more requests
    told: bool = False  # a StopChild was sent
    gone: bool = False
    fuel: int | None = None  # what the cell that runs was given; None: no cell runs
    cell_requests: int = 0
    cell_children: int = 0


@dataclass
class BookOfRun:
    """What the world knows about one run."""

    limits: Amounts
    permits_max: int
    depth_max: int = 2
    fanout_max: int = 3
    sessions_max: int = 5
    share_percent: int = 100
    cell_requests_max: int = 12
    batch: str = "part"
    requests: dict[RequestId, BookOfRequest] = field(default_factory=dict)
    children: dict[RequestId, BookOfChild] = field(default_factory=dict)
    root: BookOfChild = field(default_factory=lambda: BookOfChild(0, None, {}))
    paid: list[tuple[Node, Amounts]] = field(default_factory=list)
    late: dict[tuple[RequestId, int], Amounts] = field(default_factory=dict)
    timers: dict[str, int] = field(default_factory=dict)
    beyond: list[Node] = field(default_factory=list)  # cells that used more than they were given
    kept: Amounts = field(default_factory=dict)  # what only the last question may use
    no_last: bool = False  # it was asked, or may not be any more
    last: RequestId | None = None
    seq: int = 0
    ending: bool = False
    ended: bool = False

    def node(self, node: Node) -> BookOfChild:
        return self.root if node is None else self.children[node]

    def chain(self, node: Node) -> list[Node]:
        """Return a conversation and all above it, the root's last."""
        found: list[Node] = [node]
        while node is not None:
            node = self.children[node].parent
            found.append(node)
        return found

    def below(self, node: Node, above: Node) -> bool:
        return above in self.chain(node)

    def spent(self, dimension: D, node: Node = None) -> int:
        late = [(self.requests[number].node, bound) for (number, _), bound in self.late.items()]
        return sum(c.get(dimension, 0) for owner, c in [*self.paid, *late] if self.below(owner, node))

    def reserved(self, dimension: D, node: Node = None) -> int:
        holding = [r for r in self.requests.values() if r.where in ("queued", "flying")]
        held = sum(r.bound.get(dimension, 0) for r in holding if self.below(r.node, node))
        if dimension is D.FUEL:
            held += sum(
                self.node(each).fuel or 0 for each in (None, *self.children) if self.below(each, node)
            )
        return held

    def limit(self, dimension: D, node: Node) -> int | None:
        return self.limits[dimension] if node is None else self.children[node].limits.get(dimension)

    def available(self, dimension: D, node: Node = None) -> int:
        left = []
        for each in self.chain(node):
            limit = self.limit(dimension, each)
            if limit is not None:
                limit -= self.kept.get(dimension, 0) if each is None else 0
                left.append(max(0, limit - self.spent(dimension, each) - self.reserved(dimension, each)))
        return min(left)

    def fits(self, amounts: Amounts, node: Node = None) -> bool:
        return all(amount == 0 or amount <= self.available(d, node) for d, amount in amounts.items())

    def pay(self, amounts: Amounts, node: Node) -> None:
        self.paid.append((node, amounts))

    def settle_cell(self, node: Node, fuel: int | None) -> None:
        """Charge a cell what it used, or all it was given, and let go of the rest."""
        book = self.node(node)
        if book.gone:
            if fuel:
                self.beyond.append(None)
            self.pay({D.FUEL: fuel or 0}, None)
            return
        given, book.fuel = book.fuel, None
        if fuel is not None and fuel > (given or 0):
            self.beyond.append(node)
        self.pay({D.FUEL: (given or 0) if fuel is None else fuel}, node)

    def cell_fuel_only(self, node: Node) -> bool:
        """Whether no cell of a conversation, or below it, used more than it was given."""
        return not any(self.below(each, node) for each in self.beyond)

    def overdrawn(self, node: Node) -> bool:
        limits = {d: self.limit(d, node) for d in D}
        return any(limit is not None and self.spent(d, node) > limit for d, limit in limits.items())

    def live(self, node: Node) -> bool:
        """Whether a conversation may still ask."""
        book = self.node(node)
        return not (self.ended or self.ending or book.stopping or book.gone)

    def count(self, node: Node) -> bool:
        """Count a request of a cell, as far as it can be; return whether it may go on."""
        if not self.fits(REQUEST, node):
            return False
        self.pay(REQUEST, node)
        book = self.node(node)
        book.cell_requests += 1
        return book.cell_requests <= self.cell_requests_max

    def admit_query(self, number: RequestId, node: Node, bound: Amounts, model: str) -> bool:
        """Take a query into the books, as queued or as refused."""
        accepted = self.count(node) and self.fits(bound, node)
        self.requests[number] = BookOfRequest(bound, node, model, "queued" if accepted else "refused")
        return accepted

    def admit_last(self, number: RequestId, input_tokens: int, observed: int) -> bool:
        """Take in the question for the best answer: what was kept is for it, and its answer may be short."""
        may_ask, self.ending, self.no_last = not self.no_last, True, True
        self.requests[number] = BookOfRequest({}, None, where="refused")
        if not may_ask:
            return False
        self.kept = {}
        if not self.fits({D.OBSERVATION_BYTES: observed}):
            return False
        self.pay({D.OBSERVATION_BYTES: observed}, None)
        affordable = (self.available(D.COST) - 2 * input_tokens) // 4
        bound = charge(input_tokens, max(1, min(100, self.available(D.OUTPUT_TOKENS), affordable)))
        if not self.fits(REQUEST):
            return False
        self.pay(REQUEST, None)
        accepted = self.fits(bound)
        self.requests[number] = BookOfRequest(bound, None, where="queued" if accepted else "refused")
        self.last = number if accepted else None
        return accepted

    def admit_child(self, number: RequestId, node: Node, caps: Amounts) -> bool:
        """Take a child into the books, as running or as refused."""
        parent = self.node(node)
        counted = self.count(node)
        limits = dict(caps)
        if self.share_percent < 100:
            for d in D:
                share = self.available(d, node) * self.share_percent // 100
                limits[d] = min(share, caps.get(d, share))
        accepted = (
            counted
            and parent.depth < self.depth_max
            and parent.cell_children < self.fanout_max
            and 1 + sum(not child.gone for child in self.children.values()) < self.sessions_max
            and self.fits({**FIRST_TURN, D.CHILDREN: 1}, node)
            and all(limits.get(d, amount) >= amount for d, amount in FIRST_TURN.items())
        )
        self.requests[number] = BookOfRequest({}, node, where="running" if accepted else "refused")
        if accepted:
            self.children[number] = BookOfChild(parent.depth + 1, node, limits)
            self.pay({D.CHILDREN: 1}, node)
            parent.cell_children += 1
        return accepted

    def take_back(self, numbers: list[RequestId]) -> None:
        """Undo the admission of a batch's items: one of them was refused, and so all are."""
        for number in reversed(numbers):
            request = self.requests[number]
            if request.where == "running":
                del self.children[number]
                self.paid.remove((request.node, {D.CHILDREN: 1}))
                self.node(request.node).cell_children -= 1
            request.where = "refused"
