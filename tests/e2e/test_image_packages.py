"""The packages of the image `data`, each used for real, in a locked worker as a policy asks for it."""

from __future__ import annotations

import anyio
import pytest

from rlm_wasm import Policy, Sandbox
from rlm_wasm.artifacts.guest_sources import guest_dir
from rlm_wasm.artifacts.installed import lock_file
from rlm_wasm.errors import ArtifactError, UsageError
from rlm_wasm.images.lock import read_lock
from tests.support.command_line import document, rlm_wasm
from tests.support.images import made_data
from tests.support.machine_grade import POLICY_HERE, strict_here

pytestmark = pytest.mark.guest


@pytest.fixture(autouse=True, scope="module")
def data() -> None:
    made_data()


# Cells that each have one package do what it is for, and what they come to.
USES = {
    "beautifulsoup4": (
        "import bs4\nbs4.BeautifulSoup('<ul><li>a<li>b</ul>', 'html5lib').find_all('li')[1].text",
        "'b'",
    ),
    "html5lib": ("import html5lib\nhtml5lib.parse('<p>x')[1][0].text", "'x'"),
    "soupsieve": (
        "import bs4, soupsieve\n"
        "page = bs4.BeautifulSoup('<p class=a><b>1</b></p>', 'html.parser')\n"
        "[t.text for t in soupsieve.select('p.a > b', page)]",
        "['1']",
    ),
    "webencodings": ("import webencodings\nwebencodings.decode(b'\\x80', 'latin1')[0]", "'€'"),
    "typing_extensions": (
        "import typing_extensions\ntyping_extensions.TypedDict('T', {'a': int})(a=1)",
        "{'a': 1}",
    ),
    "six": ("import six\nsix.ensure_str(b'a')", "'a'"),
    "Jinja2": (
        "import jinja2\njinja2.Template('{% for x in xs %}{{ x|e }};{% endfor %}').render(xs=['<', 1])",
        "'&lt;;1;'",
    ),
    "MarkupSafe": ("import markupsafe\nmarkupsafe.Markup('<b>%s</b>') % '<x>'", "Markup('<b>&lt;x&gt;</b>')"),
    "Markdown": (
        "import markdown\nmarkdown.markdown('a|b\\n-|-\\n1|2', extensions=['tables']).count('<td>')",
        "2",
    ),
    "openpyxl": (
        "import openpyxl, datetime\n"
        "book = openpyxl.Workbook()\n"
        "book.active.append(['day', datetime.date(2026, 3, 4)])\n"
        "book.save('/tmp/book.xlsx')\n"
        "[[c.value for c in row] for row in openpyxl.load_workbook('/tmp/book.xlsx').active.rows]",
        "[['day', datetime.datetime(2026, 3, 4, 0, 0)]]",
    ),
    "et_xmlfile": (
        "import et_xmlfile, io\n"
        "out = io.BytesIO()\n"
        "with et_xmlfile.xmlfile(out) as file, file.element('a'):\n    file.write('text')\n"
        "out.getvalue()",
        "b'<a>text</a>'",
    ),
    "pypdf": (
        "import io, pypdf\n"
        "made = pypdf.PdfWriter()\n"
        "made.add_blank_page(200, 100)\n"
        "made.add_metadata({'/Title': 'one page'})\n"
        "out = io.BytesIO()\n"
        "made.write(out)\n"
        "read = pypdf.PdfReader(out)\n"
        "len(read.pages), read.metadata.title",
        "(1, 'one page')",
    ),
    "python-dateutil": (
        "from dateutil import parser, rrule, tz\n"
        "d = parser.parse('2026-03-29 01:30').replace(tzinfo=tz.gettz('Europe/Berlin'))\n"
        "[x.isoformat() for x in rrule.rrule(rrule.DAILY, count=2, dtstart=d)]",
        "['2026-03-29T01:30:00+01:00', '2026-03-30T01:30:00+02:00']",
    ),
    "PyYAML": (
        "import yaml\nyaml.safe_load('a: [1, 2]\\nb: 2026-03-04\\n')",
        "{'a': [1, 2], 'b': datetime.date(2026, 3, 4)}",
    ),
    "tabulate": ("import tabulate\ntabulate.tabulate([[1, 'ä']], tablefmt='plain')", "'1  ä'"),
}


def policy() -> Policy:
    return strict_here().replace(sandbox={"image": "data"})


@pytest.mark.threat("T-272")
def test_each_package_of_data_does_its_work_in_a_locked_worker() -> None:
    """One session has them all, from one cell to the next."""
    lock, _ = read_lock(lock_file(guest_dir(), "data"))
    assert {package.name for package in lock.packages} == USES.keys()

    async def main() -> dict[str, str | None]:
        async with Sandbox(policy()) as sandbox, await sandbox.session() as session:
            found = {}
            for name, (source, _) in USES.items():
                result = await session.exec(source)
                found[name] = result.result if result.error is None else repr(result.error)
            return found

    assert anyio.run(main) == {name: shown for name, (_, shown) in USES.items()}


def test_the_recipes_say_what_the_lock_says() -> None:
    """They are YAML, and read where YAML can be read."""
    lock, _ = read_lock(lock_file(guest_dir(), "data"))
    recipes = sorted((guest_dir() / "recipes").glob("*/meta.yaml"))
    texts = {path.parent.name: path.read_text("utf-8") for path in recipes}
    source = (
        "import yaml\n"
        "found = {}\n"
        "for name, text in texts.items():\n"
        "    recipe = yaml.safe_load(text)\n"
        "    package, source = recipe['package'], recipe['source']\n"
        "    found[package['name']] = [package['version'], source['sha256'], recipe['about']['license']]\n"
    )

    async def main() -> object:
        async with Sandbox(policy()) as sandbox, await sandbox.session() as session:
            await session.set("texts", texts)
            await session.exec(source)
            return await session.get("found")

    told = anyio.run(main)
    assert told == {p.name: [p.version, p.file.sha256, p.licence] for p in lock.packages}


@pytest.mark.threat("T-271")
def test_a_snapshot_is_continued_over_its_own_image_and_no_other() -> None:
    async def main() -> str | None:
        async with Sandbox(policy()) as sandbox, await sandbox.session() as session:
            await session.exec("import yaml\nx = yaml.safe_load('[1]')")
            snapshot = await session.snapshot()
            async with await sandbox.session(snapshot=snapshot) as again:
                shown = (await again.exec("yaml.safe_dump(x)")).result
            async with Sandbox(strict_here()) as other:
                with pytest.raises(UsageError, match="one of the image data, and"):
                    await other.session(snapshot=snapshot)
            return shown

    assert anyio.run(main) == "'- 1\\n'"


def test_an_image_that_is_not_made_is_refused_with_the_command_that_makes_it() -> None:
    ended = rlm_wasm("exec", "--policy", POLICY_HERE, "--image", "other", "-", stdin="1")
    assert ended.returncode != 0
    error, hint = ended.stderr.decode().splitlines()
    assert "no image other" in error
    assert hint == "hint: make it with: rlm-wasm guest image other --with PACKAGE"

    async def main() -> None:
        async with Sandbox(policy().replace(sandbox={"image": "other"})) as sandbox:
            with pytest.raises(ArtifactError, match="no image other"):
                await sandbox.session()

    anyio.run(main)


def test_the_command_line_has_the_packages_and_says_what_an_image_holds() -> None:
    source = "import yaml, sys\nyaml.__version__, '/packages' in sys.path"
    for image, shown in (("data", b"('6.0.2', True)\n"), ("base", b"")):
        ended = rlm_wasm("exec", "--policy", POLICY_HERE, "--image", image, "-", stdin=source)
        assert ended.stdout == shown, ended.stderr
    assert b"No module named 'yaml'" in ended.stderr
    told = document(rlm_wasm("guest", "info", "--image", "data", "--json"))
    assert {package["name"] for package in told["packages"]} == USES.keys()
    again = rlm_wasm("guest", "image", "data", "--json")
    assert document(again)["reused"] is True
