// Two clips under one clock: play, loop, frame step, speed, sound, filmstrips.
//
// The clock runs from 0 to the length of the longer clip. A clip that has ended keeps its last picture until the clock
// returns to 0, or, with "same length", both clips are played so fast that they end together. While it plays, the clock
// is corrected from the clips and the clips from the clock: one that is more than DRIFT off is set to its place.
//
// A clip that fails gives its place to the reason, and the other one plays.
//
// A frame step goes to the next frame of the clip with more frames a second (data-rate of its video). Times of frames
// are those that the browser reports, because a clip may begin between two frames of its video.
//
//   <div class="player" data-player data-reference="..." data-candidate="..."> (templates/player.html)
//   const player = new PairPlayer(document.querySelector("[data-player]"));

import {announce, key} from "/static/keys.js";

const DRIFT = 0.04; // seconds
const SPEEDS = [0.25, 0.5, 1, 2];
const RATE = 25; // frames a second of a clip that does not state its own

export class PairPlayer {
  constructor(root, {keys = true} = {}) {
    this.root = root;
    this.videos = [...root.querySelectorAll("video")];
    this.slider = root.querySelector("[data-clock]");
    this.time = 0; // seconds of the clock
    this.speed = 1;
    this.looping = true;
    this.stretched = false;
    this.playing = false;
    root.player = this;
    this.strips = [...root.querySelectorAll("[data-strip]")];
    for (const strip of this.strips) this.#press(strip);
    for (const video of this.videos) {
      video.addEventListener("loadedmetadata", () => this.#measured());
      video.addEventListener("error", () => this.#failed(video));
      if (video.error || video.dataset.failed) this.#failed(video);
      video.requestVideoFrameCallback?.((_, frame) => (video.phase = frame.mediaTime));
    }
    this.#measured();
    this.slider?.addEventListener("input", () => {
      this.pause();
      this.seek(Number(this.slider.value));
    });
    for (const button of root.querySelectorAll("[data-do]"))
      button.addEventListener("click", () => this[button.dataset.do](button.dataset.with && Number(button.dataset.with)));
    if (keys) this.#keys();
  }

  get ready() {
    return this.videos.every((video) => video.readyState >= 1 || video.dataset.failed);
  }

  /** Seconds of the clock: the length of the longer clip. */
  get length() {
    return Math.max(0, ...this.#playable().map((video) => video.duration || 0));
  }

  toggle() {
    this.playing ? this.pause() : this.play();
  }

  async play() {
    if (!this.ready || this.length === 0) {
      this.wanted = true; // plays once both are there
      return;
    }
    if (this.time >= this.length) this.seek(0);
    this.playing = true;
    this.root.dataset.playing = "";
    this.started = performance.now() / 1000 - this.time / this.speed;
    await this.#start();
    if (!this.frame) this.frame = requestAnimationFrame(() => this.#tick());
  }

  pause() {
    this.wanted = false;
    this.playing = false;
    delete this.root.dataset.playing;
    cancelAnimationFrame(this.frame);
    this.frame = 0;
    for (const video of this.videos) video.pause();
  }

  /** Set the clock, in seconds. */
  seek(time) {
    this.time = Math.min(Math.max(time, 0), this.length);
    this.started = performance.now() / 1000 - this.time / this.speed;
    for (const video of this.#playable()) {
      const place = this.#place(video);
      if (Math.abs(video.currentTime - place) > 1e-3) video.currentTime = place;
    }
    this.#show();
  }

  /** Pause and set the clock to a time of one clip, in seconds. */
  seekIn(number, time) {
    this.pause();
    this.seek(time * this.#stretch(this.videos[number]));
  }

  /** Mark the place of its clip in a strip that the page adds, and seek where it is pressed. */
  watch(strip) {
    this.strips.push(strip);
    this.#press(strip);
    this.#show();
  }

  /** Remove such a strip. */
  leave(strip) {
    this.strips = this.strips.filter((other) => other !== strip);
    strip.remove();
  }

  /** Pause and move by frames of the clip that has more of them a second. */
  step(frames) {
    this.pause();
    const [video] = this.#playable().sort((one, other) => this.#rate(other) - this.#rate(one));
    if (!video) return;
    const rate = this.#rate(video);
    const first = ((video.phase ?? 0) * this.#stretch(video)) % (1 / rate); // the time of a frame
    const last = Math.ceil((this.length - first) * rate - 1e-3) - 1;
    const now = Math.min(Math.floor((this.time - first) * rate + 1e-3), last);
    this.seek(first + (Math.min(now + frames, last) + 0.5) / rate); // the middle of a frame, away from its neighbours
  }

  setSpeed(speed) {
    this.speed = speed;
    this.started = performance.now() / 1000 - this.time / this.speed;
    this.#rates();
    for (const button of this.root.querySelectorAll("[data-do=setSpeed]"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.with) === speed));
    announce(`speed ${speed}`);
  }

  loop() {
    this.looping = !this.looping;
    this.#pressed("loop", this.looping);
    announce(this.looping ? "loop" : "play once");
  }

  stretch() {
    this.stretched = !this.stretched;
    this.#pressed("stretch", this.stretched);
    this.#rates();
    this.seek(this.time);
    announce(this.stretched ? "both clips take the same time" : "both clips at their own speed");
  }

  mute() {
    const muted = !this.videos[0].muted;
    for (const video of this.videos) video.muted = muted;
    this.#pressed("mute", muted);
    announce(muted ? "sound off" : "sound on");
  }

  #keys() {
    key("space", "play or pause both clips", () => this.toggle());
    key(",", "one frame back", () => this.step(-1));
    key(".", "one frame on", () => this.step(1));
    key("left", "half a second back", () => this.seek(this.time - 0.5));
    key("right", "half a second on", () => this.seek(this.time + 0.5));
    key("[", "slower", () => this.setSpeed(SPEEDS[Math.max(0, SPEEDS.indexOf(this.speed) - 1)]));
    key("]", "faster", () => this.setSpeed(SPEEDS[Math.min(SPEEDS.length - 1, SPEEDS.indexOf(this.speed) + 1)]));
    key("l", "loop, or play once", () => this.loop());
    key("e", "both clips take the same time, or their own", () => this.stretch());
    key("m", "sound on or off", () => this.mute());
  }

  #playable() {
    return this.videos.filter((video) => !video.dataset.failed);
  }

  /** Seconds of the clock for a second of a clip. */
  #stretch(video) {
    return this.stretched && video.duration ? this.length / video.duration : 1;
  }

  /** Frames of a clip in a second of the clock. */
  #rate(video) {
    return (Number(video.dataset.rate) || RATE) / this.#stretch(video);
  }

  /** Seek where a strip is pressed; `#show` moves its marker. */
  #press(strip) {
    const video = this.videos[Number(strip.dataset.strip)];
    strip.marker = strip.querySelector(".marker");
    const seek = (event) => {
      const box = strip.getBoundingClientRect();
      const part = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      this.seekIn(Number(strip.dataset.strip), part * video.duration);
    };
    strip.addEventListener("pointerdown", (event) => {
      strip.setPointerCapture(event.pointerId);
      seek(event);
    });
    strip.addEventListener("pointermove", (event) => strip.hasPointerCapture(event.pointerId) && seek(event));
  }

  #mark(strip, video) {
    if (!video.duration) return;
    const part = Math.min(this.#place(video) / video.duration, 1);
    strip.marker.style.left = `${100 * part}%`;
    if (strip.role !== "slider") return;
    strip.setAttribute("aria-valuenow", String(Math.round(100 * part)));
    strip.setAttribute("aria-valuetext", `${this.#place(video).toFixed(2)} seconds`);
  }

  /** The time of a clip at the time of the clock. */
  #place(video) {
    const time = this.stretched && this.length ? (this.time * video.duration) / this.length : this.time;
    return Math.min(time, Math.max(0, video.duration - 1e-3));
  }

  #rates() {
    for (const video of this.#playable())
      video.playbackRate = this.speed * (this.stretched && this.length ? Math.max(0.0625, video.duration / this.length) : 1);
  }

  async #start() {
    this.#rates();
    this.seek(this.time);
    const waiting = this.#playable().filter((video) => this.#place(video) < video.duration - 0.01);
    try {
      await Promise.all(waiting.map((video) => video.play().catch((error) => {
        if (!video.error) throw error; // one that fails leaves the other playing
      })));
    } catch {
      this.pause(); // the browser does not play without a click
      return;
    }
    this.started = performance.now() / 1000 - this.time / this.speed;
  }

  #tick() {
    this.frame = 0;
    if (!this.playing) return;
    // Seconds by the clips that play: a browser that cannot keep up slows the clock, not one of the clips.
    const shown = this.#playable().filter((video) => !video.ended && !video.paused);
    const times = shown.map((video) => this.#clock(video));
    this.time = times.length ? Math.min(...times) : performance.now() / 1000 * this.speed - this.started * this.speed;
    if (this.time >= this.length - 0.02 || (!shown.length && this.#playable().every((video) => video.ended))) {
      if (this.looping) {
        this.time = 0;
        this.#start();
      } else {
        this.seek(this.length);
        this.pause();
        return;
      }
    } else {
      for (const [place, video] of shown.entries())
        if (times[place] - this.time > DRIFT && !video.seeking) video.currentTime = this.#place(video);
    }
    this.#show();
    this.frame = requestAnimationFrame(() => this.#tick());
  }

  /** The time of the clock by one clip. */
  #clock(video) {
    return this.stretched && this.length ? (video.currentTime * this.length) / video.duration : video.currentTime;
  }

  #measured() {
    if (this.slider) this.slider.max = String(this.length);
    this.#show();
    this.#rates();
    if (this.wanted && this.ready) this.play();
  }

  /** Go on with the other clip, and say why this one is missing: the server knows. */
  async #failed(video) {
    const figure = video.closest("figure");
    video.dataset.failed = "true";
    figure?.classList.add("missing");
    this.#measured();
    const reason = video.src && figure?.querySelector("[data-reason]");
    if (!reason) return;
    const answer = await fetch(video.src, {headers: {Accept: "application/json", Range: "bytes=0-0"}});
    reason.textContent = answer.ok ? `The browser cannot play it: ${video.error?.message}` : (await answer.json()).error;
  }

  #show() {
    if (this.slider) this.slider.value = String(this.time);
    const clock = this.root.querySelector("[data-time]");
    if (clock) clock.textContent = `${this.time.toFixed(2)} / ${this.length.toFixed(2)} s`;
    for (const strip of this.strips) this.#mark(strip, this.videos[Number(strip.dataset.strip)]);
  }

  #pressed(name, on) {
    this.root.querySelector(`[data-do=${name}]`)?.setAttribute("aria-pressed", String(on));
  }
}

for (const root of document.querySelectorAll("[data-player=auto]")) {
  const player = new PairPlayer(root);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player.play();
}
