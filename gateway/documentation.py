"""One OpenAPI document, and one page, for all services."""

import asyncio
from typing import Any

import aiohttp

from chassis.http.problem import Problem


async def merged(session: aiohttp.ClientSession, upstreams: dict[str, str]) -> dict[str, Any]:
    """Return the services' documents as one; Problem 503 names a service that does not answer."""
    documents = await asyncio.gather(*(_fetch(session, name, url) for name, url in upstreams.items()))
    paths: dict[str, Any] = {}
    components: dict[str, dict[str, Any]] = {}
    for name, document in zip(upstreams, documents, strict=True):
        renamed = _renamed(document, name, components)
        paths |= renamed["paths"]
        for kind, entries in renamed.get("components", {}).items():
            components.setdefault(kind, {}).update(entries)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "DotMac Platform",
            "version": "1.0.0",
            "description": "Tenants, deployments, customers and billing. Errors are problem details (RFC 9457).",
        },
        "paths": dict(sorted(paths.items())),
        "components": components,
    }


async def _fetch(session: aiohttp.ClientSession, name: str, url: str) -> dict[str, Any]:
    try:
        async with session.get(f"{url}/openapi.json") as answer:
            answer.raise_for_status()
            document: dict[str, Any] = await answer.json()
            return document
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Problem(
            503, "unavailable", f"The {name} service does not answer.", headers={"Retry-After": "1"}
        ) from error


def _renamed(document: dict[str, Any], name: str, taken: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Give schemas another name where another service has a different one of the same name."""
    schemas = document.get("components", {}).get("schemas", {})
    others = taken.get("schemas", {})
    names = {key: f"{name.title()}{key}" for key, schema in schemas.items() if others.get(key, schema) != schema}

    def walk(value: Any) -> Any:
        if isinstance(value, dict):
            return {
                key: f"#/components/schemas/{names.get(target, target)}"
                if key == "$ref" and (target := str(entry).rsplit("/", 1)[-1])
                else walk(entry)
                for key, entry in value.items()
            }
        return [walk(entry) for entry in value] if isinstance(value, list) else value

    result: dict[str, Any] = walk(document)
    if schemas:
        result["components"]["schemas"] = {names.get(key, key): walk(schema) for key, schema in schemas.items()}
    return result


PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>DotMac Platform API</title>
<style>
 body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1d2430}
 h2{margin-top:2.5rem;border-bottom:1px solid #d8dde6}
 details{margin:.4rem 0;border:1px solid #d8dde6;border-radius:6px}
 summary{padding:.5rem .8rem;cursor:pointer} summary b{display:inline-block;width:4.5rem;color:#0b5fbd}
 details>div{padding:0 1rem 1rem} pre{background:#f4f6f9;padding:.8rem;overflow:auto;border-radius:6px}
 code{font-family:ui-monospace,monospace} small{color:#5b6675}
</style>
<h1>DotMac Platform API</h1>
<p>The document behind this page: <a href="/openapi.json">OpenAPI</a>.
Events: <a href="/asyncapi.yaml">AsyncAPI</a>.</p>
<main>Loading…</main>
<script>
const element = (tag, text, ...children) => {
  const made = document.createElement(tag); made.textContent = text || ''; made.append(...children); return made;
};
const expand = (schema, all, depth = 0) => {
  if (!schema || depth > 6) return {};
  if (schema.$ref) return expand(all[schema.$ref.split('/').pop()], all, depth + 1);
  if (schema.properties) return Object.fromEntries(
    Object.entries(schema.properties).map(([name, part]) => [name, expand(part, all, depth + 1)]));
  if (schema.items) return [expand(schema.items, all, depth + 1)];
  if (schema.anyOf) return expand(schema.anyOf[0], all, depth + 1);
  return schema.examples ? schema.examples[0] : (schema.format || schema.type || 'any');
};
fetch('/openapi.json').then(answer => answer.json()).then(api => {
  const all = api.components.schemas, groups = {};
  for (const [path, item] of Object.entries(api.paths)) for (const [method, operation] of Object.entries(item)) {
    const body = operation.requestBody && Object.entries(operation.requestBody.content);
    const box = element('details', '');
    const summary = element('summary', '');
    summary.append(element('b', method.toUpperCase()), element('code', path));
    summary.append(element('small', ' ' + operation.summary));
    const inside = element('div', operation.description);
    const parameters = element('ul', '');
    for (const parameter of operation.parameters || [])
      parameters.append(element('li', `${parameter.name} (${parameter.in}${parameter.required ? ', required' : ''}) `
        + (parameter.description || '')));
    inside.append(parameters);
    for (const [type, content] of body || [])
      inside.append(element('p', 'Body: ' + type),
        element('pre', JSON.stringify(expand(content.schema, all), null, 2)));
    for (const [status, answer] of Object.entries(operation.responses)) {
      const content = Object.entries(answer.content || {})[0];
      inside.append(element('p', 'Answer ' + status + ': ' + answer.description));
      if (content && status < '3')
        inside.append(element('pre', JSON.stringify(expand(content[1].schema, all), null, 2)));
    }
    box.append(summary, inside);
    (groups[(operation.tags || ['Other'])[0]] ||= []).push(box);
  }
  const main = document.querySelector('main'); main.textContent = '';
  for (const [tag, boxes] of Object.entries(groups)) main.append(element('h2', tag), ...boxes);
}).catch(error => { document.querySelector('main').textContent = 'The document can\\'t be loaded: ' + error; });
</script></html>
"""
