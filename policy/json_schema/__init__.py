"""JSON Schema documents: which are accepted, and the plainer, equivalent forms that a grammar engine gets.

Knows the drafts of JSON Schema, references, patterns, numbers, and the validator of finished values. Does not
know Python types, tools, tokens or grammar engines. Start with `admission.py`, then `normal_form.py`.
"""

from __future__ import annotations

from .. import lazy_iri as lazy_iri  # before anything imports jsonschema
from .admission import check_document, check_json
from .common_form import CommonForm, moved_form, to_common_form
from .document import ANNOTATIONS, STRUCTURE, VALIDATED, Where, below, draft_of, every_schema, heaviest, mapped, pointer
from .normal_form import FORMATS, Formats, NormalForm, formats_of, normalized
from .number_ranges import step_of
from .open_parts import may_overflow, may_repeat
from .pattern_samples import names_of, samples, samples_of
from .references import References
from .refusals import too_complex
from .regex_dialect import is_slow, misread, narrowed
from .rewrite import rewritten
from .serialize import canonical, texts_of
from .shortest_text import shortest
from .tighten import tightened
from .validator import validator_of, violation

__all__ = [
    "ANNOTATIONS", "FORMATS", "STRUCTURE", "VALIDATED", "CommonForm", "Formats", "NormalForm", "References", "Where",
    "below", "canonical", "check_document", "check_json", "draft_of", "every_schema", "formats_of", "heaviest",
    "is_slow", "mapped", "may_overflow", "may_repeat", "misread", "moved_form", "names_of", "narrowed", "normalized",
    "pointer", "rewritten", "samples", "samples_of", "shortest", "step_of", "texts_of", "tightened", "to_common_form",
    "too_complex", "validator_of", "violation",
]  # fmt: skip
