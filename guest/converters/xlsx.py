# The text of a workbook, by openpyxl: sheet by sheet in their order, each a part, whose first line is its name and
# whose others are its rows as CSV. A formula comes as the value that was last computed for it, and was saved.
import csv
import datetime

import openpyxl


def convert(data, parts):
    book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=True)
    sheets = book.worksheets
    for number, sheet in enumerate(sheets):
        tell(number, len(sheets))
        # What a sheet says of its size is not believed.
        sheet.reset_dimensions()
        made = io.StringIO()
        rows = csv.writer(made, lineterminator="\n")
        blank = 0
        for row in sheet.iter_rows(values_only=True):
            cells = [shown(value) for value in row]
            while cells and not cells[-1]:
                cells.pop()
            if not cells:
                blank += 1
                continue
            made.write("\n" * blank)
            blank = 0
            rows.writerow(cells)
            if made.tell() > TEXT_MAX:
                raise Refused("large")
        title = " ".join(sheet.title.split())
        parts.add(f"{title}\n{made.getvalue()}", empty=not made.tell())


def shown(value):
    """A cell's value as text: a date without a time of day where that is midnight."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).upper()
        case datetime.datetime() if not (value.hour or value.minute or value.second or value.microsecond):
            return value.date().isoformat()
        case datetime.datetime():
            return value.isoformat(" ")
        case datetime.date() | datetime.time():
            return value.isoformat()
        case float() if value.is_integer() and abs(value) < 1e15:
            return str(int(value))
    return str(value)


run(convert)
