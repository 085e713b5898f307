"""What can go wrong below the policy layer, one class a cause.

    TrimodeError
    ├── CheckpointError      a model directory that cannot be loaded: what was expected, what was found
    └── RequestError         a call that cannot be served as asked: what was given, what is allowed
        ├── ModeUnavailable  a mode that the model's weights were not trained for
        └── PromptTooLong    prompt and budget do not fit the context

Every message says what was given, what is allowed and what to do; `RequestError` is also a `ValueError`.
"""

from __future__ import annotations

from collections.abc import Sequence


class TrimodeError(Exception):
    """Base of every error that trimode raises on purpose."""


class CheckpointError(TrimodeError):
    """The directory is not a checkpoint that this engine can run."""


class RequestError(TrimodeError, ValueError):
    """The request cannot be served as asked."""


class ModeUnavailable(RequestError):
    """The model was not trained for the mode. Also where a policy's table chose it: no other mode is taken instead."""

    def __init__(self, mode: str, architecture: str, modes: Sequence[str]) -> None:
        super().__init__(
            f"mode={mode!r} was chosen, by the call or by a policy's table, but {architecture} weights decode in "
            f"{', '.join(modes)} only; pass mode={modes[0]!r}, or set it for the step or its kind in trimode.toml"
        )
        self.mode, self.architecture, self.modes = mode, architecture, tuple(modes)


class PromptTooLong(RequestError):
    """Prompt, budget and context length do not fit together."""

    def __init__(self, prompt: int, budget: int, context: int) -> None:
        super().__init__(
            f"prompt of {prompt} tokens + max_tokens={budget} exceeds the context of {context} tokens; "
            f"shorten the prompt or ask for at most {max(context - prompt, 0)} tokens"
        )
        self.prompt, self.budget, self.context = prompt, budget, context
