// The clips of the map as thumbnails and as a table: the same page of the same list.

const SHOWN_FIRST = ["key", "similarity", "step", "duration"];
const HIDDEN = ["place", "row", "video_bytes", "video_digest"];

/** Return the address of `frames` pictures of a clip, or null where there are none. */
export function strip(clip, pictures, frames, height) {
  const known = pictures && clip.video != null && clip.start != null && clip.end != null;
  return known ? `/media/strip/${encodeURIComponent(clip.key)}?frames=${frames}&height=${height}` : null;
}

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** Return a picture that gives way to a text where it cannot be loaded. */
export function picture(source, words) {
  if (!source) return element("span", {className: "explore-blank", textContent: words});
  const image = element("img", {src: source, alt: "", loading: "lazy"});
  image.addEventListener("error", () => image.replaceWith(element("span", {className: "explore-blank", textContent: words})));
  return image;
}

export class Lists {
  constructor(grid, table, pictures, {clicked, hovered, sorted}) {
    Object.assign(this, {grid, table, pictures, clicked, hovered, sorted, clips: []});
    for (const list of [grid, table]) {
      const of = (event) => this.clips[event.target.closest("[data-at]")?.dataset.at];
      list.addEventListener("click", (event) => of(event) && clicked(of(event)));
      list.addEventListener("pointerover", (event) => hovered(of(event)));
      list.addEventListener("focusin", (event) => hovered(of(event)));
      list.addEventListener("pointerleave", () => hovered());
    }
    // arrows scroll the list that has the focus, not the map
    table.parentElement.addEventListener("keydown", (event) => event.key.startsWith("Arrow") && event.stopPropagation());
  }

  show(clips, columns, sort, pins) {
    this.clips = clips;
    this.grid.replaceChildren(...clips.map((clip, at) => this.#tile(clip, at)));
    const names = this.#names(columns);
    this.table.tHead.replaceChildren(element("tr", {}, ...names.map((name) => this.#head(name, sort))));
    this.table.tBodies[0].replaceChildren(...clips.map((clip, at) => this.#line(clip, at, names)));
    this.mark(pins);
    this.grid.scrollTop = this.table.parentElement.scrollTop = 0;
  }

  /** Mark the pinned clips (keys) and the clip under the pointer (its row). */
  mark(pins, hovered = -1) {
    for (const made of [...this.grid.children, ...this.table.tBodies[0].children]) {
      const clip = this.clips[made.dataset.at], pin = pins.indexOf(clip.key);
      made.classList.toggle("one", pin === 0);
      made.classList.toggle("two", pin === 1);
      made.classList.toggle("hovered", clip.row === hovered);
      const button = made.matches("[role=listitem], tr") ? made.querySelector("button") : made;
      button.setAttribute("aria-pressed", pin >= 0);
    }
  }

  #names(columns) {
    const names = new Set(["key", ...(this.clips[0]?.similarity === undefined ? [] : ["similarity"])]);
    for (const name of [...SHOWN_FIRST.slice(2), ...columns]) if (columns.includes(name) && !HIDDEN.includes(name)) names.add(name);
    return [...names];
  }

  #tile(clip, at) {
    const words = clip.step ?? clip.file_times;
    const about = clip.similarity === undefined ? words : `${clip.similarity.toFixed(3)} ${words}`;
    const button = element("button", {type: "button", title: `${clip.key}\n${words}`});
    button.append(picture(strip(clip, this.pictures, 1, 90), clip.file_times), element("span", {className: "explore-words", textContent: about}));
    const tile = element("div", {className: "explore-tile"}, button);
    tile.setAttribute("role", "listitem");
    tile.dataset.at = at;
    return tile;
  }

  #head(name, sort) {
    const falling = sort === `-${name}`, rising = sort === name;
    const button = element("button", {type: "button", textContent: `${name}${rising ? " ▲" : falling ? " ▼" : ""}`});
    button.addEventListener("click", () => this.sorted(rising ? `-${name}` : falling ? "" : name));
    const head = element("th", {scope: "col"}, button);
    head.setAttribute("aria-sort", rising ? "ascending" : falling ? "descending" : "none");
    return head;
  }

  #line(clip, at, names) {
    const line = element("tr");
    line.dataset.at = at;
    for (const name of names) {
      const value = clip[name], number = typeof value === "number";
      const text = value == null ? "" : number && !Number.isInteger(value) ? value.toFixed(name === "similarity" ? 3 : 2) : String(value);
      const cell = element("td", {className: number ? "number" : ""});
      if (name === "key") cell.append(element("button", {type: "button", textContent: text}));
      else Object.assign(cell, {textContent: text, title: text.length > 30 ? text : ""});
      line.append(cell);
    }
    return line;
  }
}
