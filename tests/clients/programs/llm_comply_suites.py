"""llm-comply's suites against the server, as checks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

URL, MODEL = sys.argv[1], sys.argv[2]
SUITES = sys.argv[3:]


def outcomes(suite: str) -> list[dict[str, str]]:
    command = [str(Path(sys.executable).with_name("llm-comply")), "--format", suite, "--base-url", f"{URL}/v1"]
    done = subprocess.run([*command, "--model", MODEL, "--api-key", "none", "--json"], capture_output=True, text=True)
    found = json.loads(done.stdout[done.stdout.index("{") :])["results"]
    return [
        {"check": f"{suite}: {one['id']}", "outcome": one["status"], "why": "; ".join(one.get("errors") or ())[:300]}
        for one in found
    ]


print(json.dumps([one for suite in SUITES for one in outcomes(suite)]))
