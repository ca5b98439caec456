"""numpy in the guest that has it: it computes, warns, raises, ends and draws as it does elsewhere."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from rlm_wasm.errors import ArtifactError, GuestException
from rlm_wasm.inline.guest_loader import load_guest_program
from rlm_wasm.results import CellResult
from rlm_wasm.vm.drive import drive
from rlm_wasm.vm.loaded_guest import LoadedGuest
from rlm_wasm.vm.session import Session
from tests.support.sandbox_facts import MIB, boundary_limits, completed, run_cell, session_limits

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def numpy_guest() -> LoadedGuest:
    try:
        return load_guest_program("numpy")
    except ArtifactError as absent:
        pytest.skip(f"{absent.message}; {absent.hint}")


@pytest.fixture
def make(numpy_guest: LoadedGuest) -> Iterator[Callable[..., Session]]:
    made: list[Session] = []

    def make(**limits: int) -> Session:
        session = Session(
            numpy_guest.program, numpy_guest.facts, session_limits(**limits), boundary_limits(), os.urandom
        )
        made.append(session)
        completed(session, "import numpy as np, warnings\nwarnings.simplefilter('always')")
        return session

    yield make
    for session in made:
        session.close()


@pytest.fixture
def session(make: Callable[..., Session]) -> Session:
    return make()


def error_of(result: CellResult) -> tuple[str, str]:
    assert isinstance(result.error, GuestException), (result.outcome, result.error)
    return result.error.type_name, result.error.guest_message


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("np.arange(10).sum().item()", "45"),
        ("(np.eye(3) @ np.arange(3)).tolist()", "[0.0, 1.0, 2.0]"),
        ("np.linalg.solve([[3, 1], [1, 2]], [9, 8]).round(9).tolist()", "[2.0, 3.0]"),
        ("np.fft.ifft(np.fft.fft([1, 2, 3])).real.round(9).tolist()", "[1.0, 2.0, 3.0]"),
        ("np.unique([3, 1, 3]).tolist()", "[1, 3]"),
        ("np.sort(np.array([3, 1, 2], 'f4')).tolist()", "[1.0, 2.0, 3.0]"),
        ("np.array(['b', 'a'], np.dtypes.StringDType()).tolist()", "['b', 'a']"),
        ("np.strings.upper(np.array(['b', 'a'])).tolist()", "['B', 'A']"),
        ("float(np.longdouble('0.1')) == 0.1", "True"),
        ("np.datetime64('2024-02-28') + 2", "np.datetime64('2024-03-01')"),
        ("np.random.default_rng(5).multinomial(20, [0.5, 0.5]).sum().item()", "20"),
        ("np.random.seed(5); np.random.poisson(30.0)", "25"),
        ("np.random.seed(5); np.random.binomial(100, 0.5, 3).tolist()", "[47, 46, 54]"),
        ("np.random.seed(5); np.random.multinomial(20, [0.5, 0.5]).sum().item()", "20"),
        ("np.random.seed(5); np.random.negative_binomial(3, 0.5) >= 0", "True"),
        ("np.random.seed(5); np.random.geometric(0.3) >= 1, np.random.zipf(2.0) >= 1", "(True, True)"),
        ("np.random.default_rng(5).multivariate_hypergeometric([5, 5], 4).sum().item()", "4"),
        ("np.random.default_rng(12345).integers(0, 100, 5).tolist()", "[69, 22, 78, 31, 20]"),
    ],
)
def test_it_computes(session: Session, source: str, result: str) -> None:
    assert completed(session, source).result == result


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("np.ones(3) / 0", "divide by zero encountered in divide"),
        ("np.zeros(3) / 0", "invalid value encountered in divide"),
        ("a = np.ones(300); a /= 0", "divide by zero encountered in divide"),
        ("np.float64(1) / 0", "divide by zero encountered in scalar divide"),
        ("np.float32(1) / np.float32(0)", "divide by zero encountered in scalar divide"),
        ("np.int64(1) / np.int64(0)", "divide by zero encountered in scalar divide"),
        ("np.array([1, 2]) // 0", "divide by zero encountered in floor_divide"),
        ("np.array([1, 2]) / 0", "divide by zero encountered in divide"),
        ("np.log(np.array([1.0, 0.0]))", "divide by zero encountered in log"),
        ("np.log(0)", "divide by zero encountered in log"),
        ("np.log(-1)", "invalid value encountered in log"),
        ("np.sqrt(-1)", "invalid value encountered in sqrt"),
        ("np.arctanh(np.array([1.0]))", "divide by zero encountered in arctanh"),
        ("np.exp(1000)", "overflow encountered in exp"),
        ("np.full(99, 1e308) * 10", "overflow encountered in multiply"),
        ("np.full(99, 1e308).sum()", "overflow encountered in reduce"),
        ("np.multiply.accumulate(np.full(9, 1e99))", "overflow encountered in accumulate"),
        ("np.add.reduce([np.inf, -np.inf])", "invalid value encountered in reduce"),
        ("np.add(np.inf, -np.inf, where=[True])", "invalid value encountered in add"),
        ("np.ones(2, complex) / 0", "divide by zero encountered in divide"),
        ("np.float16(60000) * np.float16(2)", "overflow encountered in scalar multiply"),
        ("np.array([1e300]).astype('f4')", "overflow encountered in cast"),
        ("np.array([np.nan]).astype(int)", "invalid value encountered in cast"),
        ("np.array([1e30]).astype('i8')", "invalid value encountered in cast"),
        ("np.array([], float).mean()", "Mean of empty slice"),
    ],
)
def test_what_a_processor_would_raise_is_a_warning(session: Session, source: str, said: str) -> None:
    told = completed(session, source).stderr
    assert "RuntimeWarning" in told
    assert said in told


@pytest.mark.parametrize(
    "source",
    [
        "np.array([np.nan, np.inf, -np.inf]) * 2",
        "np.array([np.inf]) / 2",
        "np.nan_to_num(np.array([np.nan]))",
        "np.maximum(np.nan, [1.0])",
        "np.sum([np.inf, 1.0])",
        "np.add(1.0, [np.inf, 1.0], where=[False, True], out=np.zeros(2))",
        "np.divide([1.0, 1.0], [0.0, 2.0], out=np.zeros(2), where=[False, True])",
        "np.array([1.5, 127.0, -128.9]).astype('i1')",
        "np.array([-2.0**63, 2.0**62]).astype('i8')",
        "np.array([1.0, np.inf, np.nan]).astype('f4')",
        "np.isnan([np.nan]) | (np.array([np.nan]) > 1)",
        "a = np.array([np.inf, 1.0]); a += 1",
        "np.linalg.inv(np.eye(3)) @ np.ones(3)",
        "np.fft.fft(np.ones(97))",
    ],
)
def test_what_no_processor_would_raise_is_silent(session: Session, source: str) -> None:
    assert completed(session, source).stderr == ""


def test_what_is_to_be_raised_is_raised(session: Session) -> None:
    completed(session, "np.seterr(all='raise')")
    assert error_of(run_cell(session, "np.ones(3) / 0")) == (
        "FloatingPointError", "divide by zero encountered in divide",
    )  # fmt: skip
    completed(session, "with np.errstate(all='ignore'): np.ones(3) / 0")


@pytest.mark.parametrize("call", ["inv(np.ones((3, 3)))", "solve(np.zeros((2, 2)), [1, 2])"])
def test_a_singular_matrix_raises(session: Session, call: str) -> None:
    assert error_of(run_cell(session, f"np.linalg.{call}")) == ("LinAlgError", "Singular matrix")


@pytest.mark.threat("T-260")
@pytest.mark.parametrize(
    "source",
    [
        "np.fft.fft(np.ones(N, complex))",
        "np.fft.rfft(np.ones(N))",
        "np.fft.irfft(np.ones(N))",
        "np.unique(np.arange(N))",
        "np.unique(np.arange(N).astype('U9'))",
        "np.strings.slice(np.array(['x' * N], np.dtypes.StringDType()), 1, None, 2)",
    ],
)  # fmt: skip
def test_the_end_of_memory_in_its_cxx_is_an_exception(make: Callable[..., Session], source: str) -> None:
    """C++ throws where there is no memory; nothing here unwinds, so that it must never come to that."""
    session = make(memory_bytes_max=96 * MIB)
    ends = []
    # Sizes of all kinds, primes among them, from what fits to what does not.
    for size in (1 << 14, 99_991, 200_003, 262_144, 400_009, 524_287, 700_001, 1_000_003, 1 << 20, 1_500_007):
        tried = f"N = {size}\ntry:\n    {source}; end = 'done'\nexcept MemoryError: end = 'no room'\nend"
        ends.append(completed(session, tried, fuel_max=200_000_000_000).result)
    assert ends[0] == "'done'"
    assert set(ends) <= {"'done'", "'no room'"}
    assert completed(session, "np.arange(3).sum().item()").result == "3"


def test_memory_that_is_too_much_says_how_much(session: Session) -> None:
    told = completed(session, "try: np.zeros(1 << 27)\nexcept MemoryError as error: print(error)").stdout
    assert "1.00 GiB" in told


def test_random_numbers_are_each_sessions_own(make: Callable[..., Session]) -> None:
    draw = "np.random.rand(), np.random.default_rng().random(), np.random.randint(1 << 30)"
    drawn = [completed(make(), draw).result for _ in range(3)]
    assert len(set(drawn)) == 3


def test_random_numbers_are_each_forks_own(make: Callable[..., Session], numpy_guest: LoadedGuest) -> None:
    session = make()
    completed(session, "np.random.seed(7); rng = np.random.default_rng(7)")
    snapshot = drive(session.snapshot())
    assert snapshot is not None
    drawn, seeded = set(), set()
    for _ in range(3):
        fork = Session(
            numpy_guest.program,
            numpy_guest.facts,
            session_limits(),
            boundary_limits(),
            os.urandom,
            start=snapshot,
        )
        try:
            drawn.add(completed(fork, "np.random.rand()").result)
            seeded.add(completed(fork, "rng.random()").result)
        finally:
            fork.close()
    assert len(drawn) == 3
    assert len(seeded) == 1  # what code seeded by itself stays as it was
