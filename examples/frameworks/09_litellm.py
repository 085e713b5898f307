"""litellm's `completion` on an engine in this process, with a tool and in pieces, as other code calls any provider."""

from __future__ import annotations

import litellm

import trimode as tm
from trimode.integrations.frameworks.litellm import register

CITY = {"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"]}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {**CITY, "additionalProperties": False}}}


def main() -> None:
    engine = tm.Engine.load()
    register(engine, temperature=0, max_tokens=40)
    asked = [{"role": "user", "content": "What is the weather in Rome?"}]
    with tm.session(engine, trace="file:audit.jsonl"), tm.using(step="weather", mode="quadratic_spec"):
        found = litellm.completion("trimode/bundled", asked, tools=[WEATHER], tool_choice="required")
        stream = litellm.completion("trimode/bundled", asked, stream=True)
        print("".join(chunk.choices[0].delta.content or "" for chunk in stream))
    message = found.choices[0].message
    print(message.tool_calls[0].function.arguments, message.provider_specific_fields["trimode"]["modes"])


if __name__ == "__main__":
    main()
