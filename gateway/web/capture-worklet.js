/** The audio thread's part of the microphone: float32 blocks in, 100 ms pcm_s16le packets and levels out. */

const LEVEL_SAMPLES = sampleRate / 25;

class Capture extends AudioWorkletProcessor {
  #packet = new Int16Array(Math.round(sampleRate / 10));
  #filled = 0;
  #power = 0;
  #measured = 0;

  constructor() {
    super();
    this.port.onmessage = () => {
      this.#send(this.#packet.slice(0, this.#filled));
      this.port.postMessage({ flushed: true });
    };
  }

  process([input]) {
    const block = input[0];
    if (!block) return true;
    for (const sample of block) {
      this.#power += sample * sample;
      this.#packet[this.#filled++] = Math.round(Math.max(-1, Math.min(1, sample)) * 32767);
      if (this.#filled === this.#packet.length) this.#send(this.#packet.slice());
    }
    this.#measured += block.length;
    if (this.#measured >= LEVEL_SAMPLES) this.#report();
    return true;
  }

  #send(samples) {
    this.#filled = 0;
    if (samples.length) this.port.postMessage({ packet: new Uint8Array(samples.buffer) }, [samples.buffer]);
  }

  #report() {
    this.port.postMessage({ rms: Math.sqrt(this.#power / this.#measured) });
    this.#power = 0;
    this.#measured = 0;
  }
}

registerProcessor("capture", Capture);
