from pathlib import Path

from rich.console import Console

from devstack.jars import Progress
from devstack.process import ServiceState
from examples.start_report import StartReport

LOG = Path("x.log")


def test_each_step_and_part_is_told_once_and_a_download_not_for_every_file() -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as captured:
        report = StartReport(console)
        with report:
            report.tell_progress(Progress("downloading Kafka, 1 of 45 MB", 1_000_000, 45_000_000))
            report.tell_progress(Progress("downloading Kafka, 2 of 45 MB", 2_000_000, 45_000_000))
            report.tell_progress(Progress("starting redis"))
            report.tell_state(ServiceState(name="redis", status="starting", log=LOG))
            report.tell_state(ServiceState(name="redis", status="ready", log=LOG, ready_after_s=0.05))
            report.tell_state(ServiceState(name="detector", status="exited", log=LOG, exit_code=-9))
            report.tell_state(ServiceState(name="detector", status="ready", log=LOG, ready_after_s=3.0, restarts=1))
            report.be_quiet()
            report.tell_progress(Progress("unheard"))
    lines = [line.split(" s  ", 1)[1] for line in captured.get().splitlines()]
    assert lines == [
        "downloading Kafka, 1 of 45 MB",
        "starting redis",
        "redis ready after 0.05 s",
        "detector ended by itself, exit code -9; its log is x.log",
        "detector ready again (restart 1) after 3.00 s",
    ]
