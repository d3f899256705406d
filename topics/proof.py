"""Run an audit over a topic on the broker, and say in lines what it proved."""

from __future__ import annotations

from topics.audit import Account, Audit, AuditedTopic, AuditReport, Found
from topics.connection import Tell, keep_silent
from topics.lines import Line, clean, format_time
from topics.log import open_log

SHOWN_RANGES = 10


async def prove(
    bootstrap: str,
    topic: AuditedTopic,
    *,
    name: str | None = None,
    wait_s: float = 0.0,
    tell: Tell = keep_silent,
) -> AuditReport:
    """Audit a topic: read what is there now, from the beginning, once.

    Writers may go on meanwhile; what they write after the start is not read. Memory does not grow with the records.

    Args:
        bootstrap: ``host:port[,host:port]``.
        topic: Which rules hold.
        name: Name of the topic on the broker, when it is another.
        wait_s: How long to wait for a broker that is not up.
        tell: Is told what is waited for, and how much there is to read.

    Raises:
        KafkaUnavailable: No broker answered, or it went away. Nothing is proven.
        TopicMissing: There is no such topic.
        HistoryLost: Retention deleted what was still to be read: call again.
    """
    async with open_log(bootstrap, name or topic, wait_s=wait_s, tell=tell) as log:
        cut = await log.cut()
        tell(f"reading {cut.offsets:,} records of {name or topic} in {len(cut.ends)} partitions")
        audit = Audit(topic, cut.edges)
        async for batch in log.read(cut):
            for record in batch:
                audit.read(record.partition, record.offset, record.value)
    return audit.conclude()


def say_report(report: AuditReport) -> list[Line]:
    """Say what an audit proved: one line per source, what is wrong below it, and the conclusion at the end."""
    lines: list[Line] = [line for account in report.accounts for line in _say_account(account)]
    lines += [
        [("undecodable ", "bold red"), (f"{report.topic}/{bad.partition}/{bad.offset}: {clean(bad.error)}", "")]
        for bad in report.bad_records
    ]
    if report.undecodable > len(report.bad_records):
        lines.append([(f"and {report.undecodable - len(report.bad_records):,} more undecodable records", "bold red")])
    if report.edges:
        edges = ", ".join(f"{partition} from offset {edge:,}" for partition, edge in sorted(report.edges.items()))
        lines.append(
            [(f"retention has deleted the beginning of partitions: {edges}; nothing is proven of what was there", "yellow")]
        )
    sources = len({account.source for account in report.accounts})
    verdict: tuple[str, str] = ("nothing missing, nothing doubled", "bold green")
    if report.records == 0:
        verdict = ("nothing to prove", "yellow")
    elif report.is_faulty:
        faults = sum(account.is_faulty for account in report.accounts)
        verdict = (
            f"FAULTY: {faults} of {len(report.accounts)} runs of numbers, {report.undecodable:,} undecodable",
            "bold red",
        )
    elif report.has_announced:
        verdict = ("nothing missing but what its sources announced as dropped, nothing doubled", "bold yellow")
    lines.append([(f"{report.topic}: {report.records:,} records of {sources} sources: ", ""), verdict])
    return lines


def _say_account(account: Account) -> list[Line]:
    where = "" if account.partition is None else f" partition {account.partition}"
    name = f"{clean(account.source)}{where}"
    proven = f"{account.first:,}-{account.last:,}" if account.first <= account.last else "nothing"
    told = f"proven {proven}, {account.read:,} read"
    if account.state != "closed":
        told += f", {account.tail:,} in its unknown tail"
        told += (
            f", last heartbeat {format_time(account.last_mark_ms)}" if account.last_mark_ms is not None else ", no heartbeat"
        )
    if account.state == "unproven" and account.silent_partitions:
        told += f"; no heartbeat in partitions {', '.join(map(str, account.silent_partitions))}"
    style = "bold red" if account.is_faulty else {"closed": "green", "open": "cyan", "unproven": "yellow"}[account.state]
    lines: list[Line] = [[(f"{'FAULTY' if account.is_faulty else account.state:9}", style), (name, "bold"), (f" {told}", "")]]
    for word, found, fault in (
        ("missing", account.missing, True),
        ("doubled", account.doubled, True),
        ("beyond its closing number", account.beyond, True),
        ("dropped and announced", account.announced, False),
    ):
        if found.numbers:
            lines.append([(f"          {found.numbers:,} {word}: {_say_found(found)}", "red" if fault else "yellow")])
    return lines


def _say_found(found: Found) -> str:
    listed = found.ranges[:SHOWN_RANGES]
    text = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in listed)
    rest = found.numbers - sum(last - first + 1 for first, last in listed)
    return f"{text} and {rest:,} more" if rest else text
