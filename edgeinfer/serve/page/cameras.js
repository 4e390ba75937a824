"use strict";
// Cameras: each picture is asked for by itself, so that a slow connection gets the newest one next,
// and stands beside its age, which goes on while nothing comes.

const TURN_MS = 200, ASK_MS = 1000, PATIENCE_MS = 3000;
const tiles = new Map();
const pause = (ms) => new Promise((done) => setTimeout(done, ms));
const seen = new IntersectionObserver((changes) => {
  for (const change of changes) {
    const one = tiles.get(change.target.dataset.name);
    if (one) one.visible = change.isIntersecting;
  }
});

function tile(name) {
  const figure = element("figure"), view = element("button", undefined, figure), caption = element("figcaption", undefined, figure);
  figure.dataset.name = name;
  view.type = "button";
  view.title = "larger, and back";
  view.addEventListener("click", () => figure.classList.toggle("wide"));
  const image = element("img", undefined, view), badge = element("span", "waiting", view);
  image.alt = `camera ${name}`;
  image.hidden = true;
  element("b", name, caption);
  const made = {
    name, figure, image, badge, key: "", age: 0, limit: 0, came: 0, color: "", lost: "", visible: true, last: null, gone: false,
    model: element("span", "", caption), told: element("small", "", caption),
  };
  tiles.set(name, made);
  seen.observe(figure);
  at("tiles").append(figure);
  follow(made);
  return made;
}

async function follow(one) {
  while (!one.gone) {
    if (document.hidden || !one.visible) {
      await pause(TURN_MS);
      continue;
    }
    try {
      await next(one);
      one.lost = "";
    } catch (error) {
      one.lost = error.message || "no answer";
      await pause(ASK_MS);
    }
  }
}

async function next(one) {
  const path = `/v1/cameras/${encodeURIComponent(one.name)}/picture?after=${encodeURIComponent(one.key)}`;
  const answer = await reach(path, { signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 204) return;
  if (!answer.ok) throw new Error(`the service answered ${answer.status}`);
  const [age, limit] = ["x-age-ms", "x-max-age-ms"].map((name) => Number(answer.headers.get(name))), came = performance.now();
  const url = URL.createObjectURL(await answer.blob()), old = one.image.src;
  one.image.src = url;
  await one.image.decode();
  if (old) URL.revokeObjectURL(old);
  one.image.hidden = false;
  Object.assign(one, { age, limit, came, key: answer.headers.get("x-picture"), color: answer.headers.get("x-health") });
  mark(one);
}

function shownAge(ms) {
  return ms < 1000 ? `${Math.round(ms)} ms` : ms < 60000 ? `${(ms / 1000).toFixed(1)} s` : `${Math.floor(ms / 60000)} min`;
}

function mark(one) {
  const age = one.came ? one.age + performance.now() - one.came : 0;
  const live = one.came && one.color === "green" && age <= one.limit && !one.lost;
  one.figure.className = `${one.figure.classList.contains("wide") ? "wide " : ""}${live ? "good" : one.came || one.lost ? "bad" : ""}`;
  const shown = one.came && !one.key.startsWith("none");
  one.badge.textContent = shown ? `${live ? "live" : "not live"} · ${shownAge(age)}` : one.lost ? "no answer" : one.came ? "no picture" : "waiting";
}

function tellCamera(about) {
  const one = tiles.get(about.name) || tile(about.name);
  one.model.textContent = about.model_version ? `${about.model}, version ${about.model_version}` : about.model;
  const now = performance.now(), words = [];
  if (one.last) {
    const rate = (count) => Math.max(0, count / ((now - one.last.now) / 1000)).toFixed(0);
    words.push(`${rate(about.results - one.last.results)} of ${rate(about.pictures - one.last.pictures)} pictures/s`);
  }
  if (about.freshness && about.health.color === "green") {
    words.push(`${Math.round(about.freshness.latency_ms)} ms to the result (${Math.round(about.freshness.queue_ms)} waiting)`);
  }
  one.told.textContent = about.health.reason || words.join(" · ");
  one.last = { now, results: about.results, pictures: about.pictures };
}

function dropOthers(names) {
  for (const one of tiles.values()) {
    if (names.includes(one.name)) continue;
    one.gone = true;
    seen.unobserve(one.figure);
    one.figure.remove();
    tiles.delete(one.name);
  }
}

async function watchCameras() {
  for (;;) {
    try {
      const { cameras } = await asked("/v1/cameras"); // none yet while the service starts
      at("cameras").hidden = !cameras.length;
      dropOthers(cameras.map((about) => about.name));
      cameras.forEach(tellCamera);
    } catch (error) {
      tiles.forEach((one) => { one.told.textContent = error.message; });
    }
    await pause(ASK_MS);
  }
}

setInterval(() => tiles.forEach(mark), TURN_MS);
watchCameras();
