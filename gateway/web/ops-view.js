/** What is on the operators' page. Text goes in as text nodes only, and only where it changed: focus stays. */

import { drawFinals, Line, quantile, SPAN_S } from "./ops-chart.js";

export const $ = (id) => document.getElementById(id);

const MINUTE_S = 60;
const ROLES = { active: "serves", standby: "candidate", previous: "served before", chosen: "chosen by streams" };
const STEPS = {
  verify: "Trusted",
  stage: "Stored",
  warm: "Warm",
  probe: "Golden words",
  shadow: "Shadow",
  canary: "Canary",
  commit: "Flip",
  activate: "Serves",
};
/** Steps that begin something; the others tell that it is done. */
const ONGOING = ["shadow", "canary", "commit"];
const DONE = ["ACTIVE", "RETIRED", "ROLLED_BACK"];
const STAGES = {
  REGISTERED: "is being judged",
  VERIFIED: "is being stored",
  STAGED: "is being loaded",
  WARMED: "is tried on golden utterances",
  PROBED: "passed; its trial begins",
  SHADOW: "runs beside, unheard",
  CANARY: "speaks to a share of streams",
  COMMITTING: "is taking over",
  ACTIVE: "serves",
  RETIRED: "was replaced",
  REJECTED: "was rejected",
  ROLLED_BACK: "was rolled back",
};
const MEASURES = {
  confidence: ["Confidence", percent],
  latency_ms: ["Latency", ms],
  empty: ["Without a word", percent],
  right: ["Judged right", percent],
};
const HIDDEN_FACTS = ["digest", "base_digest", "name", "plan", "emergency", "validation"];

const lines = Object.fromEntries(["streams", "latency", "batch", "load"].map((id) => [id, new Line($(`${id}-line`))]));

/** Whether a swap is under way and can still be ended. */
export const canEnd = ({ stage }) => ![...DONE, "REJECTED", "COMMITTING"].includes(stage);

export const reference = ({ name, revision }) => `${name}@${revision}`;

export function showLink(text, state) {
  document.body.dataset.link = state;
  put($("link"), text);
}

export function showProblem(sentence = "") {
  $("problem").hidden = !sentence;
  put($("problem"), sentence);
}

/** Ask for the token, or show the board. */
export function showLogin(asked) {
  $("login").hidden = !asked;
  $("board").hidden = asked;
  if (asked) $("token").focus();
}

/** @param finals `{ age_s, latency_ms, .. }`, oldest first. */
export function showNumbers({ streams, engine, max_batch }, finals) {
  const heard = finals.filter((one) => one.age_s < MINUTE_S && !one.unheard && one.latency_ms !== null);
  const sorted = heard.map((one) => one.latency_ms).sort((a, b) => a - b);
  put($("streams"), String(streams));
  lines.streams.push(streams, 1);
  put($("latency"), sorted.length ? ms(quantile(sorted, 0.5)) : "–");
  put($("latency-tail"), sorted.length ? `95 % within ${ms(quantile(sorted, 0.95))}` : "no finals in a minute");
  lines.latency.push(sorted.length ? quantile(sorted, 0.95) : 0, 1);
  if (!engine) return;
  put($("batch"), engine.batch.toFixed(1));
  put($("batch-most"), `of ${max_batch} at most`);
  lines.batch.push(engine.batch, 1);
  put($("load"), percent(engine.load));
  put($("waiting"), engine.waiting ? `${engine.waiting} utterances wait` : "nobody waits");
  lines.load.push(engine.load, 1);
}

/** @param finals `{ model, unheard }`. @param onback Called with a model that shall go. */
export function showModels(models, finals, onback) {
  const heard = finals.filter((one) => !one.unheard && !one.failed);
  const trials = new Map(models.filter(({ role }) => role === "standby").map((one) => [one.name, one.percent]));
  keep($("models"), models, reference, modelRow, (row, one) => {
    const count = heard.filter(({ model }) => model === reference(one)).length;
    const streams = { active: 100 - (trials.get(one.name) ?? 0), standby: one.percent }[one.role];
    const [what, role, share, said, leases, memory, cpu, action] = row.cells;
    row.dataset.role = one.role;
    put(what.firstChild, reference(one));
    put(what.lastChild, one.version);
    put(role, ROLES[one.role]);
    put(share.firstChild, streams === undefined ? "–" : `${round(streams)} %`);
    share.lastChild.style.setProperty("--share", `${streams ?? 0}%`);
    put(said, heard.length ? `${count} of ${heard.length}` : "–");
    put(leases, String(one.leases));
    put(memory, one.memory_mb === null ? "–" : `${Math.round(one.memory_mb)} MB`);
    put(cpu, one.cpu_ms === null ? "–" : `${one.cpu_ms.toFixed(1)} ms`);
    const button = action.firstChild;
    button.hidden = !one.back;
    button.setAttribute("aria-label", `Roll ${reference(one)} back to the bytes of ${one.back}`);
    button.onclick = () => onback(one);
  });
}

/** @param finals As for `drawFinals`, and failed ones. @param flips As for `drawFinals`. */
export function showChart(finals, flips) {
  const drawn = finals.filter((one) => one.latency_ms !== null);
  const sorted = drawn.map((one) => one.latency_ms).sort((a, b) => a - b);
  const text = `half of ${drawn.length} finals within ${ms(quantile(sorted, 0.5) ?? 0)}, the last after ${ms(sorted.at(-1) ?? 0)}`;
  $("chart").setAttribute("aria-label", drawn.length ? text : "No finals yet");
  drawFinals($("chart"), drawn, flips.filter(({ age_s }) => age_s < SPAN_S));
}

/** @param events Those of this swap. */
export function showSwap(swap, events, limits) {
  $("no-swap").hidden = Boolean(swap);
  $("swap-facts").hidden = !swap;
  if (!swap) return;
  const share = ["SHADOW", "CANARY"].includes(swap.stage) ? `: ${round(swap.facts.percent)} %` : "";
  put($("swap-what"), `${swap.number} · ${swap.name ? reference(swap) : swap.facts.source}`);
  put($("swap-stage"), `${STAGES[swap.stage]}${share}`);
  $("swap-stage").dataset.stage = swap.stage;
  put($("swap-why"), swap.why ? `${swap.why} (${swap.who})` : `begun by ${swap.who}`);
  keep($("course"), course(swap, events), ({ step }) => step, () => document.createElement("li"), (item, one) => {
    put(item, one.step === "canary" && one.state !== "ahead" ? `Canary ${round(swap.facts.percent)} %` : STEPS[one.step]);
    item.className = one.state;
    one.state === "now" ? item.setAttribute("aria-current", "step") : item.removeAttribute("aria-current");
  });
  keep($("gates"), gates(swap.facts, limits), ([name]) => name, gateRow, (row, [name, said]) => {
    put(row.firstChild, name);
    put(row.lastChild, said);
  });
  const report = Object.entries(swap.report);
  $("report-box").hidden = !report.length;
  keep($("report"), report, ([measure]) => measure, () => tableRow(5, [1, 2, 3, 4]), (row, [measure, seen]) => {
    const [name, written] = MEASURES[measure];
    const said = [name, written(seen.serving), written(seen.candidate), seen.counts.join(" / "), seen.p.toPrecision(2)];
    said.forEach((text, index) => put(row.cells[index], text));
  });
  $("promote").hidden = !["SHADOW", "CANARY"].includes(swap.stage);
  $("abort").hidden = !canEnd(swap);
}

/** Add what was done, newest first. */
export function showEvent({ seq, at, swap, who, step, why, facts }) {
  const item = document.createElement("li");
  const when = document.createElement("time");
  when.dateTime = at;
  when.textContent = new Date(at).toLocaleTimeString();
  const what = document.createElement("b");
  what.textContent = step.replace("_", " ");
  const shown = Object.entries(facts).filter(([key, value]) => !HIDDEN_FACTS.includes(key) && value !== "" && value !== null);
  const rest = why || shown.map(([key, value]) => `${key} ${value}`).join(", ");
  item.append(when, ` swap ${swap}, ${who} `, what, rest && ` ${rest}`);
  item.value = seq;
  $("events").prepend(item);
  while ($("events").children.length > 200) $("events").lastChild.remove();
}

/** Ask; the reason given, or null for no. */
export function confirmed({ title, text, yes }) {
  put($("confirm-title"), title);
  put($("confirm-text"), text);
  put($("yes"), yes);
  $("why").value = "";
  const box = $("confirm");
  box.returnValue = "";
  box.showModal();
  return new Promise((resolve) => {
    box.addEventListener("close", () => resolve(box.returnValue === "yes" ? $("why").value : null), { once: true });
  });
}

/** The steps that a swap takes, each `done`, `now`, `failed` or `ahead`. */
function course({ stage, facts }, events) {
  const { shadow, canary } = facts.plan ?? {};
  const left_out = {
    stage: "undoes" in facts,
    warm: "undoes" in facts,
    probe: "undoes" in facts,
    shadow: !shadow || facts.emergency,
    canary: !canary?.length || facts.emergency,
  };
  const steps = Object.keys(STEPS).filter((step) => !left_out[step]);
  const last = events.map(({ step }) => step).findLast((step) => step in STEPS);
  const at = DONE.includes(stage) ? steps.length : steps.indexOf(last) + (ONGOING.includes(last) ? 0 : 1);
  const here = stage === "REJECTED" ? "failed" : "now";
  return steps.map((step, index) => ({ step, state: index < at ? "done" : index > at ? "ahead" : here }));
}

/** What a swap had to pass, as far as it is known. */
function gates(facts, limits) {
  const all = [
    ["Package", facts.version && `signed and trusted, ${facts.version}${facts.base ? `, follows ${facts.base}` : ""}`],
    ["CPU", facts.cpu_ms && `${facts.cpu_ms} ms per second of audio, serving model ${facts.serving_cpu_ms}; at most ${limits.max_slowdown} times that`],
    ["Memory", facts.rss_mb && `${Math.round(facts.rss_mb)} MB in a process of its own`],
    ["Golden words", facts.golden && `${facts.golden} utterances heard as they should be, the slowest in ${facts.slowest} s per second`],
    ...Object.entries(facts.validation ?? {}).map(([group, { serving, candidate }]) => [
      `Word errors, ${group}`,
      `${percent(candidate)}, serving model ${percent(serving)}; at most ${percent(limits.max_group_rise)} more`,
    ]),
    ["Flip", facts.commit_ms && `${facts.commit_ms} ms`],
  ];
  return all.filter(([, said]) => said);
}

function modelRow() {
  const row = tableRow(8, [4, 5, 6]);
  const [what, , share, , , , , action] = row.cells;
  what.append(document.createElement("b"), document.createElement("span"));
  share.append(document.createElement("span"), document.createElement("i"));
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "Roll back";
  action.append(button);
  return row;
}

/** A row whose first cell names it. */
function tableRow(cells, numbers) {
  const row = document.createElement("tr");
  for (let index = 0; index < cells; index++) {
    const cell = row.appendChild(document.createElement(index ? "td" : "th"));
    if (!index) cell.scope = "row";
    if (numbers.includes(index)) cell.className = "number";
  }
  return row;
}

function gateRow() {
  const row = document.createElement("div");
  row.append(document.createElement("dt"), document.createElement("dd"));
  return row;
}

/** Have one child of `parent` per item, in order, kept by key; `fill` brings each up to date. */
function keep(parent, items, keyOf, make, fill) {
  const old = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  items.forEach((item, index) => {
    const key = keyOf(item);
    const child = old.get(key) ?? make();
    old.delete(key);
    child.dataset.key = key;
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
    fill(child, item);
  });
  while (parent.children.length > items.length) parent.lastElementChild.remove();
}

function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function round(value) {
  return Number(value.toPrecision(3));
}

function percent(share) {
  return `${round(100 * share)} %`;
}

function ms(value) {
  return `${Math.round(value)} ms`;
}
