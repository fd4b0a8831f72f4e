/** The strip above the button: the last seconds of a microphone, or the whole of a file as it is being read. */

const FLOOR_DB = -60;
const BAR_PX = 3;
const STEP_PX = 5;
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** A root mean square in [0, 1] in decibels, and as a height in [0, 1] that follows what the ear hears. */
export function loudness(rms) {
  const db = Math.max(FLOOR_DB, 20 * Math.log10(rms || 1e-9));
  return { db: Math.min(0, db), level: Math.min(1, (1 - db / FLOOR_DB) ** 2) };
}

export class Waveform {
  #box;
  #canvas;
  #levels = [];
  #peaks = null;
  #sent = 0;
  #heard = 0;
  #due = false;

  constructor(box) {
    this.#box = box;
    this.#canvas = box.querySelector("canvas");
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    this.clear();
  }

  /** Show a live microphone. */
  clear() {
    this.#peaks = null;
    this.#levels = [];
    this.#label("meter", "Input level", FLOOR_DB, 0, FLOOR_DB);
    this.#draw();
  }

  /** Add what the microphone hears now. */
  push(rms) {
    const { db, level } = loudness(rms);
    this.#levels.push(level);
    if (this.#levels.length > 1000) this.#levels.splice(0, 500);
    this.#box.setAttribute("aria-valuenow", Math.round(db));
    this.#draw();
  }

  /** Show a file: `peaks` in [0, 1] over its whole length. */
  open(peaks) {
    const loudest = Math.max(...peaks, 1e-3);
    this.#peaks = peaks.map((peak) => Math.sqrt(peak / loudest));
    this.#label("progressbar", "File progress", 0, 100, 0);
    this.progress(0, 0);
  }

  /** Parts of the file in [0, 1] that were sent, and transcribed. */
  progress(sent, heard) {
    this.#sent = sent;
    this.#heard = heard;
    this.#box.setAttribute("aria-valuenow", Math.round(heard * 100));
    this.#draw();
  }

  #label(role, name, min, max, now) {
    const values = { role, "aria-label": name, "aria-valuemin": min, "aria-valuemax": max, "aria-valuenow": now };
    for (const [key, value] of Object.entries(values)) this.#box.setAttribute(key, value);
  }

  #draw() {
    if (this.#due) return;
    this.#due = true;
    requestAnimationFrame(() => {
      this.#due = false;
      this.#paint();
    });
  }

  #paint() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    this.#canvas.width = width * devicePixelRatio;
    this.#canvas.height = height * devicePixelRatio;
    const pen = this.#canvas.getContext("2d");
    pen.scale(devicePixelRatio, devicePixelRatio);
    pen.fillStyle = getComputedStyle(this.#canvas).color;
    if (!this.#peaks && calm.matches) {
      pen.fillRect(0, height / 2 - BAR_PX, width * (this.#levels.at(-1) ?? 0), 2 * BAR_PX);
      return;
    }
    const count = Math.floor(width / STEP_PX);
    for (let bar = 0; bar < count; bar++) {
      const size = Math.max(BAR_PX, this.#sizeAt(bar, count) * height);
      pen.globalAlpha = this.#strengthAt((bar + 0.5) / count);
      pen.beginPath();
      pen.roundRect(bar * STEP_PX, (height - size) / 2, BAR_PX, size, BAR_PX / 2);
      pen.fill();
    }
  }

  #sizeAt(bar, count) {
    if (!this.#peaks) return this.#levels[this.#levels.length - count + bar] ?? 0;
    const from = Math.floor((bar / count) * this.#peaks.length);
    const to = Math.max(from + 1, Math.floor(((bar + 1) / count) * this.#peaks.length));
    return Math.max(...this.#peaks.slice(from, to));
  }

  #strengthAt(share) {
    if (!this.#peaks || share <= this.#heard) return 1;
    return share <= this.#sent ? 0.45 : 0.2;
  }
}
