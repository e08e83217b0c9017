// What was born, died, grew and shrank between two moments at which the map is known exactly.
const compare = {};
compare.at = (i) => {
  const found = new Map(), m = state.process.map.moments;
  for (let j = 0; j <= i && j < m.length; j++) {
    for (const tag of m[j].gone) found.delete(tag);
    for (const entry of m[j].set) found.set(entry[0], entry);
  }
  return found;
};
compare.fates = (before, after) => {
  const out = [];
  for (const [tag, was] of before) {
    const now = after.get(tag);
    if (!now) out.push({ tag, what: "died", delta: -was[3], entry: was });
    else if (now[3] !== was[3]) out.push({ tag, what: now[3] > was[3] ? "grew" : "shrank", delta: now[3] - was[3], entry: now });
    else if (now[1] >= was[2] || now[2] <= was[1]) out.push({ tag, what: "moved", delta: 0, entry: now });
  }
  for (const [tag, now] of after) if (!before.has(tag)) out.push({ tag, what: "born", delta: now[3], entry: now });
  return out.sort((a, b) => Math.abs(b.delta) - Math.abs(a.delta) || a.entry[1] - b.entry[1]);
};
compare.draw = () => {
  const m = state.process.map.moments, regions = map.regions;
  for (const [id, i] of [["pick-a", state.a], ["pick-b", state.b]]) by(id).value = String(i);
  if (!m.length) {
    by("difference-head").textContent = "No map is known of this process.";
    for (const id of ["difference-kinds", "difference", "difference-note"]) by(id).replaceChildren();
    return;
  }
  const [one, two] = [Math.min(state.a, state.b), Math.max(state.a, state.b)];
  const fates = compare.fates(compare.at(one), compare.at(two)), sums = new Map();
  for (const f of fates) {
    const kind = regions.get(f.tag).kind;
    if (!sums.has(kind)) sums.set(kind, { born: [0, 0], died: [0, 0], grew: [0, 0], shrank: [0, 0], moved: [0, 0], net: 0 });
    const s = sums.get(kind);
    s[f.what][0]++; s[f.what][1] += Math.abs(f.delta); s.net += f.delta;
  }
  const net = fates.reduce((a, f) => a + f.delta, 0);
  by("difference-head").textContent = one === two
    ? (m.length > 1 ? "A and B are the same moment: pick another one." : "Only one moment is known: there is nothing to compare it with.")
    : `From ${when(m[one].seq, m[one].t)} to ${when(m[two].seq, m[two].t)}: ` + (fates.length ? `${count(fates.length, "region")} differ, ${net ? signed(net * UNIT) : "no bytes more or less"} in all.` : "no region differs in size or place.");
  const pair = ([n, pages]) => cell(n ? `${n.toLocaleString("en")} · ${size(pages * UNIT)}` : "", "n");
  const rows = [...sums].sort((a, b) => Math.abs(b[1].net) - Math.abs(a[1].net)).map(([kind, s]) => row([
    labelled(kind), cell(s.net ? signed(s.net * UNIT) : "0", "n"), pair(s.born), pair(s.died), pair(s.grew), pair(s.shrank), cell(s.moved[0] || "", "n"),
  ]));
  table("difference-kinds", rows.length ? [["kind"], ["net", "n"], ["born", "n"], ["died", "n"], ["grew", "n"], ["shrank", "n"], ["moved", "n"]] : [], rows);
  table("difference", [["what"], ["kind"], ["bytes", "n"], ["where"], ["perms"], ["file"]], fates.slice(0, 300).map((f) => {
    const r = regions.get(f.tag), [, start, end, , perms] = f.entry;
    return row([cell(f.what), labelled(r.kind, "nowrap"), cell(f.delta ? signed(f.delta * UNIT) : "0", "n"), cell(`${hex(start)}–${hex(end)}`, "mono"), cell(state.process.map.names[perms], "mono"), cell(r.path)]);
  }));
  by("difference-details").hidden = !fates.length;
  const unsure = [one, two].filter((i) => doubtful(m[i].seq)).map((i) => "#" + m[i].seq.toLocaleString("en"));
  const proven = unsure.length ? `Not proven at ${[...new Set(unsure)].join(" and ")}.` : state.process.exactness === "exact" ? "Exact at these two moments." : `As replayed; of this process: ${state.process.exactness}.`;
  const [before, after] = [one, two].map((i) => m[i].rest || [0, 0]);
  const rest = before[0] || after[0] ? ` The smallest regions are not in it: ${before[0].toLocaleString("en")} with ${size(before[1] * UNIT)} before, ${after[0].toLocaleString("en")} with ${size(after[1] * UNIT)} after.` : "";
  by("difference-note").textContent = proven + rest + " What was born and died again between them is in the event table."
    + (fates.length > 300 ? ` The largest 300 of ${count(fates.length, "region")} are listed.` : "")
    + (compare.alone() ? ` The same with permissions: memtrace diff TRACE --at ${m[one].seq} --at ${m[two].seq}` + (DATA.processes.length > 1 ? ` --pid ${state.process.pid}` : "") : "");
};
// Whether the process's number names it: two address spaces can have one at the same time.
compare.alone = () => {
  const p = state.process, end = (x) => x.died === null ? Infinity : x.died;
  return ![...DATA.processes, ...DATA.others].some((x) => x.pid === p.pid && x.mm !== p.mm && x.born < end(p) && p.born < end(x));
};
compare.options = () => {
  const m = state.process.map.moments;
  for (const id of ["pick-a", "pick-b"]) fill(by(id), ...m.map((x, i) => { const o = make("option", when(x.seq, x.t)); o.value = String(i); return o; }));
};
for (const key of ["a", "b"]) by("pick-" + key).addEventListener("change", (e) => { state[key] = Number(e.target.value); tell("moments"); });
parts.push({ process() { compare.options(); compare.draw(); }, moments: compare.draw, theme: compare.draw });
