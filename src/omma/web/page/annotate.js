// The page for pairs: what a person types is sent at once, and called saved only when the server said that it is.

const $ = (selector) => document.querySelector(selector);
const form = $("#form"), fields = ["difference", "question", "left", "right", "left_statement", "right_statement"];
const WAIT = 400; // ms after the last key
const views = ["annotate", "agreement", "test", "export"];
const now = { view: "annotate", name: "", number: 0, stages: "", patterns: [], revision: 0, by: "", proposal: null, dirty: false };

let turn = Promise.resolve();

function then(act) { // one action after the other, however fast the keys come
  turn = turn.then(act).catch((error) => tell(error.message, "bad"));
}

async function call(name, said, post = false) {
  const query = post ? "" : "?" + new URLSearchParams(said);
  const how = post ? { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(said) } : {};
  let reply;
  try {
    reply = await fetch("api/" + name + query, how);
  } catch {
    throw Object.assign(new Error("omma doesn't answer; is it still running?"), { status: 0 });
  }
  const told = await reply.json();
  if (!reply.ok) throw Object.assign(new Error(told.error), { status: reply.status });
  return told;
}

function make(tag, text = "", more = {}) {
  return Object.assign(document.createElement(tag), { textContent: text }, more);
}

function hint(key) {
  const shown = make("kbd", key);
  shown.setAttribute("aria-hidden", "true");
  return shown;
}

function percent(cell) {
  return cell.value === null ? "–" : (100 * cell.value).toFixed(1) + " %";
}

function tile(what, big, small) {
  const card = make("div", "", { className: "card" });
  card.append(make("div", what), make("div", big, { className: "big" }), make("div", small, { className: "soft" }));
  return card;
}

const between = (cell) => cell.n ? `95 %: ${(100 * cell.low95).toFixed(1)} to ${(100 * cell.high95).toFixed(1)}, of ${cell.n}` : "nothing to compare yet";

// ---- one pair
let timer = 0, sending = null;

function tell(text, how = "") {
  $("#saved").textContent = text;
  $("#saved").className = how;
}

function read() {
  const said = Object.fromEntries(fields.map((name) => [name, form.elements[name].value]));
  return { ...said, pattern: form.elements.pattern.value, proposed_by: now.by };
}

function changed() {
  now.dirty = true;
  tell("not saved yet");
  clearTimeout(timer);
  timer = setTimeout(save, WAIT);
}

async function save() { // until all that was typed meanwhile is there, too; false where it could not be
  clearTimeout(timer);
  if (sending) return sending;
  sending = (async () => {
    while (now.dirty) {
      now.dirty = false;
      tell("saving …");
      try {
        const told = await call("save", { number: now.number, annotator: now.name, revision: now.revision, fields: read() }, true);
        now.revision = told.revision;
        shown(told);
      } catch (error) {
        now.dirty = true;
        const todo = error.status === 409 ? "s loads it again" : "s tries again";
        now.stale = error.status === 409;
        tell(`NOT SAVED: ${error.message} (${todo})`, "bad");
        return false;
      }
    }
    tell("saved", "good");
    return true;
  })();
  try { return await sending; } finally { sending = null; }
}

function shown(told) { // how far this pair is
  now.stages = now.stages.slice(0, now.number) + told.stage + now.stages.slice(now.number + 1);
  const left = told.missing;
  $("#missing").textContent = told.stage === 0 ? "Nothing written yet." : told.stage === 1 ? "Left to do: " + left.join("; ") + "."
    : told.stage === 3 ? "Complete: no difference to ask about." : "Complete.";
  $("#missing").className = told.stage > 1 ? "good" : "soft";
  const done = [...now.stages].filter((stage) => stage > "1").length, usable = [...now.stages].filter((stage) => stage === "2").length;
  $("#done").max = now.stages.length;
  $("#done").value = done;
  $("#count").textContent = `${done} done, ${usable} usable`;
}

async function open(number) {
  number = Math.max(0, Math.min(now.stages.length - 1, number));
  let told;
  do { // what is typed meanwhile belongs to the pair that is still shown
    if ((now.dirty || sending) && !(await save())) return;
    told = await call("pair", { number, annotator: now.name });
  } while (now.dirty || sending);
  Object.assign(now, { number, revision: told.revision, by: told.fields.proposed_by, dirty: false, stale: false });
  for (const name of fields) form.elements[name].value = told.fields[name];
  for (const radio of form.elements.pattern) radio.checked = radio.value === told.fields.pattern;
  for (const [side, id] of [["left", told.a], ["right", told.b]]) {
    const image = $(`#${side}-picture img`);
    const words = $(`#${side}-picture figcaption`);
    image.src = `picture/${number}/${side}`;
    image.alt = `${side === "left" ? "Left" : "Right"} picture, ${id}`;
    image.onerror = () => { words.textContent = words.title = `${side}: ${id} can't be shown; take none (0)`; };
    words.textContent = words.title = `${side}: ${id}`;
  }
  $("#jump").value = number + 1;
  $("#of").textContent = "of " + now.stages.length;
  $("#scores").textContent = `cosine: eye ${told.eye.toFixed(3)}, reference ${told.reference.toFixed(3)}`;
  $("#previous").disabled = number === 0;
  $("#next").disabled = number === now.stages.length - 1;
  $("#pictures").dataset.shown = "both";
  propose(null);
  taken();
  shown(told);
  tell(told.revision ? "saved" : "", told.revision ? "good" : "");
  location.replace("#annotate/" + (number + 1));
  if (number + 1 < now.stages.length) for (const side of ["left", "right"]) new Image().src = `picture/${number + 1}/${side}`;
}

function unfinished() {
  const order = [...now.stages.slice(now.number + 1), ...now.stages.slice(0, now.number + 1)];
  const ahead = order.findIndex((stage) => stage < "2");
  if (ahead < 0) return tell("every pair is done", "good");
  return open((now.number + 1 + ahead) % now.stages.length);
}

function choose(digit) {
  const radio = form.elements.pattern[digit === 0 ? now.patterns.length - 1 : digit - 1];
  if (!radio) return;
  radio.checked = true;
  changed();
}

function flip() {
  const at = { both: "left", left: "right", right: "both" };
  $("#pictures").dataset.shown = at[$("#pictures").dataset.shown];
}

// ---- proposals: shown apart, and taken over only by hand
function propose(told) {
  now.proposal = told;
  $("#proposal").hidden = !told;
  if (!told) return;
  $("#proposer").textContent = told.model;
  const list = Object.entries(told.fields).flatMap(([name, text]) => [make("dt", name.replace("_", " ")), make("dd", text)]);
  $("#proposal dl").replaceChildren(...list);
  $("#proposal pre").hidden = list.length > 0;
  $("#proposal pre").textContent = told.said || "(nothing)";
  $("#accept").disabled = !list.length;
}

async function ask() {
  const number = now.number;
  if ($("#ask").disabled || $("#ask").hidden) return;
  $("#ask").disabled = true;
  tell("the model looks at the pair …");
  try {
    const told = await call("propose", { number }, true);
    if (number === now.number) propose(told);
    tell(now.revision ? "saved" : "", now.revision ? "good" : "");
  } catch (error) {
    tell(error.message, "bad");
  } finally {
    $("#ask").disabled = false;
  }
}

function accept() {
  if (!now.proposal || $("#accept").disabled) return;
  let any = false;
  for (const name of fields) {
    if (form.elements[name].value || !now.proposal.fields[name]) continue;
    form.elements[name].value = now.proposal.fields[name];
    any = true;
  }
  if (!form.elements.pattern.value && now.proposal.fields.pattern) {
    for (const radio of form.elements.pattern) radio.checked = radio.value === now.proposal.fields.pattern;
    any = true;
  }
  if (any) {
    now.by = now.proposal.model;
    changed();
  }
  propose(null);
  taken();
}

function taken() {
  $("#taken").hidden = !now.by;
  $("#taken").textContent = now.by ? `Some of this was proposed by ${now.by} and taken over.` : "";
}

// ---- two annotators
function fill(select, names, chosen) {
  select.replaceChildren(...names.map(([value, text]) => make("option", text, { value, selected: value === chosen })));
}

async function compare() {
  const told = await call("state", {});
  const names = told.annotators.map((name) => [name, name]);
  const [one, other] = [$("#one").value || now.name, $("#other").value];
  const second = other && other !== one ? other : told.annotators.find((name) => name !== one) || "";
  fill($("#one"), names, one);
  fill($("#other"), names, second);
  for (const part of ["#numbers", "#disagreements"]) $(part).replaceChildren();
  $("#about").hidden = true;
  if (!second || !told.annotators.includes(one)) {
    $("#few").textContent = "It takes two who have annotated. So far: " + (told.annotators.join(", ") || "nobody") + ".";
    return;
  }
  const found = await call("agreement", { one, other: second });
  $("#few").textContent = `${found.pairs} pairs that both completed, and ${found.unfinished} that only one of them did.`;
  const { kappa, low95, high95, same } = found.pattern;
  const sure = low95 === null ? "can't be said yet" : `95 %: ${low95.toFixed(2)} to ${high95.toFixed(2)}`;
  $("#numbers").replaceChildren(
    tile("Cohen's kappa on the pattern", kappa === null ? "–" : kappa.toFixed(2), sure),
    tile("Same pattern", percent(same), between(same)),
    tile("Usable or not", percent(found.usable), between(found.usable)),
    tile("Same answers", percent(found.answers), between(found.answers)),
  );
  $("#about").hidden = !found.disagreements.length;
  $("#disagreements").replaceChildren(...found.disagreements.map((row) => disagreement(row, found.names)));
}

function disagreement(row, names) {
  const item = make("li", "", { className: "card" }), thumbs = make("div", "", { className: "thumbs" }), told = make("div");
  for (const side of ["left", "right"]) thumbs.append(make("img", "", { src: `picture/${row.number}/${side}`, alt: side + " picture", loading: "lazy" }));
  const table = make("table"), rows = [["", ...names], ...["pattern", "question", "left", "right"].map((name) => [name, row.one[name], row.other[name]])];
  for (const [number, cells] of rows.entries()) {
    const line = table.insertRow();
    for (const [place, text] of cells.entries()) {
      const heads = Boolean(number) !== Boolean(place);  // the first row names the two, the first column what they said
      line.append(make(heads ? "th" : "td", text || (place ? "–" : ""), heads ? { scope: number ? "row" : "col" } : {}));
    }
  }
  const about = { usable: "usable or not", pattern: "the pattern", answers: "the answers", exchanged: "which picture has which answer" };
  told.append(make("h3", `Pair ${row.number + 1}: ${row.about.map((name) => about[name]).join(", ")}`), table);
  item.append(thumbs, told);
  return item;
}

// ---- a person takes the test
const exam = { test: null, place: null, options: [], since: 0, busy: false };

async function begin() {
  $("#trouble").textContent = "";
  try {
    await question(await call("begin", { person: $("#person").value, seed: $("#seed").value || "0" }, true));
  } catch (error) {
    $("#trouble").textContent = error.message;
  }
}

async function question(told) {
  Object.assign(exam, { test: told.test, place: told.place, options: told.options || [], busy: false });
  $("#start").hidden = true;
  $("#item").hidden = told.place === null;
  $("#result").hidden = told.place !== null;
  if (told.place === null) return finished(told);
  $("#place").textContent = `${told.place + 1} of ${told.total}`;
  $("#question").textContent = told.question;
  $("#wrong").textContent = "";
  const image = $("#item img");
  image.src = `asked/${told.test}/${told.place}`;
  for (const [n, button] of document.querySelectorAll(".answers button").entries()) {
    button.replaceChildren(hint(String(n + 1)), told.options[n]);
    button.disabled = true;
  }
  await image.decode().catch(() => {});
  for (const button of document.querySelectorAll(".answers button")) button.disabled = false;
  exam.since = performance.now();
}

async function answer(n) {
  if (exam.busy || exam.place === null || $(".answers button").disabled) return;
  exam.busy = true;
  const seconds = (performance.now() - exam.since) / 1000;
  try {
    await question(await call("reply", { test: exam.test, place: exam.place, said: exam.options[n], seconds }, true));
  } catch (error) {
    exam.busy = false;
    $("#wrong").textContent = `NOT SAVED: ${error.message}`;
  }
}

function finished(told) {
  const { pairs, accuracy, same_answer: same, both, first_only: first, second_only: second, neither, wrote } = told.result;
  $("#result .tiles").replaceChildren(
    tile("Pairs, both right", percent(pairs), between(pairs)),
    tile("Questions", percent(accuracy), between(accuracy)),
    tile("Same answer to both pictures", percent(same), between(same)),
    tile("Time", told.result.seconds.toFixed(1) + " s", "a question, the median"),
  );
  $("#decomposed").textContent = `${both} pairs with both right, ${first + second} with one, ${neither} with none.`;
  $("#own").textContent = wrote ? `${wrote} of these questions are your own: a baseline has to come from somebody else.` : "";
  $("#where").textContent = told.path;
  $("#compare").textContent = `omma compare REPORT ${told.path} --kind generate --kind person`;
}

async function prepare() {
  for (const [part, hidden] of [["#start", false], ["#item", true], ["#result", true]]) $(part).hidden = hidden;
  exam.place = null;
  $("#person").focus(); // at once: a name may begin with a letter that is a key
  const told = await call("usable", {});
  $("#asked").textContent = `${2 * told.counts.usable} questions, of ${told.counts.usable} pairs`;
}

// ---- export
async function holds() {
  const state = await call("state", {});
  fill($("#by"), [["", "anybody, the latest"], ...state.annotators.map((name) => [name, name])], $("#by").value);
  const told = await call("usable", { by: $("#by").value, agreed: $("#agreed").checked });
  const left = Object.entries(told.counts).filter(([name, n]) => n && !["pairs", "usable"].includes(name));
  $("#holds").textContent = `${told.counts.usable} of ${told.counts.pairs} pairs can be asked about, ${told.statements} of them have statements. `
    + (left.length ? "Left out: " + left.map(([name, n]) => `${n} ${name.replace("_", " ")}`).join(", ") + "." : "");
  $("#shares").replaceChildren(...Object.entries(told.patterns).map(([name, n]) => make("li", `${name} ${n}`)));
  for (const button of document.querySelectorAll("[data-layout]")) button.disabled = !told.counts.usable;
}

async function write(layout) {
  try {
    const told = await call("export", { layout, by: $("#by").value, agreed: $("#agreed").checked }, true);
    $("#written").textContent = `Written to ${told.path}: ${told.pictures} pictures, ${told.questions ?? told.statements} ${told.questions ? "questions" : "statements"}.`;
    $("#written").className = "";
  } catch (error) {
    $("#written").textContent = error.message;
    $("#written").className = "bad";
  }
}

// ---- which view, whose
async function view(name, number = now.number) {
  if (now.dirty && !(await save())) return;
  now.view = name;
  for (const each of views) $("#" + each).hidden = each !== name;
  for (const button of document.querySelectorAll("nav button")) {
    if (button.dataset.view === name) button.setAttribute("aria-current", "page"); else button.removeAttribute("aria-current");
  }
  if (document.activeElement) document.activeElement.blur();
  if (name !== "annotate") location.replace("#" + name);
  if (name === "annotate") await open(number);
  if (name === "agreement") await compare();
  if (name === "test") await prepare();
  if (name === "export") await holds();
}

async function who() {
  if (now.dirty && !(await save())) return;
  $("#annotator").value = now.name;
  $("#who").showModal();
  $("#annotator").select();
}

async function named(name) {
  const told = await call("state", { annotator: name });
  Object.assign(now, { name, stages: told.stages, patterns: told.patterns });
  try { sessionStorage.setItem("annotator", name); } catch { /* a browser may refuse to keep things */ }
  $("#name").replaceChildren(name, hint("m"));
  $("#name").setAttribute("aria-label", `${name} annotates; change that`);
  $("#name").hidden = false;
  $("#ask").hidden = !told.model;
  const [place, number] = location.hash.slice(1).split("/");
  if (views.includes(place) && place !== "annotate") return view(place);
  const first = [...told.stages].findIndex((stage) => stage < "2");
  return view("annotate", number ? parseInt(number, 10) - 1 || 0 : Math.max(0, first));
}

// ---- keys
const focus = (name) => () => form.elements[name].focus();
const keys = {
  any: { n: () => view("annotate"), c: () => view("agreement"), t: () => view("test"), x: () => view("export"), m: who },
  annotate: {
    j: () => open(now.number + 1), k: () => open(now.number - 1), ArrowRight: () => open(now.number + 1), ArrowLeft: () => open(now.number - 1),
    u: unfinished, g: () => $("#jump").select(), f: flip, p: () => { ask(); }, a: accept, o: () => propose(null),
    s: () => now.stale ? (now.dirty = false, open(now.number)) : save(),
    d: focus("difference"), q: focus("question"), l: focus("left"), r: focus("right"), w: focus("left_statement"), e: focus("right_statement"),
  },
  agreement: { 1: () => $("#one").focus(), 2: () => $("#other").focus() },
  test: { 1: () => answer(0), 2: () => answer(1) },
  export: {
    1: () => write("mmvp"), 2: () => write("mmvp-vlm"), 3: () => write("items"), b: () => $("#by").focus(), i: () => $("#agreed").click(),
  },
};

function pressed(event) {
  if ($("#who").open || event.isComposing) return;
  const at = event.target, writing = at.matches("input:not([type=radio], [type=checkbox]), select");
  const digit = /^(Digit|Numpad)[0-9]$/.test(event.code) ? Number(event.code.at(-1)) : null;
  if (now.view === "annotate" && event.altKey && digit !== null && !event.ctrlKey && !event.metaKey) {
    event.preventDefault();
    return then(() => choose(digit));
  }
  if (now.view === "annotate" && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    at.blur(); // the next key is a pattern
    return then(unfinished);
  }
  if (writing) {
    if (event.key === "Escape") at.blur();
    if (event.key === "Enter" && form.contains(at)) {
      event.preventDefault();
      const order = fields.map((name) => form.elements[name]);
      const next = order[order.indexOf(at) + 1];
      if (next) next.focus(); else at.blur();
    }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (at.matches("[type=radio]") && event.key.startsWith("Arrow")) return; // between patterns
  if (now.view === "annotate" && digit !== null && /^[0-9]$/.test(event.key)) return then(() => choose(digit));
  const act = keys[now.view][event.key] ?? keys.any[event.key];
  if (!act || event.repeat && !["j", "k", "ArrowLeft", "ArrowRight"].includes(event.key)) return;
  event.preventDefault();
  then(act);
}

function click(selector, act) {
  $(selector).addEventListener("click", () => then(act));
}

async function start() {
  const told = await call("state", {});
  $("#patterns").append(...told.patterns.map((name, n) => {
    const label = make("label", "", { className: "chip" }), text = make("span", name);
    const key = String((n + 1) % 10);
    const radio = make("input", "", { type: "radio", name: "pattern", value: name });
    radio.setAttribute("aria-keyshortcuts", key);
    text.prepend(hint(key));
    label.append(radio, text);
    return label;
  }));
  for (const part of document.querySelectorAll("[data-key]")) {
    const input = part.matches("label") ? part.querySelector("input") : part;
    input.setAttribute("aria-keyshortcuts", part.dataset.key);
    if (part.matches("input, select")) part.after(hint(part.dataset.key));
    else if (part.matches("label")) input.before(hint(part.dataset.key));
    else part.append(hint(part.dataset.key));
  }
  $("#known").append(...told.annotators.map((name) => make("option", "", { value: name })));
  form.addEventListener("input", changed);
  form.addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", pressed);
  addEventListener("beforeunload", (event) => { if (now.dirty || sending) event.preventDefault(); });
  for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => then(() => view(button.dataset.view)));
  for (const button of document.querySelectorAll("[data-layout]")) button.addEventListener("click", () => then(() => write(button.dataset.layout)));
  for (const [n, button] of document.querySelectorAll(".answers button").entries()) button.addEventListener("click", () => then(() => answer(n)));
  for (const part of ["#one", "#other"]) $(part).addEventListener("change", () => then(compare));
  for (const part of ["#by", "#agreed"]) $(part).addEventListener("change", () => then(holds));
  click("#previous", () => open(now.number - 1));
  click("#next", () => open(now.number + 1));
  click("#unfinished", unfinished);
  click("#flip", flip);
  click("#ask", () => { ask(); });
  click("#accept", accept);
  click("#discard", () => propose(null));
  click("#name", who);
  $("#jump").addEventListener("change", () => {
    $("#jump").blur();
    then(() => open((parseInt($("#jump").value, 10) || 1) - 1));
  });
  $("#start").addEventListener("submit", (event) => { event.preventDefault(); then(begin); });
  $("#who").addEventListener("cancel", (event) => { if (!now.name) event.preventDefault(); });
  $("#who form").addEventListener("submit", (event) => {
    event.preventDefault();
    named($("#annotator").value).then(() => $("#who").close()).catch((error) => {
      $("#annotator").setCustomValidity(error.message);
      $("#annotator").reportValidity();
    });
  });
  $("#annotator").addEventListener("input", () => $("#annotator").setCustomValidity(""));
  let kept = "";
  try { kept = sessionStorage.getItem("annotator") || ""; } catch { /* then the name is asked again */ }
  if (kept) await named(kept); else await who();
}

start().catch((error) => { document.body.prepend(make("p", error.message, { className: "bad" })); });
