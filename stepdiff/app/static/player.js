// Two clips under one clock: play, loop, frame step, speed, sound, filmstrips, offsets, in and out, warp.
//
// At 0 of the clock each clip is at its offset. The clock runs to the end of the clip that lasts longer, or from the in
// point to the out point. A clip that has ended keeps its last picture until the clock returns, or, with "same length",
// both clips are played so fast that they end together. While it plays, the clock is corrected from the clips and the
// clips from the clock: one that is more than DRIFT off is set to its place.
//
// Under warp the clock is that of Video 1 from its offset. Video 2 follows an alignment: its speed changes from moment to
// moment, and is corrected by how far it is off its place, because a seek takes longer than most of these errors.
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
const LOST = 0.3; // seconds from its place at which a clip that follows is set to it
const CATCH = 0.15; // seconds in which it makes up for less
const [SLOWEST, FASTEST] = [0.0625, 16]; // playback rates of browsers, apart from 0

/** Return [value, slope] at `x` of the line through corners [x, y], which do not go back. */
function along(corners, x) {
  const next = Math.max(1, corners.findIndex(([corner], place) => corner > x || place === corners.length - 1));
  const [[x0, y0], [x1, y1]] = [corners[next - 1], corners[next]];
  const slope = x1 > x0 ? (y1 - y0) / (x1 - x0) : 0;
  return [Math.min(Math.max(y0 + slope * (x - x0), y0), y1), slope];
}

export class PairPlayer {
  constructor(root, {keys = true} = {}) {
    this.root = root;
    this.videos = [...root.querySelectorAll("video")];
    this.slider = root.querySelector("[data-clock]");
    this.time = 0; // seconds of the clock
    this.speed = 1;
    this.offsets = [0, 0]; // seconds of each clip at 0 of the clock
    this.range = [null, null]; // in and out, seconds of the clock; null: begin and end
    this.looping = true;
    this.stretched = false;
    this.warped = false;
    this.alignment = null; // corners of a line, [seconds of Video 1, seconds of Video 2]
    this.playing = false;
    root.player = this;
    this.fields = [...root.querySelectorAll("[data-offset]")];
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
    for (const [number, field] of this.fields.entries())
      field.addEventListener("change", () => {
        this.setOffset(number, Number(field.value));
        field.value = this.offsets[number].toFixed(2);
      });
    for (const button of root.querySelectorAll("[data-do]"))
      button.addEventListener("click", () => this[button.dataset.do](button.dataset.with && Number(button.dataset.with)));
    if (keys) this.#keys();
  }

  get ready() {
    return this.videos.every((video) => video.readyState >= 1 || video.dataset.failed);
  }

  /** Seconds of the clock: those of the clip that lasts longer from its offset, under warp those of Video 1. */
  get length() {
    const videos = this.#follower ? [this.videos[0]] : this.#playable();
    return Math.max(0, ...videos.map((video) => this.#rest(video)));
  }

  get begin() {
    return Math.min(this.range[0] ?? 0, this.length);
  }

  get end() {
    return Math.min(this.range[1] ?? this.length, this.length);
  }

  /** What an address holds of it; time is null while it plays. */
  get state() {
    const {offsets, range, speed, looping, stretched, warped} = this;
    return {time: this.playing || this.wanted ? null : this.time, offsets, range, speed, looping, stretched, warped};
  }

  /** Show such a state; the time as soon as both clips are there. */
  restore({time, speed, ...rest}) {
    Object.assign(this, rest);
    this.#pressed("loop", this.looping);
    this.#pressed("stretch", this.stretched);
    this.#pressed("warp", this.warped);
    if (time !== null) {
      this.pause();
      this.opening = time;
    }
    this.#speed(SPEEDS.includes(speed) ? speed : 1);
    this.#measured();
  }

  toggle() {
    this.playing ? this.pause() : this.play();
  }

  async play() {
    if (!this.ready || this.length === 0) {
      this.wanted = true; // plays once both are there
      return;
    }
    if (this.time >= this.end - 1e-3) this.seek(this.begin);
    this.playing = true;
    this.root.dataset.playing = "";
    this.#changed();
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
    this.#changed();
  }

  /** Set the clock, in seconds. */
  seek(time) {
    this.#set(time);
    if (this.playing) this.#start(); // a clip that had ended plays again
    this.#changed();
  }

  #set(time) {
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
    this.seek(this.#clockAt(this.videos[number], time));
  }

  /** Pause and show another time of one clip, in seconds: its offset changes, and the other clip stays. */
  moveAlone(number, time) {
    this.pause();
    const offset = time - this.time;
    this.offsets[number] = Math.max(offset, 0);
    if (offset < 0) { // a clip has no time before its begin, so the other one begins later
      this.offsets[1 - number] -= offset;
      this.#shift(offset);
    }
    this.#measured();
    this.seek(this.time);
  }

  /** Set the time of a clip at 0 of the clock, in seconds. */
  setOffset(number, seconds) {
    this.offsets[number] = Math.min(Math.max(seconds || 0, 0), Math.max(0, (this.videos[number].duration || 0) - 0.1));
    this.#measured();
    this.seek(this.time);
    announce(`Video ${number + 1} begins at ${this.offsets[number].toFixed(2)} s`);
  }

  /** Let both clips begin at what they show. */
  setBoth() {
    this.offsets = this.videos.map((video, number) => (video.dataset.failed ? this.offsets[number] : this.#place(video)));
    this.#shift(-this.time);
    this.#measured();
    this.seek(0);
    announce("both clips begin here");
  }

  /** Begin here, or end here (1): when it plays, it stays between the two. */
  mark(end) {
    this.range[end] = this.time;
    const [first, last] = this.range;
    if (first !== null && last !== null && first >= last) this.range[1 - end] = null;
    this.#show();
    this.#changed();
    announce(`${end ? "plays until" : "plays from"} ${this.time.toFixed(2)} s`);
  }

  /** Undo offsets, in and out. */
  whole() {
    this.offsets = [0, 0];
    this.range = [null, null];
    this.#measured();
    this.seek(this.time);
    announce("whole clips");
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

  /** Pause and move by frames of the clip that has more of them a second, under warp of Video 1. */
  step(frames) {
    this.pause();
    const [video] = this.#follower ? this.videos : this.#playable().sort((one, other) => this.#rate(other) - this.#rate(one));
    if (!video) return;
    const rate = this.#rate(video);
    const phase = ((video.phase ?? 0) - this.#offset(video)) * this.#stretch(video);
    const first = ((phase * rate) % 1 + 1) % 1 / rate; // the time of a frame
    const last = Math.ceil((this.length - first) * rate - 1e-3) - 1;
    const now = Math.min(Math.floor((this.time - first) * rate + 1e-3), last);
    this.seek(first + (Math.min(now + frames, last) + 0.5) / rate); // the middle of a frame, away from its neighbours
  }

  setSpeed(speed) {
    this.#speed(speed);
    this.#changed();
    announce(`speed ${speed}`);
  }

  loop() {
    this.looping = !this.looping;
    this.#pressed("loop", this.looping);
    this.#changed();
    announce(this.looping ? "loop" : "play once");
  }

  stretch() {
    this.#pace(!this.stretched, false);
    announce(this.stretched ? "both clips take the same time" : "both clips at their own speed");
  }

  warp() {
    if (!this.alignment) return;
    this.#pace(false, !this.warped);
    announce(this.warped ? "Video 2 follows the alignment" : "both clips at their own speed");
  }

  /** Give the alignment that Video 2 follows under warp, null where there is none. */
  align(corners) {
    this.alignment = corners;
    this.root.querySelector("[data-do=warp]").disabled = !corners;
    if (this.warped) this.#pace(false, Boolean(corners));
  }

  #pace(stretched, warped) {
    [this.stretched, this.warped] = [stretched, warped];
    this.#pressed("stretch", stretched);
    this.#pressed("warp", warped);
    this.#measured();
    this.seek(this.time);
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
    if (!this.fields.length) return;
    key("i", "in: play from here", () => this.mark(0));
    key("u", "out: play until here", () => this.mark(1));
    key("o", "set both here: both clips begin at what they show", () => this.setBoth());
    key("0", "whole clips: no offset, no in and out", () => this.whole());
    key("w", "warp: Video 2 follows the alignment, or its own time", () => this.warp());
  }

  #playable() {
    return this.videos.filter((video) => !video.dataset.failed);
  }

  /** Video 2 under warp. */
  get #follower() {
    return this.warped && this.alignment && this.#playable().length === 2 ? this.videos[1] : undefined;
  }

  #offset(video) {
    return this.offsets[this.videos.indexOf(video)];
  }

  /** Seconds of a clip from its offset. */
  #rest(video) {
    return Math.max(0, (video.duration || 0) - this.#offset(video));
  }

  /** Seconds of the clock for a second of a clip. */
  #stretch(video) {
    return this.stretched && this.#rest(video) ? this.length / this.#rest(video) : 1;
  }

  /** Let the times of the clock begin `by` later. */
  #shift(by) {
    this.time += by;
    this.range = this.range.map((time) => (time === null || time + by <= 0 ? null : time + by));
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
      const alone = event.shiftKey && this.fields.length && !this.stretched && !this.warped;
      this[alone ? "moveAlone" : "seekIn"](Number(strip.dataset.strip), part * video.duration);
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
    strip.style.setProperty("--from", String(this.#place(video, this.begin) / video.duration));
    strip.style.setProperty("--to", String(this.end < this.length ? this.#place(video, this.end) / video.duration : 1));
    if (strip.role !== "slider") return;
    strip.setAttribute("aria-valuenow", String(Math.round(100 * part)));
    strip.setAttribute("aria-valuetext", `${this.#place(video).toFixed(2)} seconds`);
  }

  /** The time of a clip at a time of the clock. */
  #place(video, clock = this.time) {
    const time = video === this.#follower ? this.#followed(clock)[0] : this.#offset(video) + clock / this.#stretch(video);
    return Math.min(time, Math.max(0, video.duration - 1e-3));
  }

  /** [time of Video 2, its seconds for a second of the clock] under warp. */
  #followed(clock) {
    return along(this.alignment, clock + this.offsets[0]);
  }

  /** The time of the clock at a time of a clip. */
  #clockAt(video, time) {
    if (video !== this.#follower) return (time - this.#offset(video)) * this.#stretch(video);
    return along(this.alignment.map(([first, second]) => [second, first]), time)[0] - this.offsets[0];
  }

  #speed(speed) {
    this.speed = speed;
    this.started = performance.now() / 1000 - this.time / this.speed;
    this.#rates();
    for (const button of this.root.querySelectorAll("[data-do=setSpeed]"))
      button.setAttribute("aria-pressed", String(Number(button.dataset.with) === speed));
  }

  #rates() {
    for (const video of this.#playable()) {
      const share = video === this.#follower ? this.#followed(this.time)[1] : 1 / this.#stretch(video);
      video.playbackRate = Math.min(Math.max(this.speed * share, SLOWEST), FASTEST);
    }
  }

  /** Set the speed of Video 2 under warp so that it is at its place soon. */
  #follow(video) {
    if (video.seeking) return;
    const [place, slope] = this.#followed(this.time);
    const behind = place - video.currentTime;
    if (Math.abs(behind) > LOST) video.currentTime = this.#place(video);
    const rate = this.speed * slope + behind / CATCH;
    video.playbackRate = rate < SLOWEST ? 0 : Math.min(rate, FASTEST);
  }

  async #start() {
    this.#rates();
    this.#set(this.time);
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
    const follower = this.#follower;
    const shown = this.#playable().filter((video) => video !== follower && !video.ended && !video.paused);
    const times = shown.map((video) => this.#clockAt(video, video.currentTime));
    this.time = times.length ? Math.min(...times) : performance.now() / 1000 * this.speed - this.started * this.speed;
    if (this.time >= this.end - 0.02 || (!shown.length && this.#playable().every((video) => video.ended))) {
      if (this.looping) {
        this.time = this.begin;
        this.#start();
      } else {
        this.pause();
        this.seek(this.end);
        return;
      }
    } else {
      for (const [place, video] of shown.entries())
        if (times[place] - this.time > DRIFT && !video.seeking) video.currentTime = this.#place(video);
      if (follower) this.#follow(follower);
    }
    this.#show();
    this.frame = requestAnimationFrame(() => this.#tick());
  }

  #measured() {
    if (this.slider) this.slider.max = String(this.length);
    this.#show();
    this.#rates();
    if (this.ready && this.opening !== undefined) {
      const time = this.opening;
      delete this.opening;
      this.seek(time);
    }
    if (this.wanted && this.ready) this.play();
  }

  /** Tell the page that what it would share has changed. */
  #changed() {
    this.root.dispatchEvent(new Event("change"));
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
    for (const [number, field] of this.fields.entries())
      if (field !== document.activeElement) field.value = this.offsets[number].toFixed(2);
    for (const [number, time] of this.range.entries()) {
      const place = this.root.querySelector(`[data-mark="${number}"]`);
      if (place) place.textContent = time === null ? "" : time.toFixed(2);
    }
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
