/**
 * Audio on its way to the server, addressed by byte offset since the start of the take.
 *
 * What was sent stays for a while, so that a session that comes back can go on from the last byte the server has.
 */
export class Outbox {
  /** Offset of the oldest byte kept, and of the byte after the newest. */
  start = 0;
  end = 0;
  /** No more audio will come. */
  ended = false;
  #packets = [];
  #keepBytes;

  constructor(keepBytes = Infinity) {
    this.#keepBytes = keepBytes;
  }

  push(packet) {
    this.#packets.push(packet);
    this.end += packet.byteLength;
    while (this.end - this.start - this.#packets[0].byteLength >= this.#keepBytes) {
      this.start += this.#packets.shift().byteLength;
    }
  }

  /** The rest of the packet that holds `offset`; silence where it is no longer kept; null past the end. */
  at(offset) {
    if (offset >= this.end) return null;
    const packetBytes = this.#packets[0].byteLength;
    if (offset < this.start) return new Uint8Array(Math.min(packetBytes, this.start - offset));
    // Every packet but the last has the same length.
    const index = Math.floor((offset - this.start) / packetBytes);
    return this.#packets[index].subarray(offset - this.start - index * packetBytes);
  }
}
