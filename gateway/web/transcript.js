/** What has been said so far, and the files it can be saved as. No DOM in here. */

/** Words below this are shown as doubtful. */
export const DOUBTFUL = 0.6;

const CUE_CHARACTERS = 84;
const CUE_S = 6;
const CUE_PAUSE_S = 0.8;

/** Takes in order; each has its own clock, starting at 0. */
export class Transcript {
  takes = [];

  begin(source) {
    const take = { source, started: new Date().toISOString(), model: null, audio_s: 0, utterances: [] };
    this.takes.push(take);
    return take;
  }

  drop(take) {
    this.takes = this.takes.filter((other) => other !== take);
  }

  /** Forget everything but the take that is still running, if any. */
  clear(running) {
    this.takes = running ? [running] : [];
    if (running) running.utterances = [];
  }

  get utterances() {
    return this.takes.flatMap((take) => take.utterances);
  }
}

/** m:ss.s, as in 0:03.4 */
export function clock(seconds) {
  const tenths = Math.round(Math.max(0, seconds) * 10);
  const rest = String(Math.floor((tenths % 600) / 10)).padStart(2, "0");
  return `${Math.floor(tenths / 600)}:${rest}.${tenths % 10}`;
}

/** Save formats: file extension -> media type and writer. */
export const FORMATS = {
  txt: { type: "text/plain", write: (takes) => `${takes.map(paragraphs).join("\n\n")}\n` },
  json: { type: "application/json", write: (takes) => `${JSON.stringify({ takes }, null, 2)}\n` },
  srt: { type: "application/x-subrip", write: (takes) => cues(takes).map(srtCue).join("\n") },
  vtt: { type: "text/vtt", write: (takes) => `WEBVTT\n\n${cues(takes).map(vttCue).join("\n")}` },
};

function paragraphs({ utterances }) {
  return utterances.map(({ text }) => text).join("\n");
}

/** Subtitle cues of all takes, as if they were played one after another. */
function cues(takes) {
  const all = [];
  let offset_s = 0;
  for (const { utterances, audio_s } of takes) {
    for (const { text, words, start_s, end_s } of utterances) {
      for (const line of words.length ? lines(words) : [[{ word: text, start_s, end_s }]]) {
        all.push({
          start_s: offset_s + line[0].start_s,
          end_s: offset_s + line.at(-1).end_s,
          text: line.map(({ word }) => word).join(" "),
        });
      }
    }
    offset_s += audio_s;
  }
  return all;
}

/** Cut an utterance into pieces that can be read while they are shown. */
function lines(words) {
  const all = [];
  let line = [];
  let characters = 0;
  for (const word of words) {
    const full = characters + word.word.length > CUE_CHARACTERS || word.end_s - line[0]?.start_s > CUE_S;
    if (line.length && (full || word.start_s - line.at(-1).end_s > CUE_PAUSE_S)) {
      all.push(line);
      line = [];
      characters = 0;
    }
    line.push(word);
    characters += word.word.length + 1;
  }
  if (line.length) all.push(line);
  return all;
}

function srtCue({ start_s, end_s, text }, index) {
  return `${index + 1}\n${stamp(start_s, ",")} --> ${stamp(end_s, ",")}\n${text}\n`;
}

function vttCue({ start_s, end_s, text }) {
  const escaped = text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  return `${stamp(start_s, ".")} --> ${stamp(end_s, ".")}\n${escaped}\n`;
}

function stamp(seconds, point) {
  return new Date(Math.round(seconds * 1000)).toISOString().slice(11, 23).replace(".", point);
}
