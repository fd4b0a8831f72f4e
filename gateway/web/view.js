/** What is on the page. Text goes in as text nodes only. */

import { DOUBTFUL, clock } from "./transcript.js";

export const $ = (id) => document.getElementById(id);

const SOURCES = {
  microphone: { connecting: "Waiting for the microphone", listening: "Listening", closed: "Stopped" },
  file: { connecting: "Opening the file", listening: "Transcribing", closed: "Done" },
};
const STATES = {
  reconnecting: "Connection lost. Reconnecting; nothing you say is lost",
  finishing: "Finishing the last words",
  error: "Stopped",
};
const WAITING = ["connecting", "listening", "reconnecting", "finishing"];

/** Show the state of a take of this kind; `why` explains a wait or a failure. */
export function showState(state, kind, why) {
  const busy = WAITING.includes(state);
  document.body.dataset.state = state;
  document.body.classList.toggle("busy", busy);
  $("toggle-label").textContent = busy ? "Stop" : "Start the microphone";
  $("choose").disabled = busy;
  $("route").disabled = busy;
  showText($("state"), SOURCES[kind][state] ?? STATES[state]);
  if (why || state === "listening") showProblem(why);
  if (!busy) showPartial(null);
}

export function showProblem(sentence) {
  $("problem").hidden = !sentence;
  showText($("problem"), sentence ?? "");
}

/** The phrases that whoever speaks expects to say. */
export function expected() {
  return $("hotwords").value.split(",").map((phrase) => phrase.trim()).filter(Boolean);
}

/** Seconds so far, and of how many where that is known. */
export function showClock(seconds, total) {
  const parts = total === undefined ? [seconds] : [seconds, total];
  $("clock").textContent = parts.map((part) => clock(part).slice(0, -2)).join(" of ");
}

/** The halo of the button; `level` in [0, 1]. */
export function showLevel(level) {
  $("toggle").style.setProperty("--level", level.toFixed(2));
}

export function showModel(model) {
  showText($("model"), `${model.name} ${model.version}`);
}

export function showPace(label, value) {
  showText($("pace-label"), label);
  showText($("pace"), value);
}

/** How the packets of a WebRTC take fare; null where there are none. */
export function showNetwork(stats) {
  $("network-fact").hidden = !stats;
  if (!stats) return;
  const { lost, received, delay_ms } = stats;
  const lost_percent = (100 * lost) / Math.max(1, received + lost);
  showText($("network"), `${lost_percent.toFixed(lost_percent < 10 ? 1 : 0)} % lost, ${Math.round(delay_ms)} ms`);
}

/** Let people choose how the microphone's audio travels. */
export function offerWebRtc() {
  $("route").hidden = false;
}

/** Add a heading that separates takes, and return it. */
export function showTake(name) {
  const heading = document.createElement("h2");
  heading.className = "take";
  heading.textContent = name;
  $("welcome").hidden = true;
  follow(() => $("log").append(heading));
  return heading;
}

export function showPartial(message) {
  const characters = [...(message?.text ?? "")];
  if (characters.length) $("welcome").hidden = true;
  follow(() => {
    $("partial").hidden = !characters.length;
    $("partial").querySelector(".at").textContent = characters.length ? clock(message.start_s) : "";
    $("stable").textContent = characters.slice(0, message?.stable).join("");
    $("tentative").textContent = characters.slice(message?.stable).join("");
  });
}

export function showFinal({ text, words, start_s }) {
  const row = document.createElement("p");
  row.className = "utterance";
  const at = document.createElement("span");
  at.className = "at";
  at.textContent = clock(start_s);
  const line = document.createElement("span");
  line.className = "text";
  if (words?.length) words.forEach((word, index) => line.append(index ? " " : "", wordSpan(word)));
  else line.textContent = text;
  row.append(at, " ", line);
  follow(() => $("log").append(row));
}

export function showCount(count) {
  showText($("count"), String(count));
  $("tools").hidden = count === 0;
  $("welcome").hidden = count > 0;
}

export function clearLog() {
  $("log").replaceChildren();
  showCount(0);
}

/** Offer a choice only where there is one. */
export function showDevices(devices, chosen) {
  $("devices").hidden = devices.length < 2;
  $("device").replaceChildren(...devices.map(({ deviceId, label }) => new Option(label, deviceId)));
  if (devices.some(({ deviceId }) => deviceId === chosen)) $("device").value = chosen;
}

function wordSpan({ word, start_s, end_s, confidence }) {
  const span = document.createElement("span");
  span.textContent = word;
  span.title = `${clock(start_s)} – ${clock(end_s)} · ${Math.round(confidence * 100)} % sure`;
  if (confidence < DOUBTFUL) span.className = "doubtful";
  return span;
}

/** Assign only what changed: screen readers announce every assignment to a live region. */
function showText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Change the page and stay at its end, unless the reader has scrolled up. */
function follow(change) {
  const page = document.documentElement;
  const atEnd = page.scrollHeight - page.clientHeight - page.scrollTop < 80;
  change();
  if (atEnd) page.scrollTop = page.scrollHeight;
}
