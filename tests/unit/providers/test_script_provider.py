"""A model that answers from a file."""

from __future__ import annotations

import tracemalloc

import pytest

from rlm_wasm.errors import UsageError
from rlm_wasm.providers.base import Completion, ProviderFailure, Query
from rlm_wasm.providers.script import open_script
from rlm_wasm.scheduler.messages import FinishReason, Message

pytestmark = pytest.mark.anyio

SYSTEM = Message("system", "You have a REPL.")


def asks(*messages: Message, timeout_ms: int = 30_000) -> Query:
    return Query("m", messages, 100, timeout_ms)


def user(text: str) -> Message:
    return Message("user", text)


def assistant(text: str) -> Message:
    return Message("assistant", text)


@pytest.fixture
def script(tmp_path):
    """Return a function that writes a script and opens it."""

    def write(text: str, name: str = "model.toml", **more: int):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return open_script(path, **more)

    return write


async def test_first_reply_that_fits_answers(script):
    provider = script(
        '[[reply]]\nrole="root"\nturn=1\ntext="look"\n'
        '[[reply]]\nrole="root"\nturn=3\ntext="third"\n'
        '[[reply]]\nrole="root"\ntext="later"\n'
        '[[reply]]\nrole="sub"\npattern="never"\ntext="no"\n'
        '[[reply]]\nrole="any"\ntext="any"\n'
    )
    turns = [SYSTEM, user("question")]
    said = []
    for _ in range(4):
        said.append((await provider.complete(asks(*turns))).text)
        turns += [assistant(said[-1]), user("REPL output:")]
    assert said == ["look", "later", "third", "later"]
    assert (await provider.complete(asks(user("part")))).text == "any"
    await provider.aclose()


async def test_root_is_who_has_a_system_message_and_sub_who_has_none(script):
    provider = script('[[reply]]\nrole="root"\ntext="r"\n[[reply]]\nrole="sub"\ntext="s"\n')
    assert (await provider.complete(asks(SYSTEM, user("x")))).text == "r"
    assert (await provider.complete(asks(user("x")))).text == "s"


async def test_groups_of_the_pattern_fill_the_text(script):
    provider = script(
        r"""[[reply]]
role = "sub"
pattern = '(?P<what>\w+) is (\d+)(!)?'
text = '\g<what>=\2\3'
"""
    )
    assert (await provider.complete(asks(user("first"), user("the number is 42")))).text == "number=42"


async def test_other_backslashes_in_the_text_stand_for_themselves(script):
    """A reply is often code; its regular expressions must survive."""
    provider = script(
        "[[reply]]\nrole='sub'\npattern='(x)'\ntext='''re.sub(r\"\\d+\\n\\\\\", \"\\1\")'''\n"
        "[[reply]]\nrole='sub'\ntext='no pattern: \\1 \\g<a>'\n"
    )
    assert (await provider.complete(asks(user("x")))).text == 're.sub(r"\\d+\\n\\\\", "x")'
    assert (await provider.complete(asks(user("y")))).text == "no pattern: \\1 \\g<a>"


async def test_a_reply_may_say_that_a_cap_cut_it_off(script):
    provider = script(
        "[[reply]]\nrole='root'\ntext='a'\nfinish='length'\n[[reply]]\nrole='sub'\ntext='a'\nfinish='stop'\n"
    )
    assert (await provider.complete(asks(SYSTEM, user("x")))).finish is FinishReason.LENGTH
    assert (await provider.complete(asks(user("x")))).finish is FinishReason.STOP
    with pytest.raises(UsageError, match=r'model\.toml:4: reply 1: finish must be "stop" or "length"'):
        script("[[reply]]\nrole='any'\ntext='a'\nfinish='eos'\n")


@pytest.mark.threat("T-175")
async def test_a_reply_longer_than_an_answer_may_be_is_not_made(script):
    """A thousand times a prompt of 2 MB would be 2 GB."""
    text = "[[reply]]\nrole='any'\npattern='(?s)(?P<all>.*)'\ntext='" + r"\1\g<all>" * 500 + "'\n"
    provider = script(text, response_bytes_max=1_000_000)
    assert (await provider.complete(asks(user("x" * 1_000)))).text == "x" * 1_000_000
    prompt = "x" * 2_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ProviderFailure, match="answers with more than 1000000 bytes"):
            await provider.complete(asks(user(prompt)))
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("[[reply]]\nrole='any'\ntext='éé'\n", "model.toml"),
        ("[[reply]]\nrole='any'\npattern='(.)'\ntext='\\1\\1'\n", "model.toml"),
        ("def reply(messages, model): return 'éé'", "model.py"),
    ],
)
async def test_an_answer_is_counted_in_bytes(script, text, name):
    assert (await script(text, name, response_bytes_max=4).complete(asks(user("é")))).text == "éé"
    with pytest.raises(ProviderFailure, match="answers with more than 3 bytes"):
        await script(text, name, response_bytes_max=3).complete(asks(user("é")))


async def test_usage_is_the_files_or_a_quarter_of_the_bytes(script):
    provider = script(
        '[[reply]]\nrole="root"\ntext="ä"\n[[reply]]\nrole="any"\ntext="x"\ninput_tokens=0\noutput_tokens=9\n'
    )
    assert await provider.complete(asks(SYSTEM, user("12345"))) == Completion(
        "ä", 4 + 2, 1, FinishReason.STOP
    )
    assert await provider.complete(asks(user("12345"))) == Completion("x", 0, 9, FinishReason.STOP)


async def test_same_messages_always_get_the_same_answer(script):
    provider = script('[[reply]]\nrole="any"\npattern="(.)$"\ntext="\\\\1"\n')
    answers = {await provider.complete(asks(user("abc"))) for _ in range(5)}
    assert answers == {Completion("c", 1, 1, FinishReason.STOP)}


async def test_query_that_no_reply_fits_is_a_failure_that_quotes_it(script):
    provider = script('[[reply]]\nrole="root"\ntext="x"\n')
    with pytest.raises(ProviderFailure) as caught:
        await provider.complete(asks(user("Who?\x1b" + "y" * 10_000)))
    failure = caught.value
    assert (failure.retryable, failure.sent) == (False, False)
    assert "has no reply for turn 1 of a sub model, last message 'Who?\\x1by" in failure.error.message
    assert len(failure.error.message) < 400


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "holds no [[reply]] table"),
        ("reply = 3", "holds no [[reply]] table"),
        ("reply = [3]", "reply 1: must be a table"),
        ("[[reply]\n", "is not valid TOML"),
        ("a = " + "[" * 5000 + "]" * 5000, "is not valid TOML"),
        ('[[replies]]\nrole="any"', "unknown key 'replies'"),
        ('[[reply]]\nrole="any"\ntext="x"\n[[reply]]\nrole="all"\ntext="x"', "reply 2: role must be"),
        ('[[reply]]\nrole=["any"]\ntext="x"', "reply 1: role must be"),
        ('[[reply]]\nrole="any"', "reply 1: text must be a string"),
        ('[[reply]]\nrole="any"\ntext="x"\nturns=1', "reply 1: unknown key 'turns'; there are role, turn"),
        ('[[reply]]\nrole="any"\ntext="x"\nturn=0', "reply 1: turn must be an integer of at least 1"),
        ('[[reply]]\nrole="any"\ntext="x"\nturn=true', "reply 1: turn must be an integer"),
        ('[[reply]]\nrole="any"\ntext="x"\ninput_tokens=-1', "reply 1: input_tokens must be an integer"),
        ('[[reply]]\nrole="any"\ntext="x"\noutput_tokens=1.5', "reply 1: output_tokens must be"),
        ('[[reply]]\nrole="any"\ntext="x"\npattern=1', "reply 1: pattern must be a string"),
        ('[[reply]]\nrole="any"\ntext="x"\npattern="("', "reply 1: pattern is not a regular expression"),
        ("[[reply]]\nrole='any'\ntext='\\2'\npattern='(x)'", "reply 1: text uses \\2, which the pattern"),
        ("[[reply]]\nrole='any'\ntext='\\g<a>'\npattern='(x)'", "reply 1: text uses \\g<a>, which"),
    ],
)
def test_bad_script_is_refused_when_it_is_opened(script, text, fault):
    with pytest.raises(UsageError) as caught:
        script(text)
    assert fault in caught.value.message
    assert "model.toml" in caught.value.message


@pytest.mark.threat("T-175")
@pytest.mark.parametrize("pattern", ["(a+)+$", "(a|aa)+$", "(a|a?)+y", "(.*)*!!", "(?:x?a+)+y"])
async def test_a_guests_text_makes_no_pattern_take_longer_than_another_text_would(script, pattern):
    """With Python's own engine each of these is there until the process is killed."""
    provider = script(
        f"[[reply]]\nrole='sub'\npattern='{pattern}'\ntext='no'\n[[reply]]\nrole='any'\ntext='yes'\n"
    )
    for length in (40, 2_000, 200_000):
        assert (await provider.complete(asks(user("a" * length + "!")))).text == "yes"


@pytest.mark.threat("T-175")
@pytest.mark.parametrize(
    "pattern",
    ["(?=a)b", "(?<!a)b", r"(a)\1", "a++", "(?P<n>a)(?P=n)", "(a{1000}){1000}", r"\w{1000}", "x" * 4_097],
)
def test_a_pattern_that_needs_more_than_linear_time_is_refused_with_its_line(script, pattern):
    with pytest.raises(
        UsageError, match=r"model.toml:5: reply 2: pattern is not a regular expression that RE2 knows: "
    ):
        script(f"[[reply]]\nrole='any'\ntext='x'\n[[reply]]\npattern='{pattern}'\nrole='any'\ntext='x'\n")


async def test_a_half_character_in_a_prompt_matches_nothing(script):
    provider = script("[[reply]]\nrole='any'\npattern='b$'\ntext='found'\n")
    assert (await provider.complete(asks(user("\ud800b")))).text == "found"


@pytest.mark.threat("T-175")
async def test_a_script_that_looks_for_too_long_is_a_failure_by_its_deadline(script):
    replies = "".join(f"[[reply]]\nrole='any'\npattern='(x{n})+y'\ntext='no'\n" for n in range(2_000))
    provider = script(replies)
    for prompt in ("x" * 4_000, "x" * 100_000):
        with pytest.raises(ProviderFailure) as caught:
            await provider.complete(asks(user(prompt), timeout_ms=5))
        assert "did not answer within 5 ms" in caught.value.error.message


@pytest.mark.threat("T-175")
@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a" + ".a" * 500_000 + " = 1\n", "a key of more than 64 parts"),
        ("[" + "'a'. " * 100_000 + "a]\n", "a key of more than 64 parts"),
        ("[[reply]]\n" * 10_001, "at most 10000"),
        ("reply = " + "[" * 100_000, "is not valid TOML"),
    ],
)
def test_a_script_that_would_take_long_to_read_is_refused(script, text, fault):
    with pytest.raises(UsageError, match=fault):
        script(text)


def test_script_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "model.toml"
    path.write_bytes(b"# \xff")
    with pytest.raises(UsageError, match="is not valid TOML"):
        open_script(path)


def test_script_that_is_huge_is_refused_after_reading_a_little(tmp_path):
    path = tmp_path / "model.toml"
    with path.open("wb") as file:
        file.truncate(10**9)  # sparse
    with pytest.raises(UsageError, match="is larger than"):
        open_script(path)


@pytest.mark.parametrize("name", ["none.toml", "none.py", "model.json", "model", "a\0.toml"])
def test_file_that_is_no_script_is_named(tmp_path, name):
    with pytest.raises(UsageError) as caught:
        open_script(tmp_path / name)
    assert caught.value.message.isprintable()
    assert name.replace("\0", "\\x00") in caught.value.message


async def test_python_script_gets_the_messages_and_the_model(script):
    provider = script(
        "def reply(messages, model):\n"
        "    return f\"{model}: {messages[-1]['role']} {messages[-1]['content']}\"\n",
        "model.py",
    )
    assert await provider.complete(asks(SYSTEM, user("hi"))) == Completion(
        "m: user hi", 4 + 1, 3, FinishReason.STOP
    )
    await provider.aclose()


async def test_async_python_script_is_awaited(script):
    provider = script("async def reply(messages, model):\n    return 'yes'\n", "model.py")
    assert (await provider.complete(asks(user("hi")))).text == "yes"


async def test_async_python_script_that_hangs_meets_the_deadline(script):
    provider = script(
        "import anyio\nasync def reply(messages, model):\n    await anyio.sleep_forever()\n", "model.py"
    )
    with pytest.raises(ProviderFailure, match="did not answer within 5 ms"):
        await provider.complete(asks(user("hi"), timeout_ms=5))


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("raise ValueError('no idea')", "raised ValueError: no idea"),
        ("return None", "returned NoneType, not str"),
        ("return 42", "returned int, not str"),
    ],
)
async def test_python_script_that_fails_is_a_failure_of_that_query(script, body, fault):
    provider = script(f"def reply(messages, model):\n    {body}\n", "model.py")
    with pytest.raises(ProviderFailure) as caught:
        await provider.complete(asks(user("hi")))
    assert fault in caught.value.error.message
    assert not caught.value.retryable


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("x = 1", "defines no function"),
        ("reply = 'text'", "defines no function"),
        ("def reply(:", "raised SyntaxError"),
        ("1 / 0", "raised ZeroDivisionError"),
    ],
)
def test_bad_python_script_is_refused_when_it_is_opened(script, text, fault):
    with pytest.raises(UsageError) as caught:
        script(text, "model.py")
    assert fault in caught.value.message
