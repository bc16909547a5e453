// The docs page: /openapi.json as a person reads it, with requests to try. Nothing comes from
// elsewhere. Text only ever becomes text nodes, and the token stays in its field.
"use strict";

const $ = (id) => document.getElementById(id);

// Descriptions are a line or two of Markdown: without its marks they read as well.
const prose = (text) => (text ?? "").replaceAll("`", "");

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(key, value);
  }
  element.append(...children.flat().filter((child) => child !== undefined));
  return element;
}

class Schemas {
  constructor(document) { this.all = document.components.schemas; }

  resolve(schema) {
    return schema.$ref ? this.all[schema.$ref.split("/").pop()] : schema;
  }

  // "integer 1…1000", "Device[]", "text or null"
  type(schema) {
    if (schema.$ref) return this.resolve(schema).title ?? schema.$ref.split("/").pop();
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
    if (schema.const !== undefined) return JSON.stringify(schema.const);
    const several = schema.anyOf ?? schema.oneOf;
    if (several) return several.map((one) => this.type(one)).join(" or ");
    if (schema.type === "array") return `${this.type(schema.items ?? {})}[]`;
    if (schema.type === "object" && schema.additionalProperties?.type)
      return `{name: ${this.type(schema.additionalProperties)}}`;
    const low = schema.minimum ?? schema.minLength, high = schema.maximum ?? schema.maxLength;
    const range = low !== undefined || high !== undefined ? ` ${low ?? ""}…${high ?? ""}` : "";
    return `${schema.type ?? "any"}${range}`;
  }

  // What a body may look like, to begin from.
  example(schema, depth = 0) {
    schema = this.resolve(schema);
    if (schema.default !== undefined) return schema.default;
    if (schema.const !== undefined) return schema.const;
    if (schema.enum) return schema.enum[0];
    const several = schema.anyOf ?? schema.oneOf;
    if (several) return this.example(several[0], depth);
    if (depth > 5) return null;
    if (schema.type === "array") return [];
    if (schema.type === "object") {
      const names = Object.keys(schema.properties ?? {});
      return Object.fromEntries(
        names.map((name) => [name, this.example(schema.properties[name], depth + 1)]));
    }
    return { string: "", integer: schema.minimum ?? 0, number: schema.minimum ?? 0, boolean: false }[schema.type] ?? null;
  }

  // A table of the fields of a struct; arrays and choices by what they hold.
  fields(schema) {
    const found = this.resolve(schema);
    const several = found.anyOf ?? found.oneOf;
    if (several) return several.flatMap((one) => this.fields(one));
    if (found.type === "array") return this.fields(found.items ?? {});
    const rows = Object.entries(found.properties ?? {}).map(([name, field]) =>
      make("tr", {}, make("td", {}, make("code", {}, name)), make("td", {}, this.type(field)),
        make("td", {}, prose(field.description ?? this.resolve(field).description))));
    if (!rows.length) return [];
    const inner = items_of(found);
    return [
      make("h3", {}, found.title ?? "Fields"),
      make("p", { class: "soft" }, prose(found.description)),
      make("table", {}, rows),
      ...(inner ? this.fields(inner) : []),
    ];
  }
}

// Pages are shown with what they hold.
function items_of(schema) {
  return schema.properties?.items?.items?.$ref ? schema.properties.items.items : undefined;
}

function operation(schemas, path, method, details) {
  const inputs = new Map();
  const parameters = details.parameters ?? [];
  const body = details.requestBody?.content["application/json"].schema;
  const isSocket = "101" in details.responses;
  const rows = parameters.map((parameter) => {
    const input = make("input", { "aria-label": parameter.name, placeholder: parameter.schema.default ?? "" });
    inputs.set(parameter, input);
    return make("tr", {},
      make("td", {}, make("code", {}, parameter.name), parameter.required ? " *" : "",
        make("div", { class: "soft" }, parameter.in)),
      make("td", {}, schemas.type(parameter.schema)),
      make("td", {}, prose(parameter.description)),
      make("td", {}, input));
  });
  const text = body && make("textarea", { "aria-label": "body", spellcheck: "false" },
    JSON.stringify(schemas.example(body), null, 2));
  const output = make("pre", { hidden: "" });
  const send = make("button", { onclick: () => attempt(path, method, inputs, text, output) }, `Send ${method.toUpperCase()}`);
  const inside = () => [
    make("p", {}, prose(details.description)),
    details["x-scope"] ? make("p", { class: "soft" }, `Scope of the token: ${details["x-scope"]}`) : undefined,
    rows.length ? [make("h3", {}, "Parameters"), make("table", {}, rows)] : undefined,
    body ? [make("h3", {}, "Body"), text, ...schemas.fields(body)] : undefined,
    isSocket ? undefined : [make("p", {}, send), output],
    make("h3", {}, "Answers"),
    make("table", {}, Object.entries(details.responses).map(([status, answer]) =>
      make("tr", {}, make("td", {}, make("code", {}, status)), make("td", {}, prose(answer.description)),
        make("td", {}, Object.keys(answer.content ?? {}).join(", "))))),
    ...Object.entries(details.responses).filter(([status]) => status < "300").flatMap(([, answer]) =>
      schemas.fields(answer["x-messages"] ?? Object.values(answer.content ?? {})[0]?.schema ?? {})),
  ].flat(2);
  const element = make("details", { class: "operation", id: details.operationId },
    make("summary", {}, make("span", { class: `method ${method}` }, method.toUpperCase()),
      make("code", {}, path), make("span", { class: "soft" }, details.summary)));
  element.addEventListener("toggle", () => {
    if (element.open && element.children.length === 1)
      element.append(make("div", { class: "inside" }, inside()));
  });
  element.dataset.words = `${method} ${path} ${details.summary} ${details.description ?? ""}`.toLowerCase();
  return element;
}

async function attempt(path, method, inputs, text, output) {
  const query = new URLSearchParams();
  const headers = {};
  for (const [parameter, input] of inputs) {
    if (!input.value) continue;
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (parameter.in === "header") headers[parameter.name] = input.value;
    else if (parameter.schema.type === "array")
      input.value.split(",").forEach((value) => query.append(parameter.name, value.trim()));
    else query.append(parameter.name, input.value);
  }
  if ($("token").value) headers.Authorization = `Bearer ${$("token").value.trim()}`;
  if (text) headers["Content-Type"] = "application/json";
  output.hidden = false;
  output.textContent = "…";
  try {
    const url = query.size ? `${path}?${query}` : path;
    const answer = await fetch(url, { method: method.toUpperCase(), headers, body: text?.value, cache: "no-store" });
    let said = await answer.text();
    try { said = JSON.stringify(JSON.parse(said), null, 2); } catch { /* not JSON */ }
    output.textContent = `${method.toUpperCase()} ${url}\n${answer.status} ${answer.statusText}\n\n${said}`;
  } catch (error) {
    output.textContent = String(error);
  }
}

function find() {
  const words = $("find").value.toLowerCase().split(/\s+/);
  for (const element of document.querySelectorAll("details.operation"))
    element.hidden = !words.every((word) => element.dataset.words.includes(word));
  for (const section of document.querySelectorAll("section"))
    section.hidden = !section.querySelector("details:not([hidden])");
}

function open_named() {
  const element = location.hash && $(location.hash.slice(1));
  if (element?.tagName === "DETAILS") element.open = true;
}

async function start() {
  const found = await (await fetch("/openapi.json")).json();
  const schemas = new Schemas(found);
  $("version").textContent = found.info.version;
  $("about").textContent = prose(found.info.description);
  for (const tag of found.tags) {
    $("topics").append(make("a", { href: `#topic-${tag.name}` }, tag.name));
    const own = Object.entries(found.paths).flatMap(([path, methods]) =>
      Object.entries(methods).filter(([, details]) => details.tags.includes(tag.name))
        .map(([method, details]) => operation(schemas, path, method, details)));
    $("operations").append(make("section", {}, make("h2", { id: `topic-${tag.name}` }, tag.name, " ",
      make("small", {}, tag.description)), own));
  }
  $("find").addEventListener("input", find);
  addEventListener("hashchange", open_named);
  open_named();
}

start().catch((error) => { $("about").textContent = `/openapi.json could not be read: ${error}`; });
