"""Checks that the types of all public names are known to those who install trimode: `pyright --verifytypes`.

pyright looks at installed packages only, and not at editable ones, so an environment of links stands in for them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
_FRAMEWORKS: Final = "trimode.integrations.frameworks."
_RAY: Final = "trimode.integrations.ray_serve."
ADAPTERS: Final = (
    *(_FRAMEWORKS + name for name in ("dspy", "google_adk", "langchain", "litellm", "openai_agents", "pydantic_ai")),
    *(_RAY + name for name in ("application", "handle", "process", "router")),
    "trimode.integrations.bench.with_",
    "trimode.integrations.mcp.connection",
    "trimode.integrations.mcp.audit_server",
)
"""Modules whose types need a framework that is not installed here; `make test-integrations` checks them where it is;
`make test-cluster` only runs those of Ray."""


def linked(folder: Path) -> Path:
    """Returns the interpreter of an environment in `folder`: everything that is installed here, and this checkout."""
    venv.create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "trimode" not in path.name.lower():
            (packages / path.name).symlink_to(path)
    (packages / "trimode").symlink_to(ROOT / "src" / "trimode")
    return folder / "bin" / "python"


def verified() -> dict[str, Any]:
    """Returns pyright's report on the package, types of other packages left aside."""
    with tempfile.TemporaryDirectory() as folder:
        # Here pyright asks the first `python` on the path for packages, whatever --pythonpath says.
        path = os.pathsep.join([str(linked(Path(folder)).parent), os.environ.get("PATH", "")])
        words = ["--verifytypes", "trimode", "--ignoreexternal", "--outputjson"]
        found = subprocess.run(
            [sys.executable, "-m", "pyright", *words],
            cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False,
        )  # fmt: skip
    report: dict[str, Any] = json.loads(found.stdout)["typeCompleteness"]
    return report


def main() -> None:
    report = verified()
    public = [one for one in report["symbols"] if one["isExported"] and not one["name"].startswith(ADAPTERS)]
    known = [symbol for symbol in public if symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]]
    for symbol in public:
        for one in symbol["diagnostics"]:
            if one["severity"] == "error":
                print(f"{symbol['name']}: {one['message']}")
    print(f"{len(known)} of {len(public)} public names have known types")
    raise SystemExit(0 if len(known) == len(public) > 0 else 1)


if __name__ == "__main__":
    main()
