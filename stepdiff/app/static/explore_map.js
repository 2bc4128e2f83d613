// The map: points, what is marked on them, and the pointer.
//
//   const map = new PointMap(element, {hovered, clicked, moved, lassoed});
//   map.load(...); map.select(passing, selected); map.mark({pins, hover, lasso});
//
// Coordinates of the address and of lassos are those of the map, so they do not depend on the size of the window.

import {Points} from "/static/explore_points.js";

const NEAR = 12;  // pixels from the pointer to a point that it means
const MOST_DISCS = 3000;  // selected points that are marked one by one
const MOST_CORNERS = 120;

export class PointMap {
  constructor(element, events) {
    this.element = element;
    this.events = events;
    this.canvas = element.querySelector("#points");
    this.marks = element.querySelector("#marks");
    this.points = new Points(this.canvas);
    this.view = {cx: 0, cy: 0, zoom: 1};
    this.inset = {left: 0, top: 0};  // pixels that the whole map leaves free, for the legend
    this.marked = {pins: [], hover: -1, lasso: []};
    this.lassoing = false;
    this.x = new Float32Array();
    this.passing = this.selected = null;
    this.#listen();
    new ResizeObserver(() => {
      this.points.resize();
      this.#sizeMarks();
      if (this.bounds && this.whole) this.fit();
      this.redraw(true);
    }).observe(element);
    this.#sizeMarks();
  }

  /** Take the points and their colours. */
  load(x, y, paints) {
    Object.assign(this, {x, y, paints});
    let [left, right, bottom, top] = [Infinity, -Infinity, Infinity, -Infinity];
    for (let n = 0; n < x.length; n++) {
      if (x[n] < left) left = x[n];
      if (x[n] > right) right = x[n];
      if (y[n] < bottom) bottom = y[n];
      if (y[n] > top) top = y[n];
    }
    this.bounds = {left, right, bottom, top};
  }

  /** Take which points pass the filter and which are selected (bits; null: all, none), and draw. */
  select(passing, selected, colours) {
    Object.assign(this, {passing, selected, colours});
    this.points.load(this.x, this.y, this.paints, passing, selected, colours.faint, colours.ground);
    this.discs = [];
    for (let n = 0; selected && n < this.x.length && this.discs.length <= MOST_DISCS; n++) {
      if ((selected[n >> 3] >> (n & 7)) & 1) this.discs.push(n);
    }
    this.redraw();
  }

  mark(marked) {
    Object.assign(this.marked, marked);
    this.#drawMarks();
  }

  /** Show the whole map. */
  fit() {
    const {left, right, bottom, top} = this.bounds;
    this.view = {cx: 0, cy: 0, zoom: 1};
    const {scale, inset} = this;
    this.look({cx: (left + right) / 2 - inset.left / 2 / scale, cy: (bottom + top) / 2 + inset.top / 2 / scale, zoom: 1});
    this.whole = true;  // also after the window has another size
  }

  look(view) {
    this.view = {...view, zoom: Math.min(Math.max(view.zoom, 0.2), 1e5)};
    this.whole = false;
    this.redraw();
  }

  /** Pixels of the page per unit of the map. */
  get scale() {
    const {left, right, bottom, top} = this.bounds, {clientWidth, clientHeight} = this.canvas;
    const width = clientWidth - this.inset.left - 40, height = clientHeight - this.inset.top - 40;
    const whole = Math.min(width / (right - left || 1), height / (top - bottom || 1));
    return Math.max(whole, 1e-9) * this.view.zoom;
  }

  zoom(factor, px = this.canvas.clientWidth / 2, py = this.canvas.clientHeight / 2) {
    const [x, y] = this.at(px, py), zoom = Math.min(Math.max(this.view.zoom * factor, 0.2), 1e5);
    const change = this.view.zoom / zoom;
    this.look({cx: x + (this.view.cx - x) * change, cy: y + (this.view.cy - y) * change, zoom});
    this.events.moved();
  }

  /** Move by parts of the visible width and height. */
  pan(right, up) {
    const {cx, cy, zoom} = this.view, {clientWidth, clientHeight} = this.canvas;
    this.look({cx: cx + (right * clientWidth) / this.scale, cy: cy + (up * clientHeight) / this.scale, zoom});
    this.events.moved();
  }

  /** Return the map's coordinates at a place of the canvas. */
  at(px, py) {
    const {clientWidth, clientHeight} = this.canvas;
    return [this.view.cx + (px - clientWidth / 2) / this.scale, this.view.cy - (py - clientHeight / 2) / this.scale];
  }

  place(n) {
    const {clientWidth, clientHeight} = this.canvas;
    return [(this.x[n] - this.view.cx) * this.scale + clientWidth / 2, clientHeight / 2 - (this.y[n] - this.view.cy) * this.scale];
  }

  /** Return the point that a place of the canvas means, -1 where there is none. */
  pick(px, py) {
    const [x, y] = this.at(px, py), {passing} = this;
    let best = (NEAR / this.scale) ** 2, found = -1;
    for (let n = 0; n < this.x.length; n++) {
      const dx = this.x[n] - x, dy = this.y[n] - y, apart = dx * dx + dy * dy;
      if (apart < best && (!passing || (passing[n >> 3] >> (n & 7)) & 1)) [best, found] = [apart, n];
    }
    return found;
  }

  redraw(now = false) {
    if (!this.bounds || !this.colours) return;
    const draw = () => {
      this.asked = 0;
      const before = performance.now();
      this.points.draw({...this.view, scale: this.scale});
      this.#drawMarks();
      this.took = performance.now() - before;
    };
    if (now) draw();
    else this.asked ||= requestAnimationFrame(draw);
  }

  #sizeMarks() {
    const ratio = window.devicePixelRatio || 1;
    this.marks.width = Math.max(1, Math.round(this.marks.clientWidth * ratio));
    this.marks.height = Math.max(1, Math.round(this.marks.clientHeight * ratio));
    this.marks.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
  }

  #drawMarks() {
    if (!this.bounds || !this.colours) return;
    const context = this.marks.getContext("2d"), {colours} = this;
    context.clearRect(0, 0, this.marks.clientWidth, this.marks.clientHeight);
    const circle = (n, radius, stroke, width, fill) => {
      const [px, py] = this.place(n);
      context.beginPath();
      context.arc(px, py, radius, 0, 2 * Math.PI);
      if (fill) { context.fillStyle = fill; context.fill(); }
      if (stroke) { context.strokeStyle = stroke; context.lineWidth = width; context.stroke(); }
    };
    const corners = this.drawn ?? this.marked.lasso;
    if (corners.length > 1) {
      context.beginPath();
      for (const [x, y] of corners) {
        const px = (x - this.view.cx) * this.scale + this.canvas.clientWidth / 2;
        context.lineTo(px, this.canvas.clientHeight / 2 - (y - this.view.cy) * this.scale);
      }
      context.closePath();
      context.setLineDash([5, 4]);
      context.strokeStyle = colours.text;
      context.lineWidth = 1.5;
      context.stroke();
      context.setLineDash([]);
    }
    if (this.discs.length <= MOST_DISCS) for (const n of this.discs) circle(n, 5, colours.text, 1.5, css(this.paints[n]));
    if (this.marked.hover >= 0) circle(this.marked.hover, 9, colours.text, 2);
    this.marked.pins.forEach((n, index) => {
      if (n < 0) return;
      circle(n, 10, colours.panel, 5, colours.pins[index]);
      context.fillStyle = colours.panel;
      context.font = "700 12px system-ui, sans-serif";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(String(index + 1), ...this.place(n));
    });
  }

  #listen() {
    const {canvas} = this, down = new Map();
    let moved = 0, pinch = 0;
    const inside = (event) => {
      const box = canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (this.bounds) this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...inside(event));
    }, {passive: false});
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button || !this.bounds) return;
      canvas.setPointerCapture(event.pointerId);
      down.set(event.pointerId, inside(event));
      moved = 0;
      if (down.size === 1 && (event.shiftKey || this.lassoing)) this.drawn = [this.at(...inside(event))];
      if (down.size === 2) { this.drawn = undefined; pinch = spread(down); }
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!this.bounds) return;
      const to = inside(event), from = down.get(event.pointerId);
      if (!from) return this.events.hovered(this.pick(...to));
      moved += Math.hypot(to[0] - from[0], to[1] - from[1]);
      if (this.drawn) {
        const last = this.drawn.at(-1), here = this.at(...to);
        if (Math.hypot(here[0] - last[0], here[1] - last[1]) * this.scale < 3) return;
        this.drawn.push(here);
        down.set(event.pointerId, to);
        return this.#drawMarks();
      }
      down.set(event.pointerId, to);
      if (down.size === 2) {
        const now = spread(down), [a, b] = [...down.values()];
        this.zoom(now / (pinch || now), (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
        pinch = now;
      } else if (moved > 3) {
        const {cx, cy, zoom} = this.view;
        this.look({cx: cx - (to[0] - from[0]) / this.scale, cy: cy + (to[1] - from[1]) / this.scale, zoom});
        this.events.moved();
      }
    });
    const up = (event) => {
      const place = down.get(event.pointerId);
      down.delete(event.pointerId);
      if (!place) return;
      const drawn = this.drawn;
      this.drawn = undefined;
      if (drawn && drawn.length > 2) this.events.lassoed(thinned(drawn));
      else if (moved <= 3 && event.type === "pointerup" && !down.size) this.events.clicked(this.pick(...place));
    };
    canvas.addEventListener("pointerup", up);
    canvas.addEventListener("pointercancel", up);
    canvas.addEventListener("pointerleave", () => this.events.hovered(-1));
  }
}

function spread(down) {
  const [a, b] = [...down.values()];
  return Math.hypot(a[0] - b[0], a[1] - b[1]);
}

function thinned(corners) {
  const every = Math.ceil(corners.length / MOST_CORNERS);
  return corners.filter((_, n) => n % every === 0);
}

function css(paint) {
  return `rgb(${paint & 255} ${(paint >>> 8) & 255} ${(paint >>> 16) & 255})`;
}
