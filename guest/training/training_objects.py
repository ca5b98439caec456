"""Classes, functions, closures, generators and exceptions."""

import contextlib
import dataclasses
import enum
import functools
import random
import types
from collections import namedtuple

CHOICE = random.Random(13)


def classes():
    @dataclasses.dataclass(order=True)
    class Point:
        x: int
        y: float = 0.0
        tags: list = dataclasses.field(default_factory=list, compare=False)

        def area(self):
            return self.x * self.y

        @property
        def total(self):
            return self.x + self.y

        @classmethod
        def make(cls, x):
            return cls(x, x / 2)

        @staticmethod
        def plain(value):
            return value

    class Colour(enum.Enum):
        RED = 1
        GREEN = 2
        BLUE = 3

    Row = namedtuple("Row", "a b c")
    points = [Point.make(CHOICE.randrange(1000)) for _ in range(1500)]
    points.sort()
    points.sort(key=lambda p: (-p.total, p.x))
    sum(p.area() for p in points)
    for n, point in enumerate(points):
        point.tags.append(Colour(1 + n % 3))
        Point.plain(point).y += 1
    rows = [Row(n, str(n), None) for n in range(2500)]
    [row._replace(a=1).a for row in rows[:600]]
    {row.b: row for row in rows}
    dataclasses.asdict(points[0])
    for point in points[:500]:
        repr(point), hash((point.x, point.y)), isinstance(point, (int, Point)), getattr(point, "missing", None)
        hasattr(point, "x"), point == points[0], dataclasses.replace(point, x=2)


def operators():
    class Value:
        __slots__ = ("v",)

        def __init__(self, v):
            self.v = v

        def __add__(self, other):
            return Value(self.v + other.v)

        def __eq__(self, other):
            return self.v == other.v

        def __lt__(self, other):
            return self.v < other.v

        def __hash__(self):
            return hash(self.v)

        def __len__(self):
            return 3

        def __getitem__(self, index):
            return self.v + index

        def __iter__(self):
            return iter((self.v, 1))

        def __call__(self, other):
            return self.v + other

        def __repr__(self):
            return f"Value({self.v})"

        def __contains__(self, other):
            return other == self.v

        def name(self):
            return self.v

    class Named(Value):
        def __init__(self, v):
            super().__init__(v)
            self.w = {}

        def name(self):
            return super().name() + 1

        def __getattr__(self, name):
            return 42

    for n in range(2500):
        value, named = Value(n), Named(n)
        value + value, value == named, value < named, hash(value), len(value), value[2], list(value), bool(value)
        value(1), repr(value), n in value, value.name(), named.name(), named.other
        named.q = 1

    class Node:
        def __init__(self, key):
            self.key, self.left, self.right = key, None, None

        def insert(self, key):
            side = "left" if key < self.key else "right"
            node = getattr(self, side)
            if node is None:
                setattr(self, side, Node(key))
            else:
                node.insert(key)

        def walk(self):
            if self.left:
                yield from self.left.walk()
            yield self.key
            if self.right:
                yield from self.right.walk()

    root = Node(5000)
    for key in CHOICE.sample(range(10_000), 700):
        root.insert(key)
    list(root.walk())

    class Vector:
        def __init__(self, x, y, z):
            self.x = x
            self.y = y
            self.z = z

        def dot(self, other):
            return self.x * other.x + self.y * other.y + self.z * other.z

        def scale(self, k):
            return Vector(self.x * k, self.y * k, self.z * k)

        def __sub__(self, other):
            return Vector(self.x - other.x, self.y - other.y, self.z - other.z)

    vector = Vector(1.0, 2.0, 3.0)
    for n in range(6000):
        vector = (vector.scale(0.5) - Vector(n, 1, 2)).scale(0.9)
        vector.dot(vector)


def functions():
    def tak(x, y, z):
        return z if y >= x else tak(tak(x - 1, y, z), tak(y - 1, z, x), tak(z - 1, x, y))

    def hanoi(n, a, b, c):
        return 0 if n == 0 else hanoi(n - 1, a, c, b) + 1 + hanoi(n - 1, c, b, a)

    def pell(n):
        if n < 2:
            return n
        return 2 * pell(n - 1) + pell(n - 2)

    tak(13, 8, 3)
    hanoi(12, "a", "b", "c")
    pell(18)

    def counter():
        count = 0

        def more():
            nonlocal count
            count += 1
            return count

        return more

    def decorated(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @decorated
    def call(a, b=2, *c, d=4, **e):
        return a + b + d

    @functools.lru_cache(maxsize=None)
    def memo(n):
        return n if n < 2 else memo(n - 1) + memo(n - 2)

    more, partial = counter(), functools.partial(call, 1)
    for n in range(6000):
        more()
        call(n, 3, d=5)
        call(*(1, 2, 3), **{"d": 1})
        partial(n)
    memo(250)
    for n in range(4000):
        match (n % 5, str(n)):
            case (0, text):
                kind = text
            case (1 | 2, _):
                kind = 1
            case (x, _) if x > 3:
                kind = x
            case _:
                kind = 0
    return kind


def exceptions():
    class Own(ValueError):
        pass

    def risky(n):
        try:
            if n % 3 == 0:
                raise Own(n)
            if n % 3 == 1:
                {}["x"]
            return n
        except KeyError as error:
            return str(error)
        except Own:
            return None
        finally:
            n += 1

    @contextlib.contextmanager
    def managed():
        yield 1

    for n in range(6000):
        risky(n)
    for n in range(1200):
        with managed(), contextlib.suppress(ValueError):
            int("x")

    async def step(n):
        return n

    async def steps():
        return sum([await step(n) for n in range(4000)])

    with contextlib.suppress(StopIteration):
        steps().send(None)
    types.SimpleNamespace(a=1).a


PROGRAMS = ((classes, 3), (operators, 3), (functions, 3), (exceptions, 3))
