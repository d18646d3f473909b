"""JSON Schema of a suite file, for editors: made of the declarations that check the file when it is run."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

from annotated_types import Ge, GroupedMetadata, Gt, Le, Lt
from pydantic.config import JsonDict, JsonValue

from bench.config.evaluation_config import EntryTable
from bench.config.recipe_table import recipe_fields
from bench.config.setting import Setting, settable
from bench.config.suite_data import DataTable
from bench.config.suite_file import SuiteFile, Threat
from bench.core import registry
from bench.core.arguments import FRACTION
from bench.core.recipe import Recipe
from bench.core.records import Defense, Registered

DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_TYPES: Final[dict[type, str]] = {float: "number", int: "integer", bool: "boolean", str: "string"}
_FRACTION: Final[JsonDict] = {"type": "string", "pattern": f"^{FRACTION.pattern}$"}  # "8/255"
_BOUNDS: Final = (
    (Ge, "ge", "minimum"),
    (Gt, "gt", "exclusiveMinimum"),
    (Le, "le", "maximum"),
    (Lt, "lt", "exclusiveMaximum"),
)


def suite_schema() -> JsonDict:
    """Return the JSON Schema of a suite file, with every registered defense and evaluation and what each takes."""
    schema: JsonDict = SuiteFile.model_json_schema()
    properties = _object(schema["properties"])
    tables = {"RecipeTable": Recipe, "": SuiteFile, "DataTable": DataTable, "Threat": Threat}
    for name, described in tables.items():
        _say_what_keys_mean(_object(_object(schema["$defs"])[name]) if name else schema, described)
    for name in ("seeds", "evaluations", "defenses"):
        properties[name] = {"description": _object(properties[name]).get("description", "")}
    _object(properties["seeds"]).update(
        type="array", minItems=1, uniqueItems=True, items={"type": "integer", "minimum": 0}
    )
    _object(properties["defenses"]).update(type="array", minItems=1, uniqueItems=True, items=_defense())
    _object(properties["evaluations"]).update(_evaluations(_object(schema["$defs"])))
    for part in (properties, _object(_object(_object(schema["$defs"])["Threat"])["properties"])):
        key = "primary_eps" if part is properties else "eps"
        said = {"description": about} if (about := _object(part[key]).get("description")) else {}
        part[key] = {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, _FRACTION], **said}
    return {"$schema": DIALECT, "$id": "bench-suite.schema.json", **schema, "title": "A suite of bench"}


def _object(value: JsonValue) -> JsonDict:
    """Return a part of a schema that is an object."""
    assert isinstance(value, dict)
    return value


def _say_what_keys_mean(table: JsonDict, described: type) -> None:
    """Say at each key what the docstring of a class says of the attribute: editors show it there."""
    keys = _object(table["properties"])
    for name, text in _attributes(described).items():
        if name in keys:
            keys[name] = {**_object(keys[name]), "description": text}
    table["description"] = str(table["description"]).partition("\n")[0]


def _attributes(described: type) -> dict[str, str]:
    """Return attribute to its description, from the section `Attributes:` of a class's docstring."""
    found: dict[str, str] = {}
    name = ""
    for line in (inspect.getdoc(described) or "").partition("Attributes:\n")[2].splitlines():
        if line.startswith(" " * 5):  # goes on with the line before
            found[name] += f" {line.strip()}"
        elif line.strip():
            name, _, found[name] = (part.strip() for part in line.partition(":"))
    return found


def _defense() -> JsonDict:
    """Return the schema of a defense spec: a name, or a name with settings."""
    names: list[JsonValue] = [entry.name for entry in registry.defenses]
    specs = [f"^{entry.name}:({_keys(entry)})=[^,=]+(,({_keys(entry)})=[^,=]+)*$" for entry in registry.defenses]
    allowed: list[JsonValue] = [{"enum": names}]
    allowed.extend({"pattern": pattern} for pattern in specs)
    return {
        "type": "string",
        "anyOf": allowed,
        "examples": [*names, "lcnn:lambda_beta=0.01"],
    }


def _keys(entry: Defense) -> str:
    return "|".join([*settable(entry), *recipe_fields(), "backbone"])


def _evaluations(definitions: JsonDict) -> JsonDict:
    """Return the schema of `[evaluations]`: a table of an evaluation's name, or of any name with `evaluation = …`.

    Args:
        definitions: gains one per evaluation, and one of a table that names its evaluation.
    """
    entries = list(registry.evaluations)
    for entry in entries:
        definitions[f"{entry.name}.evaluation"] = _evaluation(entry)
    own = {entry.name: _ref(f"{entry.name}.evaluation") for entry in entries}
    chosen: list[JsonValue] = [
        {"if": {"properties": {"evaluation": {"const": name}}, "required": ["evaluation"]}, "then": table}
        for name, table in own.items()
    ]
    names: list[JsonValue] = list(own)
    definitions["named.evaluation"] = {
        "type": "object",
        "properties": {"evaluation": {"enum": names}},
        "required": ["evaluation"],
        "allOf": chosen,
    }
    named = _ref("named.evaluation")
    return {
        "type": "object",
        "minProperties": 1,
        "properties": {
            name: {"if": {"required": ["evaluation"]}, "then": named, "else": table} for name, table in own.items()
        },
        "additionalProperties": named,
    }


def _ref(definition: str) -> JsonDict:
    return {"$ref": f"#/$defs/{definition}"}


def _evaluation(entry: Registered) -> JsonDict:
    """Return the schema of one evaluation's table."""
    table = EntryTable.model_json_schema()
    _say_what_keys_mean(table, EntryTable)
    head = _object(table["properties"])
    own = {name: _setting(setting) for name, setting in settable(entry).items()}
    defaults = entry.hyperparameters
    required: list[JsonValue] = [name for name, value in defaults.items() if value is ...]
    return {
        "type": "object",
        "description": entry.description.partition("\n")[0],
        "properties": {**head, **own},
        "additionalProperties": False,
        "required": required,
    }


def _setting(setting: Setting) -> JsonDict:
    """Return the schema of an argument's value; a list of one may be written as that one."""
    one = dict(_one(setting))
    if not setting.many:
        return one
    return {"anyOf": [{"type": "array", "minItems": 1, "items": one}, one]}


def _one(setting: Setting) -> Iterator[tuple[str, JsonValue]]:
    """Yield the keywords of the schema of a single value."""
    if setting.choices:
        yield "enum", list(setting.choices)  # type: ignore[arg-type]
        return
    bounds = dict(_bounds(setting.item))
    if setting.kind is float:
        number: JsonValue = {"type": "number", **bounds}
        yield "anyOf", [number, _FRACTION]
        return
    yield "type", _TYPES[setting.kind]
    yield from bounds.items()


def _bounds(item: object) -> Iterator[tuple[str, JsonValue]]:
    """Yield the ends of a range as keywords of a schema."""
    for mark in getattr(item, "__metadata__", ()):
        for bound in mark if isinstance(mark, GroupedMetadata) else (mark,):
            for kind, name, keyword in _BOUNDS:
                if isinstance(bound, kind):
                    yield keyword, getattr(bound, name)
