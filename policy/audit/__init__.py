"""One call as data, and the audit files that keep it.

Knows records, the hash chain and the rules about content. Does not know spans or engines, and imports no torch. Start
with `record.py`, then `trail.py`.
"""

from __future__ import annotations

from .consistency import Problem
from .content import LIMIT, SWITCH, captures, clipped, newest
from .decisions import AskedQuestion, asked_questions, is_decision
from .diff import CallDiff, diff_trails
from .host import HostRun, ServedBy
from .merge import Merged, merged, write_merged
from .new_record import CallFacts, RemoteCall, record_call, record_remote_call
from .origins import (
    COLOURS,
    EMPTY,
    ORIGINS,
    Piece,
    RejectedDrafts,
    has_token_text,
    pieces,
    plain,
    provenance_codes,
    rejected,
)
from .package_versions import versions
from .process_trails import add_audit_file, audit_files
from .record import CallRecord, Counts, PolicyUsed, Runtime, SamplingUsed, StepKind
from .redaction import Redact, redacted_by, redacted_host, redacted_text
from .remote_record import AttemptMade, RemoteUsed, Reported, answer_digest, request_digest
from .round_record import PieceOf, RoundRecord, TextOf, record_round
from .statistics import acceptance, qualities, speeds
from .trail import AuditFile, AuditLine, Head, head, read_audit, records, verify
from .trail_files import number_of

__all__ = [
    "COLOURS",
    "EMPTY",
    "LIMIT",
    "ORIGINS",
    "SWITCH",
    "AskedQuestion",
    "AttemptMade",
    "AuditFile",
    "AuditLine",
    "CallDiff",
    "CallFacts",
    "CallRecord",
    "Counts",
    "Head",
    "HostRun",
    "Merged",
    "Piece",
    "PieceOf",
    "PolicyUsed",
    "Problem",
    "Redact",
    "RejectedDrafts",
    "RemoteCall",
    "RemoteUsed",
    "Reported",
    "RoundRecord",
    "Runtime",
    "SamplingUsed",
    "ServedBy",
    "StepKind",
    "TextOf",
    "acceptance",
    "add_audit_file",
    "answer_digest",
    "asked_questions",
    "audit_files",
    "captures",
    "clipped",
    "diff_trails",
    "has_token_text",
    "head",
    "is_decision",
    "merged",
    "newest",
    "number_of",
    "pieces",
    "plain",
    "provenance_codes",
    "qualities",
    "read_audit",
    "record_call",
    "record_remote_call",
    "record_round",
    "records",
    "redacted_by",
    "redacted_host",
    "redacted_text",
    "rejected",
    "request_digest",
    "speeds",
    "verify",
    "versions",
    "write_merged",
]  # fmt: skip
