"""Schemas rewritten into keywords that a grammar can hold, only where both forms take exactly the same values.

Knows JSON Schema and jsonschema's reading of it, draft by draft. Does not know grammars: `rewritten` is a pure function
from document to document. Each rule returns the changed schema, or None where it has no proof that nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, count
from math import comb
from typing import Any, Final

from .disjoint import Parts, disjoint, parts_of, target_of
from .document import Document, OutOfSteps, below, mapped, steps
from .negate import all_of, any_of, negated

Json = Any
Rule = Callable[[dict[str, Json], Document, Parts], Json | None]
_CASES: Final = 32
"""Cases that one keyword may become."""
_SAME_PLACE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose subschemas look at the same value as the schema that they stand in."""
_HARD: Final = frozenset(
    ("oneOf", "not", "if", "uniqueItems", "contains", "dependentRequired", "dependentSchemas", "dependencies",
     "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems")
)  # fmt: skip


def rewritten(document: Json) -> Json:
    """`document` in plainer keywords; itself, where references use other names than JSON pointers."""
    if not isinstance(document, dict) or not _plain_addresses(document):
        return document
    try:
        whole = Document(_hoisted(document))
        made = _rewritten(whole.root, whole, [])
    except (OutOfSteps, RecursionError):
        return document
    kept = {key: document[key] for key in ("$schema", "$id", "id") if key in document}
    return {**kept, **(made if isinstance(made, dict) else {} if made else {"enum": []})}


def _rewritten(schema: Json, document: Document, context: Parts) -> Json:
    """`schema` after its subschemas. `context`: what is known to hold for the same value."""
    if not isinstance(schema, dict):
        return schema
    document.spend()
    made = schema
    for key in schema:
        # What stands beside it in its present form: two parts must not each be rewritten on the other's old form.
        around = [*context, *parts_of(_without(made, key), document)] if key in _SAME_PLACE else []
        part = {key: schema[key]}
        changed = mapped(part, lambda child, around=around: _rewritten(child, document, around))  # type: ignore[misc]
        made = made if changed[key] is schema[key] else {**made, key: changed[key]}
    for rule in RULES:
        if "$ref" in made and document.reference_rules_alone and rule is not plain_reference:
            break
        found = rule(made, document, context)
        if found is None:
            continue
        if not isinstance(found, dict):
            return found
        made = found
    return made


def plain_reference(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """Drafts up to 7 ignore what stands beside `$ref`, so it can go; definitions stay where they are."""
    if "$ref" not in schema or not document.reference_rules_alone:
        return None
    kept = {key: schema[key] for key in ("$ref", "$defs", "definitions") if key in schema}
    return kept if len(kept) < len(schema) else None


def listed_values(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """Every value that fits is one of `enum`, so those of them that jsonschema takes are all that fit."""
    if not _HARD & set(schema) or not ("enum" in schema or ("const" in schema and "const" in document.known)):
        return None
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    left = [value for value in values if document.fits(value, schema)]
    return {**_named(schema), "enum": left} if left else False


def one_of(schema: dict[str, Json], document: Document, context: Parts) -> Json | None:
    """Exactly one of A, B, ... is A without the others, or B without the others, ...; disjoint ones need no "without".

    This holds for every value; what must be expressible is each "without", by `negated`.
    """
    if "oneOf" not in schema or "oneOf" not in document.known:
        return None
    rest, branches = _without(schema, "oneOf"), schema["oneOf"]
    around, cases = all_of([*context, rest]), list[Json]()
    for at, branch in enumerate(branches):
        held = {"allOf": [around, branch]}
        others = [other for i, other in enumerate(branches) if i != at and not disjoint(held, other, document)]
        known = parts_of(held, document)
        without = [negated(other, document, known) for other in others]
        if None in without:
            return None
        cases.append(all_of([branch, *without]))
    return _with(rest, any_of(cases))


def opposite(schema: dict[str, Json], document: Document, context: Parts) -> Json | None:
    """`not` as the positive schema that takes the rest, among values that fit what stands beside it."""
    if "not" not in schema:
        return None
    rest = _without(schema, "not")
    found = negated(schema["not"], document, [*context, *parts_of(rest, document)])
    return None if found is None else _with(rest, found)


def condition(schema: dict[str, Json], document: Document, context: Parts) -> Json | None:
    """`if` A `then` B `else` C is: A and B, or not A and C. Without `if` the other two hold nothing."""
    if not {"if", "then", "else"} & set(schema) or "if" not in document.known:
        return None
    rest = _without(schema, "if", "then", "else")
    if "if" not in schema:
        return rest
    asked, then, otherwise = schema["if"], schema.get("then", True), schema.get("else", True)
    if then in (True, {}) and otherwise in (True, {}):
        return rest
    refused = negated(asked, document, [*context, *parts_of(rest, document)])
    if refused is None:
        return None
    return _with(rest, any_of([all_of([asked, then]), all_of([refused, otherwise])]))


def dependencies(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """What a property brings with it: it is absent, or it is there and so is the rest. Other types do not care."""
    keys = [key for key in ("dependencies", "dependentRequired", "dependentSchemas") if key in schema]
    if not keys or not document.known.issuperset(keys):
        return None
    made, required = _without(schema, *keys), schema.get("required", ())
    for name, needed in ((name, needed) for key in keys for name, needed in schema[key].items()):
        follows = {"required": needed} if isinstance(needed, list) else needed
        if follows in (True, {}, {"required": []}):
            continue
        absent: Json = {"properties": {name: False}}
        # Of objects the property is required, and other types have no properties to ask for.
        vacuous = isinstance(needed, list) and name in required
        found = follows if vacuous else any_of([absent, all_of([{"required": [name]}, follows])])
        made = _with(made, found)
    return made


def property_counts(schema: dict[str, Json], _: Document, __: Parts) -> Json | None:
    """Counts that always hold go; in an object without open keys, at least n means: some n of them are there."""
    made, least, most = schema, schema.get("minProperties"), schema.get("maxProperties")
    names, required = list(schema.get("properties", ())), list(dict.fromkeys(schema.get("required", ())))
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    free = [name for name in names if name not in required]
    if least is not None and least <= len(required):
        made = _without(made, "minProperties")
    elif least is not None and closed and comb(len(free), min(need := int(least) - len(required), len(free))) <= _CASES:
        cases: list[Json] = [{"required": list(chosen)} for chosen in combinations(free, need)]
        made = _with(_without(made, "minProperties"), any_of(cases or [_NO_OBJECT]))
    if most is not None and closed and most >= len(names):
        made = _without(made, "maxProperties")
    elif (
        most is not None
        and closed
        and set(required) <= set(names)
        and comb(len(free), extra := _over(names, most)) <= _CASES
    ):
        cases = [{"properties": dict.fromkeys(gone, False)} for gone in combinations(free, extra)]
        made = _with(_without(made, "maxProperties"), any_of(cases or [_NO_OBJECT]))
    return None if made is schema else made


_NO_OBJECT: Final = {"type": ["null", "boolean", "array", "string", "number"]}


def _over(names: list[str], most: float) -> int:
    return len(names) - int(most)


def unique_trivially(schema: dict[str, Json], _: Document, __: Parts) -> Json | None:
    """`uniqueItems` is false, or there is room for one item at most."""
    if "uniqueItems" not in schema:
        return None
    return _without(schema, "uniqueItems") if not schema["uniqueItems"] or schema.get("maxItems", 2) <= 1 else None


def property_names(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """`propertyNames` with a list: these names and no others. With a pattern alone: names of that pattern only."""
    rule = schema.get("propertyNames")
    rule = target_of(rule, document) if isinstance(rule, dict) and set(rule) == {"$ref"} else rule
    if not isinstance(rule, dict) or "propertyNames" not in document.known or "patternProperties" in schema:
        return None
    rest, listed = _without(schema, "propertyNames"), schema.get("properties", {})
    if (names := rule.get("enum")) is not None:
        other = schema.get("additionalProperties", True)
        allowed = [name for name in names if isinstance(name, str) and document.fits(name, rule)]
        kept = {name: held if name in allowed else False for name, held in listed.items()}
        added = {name: other for name in allowed if name not in listed}
        return {**rest, "properties": {**kept, **added}, "additionalProperties": False}
    if set(rule) - {"type"} != {"pattern"} or schema.get("additionalProperties", True) not in (True, {}):
        return None
    if rule.get("type", "string") != "string":
        return None
    kept = {name: held if document.matches(rule["pattern"], name) else False for name, held in listed.items()}
    return {**rest, **({"properties": kept} if kept else {}), "patternProperties": {rule["pattern"]: {}},
            "additionalProperties": False}  # fmt: skip


RULES: Final[tuple[Rule, ...]] = (
    plain_reference, listed_values, condition, opposite, one_of, dependencies, property_counts, unique_trivially,
    property_names,
)  # fmt: skip


def _without(schema: dict[str, Json], *keys: str) -> dict[str, Json]:
    return {key: value for key, value in schema.items() if key not in keys}


def _named(schema: dict[str, Json]) -> dict[str, Json]:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _with(schema: dict[str, Json], more: Json) -> Json:
    """`schema` and `more` at once."""
    if more is True:
        return schema
    if more is False:
        return {**_named(schema), "enum": []} if _named(schema) else False
    if set(more) == {"anyOf"} and "anyOf" not in schema:
        return {**schema, **more}
    return {**schema, "allOf": [*schema.get("allOf", ()), more]}


def _plain_addresses(document: dict[str, Json]) -> bool:
    """Whether references are local pointers, and no part that has references has a base address of its own."""
    stack: list[tuple[Json, bool, bool]] = [(document, True, False)]
    while stack:
        schema, top, based = stack.pop()
        based = based or (not top and any(_address(schema.get(key)) for key in ("$id", "id")))
        target = schema.get("$ref", "#")
        if schema.get("$schema", document.get("$schema")) != document.get("$schema"):
            return False  # jsonschema reads such a part under a draft of its own
        if "$dynamicRef" in schema or "$recursiveRef" in schema or not (target + "/").startswith("#/"):
            return False
        if based and "$ref" in schema:
            return False
        stack.extend((child, False, based) for _, child in below(schema) if isinstance(child, dict))
    return True


def _address(name: Json) -> bool:
    return isinstance(name, str) and not name.startswith("#")


def _hoisted(document: dict[str, Json]) -> dict[str, Json]:
    """`document` with what references point at under `$defs`, where no rule changes its address."""
    whole, moved, names = Document(document), dict[str, Json](), dict[str, str]()
    taken = document.get("$defs", {})

    def repointed(schema: Json) -> Json:
        if not isinstance(schema, dict):
            return schema
        made = {key: value for key, value in mapped(schema, repointed).items() if not _nameplate(key, value)}
        target = made.get("$ref")
        if not isinstance(target, str) or not _inside(target):
            return made
        if target not in names:
            try:
                part = whole.at(target)
            except (LookupError, TypeError, ValueError):
                return made
            whole.spend()
            names[target] = next(name for n in count(len(names)) if (name := f"place-{n}") not in taken)
            moved[names[target]] = repointed(part)
        return {**made, "$ref": f"#/$defs/{names[target]}"}

    made: dict[str, Json] = repointed(document)
    made = {**{key: document[key] for key in ("$schema",) if key in document}, **made}
    return {**made, "$defs": {**made.get("$defs", {}), **moved}} if moved else made


def _nameplate(key: str, value: Json) -> bool:
    """A name that no reference uses, or the draft once more; copies of a part must not all carry it."""
    return key in _NAMEPLATES and isinstance(value, str | bool)


_NAMEPLATES: Final = frozenset(("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"))


def _inside(reference: str) -> bool:
    """Whether a local reference leads somewhere that rules may change."""
    try:
        path = steps(reference)
    except LookupError:
        return False
    return bool(path) and not (len(path) == 2 and path[0] in ("$defs", "definitions"))
