"""What all test suites share: where the interoperability vectors are, and that CI skips nothing silently."""

import os
import signal
from pathlib import Path

import pytest

# What a machine may lack even in CI, because no package brings it; these words stand in the skip's reason.
NOT_TO_BE_HAD_EVERYWHERE = ("interoperability vectors", "nmsgtool", "the module proxy has no")
# Where failures are noted for who runs tests by a program that prints pages after them, and how much of each.
FAILURES_NOTED_IN = os.environ.get("SIE_TEST_FAILURES")
FAILURE_LINES = 12
VECTORS_BESIDE_CHECKOUT = Path(__file__).resolve().parent.parent / "shared" / "vectors"


def pytest_configure() -> None:
    """Let programs that tests start be interrupted: a shell that runs the tests in the background makes them
    ignore it, and what is ignored is inherited."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of interoperability vectors; tests that need it skip, saying so, where it is absent."""
    folder = Path(os.environ.get("SIE_VECTORS", VECTORS_BESIDE_CHECKOUT))
    if not (folder / "nmsg").is_dir():
        pytest.skip(f"no interoperability vectors at {folder}: set SIE_VECTORS")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that ask for root say so instead of failing half-way."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces and AF_PACKET"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes a failure: what failed, and the end of what it said."""
    if report.failed and FAILURES_NOTED_IN:
        said = report.longreprtext.splitlines()[-FAILURE_LINES:]
        with Path(FAILURES_NOTED_IN).open("a", encoding="utf-8") as notes:
            notes.write("\n    ".join([f"{report.when} of {report.nodeid} failed:", *said]) + "\n")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With CI=true a skipped test is a failure: what was meant to run must run."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") != "true" or exitstatus != 0 or reporter is None:
        return
    skipped = [
        report
        for report in reporter.stats.get("skipped", [])
        if not any(reason in str(report.longrepr) for reason in NOT_TO_BE_HAD_EVERYWHERE)
    ]
    if skipped:
        reporter.write_line(f"{len(skipped)} tests were skipped, and CI=true allows none (reasons above)")
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
