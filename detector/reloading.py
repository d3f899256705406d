"""Follow the rules document: another content, or SIGHUP, puts it in force; a bad one never replaces a good one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from config.document import DocumentError, read_document
from config.watching import watch_files
from detector.app import Detector
from detector.metrics import Metrics
from detector.rules import Rules

log = structlog.get_logger("detector")


async def follow_rules(path: Path, detector: Detector, metrics: Metrics, is_asked: asyncio.Event) -> None:
    """Keep the detector at what the file says, until it is cancelled.

    The file is read and validated whole, off the event loop. What is refused is logged and counted, and changes nothing.

    Args:
        path: Of the rules document.
        detector: Whose rules they are.
        metrics: Where a refusal is counted.
        is_asked: Set it to have the file read at once.
    """
    is_asked.set()  # it may have changed since the process read it
    watching = asyncio.create_task(watch_files([path], is_asked.set))
    try:
        while True:
            await is_asked.wait()
            is_asked.clear()
            try:
                rules = (await asyncio.to_thread(read_document, path, Rules)).model
            except DocumentError as error:
                _reject(path, error, detector, metrics)
                continue
            if rules.digest != detector.rules.digest:
                log.info("rules_in_force", file=str(path), version=rules.digest, before=detector.rules.digest)
                detector.put_in_force(rules)
    finally:
        watching.cancel()


def _reject(path: Path, error: DocumentError, detector: Detector, metrics: Metrics) -> None:
    metrics.rules_rejected.inc()
    log.error("rules_rejected", file=str(path), problems=error.problems, stays_in_force=detector.rules.digest)
