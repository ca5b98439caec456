# The text of a Word document: its paragraphs and tables in their order, then its footnotes and endnotes. Headers,
# footers, comments, pictures and what was deleted with changes tracked do not come.


def convert(data, parts):
    package = Package(data)
    main = package.main()
    found = lines(package, main, telling=True)
    for kind in ("footnote", "endnote"):
        part = package.related(main, kind + "s")
        if part is not None:
            found += lines(package, part, begins=kind, ends=lambda note: label(note, kind))
    parts.add("".join(line + "\n" for line in found))


def label(note, kind):
    """What a note is called in the text; nothing for the lines that separate notes from it."""
    return f"{kind} {attribute(note, 'id')}" if not attribute(note, "type") else ""


run(convert)
