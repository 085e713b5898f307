"""What can go wrong below the policy layer, one class a cause.

    TrimodeError
    ├── CheckpointError      a model directory that cannot be loaded: what was expected, what was found
    └── RequestError         a call that cannot be served as asked: what was given, what is allowed
        └── PromptTooLong    prompt and budget do not fit the context

Every message says what was given, what is allowed and what to do; `RequestError` is also a `ValueError`.
"""

from __future__ import annotations


class TrimodeError(Exception):
    """Base of every error that trimode raises on purpose."""


class CheckpointError(TrimodeError):
    """The directory is not a checkpoint that this engine can run."""


class RequestError(TrimodeError, ValueError):
    """The request cannot be served as asked."""


class PromptTooLong(RequestError):
    """Prompt, budget and context length do not fit together."""

    def __init__(self, prompt: int, budget: int, context: int) -> None:
        super().__init__(
            f"prompt of {prompt} tokens + max_tokens={budget} exceeds the context of {context} tokens; "
            f"shorten the prompt or ask for at most {max(context - prompt, 0)} tokens"
        )
        self.prompt, self.budget, self.context = prompt, budget, context
