// Two clips under one clock: play, loop, frame step, speed, sound, filmstrips, offsets, in and out, warp.
//
// At 0 of the clock each clip is at its offset. The clock runs to the end of the clip that lasts longer. A clip that has
// ended keeps its last picture until the clock returns, or, with "same length", both clips are played so fast that they
// end together. While it plays, the clock is corrected from the clips and the clips from the clock: one that is more than
// DRIFT off is set to its place.
//
// Each clip may have an in and an out point, in seconds of the clip. One point is for both clips: the other one begins or
// ends there too. Two in points set the offsets, so that both begin together. With two out points, the clip that reaches
// its own first keeps its picture until the other one is there, as does, under warp, one that waits at its in point.
//
// Under warp the clock is that of Video 1 from its offset. Video 2 follows an alignment: its speed changes from moment to
// moment, and is corrected by how far it is off its place, because a seek takes longer than most of these errors.
//
// A clip that fails gives its place to the reason, and the other one plays.
//
// A frame step goes to the next frame of the clip with more frames a second (data-rate of its video). Times of frames
// are those that the browser reports, because a clip may begin between two frames of its video.
//
//   <div class="player" data-player data-reference="..." data-candidate="..."> (../templates/player.html)
//   const player = new PairPlayer(document.querySelector("[data-player]"));

import {announce, key, waiting} from "/static/keys.js";

const DRIFT = 0.04; // seconds
const SPEEDS = [0.25, 0.5, 1, 2];
const RATE = 25; // frames a second of a clip that does not state its own
const LOST = 0.3; // seconds from its place at which a clip that follows is set to it
const CATCH = 0.15; // seconds in which it makes up for less
const SMALL = 120; // pixels of it in sight below which the player stays at the top of the window
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
    this.ranges = [[null, null], [null, null]]; // in and out of each clip, in its seconds; null: none
    this.held = false; // whether clips stay between their points: while it plays, and until the next seek
    this.looping = true;
    this.stretched = false;
    this.warped = false;
    this.alignment = null; // corners of a line, [seconds of Video 1, seconds of Video 2]
    this.playing = false;
    root.player = this;
    this.fields = [...root.querySelectorAll("[data-offset]")];
    this.strips = [...root.querySelectorAll("[data-strip]")];
    for (const strip of this.strips) this.#press(strip);
    for (const line of root.querySelectorAll("[data-waiting]")) this.#wait(line);
    for (const video of this.videos) {
      video.addEventListener("loadedmetadata", () => this.#measured());
      video.addEventListener("error", () => this.#failed(video));
      if (video.error || video.dataset.failed) this.#failed(video);
      video.requestVideoFrameCallback?.((_, frame) => (video.phase = frame.mediaTime));
    }
    this.#measured();
    if (this.strips.length) this.#stay(root.querySelector(".stage"));
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
    return Math.max(0, ...videos.map((video) => this.#clockAt(video, video.duration || 0)));
  }

  get begin() {
    return Math.min(Math.max(this.#point(0, Math.min) ?? 0, 0), this.length);
  }

  get end() {
    return Math.min(this.#point(1, Math.max) ?? this.length, this.length);
  }

  /** The clock at the in (0) or out points (1) of both clips, by `which` if both have one; undefined: none has. */
  #point(end, which) {
    const clocks = this.#playable().map((video) => [video, this.#range(video)[end]]).filter(([, time]) => time !== null);
    return clocks.length ? which(...clocks.map(([video, time]) => this.#clockAt(video, time))) : undefined;
  }

  /** What an address holds of it; time is null while it plays. */
  get state() {
    const {offsets, ranges, speed, looping, stretched, warped} = this;
    return {time: this.playing || this.wanted ? null : this.opening ?? this.time, offsets, ranges, speed, looping, stretched, warped};
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
    this.playing = this.held = true;
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
    this.held = this.playing;
    this.#set(time);
    if (this.playing) this.#start(); // a clip that had ended plays again
    this.#changed();
  }

  #set(time) {
    this.time = Math.min(Math.max(time, 0), this.length);
    this.started = performance.now() / 1000 - this.time / this.speed;
    for (const video of this.#playable()) {
      const place = this.#shown(video);
      if (Math.abs(video.currentTime - place) > 1e-3) video.currentTime = place;
    }
    this.#show();
  }

  /** Pause and set the clock to a time of one clip, in seconds. */
  seekIn(number, time) {
    this.pause();
    this.seek(this.#clockAt(this.videos[number], time));
  }

  /** Pause and show a time of one clip, in seconds; the other stays in step. Offsets that hide that time are undone. */
  show(number, time) {
    if (this.#clockAt(this.videos[number], time) < 0) this.offsets = [0, 0];
    this.#measured();
    this.seekIn(number, time);
  }

  /** Pause and show a time of each clip, in seconds: both play on from there. */
  seekEach(times) {
    const time = Math.min(...times);
    this.restore({...this.state, time, offsets: times.map((each) => each - time), stretched: false, warped: false});
    this.#changed();
  }

  /** Pause and show another time of one clip, in seconds: its offset changes, and the other clip stays. */
  moveAlone(number, time) {
    this.pause();
    const offset = time - this.time;
    this.offsets[number] = Math.max(offset, 0);
    if (offset < 0) { // a clip has no time before its begin, so the other one begins later
      this.offsets[1 - number] -= offset;
      this.time += offset;
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
    this.offsets = this.videos.map((video, number) => (video.dataset.failed ? this.offsets[number] : this.#shown(video)));
    this.#measured();
    this.seek(0);
    announce("both clips begin here");
  }

  /** Set the in point of a clip (0, 1), or of both, to what is shown; remove one that is there already. */
  markIn(number) {
    this.#mark(0, number);
    const ins = this.ranges.map(([first]) => first);
    if (ins.includes(null)) return;
    const [one, two] = this.videos.map((video, place) => this.#clockAt(video, ins[place]));
    if (Math.abs(one - two) < 1e-3) return;
    const time = Math.min(...ins);
    this.offsets = ins.map((each) => each - time);
    this.#measured();
    this.seek(time);
    announce("both clips begin together, each at its in point");
  }

  /** Set or remove the out point of a clip, or of both. */
  markOut(number) {
    this.#mark(1, number);
  }

  #mark(end, number) {
    const videos = this.#playable().filter((video) => number === undefined || video === this.videos[number]);
    if (!videos.length) return;
    const shown = new Map(videos.map((video) => [video, this.#shown(video)]));
    const is = (point, time) => point !== null && Math.abs(point - time) < 5e-3;
    const removes = videos.every((video) => is(this.#range(video)[end], shown.get(video)));
    this.ranges = this.videos.map((video, place) => {
      if (!shown.has(video)) return this.ranges[place];
      const points = [...this.ranges[place]];
      points[end] = removes ? null : shown.get(video);
      if (points.every((point) => point !== null) && points[0] >= points[1]) points[1 - end] = null;
      return points;
    });
    this.#measured();
    this.#changed();
    const at = [...shown].map(([video, time]) => `${time.toFixed(2)} s of Video ${this.videos.indexOf(video) + 1}`);
    announce(removes ? `no ${end ? "out" : "in"} point here` : `${end ? "plays until" : "plays from"} ${at.join(" and ")}`);
  }

  /** Undo offsets, in and out. */
  whole() {
    this.offsets = [0, 0];
    this.ranges = [[null, null], [null, null]];
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
    const phase = this.#clockAt(video, video.phase ?? 0);
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
    key("i", "in: both clips play from here", () => this.markIn());
    key("u", "out: both clips play until here", () => this.markOut());
    key("o", "set both here: both clips begin at what they show", () => this.setBoth());
    key("0", "whole clips: no offset, no in and out", () => this.whole());
    if (this.root.querySelector("[data-do=warp]")) key("w", "warp: Video 2 follows the alignment, or its own time", () => this.warp());
  }

  /** Keep clips and controls in sight, small, while the page is read below them; what is below does not move. */
  #stay(stage) {
    const place = stage.parentElement;
    new IntersectionObserver(([{isIntersecting, boundingClientRect}]) => {
      const small = !isIntersecting && boundingClientRect.top < 0;
      if (small === stage.classList.contains("small")) return;
      place.style.setProperty("--height", `${boundingClientRect.height}px`);
      stage.classList.toggle("small", small);
    }, {rootMargin: `-${SMALL}px 0px 0px 0px`}).observe(place);
  }

  /** Say what is being made until the video or the picture next to the words is there. */
  #wait(line) {
    const media = line.parentElement.querySelector("video, img");
    if (media.complete || media.readyState >= 2 || media.dataset.failed) return;
    const end = waiting(line, line.dataset.waiting);
    const there = () => [end(), line.replaceChildren()];
    for (const event of ["load", "loadeddata"]) media.addEventListener(event, there, {once: true});
    media.addEventListener("error", () => [there(), media.matches("img") && line.append("no frames: the clip cannot be cut")], {once: true});
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

  #range(video) {
    return this.ranges[this.videos.indexOf(video)];
  }

  /** The clock at both in points if they are at one time; else 0. "Same length" stretches what comes after it. */
  get #anchor() {
    const [one, two] = this.ranges.map(([first], number) => (first === null ? NaN : first - this.offsets[number]));
    return Math.abs(one - two) < 1e-3 ? one : 0;
  }

  /** Seconds of the clock for a second of a clip. */
  #stretch(video) {
    if (!this.stretched) return 1;
    const rest = (each) => Math.max(0, (this.#range(each)[1] ?? (each.duration || 0)) - this.#offset(each) - this.#anchor);
    return rest(video) ? Math.max(...this.#playable().map(rest)) / rest(video) : 1;
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
    if (strip.role === "slider")
      strip.addEventListener("keydown", (event) => {
        if (!["Home", "End"].includes(event.key)) return;
        event.preventDefault();
        this.seekIn(Number(strip.dataset.strip), event.key === "Home" ? 0 : video.duration);
      });
    strip.addEventListener("pointermove", (event) => strip.hasPointerCapture(event.pointerId) && seek(event));
  }

  #markStrip(strip, video) {
    if (!video.duration) return;
    const part = (seconds) => Math.min(Math.max(seconds / video.duration, 0), 1);
    const [first, last] = this.#range(video);
    strip.marker.style.left = `${100 * part(this.#shown(video))}%`;
    strip.style.setProperty("--from", String(part(first ?? this.#place(video, this.begin))));
    strip.style.setProperty("--to", String(last === null && this.end === this.length ? 1 : part(last ?? this.#place(video, this.end))));
    if (strip.role !== "slider") return;
    strip.setAttribute("aria-valuenow", String(Math.round(100 * part(this.#shown(video)))));
    strip.setAttribute("aria-valuetext", `${this.#shown(video).toFixed(2)} seconds`);
  }

  /** The time of a clip at a time of the clock. */
  #place(video, clock = this.time) {
    const after = this.#anchor; // what is before it is not stretched
    const time = video === this.#follower ? this.#followed(clock)[0] : this.#offset(video) + after + (clock - after) / this.#stretch(video);
    return Math.min(time, Math.max(0, video.duration - 1e-3));
  }

  /** The time of a clip that it shows: while clips are held, one between its in and out points. */
  #shown(video) {
    const place = this.#place(video), [first, last] = this.#range(video);
    if (!this.held || this.time < this.begin || this.time > this.end) return place;
    return Math.min(Math.max(place, first ?? place), last ?? Infinity);
  }

  #waits(video) {
    return Math.abs(this.#shown(video) - this.#place(video)) > 1e-3;
  }

  /** Hold a clip that is not between its points, and let it go on when it is. */
  #hold(video) {
    if (this.#waits(video)) {
      if (video.paused) return;
      video.pause();
      video.currentTime = this.#shown(video);
    } else if (this.#range(video)[0] !== null && video.paused && !video.ended) video.play().catch(() => this.pause());
  }

  /** [time of Video 2, its seconds for a second of the clock] under warp. */
  #followed(clock) {
    return along(this.alignment, clock + this.offsets[0]);
  }

  /** The time of the clock at a time of a clip. */
  #clockAt(video, time) {
    const after = this.#anchor;
    if (video !== this.#follower) return after + (time - this.#offset(video) - after) * this.#stretch(video);
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
    if (video.seeking || this.#waits(video)) return;
    const [place, slope] = this.#followed(this.time);
    const behind = place - video.currentTime;
    const most = slope ? LOST : DRIFT; // where Video 2 waits, a seek interrupts nothing
    if (Math.abs(behind) > most) video.currentTime = this.#place(video);
    const rate = this.speed * slope + behind / CATCH;
    video.playbackRate = rate < SLOWEST ? 0 : Math.min(rate, FASTEST);
  }

  async #start() {
    this.#rates();
    this.#set(this.time);
    const waiting = this.#playable().filter((video) => this.#place(video) < video.duration - 0.01 && !this.#waits(video));
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
    for (const video of this.#playable()) this.#hold(video);
    const shown = this.#playable().filter((video) => video !== follower && !video.ended && !video.paused);
    const times = shown.map((video) => this.#clockAt(video, video.currentTime));
    const now = performance.now() / 1000;
    this.time = times.length ? Math.min(...times) : (now - this.started) * this.speed;
    this.started = now - this.time / this.speed;
    if (this.time >= this.end - 0.02 || (!shown.length && this.#playable().every((video) => video.ended))) {
      if (this.looping) {
        this.time = this.begin;
        this.#start();
      } else {
        this.pause();
        this.#set(this.end);
        this.#changed();
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
    for (const place of this.root.querySelectorAll("[data-mark]")) {
      const [number, end] = place.dataset.mark.split(" ");
      place.textContent = this.ranges[number][end]?.toFixed(2) ?? "";
    }
    for (const strip of this.strips) this.#markStrip(strip, this.videos[Number(strip.dataset.strip)]);
  }

  #pressed(name, on) {
    this.root.querySelector(`[data-do=${name}]`)?.setAttribute("aria-pressed", String(on));
  }
}

for (const root of document.querySelectorAll("[data-player=auto]")) {
  const player = new PairPlayer(root);
  if (!matchMedia("(prefers-reduced-motion: reduce)").matches) player.play();
}
