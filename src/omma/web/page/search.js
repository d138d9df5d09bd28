// The page of `omma serve`. The address holds what is asked, so that it can be kept and sent; nothing comes from elsewhere.
const at = (id) => document.getElementById(id);
const FIELDS = ["kind", "folder", "since", "until", "where", "by", "k", "eye"];
const BOTH = "side by side";
let state = { eyes: [], folders: [], items: {}, explains: [] };
let picture = null;      // the data URL that is searched by, which no address can hold
let asked = 0;           // answers to older questions are dropped
let heat = null;
let left = null;         // the item whose page was left, to which the keys go back
let kept = {};           // the last answer, so that going back to it asks nobody again

function make(tag, said = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(said)) if (value !== undefined) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

async function ask(path, body) {
  const options = body ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) } : {};
  let reply;
  try {
    reply = await fetch(path, options);
  } catch {
    throw new Error("omma doesn't answer; is it still running?");
  }
  if (reply.status === 401) location.reload();
  const told = await reply.json().catch(() => ({ error: { message: `answered ${reply.status}` } }));
  if (!reply.ok) throw new Error(told.error.message);
  return told;
}

function say(text, bad = false) {
  at("told").textContent = text;
  at("told").classList.toggle("bad", bad);
}

// ---- what is asked
function parameters() {
  const found = new URLSearchParams();
  if (at("query").value.trim()) found.set("q", at("query").value.trim());
  for (const name of FIELDS) {
    const standard = at(name).tagName === "SELECT" ? at(name).options[0]?.value : "";
    if (at(name).value && at(name).value !== standard) found.set(name, at(name).value);
  }
  return found;
}

function fill(given) {
  at("query").value = given.get("q") || "";
  for (const name of FIELDS) {
    const standard = at(name).tagName === "SELECT" ? at(name).options[0]?.value ?? "" : "";
    at(name).value = given.get(name) || standard;
    if (at(name).selectedIndex === -1) at(name).value = standard;
  }
  const narrowed = FIELDS.filter((name) => parameters().has(name)).length;
  at("narrowed").textContent = narrowed ? `(${narrowed})` : "";
}

function filters() {
  const where = [], said = {};
  if (at("kind").value) where.push(`kind == '${at("kind").value}'`);
  if (at("since").value) where.push(`date >= '${at("since").value}'`);
  if (at("until").value) where.push(`date <= '${at("until").value}T23:59:59'`);
  if (at("where").value.trim()) where.push(`(${at("where").value.trim()})`);
  if (where.length) said.where = where.join(" and ");
  if (at("folder").value) said.folder = at("folder").value;
  return said;
}

function question(eye) {
  const said = { query: at("query").value.trim(), k: Number(at("k").value), by: at("by").value, ...filters() };
  if (picture) said.image = picture;
  if (eye) said.eye = eye;
  return said;
}

function go(given) {
  history.pushState(null, "", "?" + given);
  show();
}

// ---- what is shown
async function show() {
  const given = new URLSearchParams(location.search);
  const mine = ++asked;
  fill(given);
  document.title = [given.get("q"), "omma: search"].filter(Boolean).join(" – ");
  const item = given.get("item");
  at("item").hidden = true;
  at("found").hidden = Boolean(item);
  at("answered").hidden = true;
  const reports = given.has("reports");
  at("reports").hidden = !reports;
  const nothing = !item && !given.get("q") && !picture;
  at("start").hidden = !nothing || reports;
  say("");
  if (reports) return showReports(mine).catch((error) => say(error.message, true));
  if (nothing) return at("found").replaceChildren();
  try {
    if (item) return await showItem(item, given, mine);
    await (given.get("ask") && state.vlm ? answer(mine) : search(mine));
    if (mine === asked && left) document.querySelector(`a.hit[data-id="${left}"]`)?.focus();
    left = null;
  } catch (error) {
    if (mine !== asked) return;
    say(error.message, true);
    if (at("where").value) at("filters").open = true;      // it may be what is wrong, and is mended there
  }
}

async function search(mine) {
  say("Searching …");
  at("found").setAttribute("aria-busy", "true");
  const sides = at("eye").value === BOTH ? state.eyes.slice(0, 2) : [at("eye").value];
  try {
    const told = await Promise.all(sides.map((eye) => ask("search", question(eye))));
    if (mine !== asked) return;
    const link = (hit) => "?" + new URLSearchParams([...parameters(), ["item", hit.id]]);
    if (told.length === 1) {
      at("found").replaceChildren(grid(told[0].hits, link));
    } else {
      const places = told.map((one) => new Map(one.hits.map((hit, place) => [hit.id, place])));
      at("found").replaceChildren(make("div", { class: "sides" }, ...told.map((one, side) => make("section", { "aria-label": one.eye },
        make("h2", {}, one.eye), grid(one.hits, link, places[1 - side], told[1 - side].eye)))));
    }
    const numbers = told.map((one) => one.hits.length).join(" and ");
    say(told.some((one) => one.hits.length) ? `${numbers} found, best first` : "Nothing fits. Take away a filter, or say it in other words.");
  } finally {
    if (mine === asked) at("found").removeAttribute("aria-busy");
  }
}

// ---- an answer, as it comes: text alone, in which only the marks of its sources are links
async function answer(mine) {
  const body = { question: at("query").value.trim(), k: 4, images: picture ? [picture] : [], ...filters() };
  const key = JSON.stringify(body);
  at("asked-for").textContent = body.question;
  at("said").textContent = at("support").textContent = "";
  at("cited").replaceChildren();
  at("found").replaceChildren();
  at("answered").hidden = false;
  if (kept.key === key) return answered(kept.told);
  say("Looking and answering …");
  at("said").setAttribute("aria-busy", "true");            // it is read out once it is whole
  try {
    for await (const part of parts("ask", body)) {
      if (mine !== asked) return;
      if (part.error) throw new Error(part.error.message);
      if (part.text) at("said").textContent += part.text;
      if (part.answer) {
        kept = { key, told: part.answer };
        answered(part.answer);
      }
    }
  } finally {
    at("said").removeAttribute("aria-busy");
  }
}

async function* parts(path, body) {
  const reply = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
  if (!reply.ok) throw new Error((await reply.json()).error.message);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let rest = ""; ;) {
      const { done, value } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) yield JSON.parse(event.slice(6));
    }
  } finally {
    reader.cancel().catch(() => {});                       // whoever asked something else stops the model
  }
}

function answered(told) {
  const sources = new Map(told.citations.map((one) => [one.number, one]));
  const link = (one) => "?" + new URLSearchParams([...parameters(), ["ask", "1"], ["item", one.id], ...(one.boxes?.length ? [["box", one.boxes.map((box) => box.map((side) => side.toFixed(3)).join(" ")).join(",")]] : [])]);
  at("said").replaceChildren(...told.text.split(/(\[[0-9]+\])/).map((piece) => {
    const one = sources.get(Number(piece.slice(1, -1)));
    return /^\[[0-9]+\]$/.test(piece) && one ? make("a", { href: link(one), title: one.place }, piece) : piece;
  }));
  at("cited").replaceChildren(...told.citations.map((one) => make("li", {}, make("a", { href: link(one) }, `[${one.number}] ${one.place}`))));
  at("support").textContent = told.abstained ? `The best source supports an answer with ${told.support.toFixed(2)} of 1, which is too little.` : `By ${told.model}; the best source supports it with ${told.support.toFixed(2)} of 1.`;
  at("found").replaceChildren(grid(told.hits, link));
  say(`${told.abstained ? "Not answered" : "Answered"}: ${told.hits.length} ${told.hits.length === 1 ? "source was" : "sources were"} looked at`);
}

function grid(hits, link, others, other) {
  return make("ul", { class: "grid" }, ...hits.map((hit, place) => make("li", {}, card(hit, link(hit), moved(hit, place, others, other)))));
}

function moved(hit, place, others, other) {
  if (!others) return "";
  const there = others.get(hit.id);
  if (there === undefined) return ` · not found by ${other}`;
  return there === place ? ` · also there for ${other}` : ` · place ${there + 1} for ${other}`;
}

function card(hit, href, more = "") {
  const scores = Object.entries(hit.scores).map(([name, value]) => `${name} ${value.toFixed(2)}`).join(" · ");
  const copies = hit.also.length ? ` · ${hit.also.length} more like it` : "";
  const look = hit.picture
    ? make("img", { class: "seen", src: `thumbnail/${hit.id}`, alt: hit.caption || "", loading: "lazy", decoding: "async" })
    : make("span", { class: "read" }, (hit.text || hit.caption || "").slice(0, 260));
  return make("a", { class: "hit", href, "data-id": hit.id }, look, make("span", { class: "under" },
    make("span", { class: "name", title: hit.place }, make("bdi", {}, hit.place)),
    make("span", { class: "scored" }, scores + copies + more)));
}

async function showItem(number, given, mine) {
  const back = new URLSearchParams(given);
  back.delete("item");
  back.delete("box");
  at("back").href = "?" + back;
  const hit = await ask(`item/${encodeURIComponent(number)}`);
  if (mine !== asked) return;
  left = hit.id;
  document.title = `${hit.place} – omma: search`;
  at("place").textContent = hit.place;
  at("caption").textContent = hit.caption || "";
  at("shown").hidden = !hit.picture;
  at("picture").alt = hit.caption || `Picture of ${hit.place}`;
  at("picture").src = hit.picture ? `picture/${hit.id}` : "data:,";
  at("text").hidden = !hit.text;
  at("text").textContent = hit.text || "";
  const facts = { Kind: hit.kind, Folder: hit.folder, Size: hit.width ? `${hit.width} × ${hit.height} pixels` : null,
    File: hit.size === null ? null : `${Math.max(1, Math.round(hit.size / 1000)).toLocaleString()} kB`,
    Date: hit.date ? hit.date.replace("T", " ") : null, "Also as": hit.also.join(", ") || null };
  at("facts").replaceChildren(...Object.entries(facts).filter(([, value]) => value).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]));
  const words = given.get("q");
  const eye = given.get("eye") && given.get("eye") !== BOTH ? given.get("eye") : state.eyes[0];
  unheat();
  const boxes = (given.get("box") || "").split(",").map((box) => box.split(" ").map(Number));
  document.querySelectorAll(".box").forEach((box) => box.remove());
  for (const sides of boxes.filter((sides) => sides.length === 4 && sides.every((side) => side >= 0 && side <= 1))) {
    const box = make("div", { class: "box" });
    ["left", "top", "right", "bottom"].forEach((name, n) => { box.style[name] = `${100 * (n < 2 ? sides[n] : 1 - sides[n])}%`; });
    at("frame").append(box);
    at("words").textContent = "Framed: what the answer came from";
  }
  at("why").hidden = !(words && hit.picture && state.explains.includes(eye));
  at("why").onclick = () => (heat ? unheat() : explain(hit.id, words, eye));
  at("item").hidden = false;
  at("place").focus({ preventScroll: true });
  scrollTo(0, 0);
  at("alike").hidden = true;
  if (!hit.picture) return;
  const alike = await ask(`similar?${new URLSearchParams({ id: hit.id, k: 12, eye, ...filters() })}`).catch(() => ({ hits: [] }));
  if (mine !== asked) return;
  at("alike").hidden = !alike.hits.length;
  at("alike").querySelector("ul").replaceWith(grid(alike.hits, (one) => "?" + new URLSearchParams([...back, ["item", one.id]])));
}

// ---- reports: each opens as a page of its own, in a sandbox
const KINDS = { page: "page", eval: "omma eval", blind: "omma blind" };

async function showReports(mine) {
  at("found").replaceChildren();
  const { reports } = await ask("reports");
  if (mine !== asked) return;
  at("reports").querySelector("tbody").replaceChildren(...reports.map((one) => make("tr", {},
    make("th", { scope: "row" }, make("a", { href: `report/${one.id}` }, one.title)), make("td", {}, KINDS[one.kind]),
    make("td", {}, one.place), make("td", {}, make("time", { datetime: one.date }, new Date(one.date).toLocaleString())))));
  say(reports.length ? `${reports.length} ${reports.length === 1 ? "report" : "reports, the newest first"}` : `No report in ${state.reports.join(", ")}.`);
  at("reports-head").focus({ preventScroll: true });
}

async function explain(id, words, eye) {
  say("Looking …");
  try {
    const told = await ask(`why?${new URLSearchParams({ id, q: words, eye })}`);
    const canvas = at("heat");
    [canvas.height, canvas.width] = [told.patches.length, told.patches[0].length];
    const pixels = new ImageData(canvas.width, canvas.height);
    told.patches.flat().forEach((share, n) => pixels.data.set([222, 70, 20, Math.round(255 * share)], 4 * n));
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.hidden = false;
    heat = told;
    at("why").setAttribute("aria-pressed", "true");
    const top = [...told.words].sort((a, b) => b[1] - a[1]).slice(0, 3).map(([word]) => word);
    at("words").replaceChildren("Words that counted: ", make("b", {}, top.join(", ")));
    const most = told.patches.flat().reduce((best, share, n, all) => (share > all[best] ? n : best), 0);
    say(`Red patches counted most, above all row ${Math.floor(most / canvas.width) + 1} of ${canvas.height}, column ${most % canvas.width + 1} of ${canvas.width}`);
  } catch (error) {
    say(error.message, true);
  }
}

function unheat() {
  heat = null;
  at("heat").hidden = true;
  at("why").setAttribute("aria-pressed", "false");
  at("words").replaceChildren();
}

// ---- a picture as the question
function take(file) {
  if (!file) return;
  if (!file.type.startsWith("image/")) return say(`${file.name} is no picture`, true);
  if (file.size > 16 * 2 ** 20) return say(`${file.name} has more than 16 MB; take a smaller one`, true);
  const reader = new FileReader();
  reader.onerror = () => say(`${file.name} can't be read`, true);
  reader.onload = () => {
    picture = reader.result;
    at("given").src = picture;
    at("by-picture").hidden = false;
    go(parameters());
  };
  reader.readAsDataURL(file);
}

function drop() {
  picture = null;
  at("file").value = "";
  at("by-picture").hidden = true;
}

// ---- hands
at("ask").addEventListener("submit", (event) => { event.preventDefault(); left = null; go(parameters()); });
at("answer").addEventListener("click", () => at("query").value.trim() && go(new URLSearchParams([...parameters(), ["ask", "1"]])));
at("filters").addEventListener("change", () => (at("query").value.trim() || picture) && go(parameters()));
at("file").addEventListener("change", () => take(at("file").files[0]));
at("without").addEventListener("click", () => { drop(); go(parameters()); at("query").focus(); });
addEventListener("popstate", show);
addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("over"); });
addEventListener("dragleave", () => document.body.classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); document.body.classList.remove("over"); take(event.dataTransfer.files[0]); });
addEventListener("paste", (event) => { const file = [...event.clipboardData.files][0]; if (file) take(file); });
addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='?']");
  if (!link || event.button || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  go(new URLSearchParams(link.getAttribute("href")));
});
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.closest("input, select, textarea");
  if (event.key === "/" && !typing) { event.preventDefault(); at("query").focus(); at("query").select(); }
  if (event.key === "Escape" && !typing && !at("item").hidden) at("back").click();
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const links = [...document.querySelectorAll("a.hit")].filter((link) => link.offsetParent);
  if (!step || typing || !links.length) return;
  const here = links.indexOf(document.activeElement);
  event.preventDefault();
  links[here === -1 ? (step > 0 ? 0 : links.length - 1) : Math.min(links.length - 1, Math.max(0, here + step))].focus();
});

try {
  state = await ask("status");
  for (const kind of Object.keys(state.items)) at("kind").append(make("option", {}, kind));
  for (const folder of state.folders) at("folder").append(make("option", {}, folder));
  for (const eye of state.eyes) at("eye").append(make("option", {}, eye));
  if (state.eyes.length > 1) at("eye").append(make("option", {}, BOTH));
  at("eyes").hidden = state.eyes.length < 2;
  at("answer").hidden = !state.vlm;
  at("to-reports").hidden = !state.reports.length;
  const counts = Object.entries(state.items).map(([kind, count]) => `${count.toLocaleString()} ${kind}${count === 1 ? "" : "s"}`);
  at("holds").textContent = `${counts.join(", ")} in ${state.folders.join(", ")}, seen by ${state.eyes.join(" and ")}.`;
  await show();
} catch (error) {
  say(error.message, true);
}
