"""reference/routes: every route of the admin API, from the OpenAPI document it serves itself."""

from __future__ import annotations

from typing import Any

from docs.site.markdown import code, sentence, table
from proxy_engine.api.openapi import document

ABOUT = """\
# Routes of the API

Made of the same table as `/openapi.json`, by which the server works. What all routes have in
common: [The admin API](../api.md). Every problem has a `code`: [Errors](../errors.md). A page of a
list has `items`, and `next`: the `cursor` of the page behind it, or null.

Where nothing else is said, a route that wants a token can answer

"""


# Said once, on top.
COMMON = ("401", "403", "421", "429", "503")


def shown_type(schema: dict[str, Any]) -> str:
    """A schema in a few words; other schemas are links."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        if name.startswith("Page_"):
            name = name.removeprefix("Page_").rstrip("_")
            return f"page of [{name}](#{anchor(name)})"
        return f"[{name}](#{anchor(name)})"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return " or ".join(shown_type(each) for each in schema[key])
    if "const" in schema:
        return code(schema["const"])
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    kind = schema.get("type", "any")
    if kind == "array" and "prefixItems" in schema:
        return f"[{', '.join(map(shown_type, schema['prefixItems']))}]"
    if kind == "array":
        return f"list of {shown_type(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"object of {shown_type(schema['additionalProperties'])}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{kind}, {low} to {high}"
    if "maxLength" in schema:
        return f"{kind}, at most {schema['maxLength']} characters"
    return str(kind)


def anchor(name: str) -> str:
    """As Sphinx makes them of headings."""
    return name.lower()


def _operation(method: str, path: str, operation: dict[str, Any], common: dict[str, str]) -> str:
    """common: answers that need not be said again, by status."""
    parts = [f"### {method.upper()} {path}\n\n{sentence(operation['summary'])}"]
    if operation.get("description"):
        parts.append(operation["description"])
    scope = operation.get("x-scope")
    parts.append(f"Token: an admin's that may {scope}." if scope else "Token: none.")
    text = "\n\n".join(parts) + "\n\n"
    parameters = [
        (
            code(each["name"]),
            each["in"],
            shown_type(each["schema"]) + (", required" if each["required"] else ""),
            each.get("description", ""),
        )
        for each in operation.get("parameters", [])
    ]
    if parameters:
        text += table(("parameter", "in", "type", ""), parameters)
    body = operation.get("requestBody")
    if body:
        schema = body["content"]["application/json"]["schema"]
        text += f"Body: {shown_type(schema)}.\n\n"
    rows = []
    for status, answer in operation["responses"].items():
        if scope and answer["description"] == common.get(status):
            continue
        kinds = [
            shown_type(each["schema"]) if kind == "application/json" else code(kind)
            for kind, each in answer.get("content", {}).items()
        ]
        if "x-messages" in answer:
            kinds.append(f"messages: {shown_type(answer['x-messages'])}")
        rows.append((status, answer["description"], ", ".join(kinds)))
    return text + table(("status", "when", "answer"), rows)


def _schema(name: str, schema: dict[str, Any]) -> str:
    text = f"### {name}\n\n"
    if schema.get("description"):
        text += f"{sentence(schema['description'])}\n\n"
    required = schema.get("required", [])
    rows = [
        (
            code(key),
            shown_type(each) + ("" if key in required else ", optional"),
            each.get("description", ""),
        )
        for key, each in schema.get("properties", {}).items()
    ]
    return text + (table(("field", "type", ""), rows) if rows else "")


def page() -> str:
    found = document()
    answers = found["paths"]["/api/v1/stats"]["get"]["responses"]
    common = {status: answers[status]["description"] for status in COMMON}
    parts = [ABOUT, table(("status", "when"), common.items())]
    for tag in found["tags"]:
        parts.append(f"## {tag['name'].capitalize()}\n\n{tag.get('description', '')}\n\n")
        for path, operations in found["paths"].items():
            for method, operation in operations.items():
                if tag["name"] in operation["tags"]:
                    parts.append(_operation(method, path, operation, common))
    parts.append("## Schemas\n\n")
    for name, schema in sorted(found["components"]["schemas"].items()):
        if not name.startswith("Page_"):
            parts.append(_schema(name, schema))
    return "".join(parts)
