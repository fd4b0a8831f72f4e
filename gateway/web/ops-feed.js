/** What the gateway says of itself, as it comes. Read with fetch: an EventSource brings no token. */

const RETRY_MS = 1000;
const SILENCE_MS = 10_000;
const TOKEN = "asrgate-operator";

/** The answer of a gateway that does not take us for an operator. */
export class NotAnOperator extends Error {}

export function setToken(token) {
  sessionStorage.setItem(TOKEN, token);
}

/** Do something, such as `rollback`; the answer as JSON. */
export async function act(path, body) {
  const answer = await ask(`admin/v1/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ who: "ops page", ...body }),
  });
  return answer.json();
}

/**
 * Follow the gateway for ever, over lost connections; returns where an operator is asked for.
 * @param on `state(state)`, `step(event)`, `link(connected)`, `refused(sentence)`.
 */
export async function follow(on) {
  let seen = 0;
  for (;;) {
    const patience = new Patience(SILENCE_MS);
    try {
      const { body } = await ask("admin/v1/live", { headers: { "Last-Event-ID": seen }, signal: patience.signal });
      on.link(true);
      for await (const { event, data } of messages(body, patience)) {
        if (event === "step") seen = data.seq;
        on[event]?.(data);
      }
    } catch (error) {
      if (error instanceof NotAnOperator) return on.refused(error.message);
    } finally {
      patience.end();
    }
    on.link(false);
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

/** Aborts what says nothing for too long. */
class Patience {
  #control = new AbortController();
  #timer;
  #after_ms;

  constructor(after_ms) {
    this.#after_ms = after_ms;
    this.renew();
  }

  get signal() {
    return this.#control.signal;
  }

  renew() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#control.abort(), this.#after_ms);
  }

  end() {
    clearTimeout(this.#timer);
    this.#control.abort();
  }
}

async function ask(path, options) {
  const token = sessionStorage.getItem(TOKEN);
  const headers = token ? { ...options.headers, Authorization: `Bearer ${token}` } : options.headers;
  const answer = await fetch(path, { ...options, headers });
  if (answer.ok) return answer;
  const { message } = await answer.json().catch(() => ({ message: `the server answers ${answer.status}` }));
  throw answer.status === 403 ? new NotAnOperator(message) : new Error(message);
}

/** Server-sent events of a body; comments say nothing. */
async function* messages(body, patience) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    patience.renew();
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (fields.data) yield { event: fields.event, data: JSON.parse(fields.data) };
    }
  }
}
