// Keeps a page fresh that is whole without it: tiles, log, ages, the state of the link, buttons that tell their answer.
const SILENT_S = 5, POLL_S = 20, ROWS = 300;
const link = document.getElementById("link");
const said = document.getElementById("said");
let heard = performance.now(), wall = Date.now(), polled = 0, slept = false;

// -- ages: the server's age plus what has passed here on the monotonic clock ---------------------------------------------
const born = new WeakMap();
function ages() {
  const now = performance.now();
  // A machine that slept has a monotonic clock that stood still: then nothing is fresh until the next message.
  if (Math.abs(Date.now() - wall - (now - heard)) > 5000) slept = true;
  for (const age of document.querySelectorAll(".age")) {
    if (!born.has(age)) born.set(age, now);
    const seconds = Number(age.dataset.ageS) + (now - born.get(age)) / 1000;
    const limit = Number(age.dataset.limitS);
    const stale = slept || seconds > limit;
    age.classList.toggle("late", !stale && seconds > limit / 2);
    age.classList.toggle("stale", stale);
    age.textContent = (stale ? "STALE " : "") + (seconds < 120 ? seconds.toFixed(0) + " s" : (seconds / 60).toFixed(0) + " min");
  }
  const silent = (now - heard) / 1000;
  if (silent > SILENT_S) {
    link.textContent = `Link lost, ${silent.toFixed(0)} s. Values on this page are old; abort and close still go out.`;
    link.hidden = false;
    if (silent > POLL_S && now - polled > 5000) poll(now);
  } else link.hidden = true;
  for (const one of document.querySelectorAll(".commands .C1, .commands button.C2")) one.disabled = silent > SILENT_S;
  for (const one of document.querySelectorAll(".commands a.C2")) one.toggleAttribute("aria-disabled", silent > SILENT_S);
}

async function poll(now) {
  polled = now;
  for (const box of document.querySelectorAll(".tile[data-tile]")) {
    try {
      const answer = await fetch(`/tile/${box.dataset.tile}`);
      if (answer.ok) replace(box, await answer.text());
    } catch { return; }
  }
}

// -- messages --------------------------------------------------------------------------------------------------------------
function replace(box, html) {
  box.innerHTML = html; // made by the server's templates, which escape every value
  for (const form of box.querySelectorAll("form.do")) {
    form.elements.token.value = document.querySelector("[name=token]").value;
    wire(form);
  }
  box.classList.add("fresh");
  setTimeout(() => box.classList.remove("fresh"), 600);
}

function take(message) {
  if (message.kind === "broken") return;
  heard = performance.now();
  wall = Date.now();
  slept = false;
  const data = message.data;
  if (message.kind === "ping") {
    document.getElementById("utc").textContent = data.utc.slice(0, 19).replace("T", " ");
    document.getElementById("broker").hidden = data.broker;
  } else if (message.kind === "resync") location.reload();
  else if (message.kind === "tile") {
    const box = document.querySelector(`[data-tile="${CSS.escape(data.name)}"]`);
    if (box) replace(box, data.html);
    if (data.name === "answers") answered(data.html);
  } else if (message.kind === "log") log(data);
}

function log(data) {
  const body = document.getElementById("log");
  const filter = new URLSearchParams(location.search);
  if (!body || !data.type.startsWith(filter.get("type") || "") || filter.get("text")) return;
  const box = document.createElement("tbody");
  box.innerHTML = data.html;
  const row = box.firstElementChild;
  if (!row || body.querySelector(`[data-seq="${CSS.escape(row.dataset.seq)}"]`)) return;
  body.prepend(row);
  while (body.rows.length > ROWS) body.rows[body.rows.length - 1].remove();
}

if (window.SharedWorker) {
  const worker = new SharedWorker("/static/worker.js");
  worker.port.onmessage = (event) => take(event.data);
  worker.port.start();
  addEventListener("pagehide", () => worker.port.postMessage("bye"));
} else {
  // Some phones have no SharedWorker: the stream is closed while the page is hidden.
  let source = null;
  const open = () => {
    source = new EventSource("/live");
    for (const kind of ["ping", "tile", "log", "resync"]) source.addEventListener(kind, (event) => take({ kind, data: JSON.parse(event.data) }));
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) source.close();
    else open();
  });
  open();
}
setInterval(ages, 500);

// -- buttons: without this file they are plain forms ------------------------------------------------------------------------
function wire(form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const verb = form.dataset.verb;
    say(`${verb}: sent`);
    const late = setTimeout(() => say(`${verb}: no answer yet; it is not known whether it was carried out`), 4000);
    try {
      const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/json" } });
      if (answer.redirected) { location.href = answer.url; return; }
      const told = await answer.json();
      waits = told.done === false ? verb : "";
      say(told.error ? `${verb}: ${told.error}` : `${verb}: ` + Object.entries(told.answers).map(([module, text]) => `${module} ${text}`).join("; "));
      form.elements.command_id.value = uuid(); // the next press is a new command
    } catch (error) {
      say(`${verb}: the console did not answer (${error.message}); use nightbell send`);
    } finally { clearTimeout(late); }
  });
}

for (const form of document.querySelectorAll("form.do")) wire(form);

function uuid() {
  const random = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(random, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// What was still waited for when the button answered is said beside it when it comes.
let waits = "";
function answered(html) {
  const list = document.createElement("template");
  list.innerHTML = html;
  const first = list.content.querySelector(`li[data-verb="${CSS.escape(waits)}"]`);
  if (!waits || !first || first.dataset.done !== "true") return;
  waits = "";
  say(`${first.dataset.verb}: ` + Array.from(first.querySelectorAll("li"), (one) => one.textContent.trim()).join("; "));
}

function say(text) {
  if (said) said.textContent = text;
}

// Esc Esc within a second is ABORT.
let escaped = 0;
addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  if (performance.now() - escaped < 1000) document.querySelector('form[data-verb="abort"]').requestSubmit();
  escaped = performance.now();
});
