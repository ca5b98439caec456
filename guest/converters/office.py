# What the documents of Office have in common: a zip file of parts that name each other, paragraphs of runs of text,
# tables of rows of cells. Nothing is laid out as files, and a part is read by its own name only.
import posixpath
import zipfile
from xml.etree import ElementTree

_RELATIONS = "{http://schemas.openxmlformats.org/package/2006/relationships}Relationship"
# Of two versions of the same thing the one for older programs; and what describes a paragraph.
_SKIPPED = {"Fallback", "pPr"}
_BREAKS = {"br": "\n", "cr": "\n", "tab": "\t", "ptab": "\t", "noBreakHyphen": "-"}
_NOTES = {"footnoteReference": "footnote", "endnoteReference": "endnote"}


class Package:
    """The parts of a document."""

    def __init__(self, data):
        self._archive = zipfile.ZipFile(io.BytesIO(data))
        if any(each.flag_bits & 1 for each in self._archive.infolist()):
            raise Refused("encrypted")

    def main(self):
        """The name of the part that the others belong to."""
        return self._target("", "officeDocument")

    def open(self, part):
        """A part to be read. Raises KeyError for one that is not there."""
        return self._archive.open(part.lstrip("/"))

    def size(self, part):
        return self._archive.getinfo(part.lstrip("/")).file_size

    def relations(self, part):
        """What a part names: kind and part, by the name that it has for it."""
        folder, name = posixpath.split(part)
        try:
            source = self.open(posixpath.join(folder, "_rels", name + ".rels"))
        except KeyError:
            return {}
        found = {}
        with source:
            for _, each in ElementTree.iterparse(source):
                if each.tag == _RELATIONS and each.get("TargetMode") != "External":
                    kind = each.get("Type", "").rpartition("/")[2]
                    target = posixpath.normpath(posixpath.join(folder, each.get("Target", "")))
                    found[each.get("Id")] = (kind, target.lstrip("/"))
        return found

    def related(self, part, kind):
        """The part of a kind that a part names, or None."""
        return next((target for has, target in self.relations(part).values() if has == kind), None)

    def _target(self, part, kind):
        target = self.related(part, kind)
        if target is None:
            raise Refused("damaged")
        return target


def lines(package, part, *, telling=False, begins="", ends=None):
    """The lines of a part: a paragraph each, a row of a table each, its cells with a tab between two.

    `telling`: say how much of it is read. With `begins`, the name of an element, only what is in such elements, each behind what `ends` says of it.
    """
    found, skipped = [], 0
    # Where a paragraph's text goes, a row's cells, a cell's lines, the lines of all.
    stack = [("all", found)]
    with package.open(part) as source:
        total, room = package.size(part), TEXT_MAX
        for event, each in ElementTree.iterparse(source, ("start", "end")):
            name = each.tag.rpartition("}")[2]
            if name in _SKIPPED:
                skipped += 1 if event == "start" else -1
            elif skipped:
                pass
            elif event == "start":
                if name in ("p", "tr", "tc"):
                    stack.append((name, []))
                elif name == begins:
                    stack.append(("note", []))
            elif name in ("p", "tr", "tc") and stack[-1][0] == name:
                _, made = stack.pop()
                if name == "p":
                    _holder(stack).append("".join(made))
                    room -= len(_holder(stack)[-1])
                    if telling and total:
                        tell(min(source.tell(), total) * 100 // total, 100)
                elif name == "tr":
                    _holder(stack).append("\t".join(made))
                elif stack[-1][0] == "tr":
                    stack[-1][1].append(" ".join(" ".join(made).split()))
                else:
                    _holder(stack).extend(made)
            elif name == begins and stack[-1][0] == "note":
                _, made = stack.pop()
                if label := ends(each):
                    found.append(f"[{label}] {' '.join(' '.join(made).split())}")
            elif stack[-1][0] == "p":
                if name == "t":
                    stack[-1][1].append(each.text or "")
                elif name in _BREAKS:
                    stack[-1][1].append(_BREAKS[name])
                elif name in _NOTES:
                    stack[-1][1].append(f"[{_NOTES[name]} {attribute(each, 'id')}]")
            if event == "end":
                each.clear()
            if room < 0:
                raise Refused("large")
    return found


def attribute(element, name, *, of=""):
    """An attribute by its name, in whichever name space, or in one whose name ends with `of`."""
    for key, value in element.attrib.items():
        space, _, own = key.rpartition("}")
        if own == name and space.endswith(of):
            return value
    return ""


def _holder(stack):
    return next(held for kind, held in reversed(stack) if kind in ("all", "tc", "note"))
