# The text of a presentation: slide by slide in their order, each a part. Notes, masters, pictures and charts do not
# come.


def convert(data, parts):
    package = Package(data)
    main = package.main()
    named = package.relations(main)
    with package.open(main) as source:
        shown = [
            attribute(each, "id", of="relationships")
            for _, each in ElementTree.iterparse(source)
            if each.tag.endswith("}sldId")
        ]
    for number, each in enumerate(shown):
        tell(number, len(shown))
        kind, part = named[each]
        if kind != "slide":
            raise Refused("damaged")
        parts.add("".join(line + "\n" for line in lines(package, part) if line.strip()))


run(convert)
