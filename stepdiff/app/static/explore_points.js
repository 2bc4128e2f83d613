// Points of a map, drawn into the pixels of a canvas: no library, and no graphics card is needed.
//
//   const points = new Points(canvas);
//   points.load(x, y, paints, passing, selected);   // paints: one 0xAABBGGRR per point
//   points.draw({cx, cy, scale});                   // scale: pixels of the page per unit of the map
//
// Points that do not pass the filter are drawn first, selected ones last. The arrays are copied in that order, so that
// drawing reads memory from front to back: a million points take about 10 ms.

const SIZES = [[1500, 8], [8000, 6], [40000, 4], [200000, 2]];  // at most so many points: their diameter in pixels
const LARGEST = 11;

/** Mix two colours 0xAABBGGRR; `part` of the first, 0 to 1. */
export function mix(one, other, part) {
  let found = 0xff000000;
  for (const shift of [0, 8, 16]) {
    const a = (one >>> shift) & 255, b = (other >>> shift) & 255;
    found |= Math.round(a * part + b * (1 - part)) << shift;
  }
  return found >>> 0;
}

export class Points {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d"); // transparent until the first points come, not black
    this.count = 0;
    this.ground = 0xffffffff;
    this.resize();
  }

  /** Take the size of the canvas on the page. */
  resize() {
    const {clientWidth, clientHeight} = this.canvas;
    this.ratio = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.max(1, Math.round(clientWidth * this.ratio));
    this.canvas.height = Math.max(1, Math.round(clientHeight * this.ratio));
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  /** Copy the points in the order in which they are drawn. `passing` and `selected`: bits, or null for all and none. */
  load(x, y, paints, passing, selected, faint, ground) {
    const count = x.length, start = [0, 0, 0];
    const has = (mask, n) => (mask[n >> 3] >> (n & 7)) & 1;
    const group = new Uint8Array(count);
    const some = selected !== null;
    for (let n = 0; n < count; n++) {
      const g = passing && !has(passing, n) ? 0 : some && has(selected, n) ? 2 : 1;
      group[n] = g;
      if (g < 2) start[g + 1]++;
    }
    start[2] += start[1];
    this.x = new Float32Array(count);
    this.y = new Float32Array(count);
    this.paints = new Uint32Array(count);
    const paler = new Map();
    for (let n = 0; n < count; n++) {
      const g = group[n], at = start[g]++;
      let paint = paints[n];
      if (g === 0) paint = faint;
      else if (g === 1 && some) {
        if (!paler.has(paint)) paler.set(paint, mix(paint, ground, 0.35));
        paint = paler.get(paint);
      }
      this.x[at] = x[n];
      this.y[at] = y[n];
      this.paints[at] = paint;
    }
    this.count = count;
    this.ground = ground;
    this.base = (SIZES.find(([most]) => count <= most) ?? [0, 1])[1];
  }

  /** Draw all points; `zoom` is 1 where the whole map is seen. */
  draw({cx, cy, scale, zoom}) {
    const {pixels, ratio} = this;
    pixels.fill(this.ground);
    const size = Math.max(1, Math.round(Math.min(this.base * Math.max(1, Math.sqrt(zoom)), LARGEST) * ratio));
    const k = scale * ratio, left = this.canvas.width / 2 - cx * k, top = this.canvas.height / 2 + cy * k;
    if (size === 1) this.#dots(k, left, top);
    else if (size < 4) this.#squares(k, left, top, size);
    else this.#discs(k, left, top, size);
    this.context.putImageData(this.image, 0, 0);
  }

  #dots(k, left, top) {
    const {x, y, paints, pixels, count} = this, width = this.canvas.width, height = this.canvas.height;
    for (let n = 0; n < count; n++) {
      const px = (x[n] * k + left) | 0, py = (top - y[n] * k) | 0;
      if (px >= 0 && px < width && py >= 0 && py < height) pixels[py * width + px] = paints[n];
    }
  }

  #squares(k, left, top, size) {
    const {x, y, paints, pixels, count} = this, width = this.canvas.width, height = this.canvas.height;
    const right = width - size, bottom = height - size, half = size / 2;
    for (let n = 0; n < count; n++) {
      const px = (x[n] * k + left - half) | 0, py = (top - y[n] * k - half) | 0;
      if (px < 0 || px > right || py < 0 || py > bottom) continue;
      const paint = paints[n];
      for (let row = 0, at = py * width + px; row < size; row++, at += width) {
        for (let column = 0; column < size; column++) pixels[at + column] = paint;
      }
    }
  }

  #discs(k, left, top, size) {
    const {x, y, paints, pixels, count, ground} = this, width = this.canvas.width, height = this.canvas.height;
    const cover = disc(size), half = size / 2;
    for (let n = 0; n < count; n++) {
      const px = Math.round(x[n] * k + left - half), py = Math.round(top - y[n] * k - half);
      if (px <= -size || px >= width || py <= -size || py >= height) continue;
      const paint = paints[n];
      for (let row = Math.max(0, -py); row < size && py + row < height; row++) {
        for (let column = Math.max(0, -px); column < size && px + column < width; column++) {
          const part = cover[row * size + column];
          if (part === 0) continue;
          const at = (py + row) * width + px + column;
          // the rim lets through what is below; between two discs it is mixed with the ground
          pixels[at] = part === 1 ? paint : mix(paint, part < 0.5 ? ground : pixels[at], part);
        }
      }
    }
  }
}

/** How much of each pixel of a square a disc covers, with a rim that separates discs of one colour. */
function disc(size) {
  const cover = new Float32Array(size * size), radius = size / 2;
  for (let row = 0; row < size; row++) {
    for (let column = 0; column < size; column++) {
      const apart = Math.hypot(row + 0.5 - radius, column + 0.5 - radius);
      cover[row * size + column] = Math.min(1, Math.max(0, radius - apart + 0.25));
    }
  }
  return cover;
}
