// The head, the findings and the tables; then the first process is shown.
const EMPTY = {
  pid: 0, mm: 0, exactness: "exact", name: "", ending: "", cards: [], odd: ["nothing was recorded: the trace holds no process"], findings: [], kinds: [], unseen: [],
  threshold: { text: "unknown", start: "", initial: null, history: [] },
  series: { seq: [], t: [], layers: [[], [], [], []], rss: [], thinned: false },
  map: { moments: [], regions: [], names: [], paths: [] }, events: { total: 0, failed: 0, rows: [] }, snapshots: [], doubts: [],
};
function head() {
  const p = state.process, t = DATA.trace;
  by("command").textContent = p.name || DATA.opening.command;
  by("facts").textContent = [p.pid ? "process " + p.pid : "", p.ending, p.allocator, t.machine, count(t.events, "event"), t.duration_ns === null ? "" : time(t.duration_ns)].filter(Boolean).join("  ·  ");
  fill(by("cards"), ...p.cards.map(([label, value, note]) => { const c = make("div", null, "card"); c.append(make("div", label, "label"), make("div", value, "value"), make("div", note, "note")); return c; }));
  fill(by("odd"), ...p.odd.map((text) => make("div", text)));
  const trust = make("div"), word = t.exactness;
  if (t.trust.startsWith(word)) trust.append(make("span", word, word), t.trust.slice(word.length)); else trust.textContent = t.trust;
  fill(by("trust"), trust, ...t.problems.slice(0, 3).map((x) => make("div", x)));
}
function findings() {
  const list = state.process.findings;
  by("findings-section").hidden = !list.length;
  fill(by("findings"), ...list.map((f) => {
    const e = make("article", null, "finding " + f.severity), h = make("h3"), links = make("p", null, "more");
    h.append(make("span", f.rule + " " + f.severity, "rule"), f.title);
    links.append(f.evidence.length ? "Evidence: " : "");
    for (const seq of f.evidence.slice(0, 12)) {
      const b = make("button", "#" + seq, "link"); b.type = "button"; b.dataset.seq = seq;
      b.addEventListener("click", () => events.jump(seq)); links.append(b);
    }
    if (f.evidence_total > 12) links.append(` and ${f.evidence_total - 12} more`);
    e.append(h, make("p", f.message), make("p", "Try: " + f.remedy), links);
    return e;
  }));
}
// The first and the last, where there are more than `most`.
function edges(list, most) {
  return list.length <= most ? list : [...list.slice(0, most / 2), ...list.slice(-most / 2)];
}
function kinds() {
  table("kinds", [["kind"], ["count", "n"], ["peak", "n"], ["at the end", "n"], ["committed", "n"], ["resident", "n"], ["what it is"]], state.process.kinds.map((k) => row([
    labelled(k.name, "nowrap"), cell(k.count.toLocaleString("en"), "n"), cell(size(k.peak), "n"), cell(size(k.final), "n"), cell(size(k.committed), "n"), cell(size(k.resident), "n"), cell(k.gloss),
  ])));
  const t = state.process.threshold;
  by("threshold-text").textContent = t.text + (t.start ? "  –  began: " + t.start : "") + (t.history.length > 100 ? `; of ${count(t.history.length, "move")} the first and the last fifty` : "");
  table("threshold", t.history.length ? [["#", "n"], ["time", "n"], ["at least", "n"], ["at most", "n"], ["because of"]] : [], edges(t.history, 100).map(([seq, ns, low, high, cause]) => {
    const b = make("button", "#" + seq, "link"), td = cell(null, "n"); b.type = "button"; b.addEventListener("click", () => events.jump(seq)); td.append(b);
    return row([td, cell(time(ns), "n"), cell(low === null ? "" : size(low), "n"), cell(high !== null ? size(high) : low === null ? "" : "no bound", "n"), cell(cause)]);
  }));
  fill(by("unseen"), ...state.process.unseen.map((x) => make("li", x)));
}
function others() {
  by("others-section").hidden = !DATA.others.length;
  by("others-note").textContent = `Smaller ones, without curve and map here: memtrace report TRACE --format html --pid PID.` + (DATA.more ? ` ${DATA.more} more are not listed.` : "");
  table("others", [["process", "n"], ["born", "n"], ["mapped", "n"], ["heap", "n"], ["calls", "n"], ["end"], ["program"]], DATA.others.map((p) => row([
    cell(p.pid, "n"), cell("#" + p.born, "n"), cell(size(p.mapped), "n"), cell(size(p.heap), "n"), cell(p.calls.toLocaleString("en"), "n"), cell(p.ending), cell(p.name),
  ])));
}
parts.push({ process() { head(); findings(); kinds(); }, theme() { kinds(); } });
function theme(name) { document.documentElement.dataset.theme = name; colours.clear(); if (state.process) tell("theme"); }
by("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
function show(i) {
  state.process = DATA.processes[i] || EMPTY;
  state.a = 0;
  state.b = Math.max(state.process.map.moments.length - 1, 0);
  map.build();  // the others ask it for kinds
  tell("process");
}
by("process-label").hidden = DATA.processes.length < 2;
fill(by("process"), ...DATA.processes.map((p, i) => { const o = make("option", `${p.pid}  ${p.name.slice(0, 60)}  (born #${p.born})`); o.value = String(i); return o; }));
by("process").addEventListener("change", (e) => show(Number(e.target.value)));
const dark = matchMedia("(prefers-color-scheme: dark)");
theme(dark.matches ? "dark" : "light");
dark.addEventListener("change", (e) => theme(e.matches ? "dark" : "light"));
others();
show(0);
