# Runs CPython's own tests in a session. The host runs this text as a cell, with the package `test` as a zip
# file in `package`; then one cell for each module, `run_module(name, skipped)`.
#
# A module's tests are told on the session's own stdout, one JSON list a line: ["begin", id], and
# ["end", id, outcome, reason]. What a test prints goes nowhere.
import importlib
import importlib.abc
import importlib.util
import io
import json
import os
import sys
import sysconfig
import unittest
import warnings
import zipfile

_ROOT = "/lib"
_TOLD = 500


def _place(package):
    """Make the package importable: as files, or, where files cannot be, out of the zip file."""
    archive = zipfile.ZipFile(io.BytesIO(package))
    try:
        archive.extractall(_ROOT)
    except OSError:
        sys.meta_path.append(_Zipped(archive))
    sys.path.append(_ROOT)
    # What makes up new code at run time writes it beside the tests.
    try:
        os.makedirs("/tmp", exist_ok=True)
        os.makedirs("/work", exist_ok=True)
        os.chdir("/work")
    except OSError:
        pass


class _Zipped(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    def __init__(self, archive):
        self._archive = archive
        self._names = set(archive.namelist())

    def _file(self, name):
        base = name.replace(".", "/")
        return next((file for file in (f"{base}/__init__.py", f"{base}.py") if file in self._names), None)

    def find_spec(self, name, path=None, target=None):
        file = self._file(name) if name.partition(".")[0] == "test" else None
        if file is None:
            return None
        package = file.endswith("/__init__.py")
        spec = importlib.util.spec_from_loader(name, self, origin=f"{_ROOT}/{file}", is_package=package)
        spec.has_location = True
        if package:
            spec.submodule_search_locations.append(f"{_ROOT}/{name.replace('.', '/')}")
        return spec

    def get_source(self, name):
        return self._archive.read(self._file(name)).decode("utf-8")

    def get_code(self, name):
        return compile(self._archive.read(self._file(name)), f"{_ROOT}/{self._file(name)}", "exec", dont_inherit=True)


def _tell(*words):
    _STDOUT.write(json.dumps(words) + "\n")
    _STDOUT.flush()


def _last_line(error):
    """The type and the message of an exception, or of the text of one."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception:
        text = type(error).__name__
    text = " ".join(text.split())
    # The end of a traceback in it says what went wrong.
    return text if len(text) <= _TOLD else f"{text[:_TOLD // 2]} ... {text[-_TOLD // 2:]}"


class _Told(unittest.TestResult):
    """Tells of each test as it ends; a failed subtest is a failure of its test."""

    def startTest(self, test):
        super().startTest(test)
        self._outcome, self._reason = "pass", ""
        _tell("begin", test.id())

    def stopTest(self, test):
        super().stopTest(test)
        _tell("end", test.id(), self._outcome, self._reason)

    def _note(self, test, outcome, reason):
        if not hasattr(self, "_outcome") or not isinstance(test, unittest.TestCase):
            # setUpClass and setUpModule: there is no test that began.
            _tell("begin", test.id())
            _tell("end", test.id(), outcome, reason)
        elif self._outcome != "fail":
            self._outcome, self._reason = outcome, reason

    def addError(self, test, error):
        self._note(test, "fail", _last_line(error[1]))

    addFailure = addError

    def addSubTest(self, test, subtest, error):
        if error is not None:
            self._note(test, "fail", _last_line(error[1]))

    def addSkip(self, test, reason):
        self._note(test if isinstance(test, unittest.TestCase) else test, "skip", str(reason)[:_TOLD])

    def addUnexpectedSuccess(self, test):
        self._note(test, "fail", "unexpected success")


def _leave_out(suite, skipped):
    for test in suite:
        if isinstance(test, unittest.TestSuite):
            yield from _leave_out(test, skipped)
        elif test.id() not in skipped:
            yield test


def run_module(name, skipped=()):
    """Run the tests of one module of the package `test`, without those in `skipped`."""
    # The guest's configuration is not frozen with it. Of what the tests ask for, this is so.
    sysconfig.get_config_vars()["WITH_DOC_STRINGS"] = 1
    from test import support

    support.verbose = 0
    support.use_resources = {}
    out, err = sys.stdout, sys.stderr
    try:
        sys.stdout, sys.stderr = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
        with warnings.catch_warnings():
            try:
                module = importlib.import_module(f"test.{name}")
                found = unittest.defaultTestLoader.loadTestsFromModule(module)
                if not found.countTestCases() and hasattr(module, "test_main"):
                    found = unittest.TestSuite([unittest.FunctionTestCase(module.test_main)])
            except unittest.SkipTest as error:
                return _tell("module", "skip", str(error)[:_TOLD])
            except Exception as error:
                return _tell("module", "fail", _last_line(error))
            # One suite for each class would do; this keeps the order, and with it setUpClass.
            unittest.TestSuite(_leave_out(found, frozenset(skipped))).run(_Told())
        _tell("module", "pass", "")
    finally:
        sys.stdout, sys.stderr = out, err
        support.gc_collect()


_STDOUT = sys.stdout
_place(package)
del package
