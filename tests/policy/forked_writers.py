"""Writers of an audit trail as processes of their own, run as a script: `kill DIRECTORY SOURCE TRAILS KILLS` kills each
while it writes, `share TRAIL SOURCE WRITERS COUNT` lets them finish. SOURCE is a trail whose first record they write.

A script, because forking is only sound in a process without threads, which pytest and torch are not.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from trimode.policy.audit.record import CallRecord
from trimode.policy.audit.trail import AuditFile, read_audit, records

ROTATE = 60_000


def kill(directory: Path, record: CallRecord, trails: int, kills: int) -> None:
    chance = random.Random(11)
    for trail in range(trails):
        for _ in range(kills):
            here, there = os.pipe()
            child = os.fork()
            if not child:
                write_for_ever(directory / f"{trail}.jsonl", record, there)
            assert os.read(here, 1) == b"x"
            time.sleep(chance.random() * 0.001)
            os.kill(child, signal.SIGKILL)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
            os.close(here)
            os.close(there)


def write_for_ever(path: Path, record: CallRecord, ready: int) -> None:
    file = AuditFile(path, content=True, rotate=ROTATE)
    file.write(record)
    os.write(ready, b"x")
    while True:
        file.write(record)


def share(path: Path, record: CallRecord, writers: int, count: int) -> None:
    children = []
    for _ in range(writers):
        child = os.fork()
        if not child:
            file = AuditFile(path, content=False, rotate=9000)
            for _ in range(count):
                file.write(record)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * writers


if __name__ == "__main__":
    _, command, target, source, number, count = sys.argv
    {"kill": kill, "share": share}[command](Path(target), records(read_audit(source))[0], int(number), int(count))
