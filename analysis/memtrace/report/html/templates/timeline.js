// The stacked curve: heap, malloc chunks, arenas opened, other; resident memory and threshold as lines.
const LAYERS = [
  ["heap", "heap", "Heap (brk)"], ["chunks", "malloc-chunk", "malloc chunks"],
  ["arenas", "arena", "Arenas opened"], ["other", "other", "Other"],
];
const timeline = { plot: null, cursor: 0 };

timeline.defaults = () => {
  const layers = state.process.series.layers.map((v) => v.reduce((a, b) => Math.max(a, b), 0));
  const ours = layers[0] + layers[1] + layers[2];
  state.shown = { heap: true, chunks: true, arenas: true, other: layers[3] <= ours || !ours, rss: false, threshold: true };
  const rss = state.process.series.rss.reduce((a, b) => Math.max(a, b || 0), 0);
  state.shown.rss = rss > 0 && (state.shown.other || rss <= 2 * ours);
  const t = state.process.threshold.history.reduce((a, m) => Math.max(a, m[3] || m[2] || 0), state.process.threshold.initial || 0);
  state.shown.threshold = t > 0 && (state.shown.other || t <= 2 * ours);
};

timeline.buttons = () => {
  const all = [...LAYERS, ["rss", "rss", "Resident"], ["threshold", "thr", "Threshold"]];
  fill(by("layers"), ...all.map(([key, kind, text]) => {
    const b = make("button"), s = make("span", null, "swatch");
    b.type = "button";
    b.dataset.layer = key;
    s.style.background = css("--" + (key === "rss" || key === "threshold" ? kind : "k-" + kind));
    b.append(s, text);
    b.setAttribute("aria-pressed", String(state.shown[key]));
    b.addEventListener("click", () => { state.shown[key] = !state.shown[key]; timeline.draw(); by("layers").querySelector(`[data-layer=${key}]`).focus(); });
    return b;
  }), " ");
};

timeline.columns = () => {
  const s = state.process.series, n = s.seq.length, xs = s.seq.map((q, i) => place(q, s.t && s.t[i]));
  const sums = [];
  let sum = new Array(n).fill(0);
  LAYERS.forEach(([key], i) => {
    if (state.shown[key]) sum = sum.map((v, j) => v + s.layers[i][j]);
    sums.push(state.shown[key] ? sum : new Array(n).fill(null));
  });
  let low = state.process.threshold.initial, high = low, next = 0;
  const moves = state.process.threshold.history, lows = [], highs = [];
  for (let i = 0; i < n; i++) {
    while (next < moves.length && moves[next][0] <= s.seq[i]) { low = moves[next][2]; high = moves[next][3]; next++; }
    lows.push(state.shown.threshold ? low : null);
    highs.push(state.shown.threshold ? high : null);
  }
  const rss = state.shown.rss ? s.rss : new Array(n).fill(null);
  return [xs, ...sums.reverse(), rss, lows, highs];
};

timeline.draw = () => {
  timeline.buttons();
  const box = by("chart"), columns = timeline.columns();
  if (timeline.plot) timeline.plot.destroy();
  timeline.plot = null;
  box.replaceChildren();
  if (!columns[0].length) { box.append(make("p", "Nothing was recorded of this process: there is no curve to draw.", "hint")); by("readout").textContent = ""; return; }
  const stepped = uPlot.paths.stepped({ align: 1 });
  const layer = ([, kind, label]) => ({ label, stroke: colour(kind), fill: colour(kind) + "cc", width: 1, paths: stepped, points: { show: columns[0].length === 1, size: 8, fill: colour(kind) } });
  const grid = { stroke: css("--line"), width: 1 };
  const [low, high] = range();
  const most = Math.max(4096, ...columns.slice(1).map((c) => c.reduce((a, b) => Math.max(a, b || 0), 0)));
  const incrs = [];
  for (let i = 10; i < 52; i++) incrs.push(2 ** i);
  timeline.plot = new uPlot({
    width: box.clientWidth || 900, height: 290, legend: { show: false },
    cursor: { drag: { x: true, y: false, setScale: false, dist: 6 }, points: { show: false }, y: false },
    scales: { x: { time: false, range: [low, high] }, y: { range: [0, most * 1.08] } },
    axes: [
      { stroke: css("--soft"), grid: { show: false }, ticks: grid, values: (u, v) => v.map(axisText), space: 90, incrs: state.byTime ? undefined : [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5, 5e5, 1e6, 2e6, 5e6, 1e7] },
      { stroke: css("--soft"), grid, ticks: { show: false }, values: (u, v) => v.map(size), size: 74, incrs },
    ],
    series: [
      {}, ...LAYERS.slice().reverse().map(layer),
      { label: "resident", stroke: css("--rss"), width: 2, spanGaps: true, points: { show: columns[0].length === 1 } },
      { label: "threshold, at least", stroke: css("--thr"), width: 1.5, dash: [6, 4], paths: stepped, points: { show: false } },
      { label: "threshold, at most", stroke: css("--thr"), width: 1.5, dash: [6, 4], paths: stepped, points: { show: false } },
    ],
    hooks: { ready: [timeline.shade], draw: [timeline.marks], setSelect: [timeline.brushed], setCursor: [timeline.read] },
  }, columns, box);
  timeline.plot.over.addEventListener("click", (e) => {
    if (timeline.dragged) { timeline.dragged = false; return; }
    const x = timeline.plot.posToVal(e.offsetX, "x"), s = state.process.series, xs = timeline.plot.data[0];
    const i = timeline.cursor, alone = xs[i] !== xs[i - 1] && xs[i] !== xs[i + 1];
    timeline.choose(x, alone ? undefined : s.seq[i]);
  });
  timeline.show(timeline.plot.data[0].length - 1);
};
timeline.shade = (u) => {
  if (!state.brush) return;
  const [left, right] = state.brush.map((x) => u.valToPos(x, "x"));
  u.setSelect({ left, top: 0, width: right - left, height: u.over.clientHeight }, false);
};

timeline.marks = (u) => {
  const c = u.ctx, { left, top, width, height } = u.bbox, p = state.process, ratio = devicePixelRatio || 1;
  const at = (x) => Math.round(u.valToPos(x, "x", true));
  c.save();
  c.beginPath(); c.rect(left, top, width, height); c.clip();
  for (const [after, before] of p.doubts) {
    const x0 = at(place(after)), x1 = before === null ? left + width : at(place(before));
    c.strokeStyle = css("--bad"); c.globalAlpha = 0.35; c.lineWidth = ratio;
    c.save(); c.beginPath(); c.rect(x0, top, Math.max(x1 - x0, 3), height); c.clip(); c.beginPath();
    for (let x = x0 - height; x < x1 + 3; x += 9 * ratio) { c.moveTo(x, top + height); c.lineTo(x + height, top); }
    c.stroke(); c.restore();
  }
  c.globalAlpha = 1;
  for (const [seq, t, exact] of p.snapshots) {
    c.fillStyle = css(exact ? "--good" : "--bad");
    c.fillRect(at(place(seq, t)) - ratio, top + height - 9 * ratio, 2 * ratio, 9 * ratio);
  }
  const line = (x, name, text) => {
    c.strokeStyle = c.fillStyle = css(name); c.lineWidth = 1.5 * ratio;
    c.beginPath(); c.moveTo(x, top); c.lineTo(x, top + height); c.stroke();
    c.font = `bold ${12 * ratio}px system-ui, sans-serif`;
    const right = x + 16 * ratio < left + width;
    c.textAlign = right ? "left" : "right"; c.fillText(text, x + (right ? 4 : -4) * ratio, top + 13 * ratio);
  };
  const m = p.map.moments;
  if (m.length) {
    line(at(place(m[state.a].seq, m[state.a].t)), "--a", "A");
    line(at(place(m[state.b].seq, m[state.b].t)), "--b", "B");
  }
  if (state.event !== null) line(at(place(state.event.seq, state.event.t)), "--accent", "#" + state.event.seq);
  c.restore();
};

// The moment next to a place on the axis; of several that share it the one of the state under the cursor.
timeline.choose = (x, seq) => {
  const m = state.process.map.moments;
  if (!m.length) return;
  const by = seq === undefined ? (o) => place(o.seq, o.t) : (o) => o.seq, xs = m.map(by), at = seq === undefined ? x : seq;
  let i = below(xs, at);
  if (i + 1 < xs.length && xs[i + 1] - at < at - xs[i]) i++;
  state[timeline.turn || "a"] = i;
  timeline.turn = timeline.turn === "b" ? "a" : "b";
  tell("moments");
};

timeline.brushed = (u) => {
  if (u.select.width < 4) return;
  timeline.dragged = true;
  setTimeout(() => { timeline.dragged = false; }, 0);
  state.brush = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
  tell("brush");
};

timeline.read = (u) => { if (u.cursor.idx !== null && u.cursor.idx !== undefined) timeline.show(u.cursor.idx); };
timeline.show = (i) => {
  const s = state.process.series;
  if (i < 0 || i >= s.seq.length) return;
  timeline.cursor = i;
  const words = [when(s.seq[i], s.t && s.t[i])];
  LAYERS.forEach(([, , label], j) => words.push(label + " " + size(s.layers[j][i])));
  if (s.rss[i] !== null) words.push("resident " + size(s.rss[i]));
  by("readout").textContent = words.join("   ·   ");
};

by("chart").addEventListener("keydown", (e) => {
  const s = state.process.series, n = s.seq.length, u = timeline.plot;
  if (!u) return;
  const step = e.shiftKey ? 10 : 1;
  let i = timeline.cursor;
  if (e.key === "ArrowRight") i += step; else if (e.key === "ArrowLeft") i -= step;
  else if (e.key === "Home") i = 0; else if (e.key === "End") i = n - 1;
  else if (e.key === "a" || e.key === "b") { timeline.turn = e.key; timeline.choose(u.data[0][i], s.seq[i]); e.preventDefault(); return; }
  else return;
  e.preventDefault();
  i = Math.min(Math.max(i, 0), n - 1);
  u.setCursor({ left: u.valToPos(u.data[0][i], "x"), top: 10 }, false);
  timeline.show(i);
});
by("axis").addEventListener("click", () => { state.byTime = !state.byTime; state.brush = null; tell("axis"); });
addEventListener("resize", () => { if (timeline.plot) timeline.plot.setSize({ width: by("chart").clientWidth, height: 290 }); });

timeline.words = () => {
  const p = state.process, out = [];
  if (p.series.seq.length) out.push(p.series.thinned ? `${count(p.series.seq.length, "state")} shown, each a true one; every peak is among them.` : "Every change is shown.");
  const exact = p.snapshots.filter((s) => s[2]).length;
  if (p.snapshots.length) out.push(`Ticks at the bottom: kernel maps compared, ${exact} of ${p.snapshots.length} shown reproduced exactly.`);
  if (p.doubts.length) out.push("Hatched: what the map was there is not proven, for " + [...new Set(p.doubts.map((d) => d[2]))].slice(0, 3).join("; ") + ".");
  if (DATA.trace.backwards) out.push("Times in this trace go back at places, so the axis is the number of the event.");
  const gap = p.threshold.history.find((m) => m[2] === null && m[3] === null && m[4]);
  if (gap && state.shown.threshold) out.push(`Threshold: ${gap[4]}, none is drawn from #${gap[0].toLocaleString("en")} to the last.`);
  if (!state.shown.other) out.push("Other mappings dwarf the rest, so they are off: see “Other”.");
  if (p.series.seq.length && !p.series.rss.some((v) => v !== null)) out.push("Resident memory was not read.");
  by("legend").textContent = out.join(" ");
  by("axis").hidden = !DATA.trace.timed;
  by("axis").textContent = state.byTime ? "By event number" : "By time";
};
timeline.redraw = () => { timeline.draw(); timeline.words(); };
parts.push({
  process() { timeline.turn = "a"; timeline.defaults(); timeline.redraw(); },
  axis: timeline.redraw, theme: timeline.redraw,
  moments() { if (timeline.plot) timeline.plot.redraw(false); },
  event() { if (timeline.plot) timeline.plot.redraw(false); },
  unbrush() { if (timeline.plot) timeline.plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false); },
});
