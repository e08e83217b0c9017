// The address map: time to the right, addresses upwards; ranges that nothing ever used are folded.
const map = { view: [0, 1, 0, 1], bars: [], at: null, moment: 0 };
const GUTTER = 118;

map.build = () => {
  const m = state.process.map;
  map.regions = new Map(m.regions.map((r) => [r[0], { kind: m.names[r[1]], path: m.paths[r[2]], born: r[3] }]));
  const open = new Map();
  map.bars = [];
  const close = (tag, i) => { const b = open.get(tag); if (b) { b.to = i; map.bars.push(b); open.delete(tag); } };
  m.moments.forEach((moment, i) => {
    for (const tag of moment.gone) close(tag, i);
    for (const [tag, start, end, pages, perms, opened] of moment.set) {
      close(tag, i);
      open.set(tag, { tag, start, end, pages, opened, perms: m.names[perms], from: i, to: null });
    }
  });
  for (const tag of [...open.keys()]) close(tag, m.moments.length);
  map.bars.sort((a, b) => (b.end - b.start) - (a.end - a.start));
  const edges = new Set();
  for (const b of map.bars) { edges.add(b.start); edges.add(b.end); }
  map.edges = [...edges].sort((a, b) => a - b);
  // Which stretches between two edges were ever used; an unused one is folded to a thin gap.
  const delta = new Map();
  for (const b of map.bars) { delta.set(b.start, (delta.get(b.start) || 0) + 1); delta.set(b.end, (delta.get(b.end) || 0) - 1); }
  let depth = 0, sum = 0;
  map.heights = [];
  map.used = [];
  for (let i = 0; i + 1 < map.edges.length; i++) {
    depth += delta.get(map.edges[i]);
    map.used.push(depth > 0);
    map.heights.push(sum);
    sum += depth > 0 ? 1 + Math.log2(map.edges[i + 1] - map.edges[i] + 1) : 1.6;
  }
  map.heights.push(sum);
  map.total = sum || 1;
  map.index = new Map(map.edges.map((e, i) => [e, i]));
};

map.y = (edge) => map.heights[map.index.get(edge)] / map.total;
map.xs = () => { const [low, high] = range(); return state.process.map.moments.map((m) => (place(m.seq, m.t) - low) / (high - low)); };

map.draw = () => {
  const canvas = by("map"), ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
  canvas.width = w * ratio; canvas.height = h * ratio;
  const c = canvas.getContext("2d"), [x0, x1, y0, y1] = map.view, width = w - GUTTER - 8, height = h - 26;
  c.scale(ratio, ratio);
  c.clearRect(0, 0, w, h);
  c.font = "11px ui-monospace, 'DejaVu Sans Mono', monospace";
  c.fillStyle = css("--soft");
  if (!map.bars.length) { c.fillText("No region was recorded of this process.", 12, 30); return; }
  const xs = map.xs();
  xs.push(1);
  const px = (x) => GUTTER + (x - x0) / (x1 - x0) * width, py = (y) => height - (y - y0) / (y1 - y0) * height;
  map.px = px; map.py = py; map.size = [w, h, width, height];
  c.save();
  c.beginPath(); c.rect(GUTTER, 0, width, height); c.clip();
  c.fillStyle = css("--stripe"); c.fillRect(GUTTER, 0, width, height);
  for (const b of map.bars) {
    const low = py(map.y(b.start)), high = py(map.y(b.end)), left = px(xs[b.from]), right = px(b.to === xs.length - 1 ? 1 : xs[b.to]);
    if (low < 0 || high > height || right < GUTTER || left > w) continue;
    const tall = Math.max(low - high, 1), wide = Math.max(right - left, 1.5), kind = map.regions.get(b.tag).kind;
    c.fillStyle = colour(kind);
    c.globalAlpha = b.perms.startsWith("---") ? 0.35 : 1;
    c.fillRect(left, high, wide, tall > 4 ? tall - 1 : tall);
  }
  c.globalAlpha = 1;
  const mark = (x, name) => { c.strokeStyle = css(name); c.lineWidth = 1.5; c.beginPath(); c.moveTo(px(x), 0); c.lineTo(px(x), height); c.stroke(); };
  mark(xs[state.a], "--a"); mark(xs[state.b], "--b");
  if (state.event !== null) { const [low, high] = range(); mark((place(state.event.seq, state.event.t) - low) / (high - low), "--accent"); }
  if (map.at) {
    const b = map.at, low = py(map.y(b.start)), high = py(map.y(b.end));
    c.strokeStyle = css("--ink"); c.lineWidth = 2;
    c.strokeRect(px(xs[b.from]), high, Math.max(px(b.to === xs.length - 1 ? 1 : xs[b.to]) - px(xs[b.from]), 2), Math.max(low - high, 2));
  }
  c.restore();
  // Addresses at the left: where a stretch begins after a gap.
  c.fillStyle = css("--soft"); c.textAlign = "right";
  let free = height + 20;
  for (let i = 0; i + 1 < map.edges.length; i++) {
    if (!map.used[i] || (i > 0 && map.used[i - 1] && y1 - y0 > 0.4)) continue;
    const y = py(map.heights[i] / map.total);
    if (y > height + 1 || y < 8 || free - y < 13) continue;
    c.fillText(hex(map.edges[i]), GUTTER - 8, y); free = y;
  }
  c.textAlign = "left"; c.fillText(axisText(range()[0] + x0 * (range()[1] - range()[0])), GUTTER, h - 8);
  c.textAlign = "right"; c.fillText(axisText(range()[0] + x1 * (range()[1] - range()[0])), w - 8, h - 8);
};

map.describe = (b) => {
  const r = map.regions.get(b.tag), m = state.process.map.moments;
  const words = [`${r.kind}  ${hex(b.start)}–${hex(b.end)}  ${b.perms}`];
  words.push(size(b.pages * UNIT) + (b.opened < b.pages ? `, of it ${size(b.opened * UNIT)} with access` : "") + (b.pages < b.end - b.start ? ", with holes" : "") + (r.path ? "  " + r.path : ""));
  words.push(`born at or before #${r.born}; so from #${m[b.from].seq} ` + (b.to < m.length ? `until before #${m[b.to].seq}` : "to the last moment shown"));
  return words;
};
map.find = (x, y) => {
  if (!map.px || !map.bars.length) return null;
  const xs = map.xs(), [, , width, height] = map.size, [x0, x1, y0, y1] = map.view;
  const at = x0 + (x - GUTTER) / width * (x1 - x0), up = y0 + (height - y) / height * (y1 - y0);
  if (x < GUTTER || y > height) return null;
  const i = below(xs, at);
  map.moment = i;
  const near = 2 / height * (y1 - y0);
  let best = null;
  for (const b of map.bars) if (b.from <= i && i < b.to && map.y(b.start) - near <= up && up <= map.y(b.end) + near) best = b;
  return best;
};
map.select = (b) => { map.at = b; by("region").textContent = b ? map.describe(b).join("   ·   ") : ""; map.draw(); };

map.zoom = (factor, cx, cy) => {
  let [x0, x1, y0, y1] = map.view;
  const one = (a, b, c) => { const w = Math.min((b - a) * factor, 1); const l = Math.min(Math.max(c - (c - a) / (b - a) * w, 0), 1 - w); return [l, l + w]; };
  if (factor < 1 && (x1 - x0) < 1e-6) return;
  [x0, x1] = one(x0, x1, cx === undefined ? (x0 + x1) / 2 : cx);
  [y0, y1] = one(y0, y1, cy === undefined ? (y0 + y1) / 2 : cy);
  map.view = [x0, x1, y0, y1];
  map.draw();
};
map.centre = () => map.at ? [undefined, (map.y(map.at.start) + map.y(map.at.end)) / 2] : [];

by("map").addEventListener("mousemove", (e) => {
  const b = map.find(e.offsetX, e.offsetY), tip = by("tip");
  tip.hidden = !b;
  if (!b) return;
  tip.textContent = map.describe(b).join("\n");
  tip.style.left = Math.min(e.clientX + 14, innerWidth - 440) + "px";
  tip.style.top = (e.clientY > innerHeight - 120 ? e.clientY - 90 : e.clientY + 14) + "px";
});
by("map").addEventListener("mouseleave", () => { by("tip").hidden = true; });
by("map").addEventListener("click", (e) => map.select(map.find(e.offsetX, e.offsetY)));
by("map").addEventListener("wheel", (e) => {
  if (!e.ctrlKey && document.activeElement !== by("map")) return;  // else the page scrolls
  e.preventDefault();
  const [, , width, height] = map.size || [0, 0, 1, 1], [x0, x1, y0, y1] = map.view;
  map.zoom(e.deltaY < 0 ? 0.8 : 1.25, x0 + Math.max(e.offsetX - GUTTER, 0) / width * (x1 - x0), y0 + (height - e.offsetY) / height * (y1 - y0));
}, { passive: false });
by("map").addEventListener("keydown", (e) => {
  const there = (i) => map.bars.filter((b) => b.from <= i && i < b.to).sort((a, b) => a.start - b.start);
  const n = state.process.map.moments.length;
  if (e.key === "+" || e.key === "=") map.zoom(0.7, ...map.centre());
  else if (e.key === "-") map.zoom(1 / 0.7, ...map.centre());
  else if (e.key === "0") by("map-reset").click();
  else if (e.key === "ArrowUp" || e.key === "ArrowDown") {
    const list = there(map.moment);
    let i = map.at ? list.findIndex((b) => b.tag === map.at.tag) : -1;
    i = i < 0 ? 0 : Math.min(Math.max(i + (e.key === "ArrowUp" ? 1 : -1), 0), list.length - 1);
    if (list.length) map.select(list[i]);
  } else if (e.key === "ArrowLeft" || e.key === "ArrowRight") {
    map.moment = Math.min(Math.max(map.moment + (e.key === "ArrowRight" ? 1 : -1), 0), n - 1);
    const list = there(map.moment);
    map.select(list.find((b) => map.at && b.tag === map.at.tag) || list[0] || null);
  } else return;
  e.preventDefault();
});
by("map-in").addEventListener("click", () => map.zoom(0.7, ...map.centre()));
by("map-out").addEventListener("click", () => map.zoom(1 / 0.7, ...map.centre()));
by("map-reset").addEventListener("click", () => { map.view = [0, 1, 0, 1]; map.draw(); });
addEventListener("resize", () => map.draw());

map.words = () => {
  const m = state.process.map, kinds = [...new Set([...map.regions.values()].map((r) => r.kind))].sort();
  fill(by("map-legend"), ...kinds.map((k) => { const s = make("span", null, "item"); s.append(swatch(k), k); return s; }));
  const rest = m.moments.some((x) => x.rest) ? ` The smallest regions are left out, up to ${count(Math.max(...m.moments.map((x) => x.rest ? x.rest[0] : 0)), "region")} at a time.` : "";
  const doubt = m.moments.filter((x) => doubtful(x.seq)).length, whole = state.process.exactness === "exact" && !doubt;
  const trust = whole ? "Exact at" : state.process.exactness === "unverified" ? "As the calls tell, never compared with the kernel's map, at" : `As replayed (${doubt ? `not proven at ${doubt} of them` : state.process.exactness}) at`;
  by("map-note").textContent = `${trust} ${count(m.moments.length, "moment")}; in between the map is drawn as it was at the one before. Heights are logarithmic, unused ranges folded; pale: mostly without access.${rest} Click into the map, then the wheel zooms.`;
};
parts.push({
  process() { map.view = [0, 1, 0, 1]; map.at = null; map.moment = 0; by("region").textContent = ""; map.build(); map.words(); map.draw(); },
  axis: map.draw, moments: map.draw, event: map.draw,
  theme() { map.words(); map.draw(); },
});
