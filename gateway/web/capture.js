/** Where audio comes from: a microphone (live) or a file (decoded at once). Both give pcm_s16le packets of 100 ms. */

const SERVER_RATES_HZ = [8000, 16000, 24000, 44100, 48000];
const FILE_RATE_HZ = 16000;
const PEAKS = 600;

/** A failure to get audio; the message tells a person what to do. */
export class CaptureError extends Error {}

const BLOCKED = "The microphone is blocked for this page. Allow it in the browser’s site settings, then press the button again.";
const REFUSALS = {
  NotAllowedError: BLOCKED,
  SecurityError: BLOCKED,
  NotFoundError: "No microphone was found. Connect one and press the button again, or choose an audio file.",
  OverconstrainedError: "That microphone is gone. Pick another one and press the button again.",
  NotReadableError: "The microphone is busy. Close the program that uses it and press the button again.",
};

/** A microphone at the rate of its audio context. Set `onpacket(bytes)`, `onlevel(rms)`, `onstream(stream)`, `onlost()`. */
export class Microphone {
  #context;
  #node = null;
  #source = null;
  #stream = null;
  #closing = null;
  #flushed = null;

  /** Call from a click or key handler: some browsers start audio only there. */
  constructor() {
    if (!window.isSecureContext) {
      throw new CaptureError(
        "Browsers give the microphone only to secure pages. Open this page with https, or as localhost on the " +
          "server’s own computer. Audio files work here too.",
      );
    }
    if (!navigator.mediaDevices?.getUserMedia || !window.AudioWorkletNode) {
      throw new CaptureError("This browser cannot capture a microphone. Use a current one, or choose an audio file.");
    }
    this.#context = new AudioContext({ latencyHint: "interactive" });
    if (!SERVER_RATES_HZ.includes(this.#context.sampleRate)) {
      this.#context.close();
      this.#context = new AudioContext({ latencyHint: "interactive", sampleRate: 48000 });
    }
  }

  /** What the device gives, before it is cut into packets; another one after `use`. */
  get stream() {
    return this.#stream;
  }

  get rateHz() {
    return this.#context.sampleRate;
  }

  /** Ask for the device ("" is the browser's default) and start capturing. Throws CaptureError. */
  async open(deviceId) {
    try {
      await this.#context.audioWorklet.addModule(new URL("capture-worklet.js", import.meta.url));
      this.#node = new AudioWorkletNode(this.#context, "capture", {
        numberOfOutputs: 0,
        channelCount: 1,
        channelCountMode: "explicit",
      });
      this.#node.port.onmessage = ({ data }) => this.#hear(data);
      await this.use(deviceId);
      await this.#context.resume();
    } catch (error) {
      await this.close();
      throw error;
    }
  }

  /** Change to another device without a break in the stream. */
  async use(deviceId) {
    const audio = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: true };
    if (deviceId) audio.deviceId = { exact: deviceId };
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio });
    } catch (error) {
      throw new CaptureError(REFUSALS[error.name] ?? `The microphone did not start: ${error.message}`);
    }
    this.#unplug();
    this.#stream = stream;
    if (this.#closing) return this.#unplug();
    this.#source = this.#context.createMediaStreamSource(stream);
    this.#source.connect(this.#node);
    stream.getAudioTracks()[0].onended = () => this.onlost?.();
    this.onstream?.(stream);
  }

  /** Stop capturing; resolves after the last packet was handed over. */
  close() {
    this.#closing ??= this.#flush().then(() => this.#context.close());
    return this.#closing;
  }

  async #flush() {
    this.#unplug();
    if (!this.#node || this.#context.state !== "running") return;
    await new Promise((resolve) => {
      this.#flushed = resolve;
      this.#node.port.postMessage("flush");
    });
  }

  #hear({ packet, rms, flushed }) {
    if (packet) this.onpacket?.(packet);
    if (rms !== undefined) this.onlevel?.(rms);
    if (flushed) this.#flushed();
  }

  #unplug() {
    this.#source?.disconnect();
    for (const track of this.#stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
  }
}

/** The microphones of this computer; empty until one was allowed, because browsers hide them before. */
export async function listMicrophones() {
  const devices = (await navigator.mediaDevices?.enumerateDevices?.()) ?? [];
  return devices.filter(({ kind, deviceId, label }) => kind === "audioinput" && deviceId && label);
}

/**
 * Decode a whole file to 16 kHz mono.
 * Returns its packets (views on one buffer), the rate, and peaks in [0, 1] to draw. Throws CaptureError.
 */
export async function decodeFile(file) {
  let audio;
  try {
    audio = await new OfflineAudioContext(1, 1, FILE_RATE_HZ).decodeAudioData(await file.arrayBuffer());
  } catch {
    throw new CaptureError(`“${file.name}” is not audio this browser can read. Try wav, mp3, m4a, ogg or flac.`);
  }
  if (audio.length === 0) throw new CaptureError(`“${file.name}” contains no audio.`);
  const pcm = toPcm16(audio);
  const packetBytes = (FILE_RATE_HZ / 10) * pcm.BYTES_PER_ELEMENT;
  const packets = [];
  for (let at = 0; at < pcm.byteLength; at += packetBytes) {
    packets.push(new Uint8Array(pcm.buffer, at, Math.min(packetBytes, pcm.byteLength - at)));
  }
  return { packets, rateHz: FILE_RATE_HZ, peaks: peaksOf(pcm) };
}

function toPcm16(audio) {
  const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
  const pcm = new Int16Array(audio.length);
  for (let at = 0; at < pcm.length; at++) {
    let sum = 0;
    for (const channel of channels) sum += channel[at];
    pcm[at] = Math.round(Math.max(-1, Math.min(1, sum / channels.length)) * 32767);
  }
  return pcm;
}

function peaksOf(pcm) {
  const span = Math.max(1, Math.ceil(pcm.length / PEAKS));
  const peaks = [];
  for (let at = 0; at < pcm.length; at += span) {
    let peak = 0;
    for (const sample of pcm.subarray(at, at + span)) peak = Math.max(peak, Math.abs(sample));
    peaks.push(peak / 32768);
  }
  return peaks;
}
