// Requests to the model, whose events arrive one by one.
//
//   const desk = new Desk();
//   await desk.run("/pair/ask", {head, reference, candidate, question}, {words: ({text}) => ..., done: (data) => ...});
//
// A request that ends here, by `stop` or because the page is closed, ends in the model too. The page has #busy,
// #progress and #stop.

import {request, silent} from "/static/annotate_send.js";
import {key, waiting} from "/static/keys.js";

/** Yield [name, data] of the events of a response. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ; ) {
    const {value, done} = await reader.read().catch(silent);
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const [, name, data] = part.match(/^event: (\w+)\ndata: (.*)$/s);
      yield [name, JSON.parse(data)];
    }
  }
}

export class Desk {
  constructor() {
    this.busy = document.querySelector("#busy");
    this.line = document.querySelector("#progress");
    this.button = document.querySelector("#stop");
    this.running = []; // what ends each request, in their order
    this.button?.addEventListener("click", () => this.stop());
    if (this.button) key("escape", "stop the last request", () => this.stop(), {everywhere: true});
  }

  /** End the request that was sent last; return whether there was one. */
  stop() {
    this.running.at(-1)?.abort();
    return this.running.length > 0;
  }

  /**
   * Send a request and pass on its events by name, and what happens to it as `stopped` and `failed`; return the data of
   * the event `done`, or undefined.
   *
   * doing: words for what the model does with it; lines: elements that say, as #progress does, what it waits for.
   */
  async run(address, body, doing, on = {}, lines = []) {
    const abort = new AbortController();
    this.running.push(abort);
    this.#work();
    let ends = [];
    const show = (text, start) => {
      for (const end of ends) end();
      ends = [this.line, ...lines].map((line) => waiting(line, text, start));
    };
    let queued, since;
    show("sent to the server");
    try {
      const response = await request(address, {
        method: "POST",
        headers: {"Content-Type": "application/json", Accept: "text/event-stream, application/json"},
        body: JSON.stringify(body),
        signal: abort.signal,
      });
      if (!response.ok) throw new Error(await sentence(response));
      for await (const [name, data] of events(response)) {
        if (name === "error") throw new Error(data.error);
        if (name === "queue") {
          const before = data.place === 1 ? "waits" : `waits for ${data.place} requests`;
          show(`${before}: the model is busy with ${data.busy}`, (queued ??= performance.now()));
        }
        if (name === "load") show(`loading ${data.head} into memory`);
        if (name === "start") show(doing);
        if (name === "progress") {
          since ??= performance.now();
          this.#part(data, since);
        }
        on[name]?.(data);
        if (name === "done") {
          this.#end(abort, "in memory");
          return data;
        }
      }
      throw new Error("the server ended the answer");
    } catch (error) {
      const stopped = error.name === "AbortError", words = error.message;
      this.#end(abort, stopped ? "stopped" : words);
      stopped ? on.stopped?.() : on.failed?.(words);
      return undefined;
    } finally {
      for (const end of ends) end();
    }
  }

  #part({done, total}, start) {
    const left = done ? `, about ${(((performance.now() - start) / 1000) * (total / done - 1)).toFixed(0)} s left` : "";
    this.line.textContent = `${done} of ${total} pairs${left}`;
    this.busy.max = total;
    this.busy.value = done;
  }

  #end(abort, text) {
    this.running = this.running.filter((each) => each !== abort);
    this.line.textContent = this.running.length ? `${text}; another request is at work` : text;
    this.#work();
  }

  #work() {
    this.busy.hidden = this.button.hidden = this.running.length === 0;
  }
}

/** The sentence of a refused request. */
async function sentence(response) {
  try {
    const {error, detail} = await response.json();
    return error ?? detail?.[0]?.msg ?? `status ${response.status}`;
  } catch {
    return `status ${response.status}`;
  }
}
