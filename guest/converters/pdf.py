# The text of a PDF, by pypdf: page by page, as its own order has it. What is drawn and no text (a scan) is not in
# it, and a page that cannot be read is one without text; a document of which no page can be is damaged.
import pypdf


def convert(data, parts):
    reader = pypdf.PdfReader(io.BytesIO(data), strict=False)
    if reader.is_encrypted and not opened(reader):
        raise Refused("encrypted")
    total, broken = len(reader.pages), 0
    for number in range(total):
        tell(number, total)
        try:
            found = reader.pages[number].extract_text()
        except MemoryError:
            raise
        except Exception:
            found, broken = "", broken + 1
        parts.add(found)
    if total and broken == total:
        raise Refused("damaged")


def opened(reader):
    """Whether it opens without a password, as one does that forbids printing or copying alone."""
    try:
        return bool(reader.decrypt(""))
    except Exception:
        return False


run(convert)
