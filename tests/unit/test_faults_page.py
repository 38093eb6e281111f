"""The page of faults, compared with the list of faults that the suite injects."""

from tests.faults.catalogue import FAULTS
from tests.faults.page import PAGE, faults_on, render
from tests.faults.place import Outcome


def test_the_page_has_every_fault_and_all_were_equal() -> None:
    page = PAGE.read_text()
    assert faults_on(page) == [fault.name for fault in FAULTS]
    for fault in FAULTS:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{fault.name}` |")]
        _, _, captured, _, arrived, equal, _, _ = (cell.strip() for cell in row.split("|"))
        assert (captured, equal) == (arrived, "yes")
        assert fault.text in page
        assert fault.title in page


def test_a_difference_would_be_seen_on_the_page() -> None:
    outcomes = {fault.name: Outcome(10, 0, 10, 1.0, "proof") for fault in FAULTS}
    outcomes[FAULTS[0].name] = Outcome(10, 0, 9, 1.0, "proof")
    page = render(outcomes)
    assert f"| `{FAULTS[0].name}` | 10 | 0 | 9 | no | 1.0 |" in page
    assert f"| `{FAULTS[1].name}` | 10 | 0 | 10 | yes | 1.0 |" in page
