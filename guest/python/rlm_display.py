"""Text made of guest objects: bounded results, and tracebacks cut to the cell's own frames."""

import traceback

RESULT_CHARS = 65_536
MESSAGE_CHARS = 4_096
NAME_CHARS = 200
TRACEBACK_CHARS = 16_384
FRAMES_FIRST = 4
FRAMES_LAST = 12
CHAIN = 3


def cut(text, limit):
    if len(text) <= limit:
        return text
    return f"{text[: limit - 40]}... + [{len(text) - limit + 40} chars...]"


def show(value):
    """The repr of a cell's last expression, bounded; a long str or bytes is cut before its repr."""
    if type(value) in (str, bytes) and len(value) > RESULT_CHARS:
        return f"{value[: RESULT_CHARS // 2]!r}... + [{len(value) - RESULT_CHARS // 2} more]"
    text = repr(value)
    return cut(text if type(text) is str else str.__str__(text), RESULT_CHARS)


def describe(error):
    """(type name, message, traceback) of an exception, whatever its own methods do."""
    try:
        name = type(error).__name__
        name = cut(str.__str__(name), NAME_CHARS) or "Exception"
    except BaseException:
        name = "Exception"
    try:
        message = cut(str.__str__(str(error)), MESSAGE_CHARS)
    except BaseException:
        message = "<the exception's message could not be made>"
    try:
        text = cut("".join(_lines(error)), TRACEBACK_CHARS)
    except BaseException:
        text = f"{name}: <the traceback could not be made>\n"
    return name, message, text


def _lines(error):
    chain, seen = [], set()
    while error is not None and len(chain) < CHAIN and id(error) not in seen:
        seen.add(id(error))
        cause = error.__cause__
        link = "The above exception was the direct cause of the following exception:"
        if cause is None and not error.__suppress_context__:
            cause = error.__context__
            link = "During handling of the above exception, another exception occurred:"
        chain.append((error, link if cause is not None else None))
        error = cause
    for index in range(len(chain) - 1, -1, -1):
        current, link = chain[index]
        if link is not None and index != len(chain) - 1:
            yield f"\n{link}\n\n"
        yield from _one(current)


def _one(error):
    frames, skipped = _cell_frames(error.__traceback__)
    if frames:
        yield "Traceback (most recent call last):\n"
        lines = traceback.StackSummary.from_list(frames).format()
        if skipped:
            yield from lines[:FRAMES_FIRST]
            yield f"  [{skipped} more frames]\n"
            yield from lines[FRAMES_FIRST:]
        else:
            yield from lines
    for line in traceback.format_exception_only(type(error), error):
        yield cut(line, MESSAGE_CHARS)


def _cell_frames(tb):
    """The frames of cells, first few and last few; a million-frame recursion costs no more than a walk."""
    first, last, count = [], [], 0
    while tb is not None:
        code = tb.tb_frame.f_code
        if code.co_filename.startswith("<cell "):
            count += 1
            if len(first) < FRAMES_FIRST:
                first.append((tb, code))
            else:
                last.append((tb, code))
                if len(last) > FRAMES_LAST * 4:
                    del last[:-FRAMES_LAST]
        tb = tb.tb_next
    del last[:-FRAMES_LAST]
    skipped = count - len(first) - len(last)
    frames = [traceback.FrameSummary(c.co_filename, t.tb_lineno, c.co_name) for t, c in first + last]
    return frames, skipped
