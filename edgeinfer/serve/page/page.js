"use strict";
// The page of the service: a picture in, what is found in it drawn over it; and how the service does.

const at = (id) => document.getElementById(id);
const GOLDEN = 0.61803398875; // neighbouring classes get hues that lie far apart
const KEPT = 60; // points of a sparkline
const state = { picture: null, answer: null, latencies: [], rates: [], counted: null };

function color(classId) {
  const [saturation, lightness] = [[85, 60], [80, 72], [75, 50]][classId % 3];
  return `hsl(${(((0.02 + classId * GOLDEN) % 1) * 360).toFixed(1)} ${saturation}% ${lightness}%)`;
}

function element(name, text, parent) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function say(text, bad = false) {
  at("said").textContent = text;
  at("said").className = bad ? "bad" : "";
}

// every request goes through here: a service with a token wants it each time
async function reach(path, options = {}) {
  const token = sessionStorage.getItem("token");
  const answer = await fetch(path, token ? { ...options, headers: { authorization: `Bearer ${token}` } } : options);
  const current = token === sessionStorage.getItem("token"); // a late answer to another token is no news
  if (answer.status === 401 && current && !at("door").open) at("door").showModal();
  return answer;
}

async function asked(path, options) {
  const answer = await reach(path, options);
  const record = await answer.json().catch(() => ({ error: `the service answered ${answer.status}` }));
  if (!answer.ok) throw new Error(record.error || `the service answered ${answer.status}`);
  return record;
}

async function look(file) {
  if (!file) return;
  if (!at("model").value) {
    say("no model is loaded", true);
    return;
  }
  const turn = Symbol("turn");
  Object.assign(state, { file, turn });
  say("looking");
  try {
    const drawable = createImageBitmap(file);
    drawable.catch(() => undefined); // what is wrong with a file the service says better
    const path = `/v1/models/${encodeURIComponent(at("model").value)}/predict`;
    const answer = await asked(path, { method: "POST", body: file });
    const picture = await drawable;
    if (state.turn !== turn) return; // another picture, or model, was chosen meanwhile
    Object.assign(state, { picture, answer });
    const spans = Object.entries(answer.timings_ms);
    const total = spans.reduce((sum, [, ms]) => sum + ms, 0);
    state.latencies = [...state.latencies, total].slice(-KEPT);
    at("latency").textContent = total.toFixed(1);
    at("stages").textContent = spans.map(([stage, ms]) => `${stage} ${ms.toFixed(1)}`).join(", ");
    spark("latencies", state.latencies);
    show();
  } catch (error) {
    if (state.turn === turn) say(error.message, true);
  }
}

function show() {
  const { picture, answer } = state;
  if (!answer) return;
  const canvas = at("canvas"), pen = canvas.getContext("2d");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.hidden = false;
  at("hint").hidden = true;
  at("drop").classList.add("full");
  pen.drawImage(picture, 0, 0);
  const least = at("score").value / 100;
  const rows = (answer.detections || answer.classes).filter((row) => answer.classes || row.score >= least);
  const scale = [picture.width / answer.width, picture.height / answer.height];
  [...rows].reverse().forEach((row) => row.box && draw(pen, row, scale));
  list(rows);
  say(rows.length ? `${rows.length} found by ${answer.model}, version ${answer.model_version}` : "nothing found");
}

function draw(pen, row, [across, down]) {
  const size = Math.max(12, Math.round(Math.sqrt(pen.canvas.width * pen.canvas.height) / 45));
  const [left, top, right, bottom] = row.box.map((side, place) => side * (place % 2 ? down : across));
  pen.lineWidth = Math.max(2, size / 6);
  pen.strokeStyle = pen.fillStyle = color(row.class_id);
  pen.strokeRect(left, top, right - left, bottom - top);
  pen.font = `600 ${size}px system-ui, sans-serif`;
  const text = `${row.label} ${row.score.toFixed(2)}`;
  const width = pen.measureText(text).width + size * 0.6, height = size * 1.4;
  const x = Math.min(left, pen.canvas.width - width), y = top >= height ? top - height : top;
  pen.fillRect(x, y, width, height);
  pen.fillStyle = "#111";
  pen.textBaseline = "middle";
  pen.fillText(text, x + size * 0.3, y + height / 2);
}

function list(rows) {
  const found = at("found");
  found.replaceChildren();
  for (const row of rows) {
    const item = element("li", undefined, found);
    element("i", undefined, item).style.background = color(row.class_id);
    element("span", row.label, item).title = row.label;
    element("meter", undefined, item).value = row.score;
    element("b", row.score.toFixed(2), item);
  }
}

function spark(id, values) {
  const most = Math.max(...values, 1e-9), step = 240 / (KEPT - 1);
  const shape = (name, facts) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    Object.entries(facts).forEach(([key, value]) => made.setAttribute(key, value));
    return made;
  };
  const points = values.map((value, place) => `${(place * step).toFixed(1)},${(46 - (44 * value) / most).toFixed(1)}`);
  at(id).replaceChildren(
    shape("line", { x1: 0, x2: 240, y1: 47, y2: 47 }),
    shape("polyline", { points: (points.length > 1 ? points : [...points, "3,47"]).join(" ") }),
  );
}

function tell(about) {
  at("version").textContent = about.version;
  at("health").textContent = about.ready ? "ready" : "not ready";
  at("health").className = about.ready ? "good" : "bad";
  const chosen = at("model").value, names = about.models.filter((one) => one.version).map((one) => one.name);
  if ([...at("model").options].map((one) => one.value).join("\n") !== names.join("\n")) {
    at("model").replaceChildren(...names.map((name) => new Option(name, name, false, name === chosen)));
  }
  if (!about.models.length) {
    const row = element("tr");
    element("td", "none yet", row);
    at("models").replaceChildren(row);
    return;
  }
  at("models").replaceChildren(...about.models.map((one) => {
    const row = element("tr"), cell = element("td", one.name, row);
    element("small", one.runs_on ? `${one.task}, ${one.labels} classes, ${one.runs_on}` : one.reason, cell);
    element("td", one.version ? `version ${one.version}` : one.state.toLowerCase(), row);
    return row;
  }));
}

async function watch() {
  try {
    tell(await asked("/v1/models"));
    const { model_stats } = await asked("/v2/models/stats");
    const count = model_stats.reduce((sum, one) => sum + Number(one.inference_stats.success.count), 0);
    const now = performance.now();
    if (state.counted) {
      const rate = Math.max(0, (count - state.counted.count) / ((now - state.counted.now) / 1000));
      state.rates = [...state.rates, rate].slice(-KEPT);
      at("rate").textContent = rate.toFixed(1);
      spark("rates", state.rates);
    }
    state.counted = { count, now };
  } catch {
    at("health").textContent = "no answer";
    at("health").className = "bad";
  }
}

at("file").addEventListener("change", (event) => look(event.target.files[0]));
at("model").addEventListener("change", () => look(state.file));
at("score").addEventListener("input", () => {
  at("least").textContent = (at("score").value / 100).toFixed(2);
  show();
});
for (const name of ["dragover", "dragleave", "drop"]) {
  at("drop").addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") look(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", (event) => look(event.clipboardData.files[0]));
at("door").addEventListener("close", () => {
  sessionStorage.setItem("token", at("token").value.trim());
  watch();
});
watch();
setInterval(watch, 2000);
