# Runs numpy's own tests in a session of the guest that has numpy. The host runs this text as a cell, with the tests
# and what they need as a zip file in `package`; then one cell for each module, `run_module(name, skipped)`.
#
# Each test is told on the session's own stdout, one JSON list a line: ["begin", id], and
# ["end", id, outcome, reason]. What a test prints goes nowhere.
import io
import json
import os
import sys
import zipfile

_ROOT = "/lib"
_TOLD = 500


def _place(package):
    """Lay the tests out beside the frozen package, so that each finds itself below numpy."""
    zipfile.ZipFile(io.BytesIO(package)).extractall(_ROOT)
    sys.path.append(_ROOT)
    os.makedirs("/work", exist_ok=True)
    os.chdir("/work")
    # A frozen package has no folder: pytest compares one's file with where it looked for it.
    os.environ["PY_IGNORE_IMPORTMISMATCH"] = "1"
    import numpy

    for name, module in sorted(sys.modules.items()):
        _extend(name, module)
    numpy.__file__ = f"{_ROOT}/numpy/__init__.py"
    sys.meta_path.insert(0, _Extended())


def _extend(name, module):
    folder = f"{_ROOT}/{name.replace('.', '/')}"
    path = getattr(module, "__path__", None)
    if name.partition(".")[0] == "numpy" and type(path) is list and folder not in path and os.path.isdir(folder):
        path.append(folder)


class _Extended:
    """Before anything is looked for below a package of numpy's, that package knows its folder."""

    def find_spec(self, name, path=None, target=None):
        parent = name.rpartition(".")[0]
        if parent in sys.modules:
            _extend(parent, sys.modules[parent])
        return None


def _tell(*words):
    _STDOUT.write(json.dumps(words) + "\n")
    _STDOUT.flush()


class _Told:
    """A plugin of pytest: what ended the test's setup, call or teardown first is its outcome."""

    def __init__(self, skipped):
        self._skipped = skipped

    def pytest_collection_modifyitems(self, items):
        items[:] = [item for item in items if _id(item.nodeid) not in self._skipped]

    def pytest_runtest_logstart(self, nodeid, location):
        self._outcome, self._reason = "pass", ""
        _tell("begin", _id(nodeid))

    def pytest_runtest_logreport(self, report):
        if report.outcome == "passed" or self._outcome == "fail":
            return
        if report.outcome == "skipped":
            # An expected failure is one that numpy's own tests know of.
            said = report.longrepr[2] if type(report.longrepr) is tuple else getattr(report, "wasxfail", "")
            self._outcome, self._reason = "skip", said
        else:
            self._outcome, self._reason = "fail", _last(report)

    def pytest_runtest_logfinish(self, nodeid, location):
        _tell("end", _id(nodeid), self._outcome, " ".join(str(self._reason).split())[:_TOLD])

    def pytest_collectreport(self, report):
        if report.outcome == "skipped":
            _tell("module", "skip", str(report.longrepr[2])[:_TOLD])
        elif report.outcome == "failed":
            _tell("module", "fail", _last(report))


def _id(nodeid):
    return nodeid.partition("::")[2].encode("ascii", "backslashreplace").decode("ascii")


def _last(report):
    """The message of what was raised."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = " ".join(str(crash.message if crash is not None else report.longrepr).split())
    return text if len(text) <= _TOLD else f"{text[:_TOLD // 2]} ... {text[-_TOLD // 2:]}"


def run_module(name, skipped=()):
    """Run the tests of one module, such as numpy.linalg.tests.test_linalg, without those in `skipped`."""
    import pytest

    out, err = sys.stdout, sys.stderr
    try:
        sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        status = pytest.main(
            [f"{_ROOT}/{name.replace('.', '/')}.py", "-q", "-c", f"{_ROOT}/pytest.ini", "--rootdir", _ROOT,
             "-p", "no:cacheprovider", "-p", "no:faulthandler", "-p", "no:logging", "-p", "no:capture", "-p", "no:threadexception",
             "--assert", "plain", "--tb", "short", "-m", "not slow"],
            plugins=[_Told(frozenset(skipped))],
        )
    finally:
        said = sys.stdout
        sys.stdout, sys.stderr = out, err
    if status not in (0, 1, 5):
        said.flush()
        text = said.buffer.getvalue().decode("utf-8", "replace")
        _tell("module", "fail", f"pytest ended with {int(status)}: {text[-_TOLD:]}")


_STDOUT = sys.stdout
_place(package)
del package
