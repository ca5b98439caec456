# The beginning of every conversion, which a guest of its own runs as a cell. `document` has the bytes of the
# file, `TEXT_MAX` is how many bytes of UTF-8 its text may take. What comes of it is `text`, and a dict that says
# what it was made of. The host believes none of it, and shows how far it is.
import io
import logging
import sys
import warnings

# What a library has to say of a file that is not as it should be.
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore")


class Refused(Exception):
    """There is no text: encrypted, empty, damaged, or large."""


class Parts:
    """The texts of a document's parts as they come, and how far that is."""

    def __init__(self):
        self.texts = []
        self.empty = 0
        self._left = TEXT_MAX

    def add(self, text, *, empty=False):
        # What no text of a file has: a break between parts, NULs, halves of pairs.
        text = text.replace("\f", "\n").replace("\0", "")
        data = text.encode("utf-8", "replace")
        self._left -= len(data) + 1
        if self._left < 0:
            raise Refused("large")
        if empty or not text.strip():
            self.empty += 1
        self.texts.append(data.decode("utf-8"))


shown_last = None


def tell(done, total):
    """Say how far it is, once for each hundredth."""
    global shown_last
    share = total, done * 100 // max(1, total)
    if share != shown_last:
        shown_last = share
        print(done, total, flush=True)


def run(convert):
    """Return what is to be said of the document; its text is in `text`."""
    global text
    parts = Parts()
    try:
        convert(document, parts)
    except Refused as error:
        return {"refused": str(error)}
    except MemoryError:
        raise
    except Exception:
        return {"refused": "damaged"}
    if parts.empty == len(parts.texts):
        return {"refused": "empty"}
    text = "\f".join(parts.texts)
    return {"parts": len(parts.texts), "empty": parts.empty}
