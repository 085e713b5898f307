"""The endpoints of decisions with the clients that others use: openai, pydantic-ai's System One, jevbench.

`make test-server` installs them in an environment of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from importlib import import_module
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from trimode.integrations.server.process import in_thread
from trimode.integrations.server.settings import ServerSettings
from trimode.policy.calls.engine import Engine

pytestmark = pytest.mark.clients
INPUT = "It is ten to midnight, and the user wants to know what 2 + 2 is."


@pytest.fixture(scope="module")
def url(reference: Engine) -> Iterator[str]:
    """A server on loopback."""
    with in_thread(reference, ServerSettings(name="trimode")) as base:
        yield base


def test_openai(url: str) -> None:
    openai = pytest.importorskip("openai")
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        found = client.decisions.create(
            model="trimode",
            input=INPUT,
            questions=[
                {"type": "predicate", "instructions": "Is it late?", "name": "late"},
                {"type": "choice", "instructions": "Which tool?", "choices": [{"value": "sum"}, {"value": False}]},
                {"type": "score", "instructions": "How urgent?", "levels": [{"label": "low"}, {"label": "high"}]},
            ],
        )
        late, tool, urgency = found.answers
        assert type(late).__name__.endswith("Predicate")
        assert type(tool).__name__.endswith("Choice")
        assert type(urgency).__name__.endswith("Score")
        assert tool.choice in ("sum", False)
        assert found.usage.total_tokens == found.usage.input_tokens
        with pytest.raises(openai.BadRequestError) as refused:
            client.decisions.create(model="trimode", input=INPUT, questions=[], extra_body={"temperature": 1})
    assert refused.value.param == "temperature"


def test_openai_asynchronously_with_400_questions(url: str) -> None:
    openai = pytest.importorskip("openai")

    async def ask() -> Any:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            questions = [{"type": "predicate", "instructions": f"Is {number} named?"} for number in range(400)]
            return await client.decisions.create(model="trimode", input=INPUT, questions=questions)

    found = asyncio.run(ask())
    assert len(found.answers) == 400
    assert all(0 <= answer.probability <= 1 for answer in found.answers)


class Handling(BaseModel):
    late: bool = Field(description="Is it late?")
    tool: Literal["search", "calculator"] = Field(description="Which tool fits?")


def test_pydantic_ai(url: str) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent
    from pydantic_ai.models.system_one import SystemOneModel
    from pydantic_ai.providers.system_one import SystemOneProvider

    async def ask() -> Any:
        """Closes the connections itself, because the provider leaves those of its own to the garbage collector."""
        async with import_module("httpx2").AsyncClient() as client:
            model = SystemOneModel("trimode", provider=SystemOneProvider(base_url=url, http_client=client))
            return (await Agent(model, output_type=Handling).run(INPUT)).output

    assert isinstance(asyncio.run(ask()), Handling)


def test_jevbench(url: str) -> None:
    """The endpoint answers in its format; what the score is depends on the weights (docs/decisions.md)."""
    jevbench = pytest.importorskip("jevbench")
    model = jevbench.systemone(f"{url}/v1/systemone", model="trimode")
    with model.client:
        assert sum(jevbench.check(model)["questions"].values()) >= 3
        report = jevbench.evaluate(model, suite="examples", cache=None)
    assert report.scores
