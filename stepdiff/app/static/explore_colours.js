// Colours of the map: eight that people with any colour vision tell apart, and a ramp from dark blue to yellow.

const LIGHT = ["#4477aa", "#cc6677", "#228833", "#aa3377", "#44b4d8", "#b39a2f", "#332288", "#999933"];
const DARK = ["#77aadd", "#ff9aa8", "#66c266", "#e18cc8", "#99e4ff", "#eedd88", "#a596ff", "#c8c85a"];
const RAMP = {
  light: ["#00204d", "#31446b", "#666970", "#958f78", "#cbba69", "#f0d33c"],
  dark: ["#3d5f9e", "#5b7aa8", "#85888f", "#aaa389", "#d6c66e", "#ffea46"],
};

/** Return 0xAABBGGRR of a colour of CSS such as #aabbcc. */
export function paint(colour) {
  const value = parseInt(colour.slice(1), 16);
  return (0xff000000 | ((value & 255) << 16) | (value & 0xff00) | (value >>> 16)) >>> 0;
}

function long(colour) {
  const digits = colour.trim().slice(1);
  return `#${digits.length === 3 ? [...digits].map((digit) => digit + digit).join("") : digits}`;
}

/** The colours of the page as it is now, dark or light. */
export function palette() {
  const style = getComputedStyle(document.documentElement), named = (name) => long(style.getPropertyValue(name));
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const panel = named("--panel");
  return {
    categories: dark ? DARK : LIGHT,
    ramp: ramp(dark ? RAMP.dark : RAMP.light),
    plain: named("--accent"),
    others: dark ? "#8a909c" : "#8d939d",
    missing: dark ? "#565c68" : "#c3c7ce",
    ground: paint(panel),
    faint: paint(dark ? "#2b2f37" : "#eceef1"),
    text: named("--text"),
    panel,
    pins: [named("--one"), named("--two")],
  };
}

/** Return the colour of each code of a legend as [code + 1] -> 0xAABBGGRR; the first is that of a missing value. */
export function paints(legend, colours) {
  const shown = legend.kind === "numbers" ? colours.ramp : legend.kind === "text" ? [...colours.categories, colours.others] : [colours.plain];
  return Uint32Array.from([colours.missing, ...shown], paint);
}

function ramp(anchors) {
  const rgb = anchors.map((colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)));
  return Array.from({length: 256}, (_, step) => {
    const at = (step / 255) * (anchors.length - 1), low = Math.min(Math.floor(at), anchors.length - 2);
    const value = rgb[low].map((from, channel) => Math.round(from + (rgb[low + 1][channel] - from) * (at - low)));
    return `#${value.map((channel) => channel.toString(16).padStart(2, "0")).join("")}`;
  });
}
