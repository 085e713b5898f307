"""LangChain's standard tests on `ChatOpenAI` at the server: run by pytest in LangChain's environment."""

from __future__ import annotations

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests


class TestServed(ChatModelIntegrationTests):
    """What is declared false here is skipped by the suite, and is in the table with its reason."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": os.environ["SERVED_MODEL"],
            "base_url": f"{os.environ['SERVED_URL']}/v1",
            "api_key": "none",
            "temperature": 0,
            "max_retries": 0,
            "max_tokens": 120,
            "stream_usage": True,
        }

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_image_inputs(self) -> bool:
        return False
