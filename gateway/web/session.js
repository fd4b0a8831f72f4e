/** One take on the wire: a WebSocket session that survives a dropped connection. */

import { Outbox } from "./outbox.js";

/** state -> event -> next state; an event missing here is a bug. */
const MOVES = {
  idle: { start: "connecting" },
  connecting: { ready: "listening", retry: "connecting", fail: "error", leave: "closed" },
  listening: { flushed: "finishing", retry: "reconnecting", fail: "error", leave: "closed" },
  reconnecting: { ready: "listening", retry: "reconnecting", fail: "error", leave: "closed" },
  finishing: { closed: "closed", retry: "reconnecting", fail: "error", leave: "closed" },
};

const BYTES_PER_SAMPLE = 2;
const HIGH_WATER_BYTES = 256 * 1024;
const PUMP_MS = 25;
/** A loaded server may read nothing for a while; a dead network looks the same, only longer. */
const STALLED_MS = 20_000;
/** The server keeps a dropped session for 30 s; unsent and unacknowledged audio together stay below this. */
const KEEP_S = 60;
const RESUME_PATIENCE_MS = 30_000;
const FIRST_PATIENCE_MS = 8000;
const BACKOFF_MS = [250, 500, 1000, 2000, 4000];
const NORMAL_CLOSURE = 1000;
const GONE = "The server does not answer. Check that it is running, then press the button to start again.";
const FULL = { message: "all places on the server are taken", retryable: true };

export class Session {
  #on;
  #rateHz;
  #phrases;
  #outbox;
  #state = "idle";
  #socket = null;
  #timer = 0;
  #token = null;
  /** Newest error message of this connection, and whether it has been accepted. */
  #refusal = null;
  #greeted = false;
  #attempts = 0;
  #troubleSince = null;
  #drainedAt = 0;
  #buffered = 0;
  /** Offset of the next byte to send, and of the first byte this server session saw. */
  #cursor = 0;
  #base = 0;
  /** Newest utterance whose final has come, as the server counts. */
  #seen = -1;
  #baseUtterance = 0;
  #nextUtterance = 0;
  #finalEnd_s = 0;

  /**
   * @param rateHz Sample rate of the pcm_s16le that will be pushed.
   * @param live Audio arrives in real time: keep only the newest minute.
   * @param phrases What is likely to be said; what the model cannot write gets an error message, and the take goes on.
   * @param on `state(state, why)`, `message(message)` with times and utterance numbers of the whole take, `progress()`.
   */
  constructor({ rateHz, live, phrases, on }) {
    this.#rateHz = rateHz;
    this.#phrases = phrases;
    this.#on = on;
    this.#outbox = new Outbox(live ? KEEP_S * this.#bytesPerSecond : Infinity);
  }

  get state() {
    return this.#state;
  }

  get over() {
    return !(this.#state in MOVES);
  }

  /** Seconds of audio pushed, and handed to the network. */
  get pushed_s() {
    return this.#outbox.end / this.#bytesPerSecond;
  }

  get sent_s() {
    return Math.max(0, this.#cursor - (this.#socket?.bufferedAmount ?? 0)) / this.#bytesPerSecond;
  }

  start() {
    this.#move("start");
    this.#connect();
  }

  /** Expect other phrases from the next utterance on. */
  expect(phrases) {
    this.#phrases = phrases;
    if (this.#state === "listening") this.#tellPhrases();
  }

  /** Queue audio; it is sent as fast as the connection takes it. */
  push(packet) {
    this.#outbox.push(packet);
    this.#pump();
  }

  /** No more audio: once everything is sent, ask for the last words and close. */
  end() {
    this.#outbox.ended = true;
    this.#pump();
  }

  /** Give up at once; what was not answered is lost. */
  leave() {
    this.#detach(NORMAL_CLOSURE);
    this.#move("leave");
  }

  get #bytesPerSecond() {
    return this.#rateHz * BYTES_PER_SAMPLE;
  }

  #move(event, why = "") {
    const next = MOVES[this.#state]?.[event];
    if (!next) throw new Error(`no move ${event} from ${this.#state}`);
    this.#state = next;
    this.#on.state(next, why);
  }

  #connect() {
    const url = new URL("v1/stream", document.baseURI);
    url.protocol = url.protocol.replace("http", "ws");
    url.searchParams.set("sample_rate", this.#rateHz);
    url.searchParams.set("encoding", "pcm_s16le");
    if (this.#token) {
      url.searchParams.set("resume", this.#token);
      url.searchParams.set("seen", this.#seen);
    }
    this.#refusal = null;
    this.#greeted = false;
    this.#socket = new WebSocket(url);
    this.#socket.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#socket.onclose = () => (this.#greeted ? this.#dropped(null) : this.#turnedAway());
  }

  #receive(message) {
    switch (message.type) {
      case "ready":
        this.#ready(message);
        break;
      case "error":
        if (message.code !== "bad_hotword") this.#refusal = message;
        break;
      case "closed":
        if (this.#state !== "finishing" || message.reason !== "client") return this.#dropped(this.#refusal);
        this.#detach();
        break;
    }
    this.#on.message(this.#onTake(message));
    if (message.type === "closed") this.#move("closed");
  }

  #ready({ resume, received_bytes }) {
    if (!this.#token) {
      // A new server session: begin after the last words we have.
      const heard = Math.floor(this.#finalEnd_s * this.#rateHz) * BYTES_PER_SAMPLE;
      this.#base = Math.max(this.#outbox.start, heard);
      this.#seen = -1;
      this.#baseUtterance = this.#nextUtterance;
    }
    this.#token = resume;
    this.#greeted = true;
    this.#cursor = this.#base + received_bytes;
    this.#attempts = 0;
    this.#troubleSince = null;
    this.#drainedAt = performance.now();
    this.#move("ready");
    if (this.#phrases.length) this.#tellPhrases();
    this.#pump();
  }

  #tellPhrases() {
    this.#socket.send(JSON.stringify({ type: "hotwords", phrases: this.#phrases }));
  }

  /** Rewrite a message of this server session to the clock and the numbers of the take. */
  #onTake(message) {
    const base_s = this.#base / this.#bytesPerSecond;
    const shift = (part) => {
      for (const key of ["at_s", "start_s", "end_s", "audio_s"]) if (key in part) part[key] += base_s;
    };
    shift(message);
    message.words?.forEach(shift);
    if (message.type === "final") this.#seen = message.utterance;
    if ("utterance" in message) {
      message.utterance += this.#baseUtterance;
      this.#nextUtterance = Math.max(this.#nextUtterance, message.utterance + (message.type === "final" ? 1 : 0));
    }
    if (message.type === "final") this.#finalEnd_s = message.end_s;
    return message;
  }

  #pump() {
    if (this.#state !== "listening") return;
    clearTimeout(this.#timer);
    const socket = this.#socket;
    let packet;
    while (socket.bufferedAmount < HIGH_WATER_BYTES && (packet = this.#outbox.at(this.#cursor))) {
      socket.send(packet);
      this.#cursor += packet.byteLength;
    }
    this.#on.progress();
    if (this.#stalled(socket.bufferedAmount)) {
      this.#dropped(null);
    } else if (this.#cursor < this.#outbox.end || !this.#outbox.ended) {
      this.#timer = setTimeout(() => this.#pump(), PUMP_MS);
    } else {
      socket.send(JSON.stringify({ type: "close" }));
      this.#move("flushed");
    }
  }

  /** Nothing has left the socket for so long that the network must be gone. */
  #stalled(buffered) {
    const now = performance.now();
    if (buffered === 0 || buffered < this.#buffered) this.#drainedAt = now;
    this.#buffered = buffered;
    return now - this.#drainedAt > STALLED_MS;
  }

  /** The server did not let us in. Browsers hide why a handshake failed, so ask whether it is there at all. */
  async #turnedAway() {
    const refusal = this.#refusal ?? (await whyRefused());
    if (!this.over) this.#dropped(refusal);
  }

  /** The connection is gone; `refusal` is the error message that says why, where there is one. */
  #dropped(refusal) {
    this.#detach();
    if (this.#token && refusal?.code === "resume_failed") {
      this.#token = null;
      return this.#connect();
    }
    if (refusal && !refusal.retryable) return this.#move("fail", sentence(refusal.message));
    this.#troubleSince ??= performance.now();
    const patience = this.#token || refusal ? RESUME_PATIENCE_MS : FIRST_PATIENCE_MS;
    const why = refusal && sentence(refusal.message);
    if (performance.now() - this.#troubleSince > patience) {
      return this.#move("fail", why ? `${why} Press the button to try again.` : GONE);
    }
    this.#move("retry", why ? `${why} Trying again.` : "");
    this.#timer = setTimeout(() => this.#connect(), BACKOFF_MS[Math.min(this.#attempts++, BACKOFF_MS.length - 1)]);
  }

  #detach(code) {
    clearTimeout(this.#timer);
    if (!this.#socket) return;
    this.#socket.onmessage = null;
    this.#socket.onclose = null;
    this.#socket.close(code);
    this.#socket = null;
  }
}

/** Why a server that answers took no stream: it says so itself, or it is full. Null where nobody answers. */
async function whyRefused() {
  try {
    const answer = await fetch("readyz", { cache: "no-store" });
    return answer.ok ? FULL : { message: `the server is ${(await answer.json()).status}`, retryable: true };
  } catch {
    return null;
  }
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
}
