// The events: those in the brushed part of the timeline, and one that is marked everywhere.
const events = { limit: 200 };
events.matching = () => {
  const text = by("find").value.toLowerCase(), failed = by("failed").checked, b = state.brush;
  return state.process.events.rows.filter(([seq, t, , name, what, , bad]) => {
    if (failed && !bad) return false;
    if (b) { const x = place(seq, t); if (x < b[0] || x > b[1]) return false; }
    return !text || what.toLowerCase().includes(text) || name.includes(text) || ("#" + seq) === text.replace(/,/g, "");
  });
};
events.draw = () => {
  const e = state.process.events, found = events.matching();
  const chosen = state.event && state.event.seq;
  let list = found.slice(0, events.limit);
  if (chosen !== null && !list.some((r) => r[0] === chosen)) {
    const i = found.findIndex((r) => r[0] === chosen);
    if (i >= 0) list = found.slice(Math.max(i - 20, 0), i + events.limit);
  }
  table("event-table", [["#", "n"], ["time", "n"], ["thread", "n"], ["bytes", "n"], ["what"]], list.map(([seq, t, tid, name, what, delta, bad]) => {
    const tr = row([cell(seq.toLocaleString("en"), "n"), cell(time(t), "n"), cell(tid === null ? "" : tid, "n"), cell(delta ? signed(delta) : "", "n"), cell(what.startsWith(name) ? what : name + "  " + what, "mono")], bad ? "failed" : "");
    tr.dataset.seq = seq;
    tr.tabIndex = 0;
    if (seq === chosen) { tr.className += " chosen"; tr.setAttribute("aria-current", "true"); }
    const go = () => { state.event = { seq, t }; tell("event"); };
    tr.addEventListener("click", go);
    tr.addEventListener("keydown", (k) => { if (k.key === "Enter") go(); });
    return tr;
  }));
  const all = e.rows.length === e.total;
  by("events-note").textContent = (all ? `All ${count(e.total, "event")} of this process` : `${e.rows.length.toLocaleString("en")} of ${count(e.total, "event")} shown: the first and last, the evidence of findings, the largest changes, and ${e.rows.filter((r) => r[6]).length.toLocaleString("en")} of ${e.failed.toLocaleString("en")} that failed; memtrace events shows all`)
    + (found.length < e.rows.length ? `. ${count(found.length, "event")} match` + (state.brush ? ` from ${axisText(state.brush[0])} to ${axisText(state.brush[1])}.` : ".") : ".");
  by("unbrush").hidden = !state.brush;
  by("more").hidden = list.length >= found.length;
  by("more").textContent = `Show ${Math.min(500, found.length - list.length).toLocaleString("en")} more`;
};
events.jump = (seq) => {
  const known = state.process.events.rows.find((r) => r[0] === seq);
  state.event = { seq, t: known ? known[1] : null };
  state.brush = null; by("find").value = ""; by("failed").checked = false;
  tell("unbrush"); tell("event");
  const tr = by("event-table").querySelector("tr.chosen");
  if (tr) { tr.scrollIntoView({ block: "center" }); tr.focus({ preventScroll: true }); }
  else { by("events-note").textContent = `#${seq} is not among the events shown: memtrace events TRACE shows it. It is marked on the timeline and the map.`; by("timeline").scrollIntoView(); }
};
by("find").addEventListener("input", () => { events.limit = 200; events.draw(); });
by("failed").addEventListener("change", () => { events.limit = 200; events.draw(); });
by("unbrush").addEventListener("click", () => { state.brush = null; tell("unbrush"); events.draw(); });
by("more").addEventListener("click", () => { events.limit += 500; events.draw(); });
parts.push({ process() { state.event = null; state.brush = null; events.limit = 200; events.draw(); }, event: events.draw, brush() { events.limit = 200; events.draw(); }, axis() { tell("unbrush"); events.draw(); } });
