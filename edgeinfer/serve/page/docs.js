"use strict";
// The service's OpenAPI document as a page: every path, what it does, and what it takes.

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function operation(path, method, told, parent) {
  const section = element("section", undefined, parent);
  const head = element("h2", `${method.toUpperCase()} `, section);
  element("code", path, head);
  element("p", told.summary, section);
  const list = element("ul", undefined, section);
  for (const one of told.parameters) {
    element("li", `${one.name}, in the ${one.in}${one.description ? `: ${one.description}` : ""}`, list);
  }
  for (const [what, one] of [["takes", told.requestBody], ["answers", told.responses["200"]]]) {
    if (one?.content) element("li", `${what} ${Object.keys(one.content).join(" or ")}`, list);
  }
}

async function show() {
  const about = document.getElementById("about"), token = sessionStorage.getItem("token");
  const answer = await fetch("/openapi.json", token ? { headers: { authorization: `Bearer ${token}` } } : {});
  if (!answer.ok) {
    about.textContent = answer.status === 401 ? "enter the token on the front page first" : `answered ${answer.status}`;
    return;
  }
  const told = await answer.json();
  document.getElementById("version").textContent = told.info.version;
  about.textContent = `${told.info.description} What goes wrong is answered with {"error": "why"}.`;
  for (const [path, methods] of Object.entries(told.paths)) {
    for (const [method, one] of Object.entries(methods)) operation(path, method, one, document.getElementById("docs"));
  }
}

show();
