/** One take over WebRTC: the microphone goes out as RTP, messages come back on a data channel. Looks like a Session. */

/** state -> event -> next state; an event missing here is a bug. */
const MOVES = {
  idle: { start: "connecting" },
  connecting: { ready: "listening", fail: "error", leave: "closed" },
  listening: { flushed: "finishing", fail: "error", leave: "closed" },
  finishing: { closed: "closed", fail: "error", leave: "closed" },
};

const CONNECT_MS = 15_000;
const FINISH_MS = 20_000;
/** What was captured last is still on its way through the encoder when the microphone is off. */
const ENCODER_MS = 200;
const PROGRESS_MS = 100;
const TRICKLE_MS = 50;
const BLOCKED = "The server answers, but no audio gets through to it. A firewall may be in the way; the WebSocket will do.";
const LOST = "The connection was lost. What was heard so far is kept; press the button to go on.";

/** Whether the server takes WebRTC from a page without a password. */
export async function takesWebRtc() {
  if (!window.RTCPeerConnection) return false;
  const { headers } = await fetch("whip", { method: "OPTIONS" });
  return headers.has("Accept-Post") && !headers.has("WWW-Authenticate");
}

export class WhipSession {
  #on;
  #phrases;
  #state = "idle";
  #peer = new RTCPeerConnection();
  #sender;
  #channel;
  #call = null;
  #etag = null;
  #found = [];
  #timers = new Map();
  #began = 0;
  #refusal = null;

  /**
   * @param stream With the microphone's track.
   * @param phrases What is likely to be said.
   * @param on `state(state, why)`, `message(message)`, `progress()`.
   */
  constructor({ stream, phrases, on }) {
    this.#on = on;
    this.#phrases = phrases;
    this.#sender = this.#peer.addTransceiver(stream.getAudioTracks()[0], { direction: "sendonly" }).sender;
    this.#channel = this.#peer.createDataChannel("asrgate");
    this.#channel.onmessage = ({ data }) => this.#receive(JSON.parse(data));
    this.#channel.onclose = () => this.#lost();
    this.#peer.onconnectionstatechange = () => this.#peer.connectionState === "failed" && this.#lost();
    this.#peer.onicecandidate = ({ candidate }) => this.#trickle(candidate);
  }

  get over() {
    return !(this.#state in MOVES);
  }

  /** Seconds since the server began to listen; what is spoken is sent at once. */
  get pushed_s() {
    return this.#began ? (performance.now() - this.#began) / 1000 : 0;
  }

  get sent_s() {
    return this.pushed_s;
  }

  async start() {
    this.#move("start");
    this.#after("connect", CONNECT_MS, () => this.#fail(BLOCKED));
    try {
      await this.#offer();
    } catch (error) {
      this.#fail(error instanceof TypeError ? "The server does not answer. Check that it is running." : error.message);
    }
  }

  /** Speak through another device from now on. */
  use(stream) {
    return this.#sender.replaceTrack(stream.getAudioTracks()[0]);
  }

  /** The server takes phrases with the offer: these are for the next take. */
  expect() {}

  /** No more audio: ask for the last words. */
  end() {
    if (this.#state !== "listening") return this.leave();
    this.#move("flushed");
    this.#after("finish", FINISH_MS, () => this.#fail(LOST));
    this.#after("close", ENCODER_MS, () => this.#channel.readyState === "open" && this.#channel.send('{"type":"close"}'));
  }

  /** Give up at once; what was not answered is lost. */
  leave() {
    this.#hangUp();
    this.#move("leave");
  }

  #move(event, why = "") {
    const next = MOVES[this.#state]?.[event];
    if (!next) throw new Error(`no move ${event} from ${this.#state}`);
    this.#state = next;
    this.#on.state(next, why);
  }

  /** Offer without candidates: the server is found by its own, and ours may follow. */
  async #offer() {
    const offer = await this.#peer.createOffer();
    const query = new URLSearchParams(this.#phrases.length ? { hotwords: this.#phrases.join(",") } : {});
    const answer = await fetch(`whip?${query}`, {
      method: "POST",
      headers: { "Content-Type": "application/sdp" },
      body: offer.sdp,
    });
    const text = await answer.text();
    if (this.over) return;
    if (!answer.ok) throw new Error(sentence(JSON.parse(text).message));
    this.#call = new URL(answer.headers.get("Location"), answer.url);
    this.#etag = answer.headers.get("ETag");
    this.#peer.setConfiguration({ iceServers: iceServers(answer.headers.get("Link") ?? "") });
    await this.#peer.setLocalDescription(offer);
    await this.#peer.setRemoteDescription({ type: "answer", sdp: text });
  }

  #trickle(candidate) {
    if (candidate?.candidate) this.#found.push(`a=${candidate.candidate}\r\n`);
    this.#after("trickle", TRICKLE_MS, () => {
      if (this.over || !this.#call || !this.#found.length) return;
      const body = this.#found.splice(0).join("");
      const headers = { "Content-Type": "application/trickle-ice-sdpfrag", "If-Match": this.#etag };
      fetch(this.#call, { method: "PATCH", headers, body }).catch(() => {});
    });
  }

  #receive(message) {
    if (this.over) return;
    if (message.type === "error") this.#refusal = message;
    if (message.type === "closed" && (this.#state !== "finishing" || message.reason !== "client")) {
      return this.#fail(this.#refusal ? sentence(this.#refusal.message) : LOST);
    }
    if (message.type === "ready") {
      clearTimeout(this.#timers.get("connect"));
      this.#began = performance.now();
      this.#move("ready");
      this.#timers.set("progress", setInterval(() => this.#on.progress(), PROGRESS_MS));
    }
    this.#on.message(message);
    if (message.type === "closed") {
      this.#hangUp();
      this.#move("closed");
    }
  }

  #lost() {
    this.#fail(this.#began ? LOST : BLOCKED);
  }

  #fail(why) {
    if (this.over) return;
    this.#hangUp();
    this.#move("fail", why);
  }

  #hangUp() {
    for (const timer of this.#timers.values()) clearTimeout(timer);
    this.#channel.onmessage = this.#channel.onclose = null;
    this.#peer.close();
    // A peer that never connected cannot say goodbye itself.
    if (this.#call && !this.#began) fetch(this.#call, { method: "DELETE", keepalive: true }).catch(() => {});
  }

  #after(name, delay_ms, work) {
    clearTimeout(this.#timers.get(name));
    this.#timers.set(name, setTimeout(work, delay_ms));
  }
}

/** The servers of a `Link` header, as RTCPeerConnection takes them. */
export function iceServers(header) {
  const servers = [];
  for (const [, urls, rest] of header.matchAll(/<([^>]*)>((?:\s*;\s*[\w-]+="(?:[^"\\]|\\.)*")*)/g)) {
    const values = Object.fromEntries(
      [...rest.matchAll(/([\w-]+)="((?:[^"\\]|\\.)*)"/g)].map(([, key, value]) => [key, value.replace(/\\(.)/g, "$1")]),
    );
    if (values.rel !== "ice-server") continue;
    const { username, credential } = values;
    servers.push(username ? { urls, username, credential } : { urls });
  }
  return servers;
}

function sentence(text) {
  return `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
}
