"""Conversations: messages in OpenAI's format, what a chat template can show of them, and trimming to the context.

Knows messages, the tokenizer's chat template and token ids. Does not know calls, schemas or sessions. Start with
`messages.py`, then `chat.py`.
"""

from __future__ import annotations

from .chat import Conversation, Message, check_shown, conversation_of, marker_note
from .messages import checked_ids, checked_messages, checked_text, plain_text
from .trim import TRIMS, Trim, trimmed

__all__ = [
    "TRIMS", "Conversation", "Message", "Trim", "check_shown", "checked_ids", "checked_messages", "checked_text",
    "conversation_of", "marker_note", "plain_text", "trimmed",
]  # fmt: skip
