"""Books of a scheduler's runs, kept by its tests: every amount is summed anew from what was charged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from rlm_wasm.errors import WindowExceeded
from rlm_wasm.ids import RequestId
from rlm_wasm.limits import ModelPrice
from rlm_wasm.scheduler.ledger import Dimension
from rlm_wasm.scheduler.window import ModelWindow
from tests.support.core_facts import PRICE

D = Dimension
Amounts = dict[D, int]
# A conversation: the number of the request that it answers, or None for the root's.
Node = RequestId | None
REQUEST: Amounts = {D.REQUESTS: 1}
FIRST_TURN: Amounts = {D.CALLS: 1, D.ITERATIONS: 1, D.FUEL: 1}


# In micro-dollars a token: 2 and 4; 1 and 1; 10 and 20.
PRICES = {"m": PRICE, "p:x": ModelPrice(1_000_000, 1_000_000), "p:y": ModelPrice(10_000_000, 20_000_000)}
# What core_facts' limits have: tokens around messages, and the longest answer.
OVERHEAD, OUTPUT_MAX = 6, 100


def charge(input_tokens: int, output_tokens: int, model: str) -> Amounts:
    """Price a call the way the test's price list says."""
    price = PRICES[model]
    cost = (
        input_tokens * price.input_microdollars_per_mtok + output_tokens * price.output_microdollars_per_mtok
    )
    return {
        D.CALLS: 1, D.INPUT_TOKENS: input_tokens, D.OUTPUT_TOKENS: output_tokens, D.COST: cost // 1_000_000,
    }  # fmt: skip


def dearest(models: Sequence[str], input_tokens: int, output_tokens: int) -> Amounts:
    """Price a call that any of the models may answer."""
    return max(
        (charge(input_tokens, output_tokens, model) for model in models), key=lambda each: each[D.COST]
    )


@dataclass
class BookOfRequest:
    bound: Amounts
    node: Node
    # Those that may still answer it: the first one is asked.
    models: tuple[str, ...] = ("m",)
    where: str = "queued"  # queued, flying, backoff, answered; a child: running, then answered
    size: int = 0  # of its messages
    output: int | None = None  # the cap that was asked for
    attempts: int = 0
    tries: int = 0  # of the first of the models
    cut: bool = False  # an answer is there, and a longer one is asked for

    @property
    def model(self) -> str:
        return self.models[0]

    @property
    def own(self) -> Amounts:
        """What an attempt of the model that is asked may cost."""
        return charge(self.bound[D.INPUT_TOKENS], self.bound[D.OUTPUT_TOKENS], self.model)


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
    attempts_max: int = 3
    retry_max: int = 0  # how long the second try of an answer may be that was cut off; 0: there is none
    fallback: dict[str, tuple[str, ...]] = field(default_factory=dict)
    small: dict[str, int] = field(default_factory=dict)
    windows: dict[str, ModelWindow] = field(default_factory=dict)
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

    def candidates(self, model: str, prompt_bytes: int, *, by_size: bool) -> tuple[str, ...]:
        """Return who may answer: the least of the small ones that takes the prompt, and those behind it."""
        fitting = [(most, small) for small, most in self.small.items() if most >= prompt_bytes]
        first = min(fitting)[1] if by_size and fitting else model
        return (first, *self.fallback.get(first, ()))

    def attempt(
        self, models: tuple[str, ...], size: int, output: int | None, *, last: bool = False
    ) -> Amounts:
        """Return what an attempt may cost that the first of the models makes, and the others may have to."""
        tokens, most = size + OVERHEAD, min(output or OUTPUT_MAX, OUTPUT_MAX)
        most = self.windows[models[0]].cap(size, most)
        for model in models if last else ():
            price = PRICES[model]
            left = self.available(D.COST) * 1_000_000 - tokens * price.input_microdollars_per_mtok
            affordable = left // price.output_microdollars_per_mtok
            most = max(1, min(most, self.available(D.OUTPUT_TOKENS), affordable))
        return dearest(models, tokens, most)

    def admit_query(
        self, number: RequestId, node: Node, models: tuple[str, ...], size: int, output: int | None
    ) -> bool:
        """Take a query into the books, as queued or as refused."""
        bound = self.attempt(models, size, output)
        where = "queued" if self.count(node) and self.fits(bound, node) else "refused"
        self.requests[number] = BookOfRequest(bound, node, models, where, size, output)
        return where == "queued"

    def next_models(self, request: BookOfRequest, *, last: bool) -> BookOfRequest | None:
        """Return the request as another model gets it, if there is one and the budget covers it."""
        if not (models := request.models[1:]):
            return None
        bound = self.attempt(models, request.size, request.output, last=last)
        return (
            replace(request, bound=bound, models=models, tries=0) if self.fits(bound, request.node) else None
        )

    def lengthen(self, number: RequestId) -> bool:
        """Have an answer that was cut off asked for once more, where it may and can be."""
        request = self.requests[number]
        if request.cut or number == self.last or request.output or request.tries >= self.attempts_max:
            return False
        most = self.windows[request.model].cap(request.size, max(1, self.retry_max))
        bound = charge(request.bound[D.INPUT_TOKENS], most, request.model)
        if most <= request.bound[D.OUTPUT_TOKENS] or not self.fits(bound, request.node):
            return False
        request.bound, request.models, request.cut, request.where = bound, (request.model,), True, "queued"
        return True

    def gives_up(self, request: BookOfRequest, retryable: bool, too_long: WindowExceeded | None) -> bool:
        """Whether a model that failed is not asked again; where it was too much, it is asked for less."""
        if too_long is None:
            return not retryable or request.tries >= self.attempts_max
        window = self.windows[request.model]
        window.refused(too_long, request.size)
        cap = window.smaller_cap(too_long, request.size, request.bound[D.OUTPUT_TOKENS])
        if cap is None or request.tries >= self.attempts_max:
            return True
        request.bound = dearest(request.models, request.bound[D.INPUT_TOKENS], cap)
        return False

    def admit_last(self, number: RequestId, size: int, observed: int) -> bool:
        """Take in the question for the best answer: what was kept is for it, and its answer may be short."""
        if not self.ending:  # what it waits for ends first, and what that held is free
            for request in self.requests.values():
                request.where = "let go" if request.where == "queued" else request.where
        may_ask, self.ending, self.no_last = not self.no_last, True, True
        self.requests[number] = BookOfRequest({}, None, where="refused")
        if not may_ask:
            return False
        self.kept = {}
        if not self.fits({D.OBSERVATION_BYTES: observed}):
            return False
        self.pay({D.OBSERVATION_BYTES: observed}, None)
        if not self.fits(REQUEST):
            return False
        self.pay(REQUEST, None)
        models = self.candidates("m", 0, by_size=False)
        bound = self.attempt(models, size, None, last=True)
        accepted = self.fits(bound)
        where = "queued" if accepted else "refused"
        self.requests[number] = BookOfRequest(bound, None, models, where, size)
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
