"""Small cells, as a session runs them: compiled, run, shown, reported; their errors; their questions."""

import ast
import builtins
import inspect
import io
import json
import linecache
import traceback

EXPRESSIONS = (
    "1+1",
    "x",
    "len(context)",
    "context[:200]",
    "context[1000:1200].split()",
    "lines[0], lines[-1]",
    "[line for line in lines if 'error' in line.lower()][:5]",
    "sorted(counts.items(), key=lambda item: item[1], reverse=True)[:3]",
    "'\\n'.join(lines[2:6])",
    "sum(len(line) for line in lines) / len(lines)",
    "re.findall(r'id=(\\d+)', context)[:4]",
    "{name: len(value) for name, value in table.items()}",
    "max(counts, key=counts.get)",
    "print(len(lines), total)",
    "type(table).__name__",
    "f'{total:,} in {len(lines)} lines ({total / len(lines):.2f})'",
)
STATEMENTS = (
    "x = 1\nx",
    "lines = context.split('\\n')\nprint(len(lines))\nlines[0]",
    "import re, json\nfrom collections import Counter, defaultdict",
    "total = 0\nfor line in lines:\n    total += len(line)\nprint(total)",
    "counts = {}\nfor line in lines:\n    for word in line.split():\n        counts[word] = counts.get(word, 0) + 1",
    "chunk_size = 400\nchunks = [context[i:i + chunk_size] for i in range(0, len(context), chunk_size)]\nlen(chunks)",
    "table = {}\nfor line in lines:\n    key, _, value = line.partition(':')\n    table.setdefault(key.strip(), []).append(value)",
    "def score(line, words=('error', 'id')):\n    \"\"\"How many of the words are in the line.\"\"\"\n"
    "    return sum(1 for word in words if word in line.lower())\nbest = max(lines, key=score)\nbest",
    "answers = []\nfor i, chunk in enumerate(chunks[:3]):\n    answer = ask(f'Chunk {i}: what is in it?\\n\\n{chunk}')\n"
    "    answers.append(answer)\n    print(i, answer[:50])",
    "try:\n    value = int(lines[0])\nexcept ValueError as error:\n    print('not a number:', error)\nelse:\n    print(value)",
    "@dataclass\nclass Item:\n    name: str\n    size: int = 0\n\n    def label(self):\n        return f'{self.name}={self.size}'\n\n"
    "items = [Item(line[:8], len(line)) for line in lines[:6]]\n[item.label() for item in items]",
    "found = re.search(r'id=(?P<id>\\d+) user=(\\w+)', context)\nif found:\n    print(found.group('id'), found.span())",
    "while total > 10:\n    total //= 3\n    if total % 7 == 0:\n        break\ntotal",
    "with_ids = {i: line for i, line in enumerate(lines) if not line.startswith('#')}\na, *rest = list(with_ids)\nrest[:3]",
    "data = json.loads('{\"a\": [1, 2.5, null], \"b\": {\"c\": \"d\"}}')\nprint(json.dumps(data, indent=2))\ndata['b']['c']",
    "assert total >= 0, 'negative'\ndel x\nx = [n ** 2 for n in range(20) if n % 3]\nx[::2]",
)
FAILING = (
    "undefined_name",
    "lines[100000]",
    "def outer(n):\n    return inner(n - 1)\n\ndef inner(n):\n    return outer(n) if n else {}['missing']\n\nouter(4)",
    "x = [1, 2",
    "int('12a')",
    "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise ValueError('wrapped') from error",
)
CONTEXT = "\n".join(
    f"{'ERROR' if n % 9 == 0 else 'info'} id={n * 37} user=u{n % 13}: took {n * 1.25} ms, état {n % 5}" for n in range(60)
)
FLAGS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
quote = json.encoder.encode_basestring
scan = json.decoder.JSONDecoder().scan_once
RESERVED = {name: getattr(builtins, name) for name in ("len", "print", "repr", "sorted", "sum")}


class Stream(io.RawIOBase):
    """Takes what is written and forgets it."""

    def writable(self):
        return True

    def write(self, data):
        return len(data)


def answer(frame):
    """What a host gives back to a question."""
    scan(frame.decode(), 0)
    return b'{"status":"completed","text":"' + b"The chunk has 3 errors. " * 4 + b'"}'


def ask(prompt):
    request = '{"type":"llm_query","prompt":' + quote(prompt) + "}"
    response = scan(answer(request.encode("utf-8", "replace")).decode(), 0)[0]
    if response["status"] != "completed":
        raise RuntimeError(response["error"])
    return response["text"]


class Session:
    def __init__(self):
        self.number = 0
        self.out = io.TextIOWrapper(io.BufferedWriter(Stream(), 8192), encoding="utf-8", newline="\n")
        self.namespace = {"__builtins__": builtins, "context": CONTEXT, "ask": ask, "print": self.print}
        for source in ("from dataclasses import dataclass", *STATEMENTS):
            self.run(source)

    def print(self, *values):
        print(*values, file=self.out)

    def run(self, source):
        self.number += 1
        status, name = "ok", f"<cell {self.number}>"
        try:
            self.namespace.update(RESERVED, print=self.print)
            result = self.execute(source, name)
            if result is not None:
                self.namespace["_"] = result
                repr(result).encode("utf-8", "backslashreplace")
        except Exception as error:
            status = type(error).__name__
            text = "".join(traceback.format_exception(error))
            encode({"type": status, "message": str(error), "traceback": text}).encode()
        self.out.flush()
        names = [n for n in self.namespace if type(n) is str and not n.startswith("_") and n not in RESERVED]
        encode({"status": status, "variables": names[:200]}).encode("utf-8", "replace")

    def execute(self, source, name):
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        linecache.cache.pop(f"<cell {self.number - 64}>", None)
        if "\n" not in source and "=" not in source and source.split(None, 1)[:1] != ["import"]:
            return self.evaluate(compile(source, name, "eval", flags=FLAGS, dont_inherit=True))
        tree, result = ast.parse(source, name, "exec"), None
        last = ast.Expression(tree.body.pop().value) if type(tree.body[-1]) is ast.Expr else None
        if tree.body:
            self.evaluate(compile(tree, name, "exec", flags=FLAGS, dont_inherit=True))
        if last is not None:
            result = self.evaluate(compile(last, name, "eval", flags=FLAGS, dont_inherit=True))
        return result

    def evaluate(self, code):
        value = eval(code, self.namespace)
        return None if code.co_flags & inspect.CO_COROUTINE else value


def expressions():
    session = Session()
    for _ in range(40):
        for source in EXPRESSIONS:
            session.run(source)
            session.run("1+1")


def statements():
    session = Session()
    for _ in range(6):
        for source in STATEMENTS:
            session.run(source)


def failures():
    session = Session()
    for _ in range(8):
        for source in FAILING:
            session.run(source)


def questions():
    prompt = "Summarise this part of the text:\n\n" + CONTEXT[:900]
    for _ in range(4000):
        ask(prompt)


def programs():
    """Longer sources: what a cell of a hundred lines costs to compile."""
    source = "\n".join(f"def part_{n}(lines, total, counts, table, chunks, context):\n    " + text.replace("\n", "\n    ")
                       for n, text in enumerate(STATEMENTS))
    for _ in range(12):
        compile(source, "<program>", "exec", dont_inherit=True)
        ast.unparse(ast.parse(source))


PROGRAMS = ((expressions, 6), (statements, 5), (failures, 4), (questions, 3), (programs, 2))
