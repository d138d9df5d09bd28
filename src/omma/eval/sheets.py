"""The first sheet of an .xlsx file as rows of text, header first: what VLMEvalKit writes unless PRED_FORMAT is set. Of
true and false it holds 1 and 0.

    for row in rows("outputs/omma/omma_MMVP.xlsx"): print(row["index"], row["prediction"])
"""

import re
import zipfile
from pathlib import Path
from xml.etree import ElementTree

SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
ESCAPED = re.compile(r"_x([0-9A-Fa-f]{4})_")  # a character that XML can't hold


def rows(path: str | Path) -> list[dict[str, str]]:
    """One dict a row; a cell that isn't there is "". Raises ValueError for a file that is no such sheet."""
    try:
        with zipfile.ZipFile(path) as file:
            sheet = ElementTree.fromstring(file.read("xl/worksheets/sheet1.xml"))
            texts = file.read("xl/sharedStrings.xml") if "xl/sharedStrings.xml" in file.namelist() else b"<sst/>"
            shared = [_words(text) for text in ElementTree.fromstring(texts)]
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError) as error:
        raise ValueError(f"{path} is no .xlsx file with a sheet: {error}") from error
    lines = [list(line.iter(f"{SPACE}c")) for line in sheet.iter(f"{SPACE}row")]
    table = [{_column(cell): _text(cell, shared) for cell in line} for line in lines]
    header = table[0] if table else {}
    return [{name: row.get(column, "") for column, name in header.items()} for row in table[1:]]


def _column(cell: ElementTree.Element) -> str:
    return cell.attrib["r"].rstrip("0123456789")


def _text(cell: ElementTree.Element, shared: list[str]) -> str:
    kind, value = cell.get("t"), cell.findtext(f"{SPACE}v") or ""
    if kind == "s":
        return shared[int(value)]
    return _words(cell) if kind == "inlineStr" else value


def _words(text: ElementTree.Element) -> str:
    whole = "".join(part.text or "" for part in text.iter(f"{SPACE}t"))
    return ESCAPED.sub(lambda found: chr(int(found[1], 16)), whole)
