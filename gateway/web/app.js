/** The controls of the page. */

import { listMicrophones } from "./capture.js";
import { Recording } from "./recording.js";
import { FORMATS, Transcript } from "./transcript.js";
import * as view from "./view.js";
import { takesWebRtc } from "./whip.js";
import { Waveform } from "./waveform.js";

const { $ } = view;
const CONTROLS = "button, select, input, textarea, a, summary, [contenteditable]";

const transcript = new Transcript();
const waveform = new Waveform($("wave"));

/** The recording that is going on, or null. */
let current = null;

function begin(kind, name) {
  const onover = () => (current = null);
  current = new Recording({ kind, name, phrases: view.expected(), transcript, waveform, onover });
  return current;
}

async function toggle() {
  if (current) return current.stop();
  const route = document.querySelector("[name=route]:checked").value;
  await begin("microphone", "Microphone").listen($("device").value, route === "webrtc");
  await refreshDevices();
}

function read(file) {
  if (file && !current) begin("file", file.name).read(file);
}

async function refreshDevices() {
  view.showDevices(await listMicrophones(), $("device").value);
}

function save(extension) {
  const { type, write } = FORMATS[extension];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([write(transcript.takes)], { type }));
  link.download = `transcript.${extension}`;
  link.click();
  URL.revokeObjectURL(link.href);
}

async function copy() {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(FORMATS.txt.write(transcript.takes));
  } else {
    // Pages without https have no clipboard object.
    getSelection().selectAllChildren($("log"));
    document.execCommand("copy");
  }
  $("copy").textContent = "Copied";
  setTimeout(() => ($("copy").textContent = "Copy"), 1500);
}

function clear() {
  transcript.clear(current?.take);
  view.clearLog();
  $("toggle").focus();
}

$("toggle").onclick = toggle;
$("copy").onclick = copy;
$("clear").onclick = clear;
$("choose").onclick = () => $("file").click();
$("file").onchange = () => {
  read($("file").files[0]);
  $("file").value = "";
};
$("device").onchange = () => {
  current?.microphone?.use($("device").value).catch((error) => view.showProblem(error.message));
};
$("hotwords").onchange = () => current?.expect(view.expected());
for (const button of document.querySelectorAll("[data-save]")) button.onclick = () => save(button.dataset.save);

document.addEventListener("keydown", (event) => {
  if (event.code !== "Space" || event.repeat || event.target.closest(CONTROLS)) return;
  event.preventDefault();
  toggle();
});

const dragsFile = ({ dataTransfer }) => dataTransfer?.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!dragsFile(event)) return;
  event.preventDefault();
  document.body.classList.toggle("dragging", !current);
});
document.addEventListener("dragleave", ({ relatedTarget }) => {
  if (!relatedTarget) document.body.classList.remove("dragging");
});
document.addEventListener("drop", (event) => {
  if (!dragsFile(event)) return;
  event.preventDefault();
  document.body.classList.remove("dragging");
  read(event.dataTransfer.files[0]);
});

async function nameModel() {
  const answer = await fetch("v1/model");
  if (answer.ok) view.showModel(await answer.json());
}

navigator.mediaDevices?.addEventListener("devicechange", refreshDevices);
refreshDevices();
nameModel();
takesWebRtc().then((taken) => taken && view.offerWebRtc());
