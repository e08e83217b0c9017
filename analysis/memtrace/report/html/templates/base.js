// What all parts use: the data, elements made of text only, sizes and times as words.
const DATA = JSON.parse(document.getElementById("data").textContent);
const UNIT = 4096;
const by = (id) => document.getElementById(id);
const state = { process: null, byTime: DATA.trace.timed, a: 0, b: 0, brush: null, event: null, shown: {} };
const parts = [];  // each redraws itself: {process(), moments(), event(), theme(), axis()}
function tell(what) { for (const part of parts) if (part[what]) part[what](); }

function make(tag, text, cls) {
  const e = document.createElement(tag);
  if (text !== undefined && text !== null) e.textContent = text;
  if (cls) e.className = cls;
  return e;
}
function fill(e, ...children) { e.replaceChildren(...children); return e; }
function cell(text, cls) { return make("td", text, cls); }
function table(id, heads, rows) {
  const head = make("thead"), top = make("tr"), body = make("tbody");
  for (const [text, cls] of heads) { const th = make("th", text, cls); th.scope = "col"; top.append(th); }
  head.append(top);
  body.append(...rows);
  fill(by(id), head, body);
}
function row(cells, cls) { const tr = make("tr", null, cls); tr.append(...cells); return tr; }
function css(name) { return getComputedStyle(document.documentElement).getPropertyValue(name).trim(); }
const colours = new Map();
function colour(kind) {
  if (!colours.has(kind)) colours.set(kind, css("--k-" + kind) || css("--k-unknown"));
  return colours.get(kind);
}
function swatch(kind) { const s = make("span", null, "swatch"); s.style.background = colour(kind); return s; }
function labelled(kind, cls) { const td = make("td", null, cls); td.append(swatch(kind), kind); return td; }

function size(n) {
  if (n === null || n === undefined) return "unknown";
  const sign = n < 0 ? "−" : "", v = Math.abs(n);
  for (const [unit, scale] of [["TiB", 2 ** 40], ["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) {
    if (v >= scale) {
      const x = v / scale;
      return sign + (x >= 99.95 || Number.isInteger(x) ? x.toFixed(0) : x >= 9.995 ? x.toFixed(1) : x.toFixed(2)) + " " + unit;
    }
  }
  return sign + v + " B";
}
function signed(n) { return (n > 0 ? "+" : "") + size(n); }
function time(ns) {
  if (ns === null || ns === undefined) return "";
  if (DATA.trace.clock === "s") return Math.floor(ns / 1e9) + " s";
  for (const [unit, scale] of [["s", 1e9], ["ms", 1e6], ["µs", 1e3]]) if (ns >= scale) {
    const x = ns / scale; return x.toFixed(x >= 99.95 ? 0 : x >= 9.995 ? 1 : 2) + " " + unit;
  }
  return ns + " ns";
}
function when(seq, t) { return "#" + seq.toLocaleString("en") + (t === null || t === undefined ? "" : " · " + time(t)); }
function count(n, one) { return n.toLocaleString("en") + " " + (n === 1 ? one : one + "s"); }
function hex(units) { return "0x" + (BigInt(units) * 4096n).toString(16); }
// The last index whose value is not above x; at least 0.
function below(values, x) {
  let low = 0, high = values.length;
  while (low < high) { const mid = (low + high) >> 1; if (values[mid] <= x) low = mid + 1; else high = mid; }
  return Math.max(low - 1, 0);
}
// A record's place on the axis: its own time where the page knows it, else that of the state shown before it.
function place(seq, t) {
  if (!state.byTime) return seq;
  if (t !== null && t !== undefined) return t;
  const s = state.process.series;
  return s.seq.length ? s.t[below(s.seq, seq)] : 0;
}
// Whether the map after a record is not proven: a check failed, or records are lost.
function doubtful(seq) { return state.process.doubts.some(([after, before]) => after < seq && (before === null || seq < before)); }
function axisText(x) { return state.byTime ? time(x) : "#" + Math.round(x).toLocaleString("en"); }
function range() {
  const s = state.process.series, n = s.seq.length;
  if (!n) return [0, 1];
  const low = place(s.seq[0], s.t && s.t[0]), high = place(s.seq[n - 1], s.t && s.t[n - 1]);
  return high > low ? [low, high] : [low - 0.5, low + 1];
}
