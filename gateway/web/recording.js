/** One take from its start to its end: a microphone or a file -> session -> transcript -> page. */

import { CaptureError, Microphone, decodeFile } from "./capture.js";
import { Session } from "./session.js";
import { loudness } from "./waveform.js";
import { WhipSession } from "./whip.js";
import * as view from "./view.js";

const SILENT_MS = 3000;
const SMOOTHING = 0.2;
const SILENT = "The microphone sends only silence. Is it muted, or is another one plugged in?";
const UNPLUGGED = "The microphone was disconnected.";

export class Recording {
  microphone = null;
  #kind;
  #phrases;
  #take;
  #transcript;
  #waveform;
  #heading;
  #session = null;
  #stopping = false;
  #over = false;
  #startedAt = performance.now();
  #heard_s = 0;
  #latency_ms = null;
  #soundAt = Infinity;
  #silent = false;
  #wakeLock = null;

  /**
   * @param kind "microphone" or "file".
   * @param name What is recorded: shown as heading, and kept in the transcript.
   * @param phrases What is likely to be said.
   * @param onover Called once when nothing more will come.
   */
  constructor({ kind, name, phrases, transcript, waveform, onover }) {
    this.#kind = kind;
    this.#phrases = phrases;
    this.#transcript = transcript;
    this.#waveform = waveform;
    this.onover = onover;
    this.#heading = kind === "file" || transcript.takes.length ? view.showTake(name) : null;
    this.#take = transcript.begin(name);
    waveform.clear();
    view.showProblem(null);
    view.showNetwork(null);
    view.showClock(0);
    view.showPace(kind === "file" ? "Speed" : "Latency", "–");
    view.showState("connecting", kind);
  }

  get take() {
    return this.#take;
  }

  /** Capture the microphone, and send it over WebRTC or the WebSocket; call from a click or key handler. */
  async listen(deviceId, overWebRtc) {
    await this.#attempt(async () => {
      this.microphone = new Microphone();
      await this.microphone.open(deviceId);
      if (this.#over) return this.microphone.close();
      if (overWebRtc) {
        const { stream } = this.microphone;
        const session = this.#begin((on) => new WhipSession({ stream, phrases: this.#phrases, on }));
        this.microphone.onstream = (stream) => this.#over || session.use(stream);
      } else {
        this.#open(this.microphone.rateHz);
        this.microphone.onpacket = (packet) => this.#over || this.#session.push(packet);
      }
      this.microphone.onlevel = (rms) => this.#level(rms);
      this.microphone.onlost = () => this.#unplugged();
      this.#wakeLock = navigator.wakeLock?.request("screen").catch(() => null);
    });
  }

  /** Transcribe a file as fast as the server takes it. */
  async read(file) {
    await this.#attempt(async () => {
      const { packets, rateHz, peaks } = await decodeFile(file);
      if (this.#over) return;
      this.#waveform.open(peaks);
      this.#open(rateHz);
      for (const packet of packets) this.#session.push(packet);
      this.#session.end();
    });
  }

  /** Say what is likely to be said from now on. */
  expect(phrases) {
    this.#phrases = phrases;
    view.showProblem(null);
    this.#session?.expect(phrases);
  }

  /** Stop and wait for the last words; a second time, do not wait. */
  async stop() {
    if (!this.#session) {
      view.showState("closed", this.#kind);
      return this.#finish();
    }
    if (this.#stopping || this.#kind === "file") return this.#session.leave();
    this.#stopping = true;
    await this.microphone.close();
    if (!this.#over) this.#session.end();
  }

  async #attempt(work) {
    try {
      await work();
    } catch (error) {
      if (this.#over) return;
      if (!(error instanceof CaptureError)) throw error;
      view.showState("error", this.#kind, error.message);
      this.#finish();
    }
  }

  #open(rateHz) {
    const live = this.#kind === "microphone";
    this.#begin((on) => new Session({ rateHz, live, phrases: this.#phrases, on }));
  }

  #begin(make) {
    this.#session = make({
      state: (state, why) => this.#changed(state, why),
      message: (message) => this.#received(message),
      progress: () => this.#progressed(),
    });
    this.#session.start();
    return this.#session;
  }

  #changed(state, why) {
    view.showState(state, this.#kind, why);
    if (this.#session.over) this.#finish();
  }

  #received(message) {
    switch (message.type) {
      case "ready":
        this.#take.model = message.model;
        view.showModel(message.model);
        break;
      case "error":
        view.showProblem(message.message);
        break;
      case "speech_started":
        this.#heard(message.at_s);
        break;
      case "partial":
        this.#heard(message.end_s, message.latency);
        view.showPartial(message);
        break;
      case "final":
        this.#heard(message.end_s, message.latency);
        view.showPartial(null);
        this.#keep(message);
        break;
      case "stats":
        view.showNetwork(message);
        break;
      case "closed":
        this.#heard(message.audio_s);
        if (!this.#take.utterances.length && this.#kind === "file") {
          view.showProblem(`No words were recognized in “${this.#take.source}”.`);
        }
    }
  }

  /** A final is said once, but a resumed server may say it again. */
  #keep(message) {
    const { utterance, text, start_s, end_s, words, confidence, revision } = message;
    if (!text || this.#take.utterances.some((known) => known.utterance === utterance)) return;
    this.#take.utterances.push({ utterance, text, start_s, end_s, words, confidence, revision });
    view.showFinal(message);
    view.showCount(this.#transcript.utterances.length);
  }

  #heard(end_s, latency) {
    this.#heard_s = Math.max(this.#heard_s, end_s);
    if (this.#kind === "file") {
      const speed = this.#heard_s / ((performance.now() - this.#startedAt) / 1000);
      view.showPace("Speed", `${speed < 10 ? speed.toFixed(1) : Math.round(speed)} × real time`);
      this.#progressed();
    } else if (latency) {
      const { capture_to_emit_ms: now_ms } = latency;
      this.#latency_ms = (this.#latency_ms ?? now_ms) * (1 - SMOOTHING) + now_ms * SMOOTHING;
      view.showPace("Latency", `${Math.round(this.#latency_ms)} ms`);
    }
  }

  #progressed() {
    const { pushed_s, sent_s } = this.#session;
    this.#take.audio_s = pushed_s;
    if (this.#kind === "file") {
      view.showClock(this.#heard_s, pushed_s);
      this.#waveform.progress(sent_s / pushed_s, this.#heard_s / pushed_s);
    } else {
      view.showClock(pushed_s);
    }
  }

  #level(rms) {
    const now = performance.now();
    this.#waveform.push(rms);
    view.showLevel(loudness(rms).level);
    if (rms > 0 || this.#soundAt === Infinity) this.#soundAt = now;
    const silent = now - this.#soundAt > SILENT_MS;
    if (silent !== this.#silent) view.showProblem(silent ? SILENT : null);
    this.#silent = silent;
  }

  #unplugged() {
    view.showProblem(UNPLUGGED);
    this.stop();
  }

  #finish() {
    this.#over = true;
    this.microphone?.close();
    this.#wakeLock?.then((lock) => lock?.release());
    view.showLevel(0);
    if (!this.#take.utterances.length) {
      this.#transcript.drop(this.#take);
      this.#heading?.remove();
    }
    view.showCount(this.#transcript.utterances.length);
    this.onover();
  }
}
