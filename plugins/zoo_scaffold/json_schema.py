"""The JSON Schema of recipe files, with all installed components, so that editors complete and check recipes."""

from __future__ import annotations

from typing import Any

from pydantic import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaWarningKind

from zoo import KINDS, Recipe, ZooError, optimizers, read_signature, registry, schedulers

DIALECT = "https://json-schema.org/draft/2020-12/schema"
Schema = dict[str, Any]


def recipe_file_schema(distribution: str | None = None) -> Schema:
    """Build the schema of a file such as ``registry.yaml``.

    Args:
        distribution: include only components of this distribution.
    """
    names = {kind: _names(kind, distribution) for kind in KINDS}
    names |= {"optimizer": _identity(sorted(optimizers())), "scheduler": _identity(sorted(schedulers()))}
    recipe = Recipe.model_json_schema(ref_template="#/$defs/{model}")
    definitions = recipe.pop("$defs")
    definitions.pop("ComponentSpec")
    definitions |= {kind: _component(kind, of) for kind, of in names.items()}
    properties: Schema = {"extends": {"type": "string", "description": "The recipe that this one starts from."}}
    properties |= {key: value for key, value in recipe["properties"].items() if key != "name"}
    for kind in ("encoder", "decoder", "prior", "loss"):
        properties[kind] = _reference(kind)
    properties["data"] = {"anyOf": [_reference("dataset"), {"type": "array", "items": _reference("dataset")}]}
    training = definitions["TrainConfig"]["properties"]
    training["optimizer"] = _reference("optimizer")
    training["scheduler"] = {"anyOf": [_reference("scheduler"), {"type": "null"}]}
    definitions["Model"] = {"type": "object", "properties": properties, "additionalProperties": False}
    return {
        "$schema": DIALECT,
        "title": "Recipes of the VAE zoo",
        "type": "object",
        "properties": {"models": {"type": "object", "additionalProperties": _reference("Model")}},
        "required": ["models"],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _names(kind: str, distribution: str | None) -> dict[str, str]:
    """Map the names that recipes write to names in the registry. Recipes of one distribution use short names."""
    names = registry().names(kind)
    if distribution is None:
        return _identity(names.matching())
    return {claim.name: claim.qualified for claim in names if claim.plugin.distribution == distribution}


def _identity(names: list[str]) -> dict[str, str]:
    return {name: name for name in names}


def _component(kind: str, names: dict[str, str]) -> Schema:
    """A name, or a mapping. One without ``use`` changes parameters of the inherited component."""
    inherited: Schema = {"type": "object", "not": {"required": ["use"]}}
    return {"anyOf": [{"enum": list(names)}, *(_block(kind, *pair) for pair in names.items()), inherited]}


def _block(kind: str, written: str, name: str) -> Schema:
    use: Schema = {"const": written}
    try:
        signature = read_signature(kind, name)
        schema = signature.parameters.model_json_schema(schema_generator=_Lenient)
    except (ZooError, PydanticUserError):  # its parameters are unknown, for example because an extra is missing
        return {"type": "object", "properties": {"use": use}, "required": ["use"]}
    properties = {"use": use, **schema.get("properties", {})}
    properties |= {parameter: _reference(inner) for parameter, inner in signature.nested.items()}
    return {"type": "object", "properties": properties, "required": ["use"], "additionalProperties": False}


class _Lenient(GenerateJsonSchema):
    """Accept any value where JSON Schema has no type, such as for a function passed to an optimizer."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}
