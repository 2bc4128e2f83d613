// What was typed and is not yet saved.
//
// A change is written to localStorage at once and sent after a pause of PAUSE ms, at the latest after LONGEST ms. It
// stays in localStorage until the server has it: a reload, a server that ended and a laptop without a network lose
// nothing. Each save has a number that is higher than the last one, so that a late save cannot replace a newer one.

import {reason, send} from "/static/annotate_send.js";

const PAUSE = 250;
const LONGEST = 1000;
const SLOWEST = 5000; // ms between two attempts

export class Saving {
  /** `show(text, fails)` shows the state of saving. */
  constructor({person_id, assignment, number}, show) {
    this.address = `/annotate/work/${assignment}`;
    this.person = person_id;
    this.assignment = assignment;
    this.number = number;
    this.show = show;
    this.failures = 0;
    this.at = 0; // when the last save was acknowledged
    this.kept = read(this.#key(assignment)) ?? {changes: {}, seconds: 0};
    this.#others();
    setInterval(() => this.#report(), 1000);
    addEventListener("pagehide", () => this.#leave());
    document.addEventListener("visibilitychange", () => document.hidden && this.#leave());
    addEventListener("online", () => this.#soon(0));
    if (this.dirty) this.#soon(0);
    this.#report();
  }

  get dirty() {
    return Object.keys(this.kept.changes).length > 0;
  }

  /** Changes that the server does not have yet. */
  get changes() {
    return this.kept.changes;
  }

  /** Record a change: `part` is keystep, or texts or scores with a category. */
  change(part, value, category) {
    if (category === undefined) this.kept.changes[part] = value;
    else this.kept.changes[part] = {...this.kept.changes[part], [category]: value};
    this.#write();
    this.#soon(Math.min(PAUSE, Math.max(0, (this.first ??= Date.now()) + LONGEST - Date.now())));
    this.#report();
  }

  /** Seconds of work on the pair, which a reload keeps. */
  worked(seconds) {
    if (this.submitting) return;
    this.kept.seconds += seconds;
    this.#write();
  }

  /**
   * Submit, with all changes; tries until the server answers. Returns {done, problems, feedback}, or {gone: why} where
   * the server refuses.
   */
  async submit(rejected) {
    this.submitting = true;
    clearTimeout(this.timer);
    await this.sending;
    const number = {now: ++this.number};
    for (;;) {
      const body = {number: number.now, changes: this.kept.changes, rejected, seconds: this.kept.seconds};
      const result = await send(`${this.address}/submit`, body);
      if (result.status === 200) {
        this.failures = 0;
        this.submitting = result.body.done && "done";
        if (result.body.done) localStorage.removeItem(this.#key(this.assignment));
        this.#report();
        return result.body;
      }
      if (result.status === 409 && result.body.number) number.now = this.number = result.body.number + 1;
      else if (result.status === 0) await this.#wait(result);
      else {
        this.submitting = false;
        return {gone: reason(result)};
      }
    }
  }

  #key(assignment) {
    return `stepdiff ${this.person} ${assignment}`;
  }

  #write() {
    try {
      localStorage.setItem(this.#key(this.assignment), JSON.stringify(this.kept));
    } catch {
      // no storage in this browser: changes are still sent
    }
  }

  #soon(delay) {
    if (this.submitting) return;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#flush(), delay);
  }

  async #flush() {
    if (this.submitting || !this.dirty) return;
    if (this.sending) return this.#soon(PAUSE);
    this.sending = this.#save();
    await this.sending;
    this.sending = null;
    if (this.dirty && !this.refused) this.#soon(PAUSE);
  }

  async #save() {
    this.first = undefined;
    const sent = structuredClone(this.kept.changes);
    const result = await send(`${this.address}/save`, {number: ++this.number, changes: sent});
    if (result.status === 200) {
      this.failures = 0;
      this.refused = null;
      this.at = Date.now();
      this.#forget(sent);
    } else if (result.status === 409 && result.body.number) this.number = result.body.number;
    else if (result.status === 0) await this.#wait(result);
    else this.refused = reason(result);
    this.#report();
  }

  /** Drop what the server has now, except what changed in the meantime. */
  #forget(sent) {
    const {changes} = this.kept;
    if (changes.keystep === sent.keystep) delete changes.keystep;
    for (const part of ["texts", "scores"]) {
      for (const [name, value] of Object.entries(sent[part] ?? {}))
        if (changes[part]?.[name] === value) delete changes[part][name];
      if (changes[part] && !Object.keys(changes[part]).length) delete changes[part];
    }
    this.#write();
  }

  async #wait(result) {
    this.failures++;
    this.#report(reason(result));
    const pause = Math.max(result.after * 1000, Math.min(SLOWEST, 250 * 2 ** this.failures));
    await new Promise((resolve) => setTimeout(resolve, pause));
  }

  /** The page is left: send what is not saved, without waiting for the response. */
  #leave() {
    if (this.dirty && !this.submitting)
      send(`${this.address}/save`, {number: ++this.number, changes: this.kept.changes}, {keepalive: true});
  }

  /** Send what was kept of this person's other pairs. */
  async #others() {
    const prefix = `stepdiff ${this.person} `;
    const keys = Object.keys(localStorage).filter((name) => name.startsWith(prefix) && name !== this.#key(this.assignment));
    for (const name of keys) {
      const {changes} = read(name) ?? {changes: {}};
      let number = 1, status = 200;
      while (Object.keys(changes).length) {
        const result = await send(`/annotate/work/${name.slice(prefix.length)}/save`, {number, changes});
        status = result.status;
        if (status !== 409 || !result.body.number) break;
        number = result.body.number + 1;
      }
      if (![0, 401, 403, 413].includes(status)) localStorage.removeItem(name); // those may pass later
    }
  }

  #report(why) {
    if (this.refused) this.show(`✗ not saved: ${this.refused}`, true);
    else if (this.failures) {
      this.why = why ?? this.why;
      this.show(`✗ not saved: ${this.why}. Kept in this browser, trying again`, true);
    } else if (this.submitting) this.show("sending ...", false);
    else if (this.dirty) this.show("saving ...", false);
    else if (this.at) this.show(`✓ saved ${ago(Date.now() - this.at)} ago`, false);
    else this.show(this.number ? "✓ saved" : "nothing to save", false);
  }
}

function ago(ms) {
  return ms < 100_000 ? `${Math.round(ms / 1000)} s` : `${Math.round(ms / 60_000)} min`;
}

function read(name) {
  try {
    return JSON.parse(localStorage.getItem(name));
  } catch {
    return null;
  }
}
