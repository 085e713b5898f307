"""Decoding settings by node: a middleware of LangChain's agents for `ChatTrimode`.

Knows requests of agents and the names of their nodes. Does not know models: settings are bound to whatever model the
agent has.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .core.extras import missing

try:
    from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
    from langgraph.config import get_config
except ImportError as _absent:
    raise missing("langgraph", _absent) from _absent

from .langchain_messages import node_of


class DecodeByNode(AgentMiddleware[Any, Any, Any]):
    """Sets how the model decodes, by the name of the agent or of the graph's node around it.

    `nodes`: keyword arguments of `trimode.using`, `step` and `kind` by name, such as {"planner": {"mode": "ar"}};
    `default`: those of every other node.
    """

    def __init__(self, nodes: Mapping[str, Mapping[str, Any]], default: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.nodes, self.default = nodes, default or {}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Calls the model with the node's settings."""
        return handler(self._changed(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Calls the model with the node's settings, for tasks."""
        return await handler(self._changed(request))

    def _changed(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        node = node_of(get_config().get("metadata") or {})
        settings = {**request.model_settings, **self.nodes.get(node, self.default)}
        return request.override(model_settings=settings)
