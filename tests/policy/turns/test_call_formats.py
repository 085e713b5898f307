"""How chat templates of several families write calls, read off them: the texts around calls, and the marker."""

from __future__ import annotations

from typing import Final

import pytest

import trimode as tm
from trimode.engine.models.template import ChatTemplate
from trimode.policy.grammar import Marker
from trimode.policy.schema import MARKED, CallFormat
from trimode.policy.turns import marker_of

_CALL: Final = """{{ '{"name": "' + c.function.name + '", "arguments": ' + (c.function.arguments | tojson) + '}' }}"""
_LIST: Final = (
    f"{{%- for c in m.tool_calls %}}{_CALL}{{%- if not loop.last %}}{{{{ ', ' }}}}{{%- endif %}}{{%- endfor %}}"
)


def chatml(calls: str, before: str = "", prompt: str = "") -> str:
    """Returns a template that writes `before` in every message of the assistant, `calls` after its text, and asks for
    an answer that begins with `prompt`."""
    return (
        "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
        f"{{%- if m.role == 'assistant' %}}{{{{ {before!r} }}}}{{%- endif %}}{{{{ m.content or '' }}}}"
        f"{{%- if m.tool_calls %}}{calls}{{%- endif %}}{{{{ '<|im_end|>\\n' }}}}{{%- endfor %}}"
        f"{{%- if add_generation_prompt %}}{{{{ '<|im_start|>assistant\\n' + {prompt!r} }}}}{{%- endif %}}"
    )


NEMOTRON: Final = f"{{{{ '<TOOLCALL>[' }}}}{_LIST}{{{{ ']</TOOLCALL>' }}}}"
HERMES: Final = (
    "{%- for c in m.tool_calls %}{%- if not loop.first %}{{ '\\n' }}{%- endif %}"
    f"{{{{ '<tool_call>\\n' }}}}{_CALL}{{{{ '\\n</tool_call>' }}}}{{%- endfor %}}"
)
LINES: Final = f"{{%- for c in m.tool_calls %}}{_CALL}{{{{ '\\n' }}}}{{%- endfor %}}"
MISTRAL: Final = (
    "{%- for m in messages %}{%- if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    f"{{%- elif m.tool_calls %}}{{{{ '[TOOL_CALLS] [' }}}}{_LIST}{{{{ ']</s>' }}}}"
    "{%- else %}{{ ' ' + m.content + '</s>' }}{%- endif %}{%- endfor %}"
)
BRACKETS: Final = CallFormat("<TOOLCALL>[", ", ", "]</TOOLCALL>")
THOUGHT: Final = "<think></think>"


@pytest.mark.parametrize(
    ("source", "form", "marker"),
    [
        (chatml(HERMES), MARKED, Marker("<tool_call>", "\n")),
        (chatml(HERMES, "<think>\n\n</think>\n\n"), MARKED, Marker("<tool_call>", "\n")),
        (chatml(NEMOTRON), BRACKETS, Marker("<TOOLCALL>[", "")),
        (chatml(NEMOTRON, THOUGHT), BRACKETS, Marker("<TOOLCALL>[", "")),
        (chatml(NEMOTRON, THOUGHT, THOUGHT), BRACKETS, Marker("<TOOLCALL>[", "")),
        (chatml(NEMOTRON, THOUGHT, "<think>\n"), BRACKETS, Marker("<TOOLCALL>[", "")),
        (MISTRAL, CallFormat("[TOOL_CALLS] [", ", ", "]"), Marker("[TOOL_CALLS] [", "")),
        (chatml(f"<SPECIAL_100>{LINES}"), CallFormat("<SPECIAL_100>", "\n", "\n"), Marker("<SPECIAL_100>", "", 5)),
        (
            chatml(f"Action: <SPECIAL_100>{{{{ ' ' }}}}{LINES}"),
            CallFormat("Action: <SPECIAL_100> ", "\n", "\n"),
            Marker("<SPECIAL_100>", " ", 5),
        ),
        (chatml(LINES), None, None),
        (chatml("{{ raise_exception('no calls') }}"), None, None),
    ],
)
def test_what_stands_around_calls(
    source: str, form: CallFormat | None, marker: Marker | None, reference: tm.Engine
) -> None:
    template = template_of(reference, source)
    frame = template.call_frame
    if form is None:
        assert frame is None or not frame[0].strip()
        return
    assert frame is not None
    assert CallFormat(*frame) == form
    assert marker_of(reference.tokenizer, form) == marker


def template_of(engine: tm.Engine, source: str) -> ChatTemplate:
    return ChatTemplate(source, engine.tokenizer.template.special)
