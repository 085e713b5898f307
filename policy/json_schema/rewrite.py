"""Rewrites of schemas into keywords that a grammar can enforce, only where the accepted values stay exactly the same.

Knows JSON Schema and jsonschema's reading of it, draft by draft. Does not know grammars: `rewritten` is a pure function
from document to document. Each rule returns the changed schema, or None where it cannot prove equivalence.
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
"""Rewrites a schema of a document in the context of what else holds for the value; None: no change."""
_CASES: Final = 32
"""Number of cases that one keyword may become."""
_SAME_PLACE: Final = ("allOf", "anyOf", "oneOf", "not", "if", "then", "else")
"""Keywords whose subschemas apply to the same value as the schema around them."""
_HARD: Final = frozenset(
    ("oneOf", "not", "if", "uniqueItems", "contains", "dependentRequired", "dependentSchemas", "dependencies",
     "propertyNames", "minProperties", "maxProperties", "unevaluatedProperties", "unevaluatedItems")
)  # fmt: skip
"""Keywords that llguidance refuses or restricts."""


def rewritten(document: Json) -> Json:
    """`document` in plainer keywords; unchanged where references use other names than JSON pointers."""
    if not isinstance(document, dict) or not _plain_addresses(document):
        return document
    try:
        whole = Document(_hoisted(document))
        result = _rewritten(whole.root, whole, [])
    except (OutOfSteps, RecursionError):
        return document
    kept = {key: document[key] for key in ("$schema", "$id", "id") if key in document}
    return {**kept, **(result if isinstance(result, dict) else {} if result else {"enum": []})}


def _rewritten(schema: Json, document: Document, context: Parts) -> Json:
    """`schema`, its subschemas rewritten first. `context`: schemas that the same value is known to fit."""
    if not isinstance(schema, dict):
        return schema
    document.spend()
    result = schema
    for key in schema:
        # The other keywords in their present form, because two parts must not both be rewritten given the old other.
        around = [*context, *parts_of(_without(result, key), document)] if key in _SAME_PLACE else []
        part = {key: schema[key]}
        changed = mapped(part, lambda child, around=around: _rewritten(child, document, around))  # type: ignore[misc]
        result = result if changed[key] is schema[key] else {**result, key: changed[key]}
    for rule in RULES:
        if "$ref" in result and document.reference_rules_alone and rule is not plain_reference:
            break
        found = rule(result, document, context)
        if found is None:
            continue
        if not isinstance(found, dict):
            return found
        result = found
    return result


def plain_reference(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """Removes keywords next to `$ref`, except definitions, because drafts up to 7 ignore them."""
    if "$ref" not in schema or not document.reference_rules_alone:
        return None
    kept = {key: schema[key] for key in ("$ref", "$defs", "definitions") if key in schema}
    return kept if len(kept) < len(schema) else None


def listed_values(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """Replaces a schema with `enum` or `const` by the list of those values that are valid."""
    if not _HARD & set(schema) or not ("enum" in schema or ("const" in schema and "const" in document.keywords)):
        return None
    values = schema["enum"] if "enum" in schema else [schema["const"]]
    left = [value for value in values if document.fits(value, schema)]
    return {**_definitions(schema), "enum": left} if left else False


def one_of(schema: dict[str, Json], document: Document, context: Parts) -> Json | None:
    """Rewrites `oneOf` as `anyOf`: A and none of the others, or B and none of the others, and so on.

    Cases that are disjoint need no negation of each other; other negations must be expressible by `negated`.
    """
    if "oneOf" not in schema or "oneOf" not in document.keywords:
        return None
    rest, branches = _without(schema, "oneOf"), schema["oneOf"]
    around, cases = all_of([*context, rest]), list[Json]()
    for at, branch in enumerate(branches):
        joint = {"allOf": [around, branch]}
        others = [other for i, other in enumerate(branches) if i != at and not disjoint(joint, other, document)]
        known = parts_of(joint, document)
        without = [negated(other, document, known) for other in others]
        if None in without:
            return None
        cases.append(all_of([branch, *without]))
    return _with(rest, any_of(cases))


def opposite(schema: dict[str, Json], document: Document, context: Parts) -> Json | None:
    """Rewrites `not` as a positive schema, for values that fit the other keywords."""
    if "not" not in schema:
        return None
    rest = _without(schema, "not")
    found = negated(schema["not"], document, [*context, *parts_of(rest, document)])
    return None if found is None else _with(rest, found)


def condition(schema: dict[str, Json], document: Document, context: Parts) -> Json | None:
    """Rewrites `if` A `then` B `else` C as: A and B, or not A and C. Without `if` the other two have no effect."""
    if not {"if", "then", "else"} & set(schema) or "if" not in document.keywords:
        return None
    rest = _without(schema, "if", "then", "else")
    if "if" not in schema:
        return rest
    test, then, otherwise = schema["if"], schema.get("then", True), schema.get("else", True)
    if then in (True, {}) and otherwise in (True, {}):
        return rest
    refused = negated(test, document, [*context, *parts_of(rest, document)])
    if refused is None:
        return None
    return _with(rest, any_of([all_of([test, then]), all_of([refused, otherwise])]))


def dependencies(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """Rewrites dependencies of a property: it is absent, or present together with what it requires."""
    keys = [key for key in ("dependencies", "dependentRequired", "dependentSchemas") if key in schema]
    if not keys or not document.keywords.issuperset(keys):
        return None
    result, required = _without(schema, *keys), schema.get("required", ())
    for name, needed in ((name, needed) for key in keys for name, needed in schema[key].items()):
        follows = {"required": needed} if isinstance(needed, list) else needed
        if follows in (True, {}, {"required": []}):
            continue
        absent: Json = {"properties": {name: False}}
        # The case of its absence never applies: objects have the property, and `required` ignores other types.
        vacuous = isinstance(needed, list) and name in required
        found = follows if vacuous else any_of([absent, all_of([{"required": [name]}, follows])])
        result = _with(result, found)
    return result


def property_counts(schema: dict[str, Json], _: Document, __: Parts) -> Json | None:
    """Removes counts that always hold; in an object with listed keys alone, lists the cases of a count."""
    result, least, most = schema, schema.get("minProperties"), schema.get("maxProperties")
    names, required = list(schema.get("properties", ())), list(dict.fromkeys(schema.get("required", ())))
    closed = schema.get("additionalProperties") is False and not schema.get("patternProperties")
    optional = [name for name in names if name not in required]
    if least is not None and least <= len(required):
        result = _without(result, "minProperties")
    elif least is not None and closed and _combinations(optional, missing := int(least) - len(required)) <= _CASES:
        cases: list[Json] = [{"required": list(chosen)} for chosen in combinations(optional, missing)]
        result = _with(_without(result, "minProperties"), any_of(cases or [_NO_OBJECT]))
    if most is not None and closed and most >= len(names):
        result = _without(result, "maxProperties")
    elif (
        most is not None
        and closed
        and set(required) <= set(names)
        and comb(len(optional), surplus := len(names) - int(most)) <= _CASES
    ):
        cases = [{"properties": dict.fromkeys(absent, False)} for absent in combinations(optional, surplus)]
        result = _with(_without(result, "maxProperties"), any_of(cases or [_NO_OBJECT]))
    return None if result is schema else result


_NO_OBJECT: Final = {"type": ["null", "boolean", "array", "string", "number"]}
"""A schema for every value but objects."""


def _combinations(names: list[str], count: int) -> int:
    return comb(len(names), min(count, len(names)))


def unique_trivially(schema: dict[str, Json], _: Document, __: Parts) -> Json | None:
    """Removes `uniqueItems` where it is false or the array has at most one item."""
    if "uniqueItems" not in schema:
        return None
    return _without(schema, "uniqueItems") if not schema["uniqueItems"] or schema.get("maxItems", 2) <= 1 else None


def property_names(schema: dict[str, Json], document: Document, _: Parts) -> Json | None:
    """Rewrites `propertyNames` with a list as `properties`, and with a pattern alone as `patternProperties`."""
    rule = schema.get("propertyNames")
    rule = target_of(rule, document) if isinstance(rule, dict) and set(rule) == {"$ref"} else rule
    if not isinstance(rule, dict) or "propertyNames" not in document.keywords or "patternProperties" in schema:
        return None
    rest, listed = _without(schema, "propertyNames"), schema.get("properties", {})
    if (names := rule.get("enum")) is not None:
        other = schema.get("additionalProperties", True)
        allowed = [name for name in names if isinstance(name, str) and document.fits(name, rule)]
        kept = {name: child if name in allowed else False for name, child in listed.items()}
        added = {name: other for name in allowed if name not in listed}
        return {**rest, "properties": {**kept, **added}, "additionalProperties": False}
    if set(rule) - {"type"} != {"pattern"} or schema.get("additionalProperties", True) not in (True, {}):
        return None
    if rule.get("type", "string") != "string":
        return None
    kept = {name: child if document.matches(rule["pattern"], name) else False for name, child in listed.items()}
    return {**rest, **({"properties": kept} if kept else {}), "patternProperties": {rule["pattern"]: {}},
            "additionalProperties": False}  # fmt: skip


RULES: Final[tuple[Rule, ...]] = (
    plain_reference, listed_values, condition, opposite, one_of, dependencies, property_counts, unique_trivially,
    property_names,
)  # fmt: skip


def _without(schema: dict[str, Json], *keys: str) -> dict[str, Json]:
    return {key: value for key, value in schema.items() if key not in keys}


def _definitions(schema: dict[str, Json]) -> dict[str, Json]:
    """The definitions of `schema`."""
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _with(schema: dict[str, Json], more: Json) -> Json:
    """The conjunction of `schema` and `more`."""
    if more is True:
        return schema
    if more is False:
        return {**_definitions(schema), "enum": []} if _definitions(schema) else False
    if set(more) == {"anyOf"} and "anyOf" not in schema:
        return {**schema, **more}
    return {**schema, "allOf": [*schema.get("allOf", ()), more]}


def _plain_addresses(document: dict[str, Json]) -> bool:
    """Whether all references are local pointers, from parts without a base address or draft of their own."""
    stack: list[tuple[Json, bool, bool]] = [(document, True, False)]
    while stack:
        schema, top, based = stack.pop()
        based = based or (not top and any(_is_address(schema.get(key)) for key in ("$id", "id")))
        target = schema.get("$ref", "#")
        if schema.get("$schema", document.get("$schema")) != document.get("$schema"):
            return False  # jsonschema reads such a part in another draft
        if "$dynamicRef" in schema or "$recursiveRef" in schema or not (target + "/").startswith("#/"):
            return False
        if based and "$ref" in schema:
            return False
        stack.extend((child, False, based) for _, child in below(schema) if isinstance(child, dict))
    return True


def _is_address(name: Json) -> bool:
    """Whether an `$id` is an address, not an anchor of old drafts."""
    return isinstance(name, str) and not name.startswith("#")


def _hoisted(document: dict[str, Json]) -> dict[str, Json]:
    """`document` with the targets of references under `$defs`, where no rule changes their address."""
    whole, moved, names = Document(document), dict[str, Json](), dict[str, str]()
    taken = document.get("$defs", {})

    def repointed(schema: Json) -> Json:
        if not isinstance(schema, dict):
            return schema
        result = {key: value for key, value in mapped(schema, repointed).items() if not _is_name(key, value)}
        target = result.get("$ref")
        if not isinstance(target, str) or not _is_movable(target):
            return result
        if target not in names:
            try:
                part = whole.at(target)
            except (LookupError, TypeError, ValueError):
                return result
            whole.spend()
            names[target] = next(name for n in count(len(names)) if (name := f"place-{n}") not in taken)
            moved[names[target]] = repointed(part)
        return {**result, "$ref": f"#/$defs/{names[target]}"}

    result: dict[str, Json] = repointed(document)
    result = {**{key: document[key] for key in ("$schema",) if key in document}, **result}
    return {**result, "$defs": {**result.get("$defs", {}), **moved}} if moved else result


def _is_name(key: str, value: Json) -> bool:
    """Whether a keyword is a name that no reference uses, or the draft; copies of a part must not repeat it."""
    return key in _NAMES and isinstance(value, str | bool)


_NAMES: Final = frozenset(("$schema", "$id", "id", "$anchor", "$dynamicAnchor", "$recursiveAnchor"))


def _is_movable(reference: str) -> bool:
    """Whether a local reference leads to a part that rules may change: not the root or a definition."""
    try:
        path = steps(reference)
    except LookupError:
        return False
    return bool(path) and not (len(path) == 2 and path[0] in ("$defs", "definitions"))
