"""Runs the cells of a notebook in order, and writes their outputs into it: `python run_notebook.py NOTEBOOK`.

Knows the JSON of notebooks, and what a notebook shows: printed text, and the value of a cell's last line as text and as
HTML. No kernel is started, so that a test takes no longer than the cells themselves.
"""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

Notebook = dict[str, Any]
Output = dict[str, Any]


def outputs_of(notebook: Notebook) -> list[list[Output]]:
    """Returns the outputs of every code cell, run in one namespace."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [[*_run("".join(cell["source"]), number, namespace)] for number, cell in enumerate(cells, start=1)]


def _run(source: str, number: int, namespace: dict[str, Any]) -> Iterator[Output]:
    tree, printed, value = ast.parse(source), io.StringIO(), None
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(printed):
        exec(compile(tree, f"cell {number}", "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"cell {number}", "eval"), namespace)
    if text := printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": _lines(text)}
    if value is not None:
        shown = {"text/plain": _lines(repr(value))}
        html = getattr(value, "_repr_html_", None)
        data = {"text/html": _lines(html()), **shown} if html is not None else shown
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def _lines(text: str) -> Sequence[str]:
    return text.splitlines(keepends=True)


def main(path: Path) -> None:
    """Writes the outputs into the notebook."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    found = outputs_of(notebook)
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    for number, (cell, outputs) in enumerate(zip(cells, found, strict=True), start=1):
        cell["outputs"], cell["execution_count"] = outputs, number
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
