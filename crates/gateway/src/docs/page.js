// Writes the reference from /openapi.json, as the caller whose token was typed in may see it.
// Texts of the document become text nodes and never markup. The token stays in this page's memory.
"use strict";

const at = (id) => document.getElementById(id);

/** An element with attributes and children; children that are strings are text. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

const METHODS = ["get", "post", "put", "patch", "delete"];

/** The operations of a document by name, each with all its ways in. `x.call` is another way into `x`. */
function operations(api) {
  const found = new Map();
  for (const [path, item] of Object.entries(api.paths)) {
    for (const method of METHODS.filter((method) => item[method])) {
      const described = item[method];
      const [service, verb] = described.operationId.split(".");
      const name = `${service}/${verb}`;
      if (!found.has(name)) found.set(name, { name, service, ways: [] });
      found.get(name).ways.push({ method, path, described });
    }
  }
  const rest = (way) => (way.path.startsWith("/v1/") ? 0 : 1);
  for (const one of found.values()) one.ways.sort((a, b) => rest(a) - rest(b));
  return [...found.values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** A text without the marks of Markdown that the document's texts use: a line for each paragraph and each item of a list. */
const plain = (text) => text.replaceAll("`", "").split(/\n\n+/)
  .map((paragraph) => paragraph.replaceAll(/\n(?!\s*[-*] )/g, " ")).join("\n");

function resolve(api, thing) {
  for (let hops = 0; thing && thing.$ref && hops < 16; hops += 1) {
    thing = thing.$ref.replace(/^#\//, "").split("/").reduce((in_, key) => in_ && in_[key], api);
  }
  // `true` is a schema too: whatever it is, it fits.
  return typeof thing === "object" && thing ? thing : {};
}

/** A schema in a few words: `string`, `integer 1–64`, `"a" | "b"`, `list of Vm`. */
function words(api, schema, depth = 0) {
  if (typeof schema !== "object") return "anything";
  if (schema.$ref) {
    const named = resolve(api, schema);
    const isPlain = depth < 3 && named.type !== "object" && !named.properties;
    return isPlain ? words(api, named, depth + 1) : schema.$ref.split("/").pop();
  }
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  const among = schema.oneOf || schema.anyOf;
  if (among) {
    const told = among.filter((one) => one.type !== "null").map((one) => words(api, one, depth + 1));
    return [...new Set(told)].join(" | ");
  }
  const types = [schema.type || "anything"].flat().filter((type) => type !== "null");
  if (types.includes("array")) return `list of ${words(api, schema.items || {}, depth + 1)}`;
  const least = schema.minimum ?? schema.minLength;
  const most = schema.maximum ?? schema.maxLength;
  const range = least !== undefined && most !== undefined ? ` ${least}–${most}`
    : most !== undefined ? ` up to ${most}` : least !== undefined ? ` from ${least}` : "";
  const unit = range && types.includes("string") ? " characters" : "";
  return types.join(" | ") + range + unit;
}

/** The fields of a schema as rows: name, kind, what it is. */
function fields(api, schema, without = []) {
  const resolved = resolve(api, schema);
  const parts = [resolved, ...(resolved.allOf || []).map((part) => resolve(api, part))];
  const required = parts.flatMap((part) => part.required || []);
  const rows = parts.flatMap((part) => Object.entries(part.properties || {}))
    .filter(([name]) => !without.includes(name))
    .map(([name, field]) => row(api, name, field, required.includes(name)));
  return rows.length ? make("table", {}, make("tbody", {}, ...rows)) : null;
}

function row(api, name, schema, required) {
  const told = schema.description || resolve(api, schema).description || "";
  return make("tr", {},
    make("td", {}, make("code", {}, name), required ? "" : make("span", { class: "kind" }, " optional")),
    make("td", { class: "kind" }, words(api, schema)),
    make("td", {}, plain(told)));
}

function output(api, response) {
  const [media, content] = Object.entries(response.content || {})[0] || [];
  if (!content || !content.schema) return [make("p", { class: "kind" }, "nothing")];
  const schema = content.schema;
  const isList = resolve(api, schema).type === "array";
  const inner = isList ? resolve(api, schema).items : schema;
  return [make("p", { class: "kind" }, `${words(api, schema)}, ${media}`), fields(api, inner)];
}

/** A request for a shell that has the token in TOKEN, if it needs one. */
function example(api, way) {
  const body = way.described.requestBody;
  const schema = body && resolve(api, Object.values(body.content)[0].schema);
  const required = schema ? schema.required || [] : [];
  const value = (name) => {
    const type = [resolve(api, schema.properties[name] || {}).type].flat()[0];
    return { integer: 1, number: 1, boolean: true, array: [] }[type] ?? name.toUpperCase();
  };
  const path = way.path.replace(/[{}]/g, (brace) => (brace === "{" ? "<" : ">"));
  const needs = way.described.security ?? api.security ?? [];
  const parts = [needs.length > 0 ? `curl -H "Authorization: Bearer $TOKEN"` : "curl"];
  if (schema) {
    parts.push(`--json '${JSON.stringify(Object.fromEntries(required.map((name) => [name, value(name)])))}'`);
  }
  const usual = schema ? "post" : "get";
  if (way.method !== usual) parts.push(`-X ${way.method.toUpperCase()}`);
  return `${parts.join(" ")} '${location.origin}${path}'`;
}

function describe(api, operation) {
  const [way] = operation.ways;
  const { described } = way;
  const parameters = (described.parameters || []).map((parameter) => resolve(api, parameter));
  const body = described.requestBody && Object.values(described.requestBody.content)[0].schema;
  const answers = Object.entries(described.responses).map(([status, response]) => [status, resolve(api, response)]);
  const good = answers.filter(([status]) => status.startsWith("2"));
  const bad = answers.filter(([status]) => !status.startsWith("2"));
  const rows = parameters.map((one) => row(api, one.name,
    { description: one.description, ...one.schema }, one.required));
  return make("section", { id: operation.name },
    make("h2", {}, operation.name),
    make("p", {}, plain(described.description || described.summary || "")),
    ...operation.ways.map(({ method, path }) => make("div", { class: "way" },
      make("b", {}, method.toUpperCase()), make("code", {}, path))),
    ...(rows.length ? [make("h3", {}, "Parameters"), make("table", {}, make("tbody", {}, ...rows))] : []),
    ...(body ? [make("h3", {}, "Input"), fields(api, body) || make("p", { class: "kind" }, words(api, body))] : []),
    ...good.flatMap(([status, response]) => [make("h3", {}, `Answer ${status}`), ...output(api, response)]),
    make("h3", {}, "Errors"),
    make("table", {}, make("tbody", {}, ...bad.map(([status, response]) => make("tr", {},
      make("td", {}, make("code", {}, status)), make("td", {}, plain(response.description)))))),
    make("h3", {}, "Example"), make("pre", {}, example(api, way)));
}

function show(api) {
  at("title").textContent = `${api.info.title} ${api.info.version}`;
  const all = operations(api);
  const sections = all.map((operation) => describe(api, operation));
  const contents = [];
  for (const [index, operation] of all.entries()) {
    if (index === 0 || all[index - 1].service !== operation.service) {
      contents.push(make("h2", {}, operation.service));
    }
    contents.push(make("a", { href: `#${operation.name}` }, operation.name));
  }
  at("operations").replaceChildren(...sections);
  at("contents").replaceChildren(...contents);
  at("said").textContent = "";
  find();
  // The address may name an operation, which was not there when it was opened.
  const named = at(decodeURIComponent(location.hash.slice(1)));
  if (named) named.scrollIntoView();
}

/** Shows what has the words that were typed, and hides the rest. */
function find() {
  const wanted = at("find").value.toLowerCase().split(/\s+/).filter(Boolean);
  for (const section of at("operations").children) {
    const text = section.textContent.toLowerCase();
    const hidden = !wanted.every((word) => text.includes(word));
    section.hidden = hidden;
    const link = at("contents").querySelector(`a[href="#${section.id}"]`);
    if (link) link.hidden = hidden;
  }
}

async function load() {
  const token = at("token").value.trim();
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  try {
    const response = await fetch("/openapi.json", { headers, cache: "no-store", credentials: "omit" });
    if (response.status === 401) {
      at("said").textContent = "This token is not good: unknown, expired or revoked.";
    } else if (!response.ok) {
      at("said").textContent = `The document could not be fetched (${response.status}). Try again.`;
    } else {
      show(await response.json());
      if (!token) at("said").textContent = "What anybody may do. With a token, what its bearer may do.";
    }
  } catch (error) {
    at("said").textContent = `The document could not be shown: ${error.message}. Try again.`;
  }
}

at("access").addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
at("find").addEventListener("input", find);
load();
