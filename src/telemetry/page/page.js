// The live page: reads /metrics once a second and draws what changed. It keeps
// two minutes in memory, needs nothing but this file, and changes nothing.
"use strict";
(() => {
  const WINDOW = 10; // seconds that rates and quantiles look back
  const KEEP = 120; // seconds that the charts show
  const byId = (id) => document.getElementById(id);
  const say = (id, text) => { const at = byId(id); if (at.textContent !== text) at.textContent = text; };

  // ---- reading

  // Prometheus' text: [{name, labels, value}].
  function parse(text) {
    const series = [];
    for (const line of text.split("\n")) {
      if (!line || line[0] === "#") continue;
      const found = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)/.exec(line);
      if (!found) continue;
      const labels = {};
      for (const [, key, value] of (found[2] || "").matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)) {
        labels[key] = value.replace(/\\n/g, "\n").replace(/\\(["\\])/g, "$1");
      }
      series.push({ name: found[1], labels, value: Number(found[3].replace("Inf", "Infinity")) });
    }
    return series;
  }

  const matches = (labels, want) => Object.keys(want).every((key) => labels[key] === want[key]);
  const sum = (series, name, want = {}) =>
    series.reduce((total, one) => (one.name === name && matches(one.labels, want) ? total + one.value : total), 0);
  const values = (series, name, label) =>
    [...new Set(series.filter((one) => one.name === name && label in one.labels).map((one) => one.labels[label]))].sort();

  // Upper bound → count, of observations between two samples.
  function buckets(before, after, name, want) {
    const counts = new Map();
    for (const [sample, sign] of [[after, 1], [before, -1]]) {
      for (const one of sample.series) {
        if (one.name !== name + "_bucket" || !matches(one.labels, want)) continue;
        const bound = Number(one.labels.le.replace("Inf", "Infinity"));
        counts.set(bound, (counts.get(bound) || 0) + sign * one.value);
      }
    }
    return [...counts].sort(([a], [b]) => a - b);
  }

  // Linear inside the bucket, as Prometheus' histogram_quantile is.
  function quantile(q, before, after, name, want = {}) {
    const cumulative = buckets(before, after, name, want);
    const total = cumulative.length ? cumulative[cumulative.length - 1][1] : 0;
    if (total <= 0) return NaN;
    let below = 0, from = 0;
    for (const [bound, count] of cumulative) {
      if (count >= q * total) {
        if (!Number.isFinite(bound)) return from;
        return from + (bound - from) * ((q * total - below) / Math.max(count - below, 1e-9));
      }
      below = count; from = bound;
    }
    return from;
  }

  // ---- words

  const number = (value, digits = 0) =>
    Number.isFinite(value) ? value.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: 0 }) : "–";
  const rateText = (value) => number(value, value < 10 ? 1 : 0);
  const thousands = (value) => (value >= 10000 ? number(value / 1000) + "k" : rateText(value));
  function time(seconds) {
    if (!Number.isFinite(seconds)) return "–";
    if (seconds < 1e-3) return number(seconds * 1e6) + " µs";
    if (seconds < 1) return number(seconds * 1e3, seconds < 0.01 ? 2 : seconds < 0.1 ? 1 : 0) + " ms";
    return number(seconds, 2) + " s";
  }
  function size(bytes) {
    const units = ["B", "KiB", "MiB", "GiB"];
    let unit = 0;
    while (bytes >= 1024 && unit < 3) { bytes /= 1024; unit++; }
    return number(bytes, unit ? 1 : 0) + " " + units[unit];
  }
  function element(tag, text, attributes = {}) {
    const made = document.createElement(tag);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  }

  // ---- charts

  const SVG = "http://www.w3.org/2000/svg";
  function svg(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  // lines: [{label, kind: a|b|c, points: [[secondsAgo, value]]}]
  function draw(id, lines, { log = false, format = rateText } = {}) {
    const chart = byId(id), width = chart.clientWidth || 480, height = chart.clientHeight || 176;
    const left = 52, right = 8, top = 18, bottom = 20;
    const all = lines.flatMap((line) => line.points.map((point) => point[1])).filter((value) => Number.isFinite(value) && (!log || value > 0));
    chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    chart.replaceChildren();
    const last = (line) => (line.points.length ? line.points[line.points.length - 1][1] : NaN);
    chart.setAttribute("aria-label", lines.map((line) => `${line.label} ${format(last(line))}`).join(", "));
    if (!all.length) {
      chart.append(svg("text", { x: width / 2, y: height / 2, "text-anchor": "middle" }, "nothing yet"));
      return;
    }
    let low = log ? 10 ** Math.floor(Math.log10(Math.min(...all))) : 0;
    let high = log ? 10 ** Math.ceil(Math.log10(Math.max(...all) * 1.0001)) : Math.max(...all) * 1.15 || 1;
    // 1, 2 or 5 times a power of ten, at most four of them.
    const decade = 10 ** Math.floor(Math.log10(high / 4));
    const step = decade * [1, 2, 5, 10].find((one) => decade * one * 4 >= high);
    if (!log) high = Math.ceil(high / step) * step;
    const scale = (value) => (log ? Math.log10(Math.max(value, low)) : value);
    const y = (value) => top + (height - top - bottom) * (1 - (scale(value) - scale(low)) / ((scale(high) - scale(low)) || 1));
    const x = (ago) => left + (width - left - right) * (1 - ago / KEEP);
    const ticks = [];
    if (log) for (let at = low; at <= high * 1.01; at *= 10) ticks.push(at);
    else for (let at = 0; at <= high * 1.01; at += step) ticks.push(at);
    for (const at of ticks) {
      chart.append(svg("line", { class: "grid", x1: left, x2: width - right, y1: y(at), y2: y(at) }));
      chart.append(svg("text", { x: left - 6, y: y(at) + 4, "text-anchor": "end" }, format(at)));
    }
    for (const ago of [120, 60, 0]) {
      chart.append(svg("text", { x: x(ago), y: height - 4, "text-anchor": ago === 120 ? "start" : ago ? "middle" : "end" }, ago ? `−${ago} s` : "now"));
    }
    let label = left;
    for (const line of lines) {
      let path = "", pen = "M";
      for (const [ago, value] of line.points) {
        if (!Number.isFinite(value) || (log && value <= 0)) { pen = "M"; continue; }
        // One sample alone is a dot.
        path += `${pen}${x(ago).toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h2" : ""}`;
        pen = "L";
      }
      chart.append(svg("path", { class: line.kind, d: path || "M0 0" }));
      const name = `${{ a: "━", b: "╍", c: "┈" }[line.kind]} ${line.label} ${format(last(line))}`;
      chart.append(svg("text", { class: line.kind, x: label, y: 12 }, name));
      label += name.length * 6.6 + 14;
    }
  }

  // ---- one second

  const samples = []; // {at, series}
  const history = []; // {at, in, out, limit, flight, little, p50, p99, upstream, size}
  const rate = (before, after, name, want) =>
    Math.max(0, sum(after.series, name, want) - sum(before.series, name, want)) / ((after.at - before.at) / 1000);

  function figures(before, after, want = {}) {
    const seconds = (after.at - before.at) / 1000;
    const entries = (outcome) => rate(before, after, "ferry_entries_total", { ...want, outcome });
    const mean = (name) => {
      const count = sum(after.series, name + "_count", want) - sum(before.series, name + "_count", want);
      return count > 0 ? (sum(after.series, name + "_sum", want) - sum(before.series, name + "_sum", want)) / count : NaN;
    };
    const out = rate(before, after, "ferry_batches_total", want);
    return {
      seconds, out,
      in: rate(before, after, "ferry_entry_seconds_count", want),
      carried: rate(before, after, "ferry_batch_entries_sum", want),
      size: mean("ferry_batch_entries"), upstream: mean("ferry_batch_seconds"),
      p50: quantile(0.5, before, after, "ferry_entry_seconds", want),
      p99: quantile(0.99, before, after, "ferry_entry_seconds", want),
      wait50: quantile(0.5, before, after, "ferry_queue_seconds", want),
      alone50: quantile(0.5, before, after, "ferry_batch_seconds", want),
      alone99: quantile(0.99, before, after, "ferry_batch_seconds", want),
      shed: rate(before, after, "ferry_entries_shed_total", want),
      failed: ["refused", "unknown", "invalid"].reduce((total, outcome) => total + entries(outcome), 0),
      cancelled: rate(before, after, "ferry_entries_cancelled_total", want),
    };
  }

  const unqueued = (value) => (Number.isFinite(value) ? `${time(value)} without the queue` : "no batch answered");

  function show(before, after) {
    const now = figures(before, after), series = after.series;
    const limit = sum(series, "ferry_limit"), flight = sum(series, "ferry_in_flight");
    // Little's law: batches a second times the seconds each is at the upstream.
    const little = now.out * now.upstream;
    history.push({ at: after.at, limit, flight, little: now.out ? little : 0, ...now });
    while (history.length && after.at - history[0].at > KEEP * 1000) history.shift();

    const sentence = byId("sentence");
    sentence.replaceChildren();
    if (now.carried > 0) {
      const saved = 100 * (1 - now.out / now.carried);
      sentence.append(element("b", number(now.carried)), " calls a second leave as ", element("b", rateText(now.out)),
        " batches: ", element("b", number(now.size, 1)), ` a proposal, ${number(Math.max(saved, 0), 1)}\u00a0% of the upstream's proposals saved.`);
    } else {
      const idle = !(flight > 0 || now.shed > 0 || sum(series, "ferry_queued_entries") > 0);
      sentence.append(`${idle ? "Idle: no" : "No"} batch was sent in the last ten seconds.`);
    }
    if (now.failed > 0) sentence.append(element("em", ` ✕ ${rateText(now.failed)} calls a second fail.`));
    if (now.shed > 0) sentence.append(element("em", ` ✕ ${rateText(now.shed)} calls a second are refused for load.`));
    const most = Math.max(now.carried, now.out, 1e-9);
    byId("bar-in").style.width = `${(100 * now.carried) / most}%`;
    byId("bar-out").style.width = `${(100 * now.out) / most}%`;
    say("rate-in", rateText(now.carried) + "/s");
    say("rate-out", rateText(now.out) + "/s");
    byId("flow").setAttribute("aria-label", `${rateText(now.carried)} calls a second in, ${rateText(now.out)} batches a second out`);

    say("p50", time(now.p50)); say("p50-note", unqueued(now.alone50));
    say("p99", time(now.p99)); say("p99-note", unqueued(now.alone99));
    say("limit", number(limit)); say("limit-note", `${number(flight)} in flight, L = λW ${number(little, 1)}`);
    say("queued", number(sum(series, "ferry_queued_entries"))); say("queued-note", size(sum(series, "ferry_queued_bytes")));
    const perReason = values(series, "ferry_entries_shed_total", "reason")
      .map((reason) => [reason, rate(before, after, "ferry_entries_shed_total", { reason })]).filter(([, value]) => value > 0);
    say("shed", thousands(now.shed) + "/s");
    say("shed-note", perReason.map(([reason, value]) => `${reason} ${thousands(value)}/s`).join(", ") || "none refused for load");
    byId("tile-shed").dataset.state = now.shed > 0 ? "bad" : "";
    say("failed", thousands(now.failed) + "/s");
    say("failed-note", ["refused", "unknown", "invalid"].map((outcome) => [outcome, rate(before, after, "ferry_entries_total", { outcome })])
      .filter(([, value]) => value > 0).map(([outcome, value]) => `${outcome} ${thousands(value)}/s`).join(", ") || "none");
    byId("tile-failed").dataset.state = now.failed > 0 ? "bad" : "";
    say("cancelled", rateText(now.cancelled) + "/s");
    say("cancelled-note", values(series, "ferry_entries_cancelled_total", "stage")
      .map((stage) => `${stage} ${number(sum(series, "ferry_entries_cancelled_total", { stage }))}`).join(", ") + " ever, none of them sent");
    const ghosts = sum(series, "ferry_ghosts_total");
    say("ghosts", number(ghosts));
    byId("tile-ghosts").dataset.state = ghosts > 0 ? "bad" : "";
    methods(before, after);
    groups(before, after);
    charts();
  }

  function charts() {
    const end = history[history.length - 1].at;
    const line = (label, kind, of) => ({ label, kind, points: history.map((one) => [(end - one.at) / 1000, of(one)]) });
    draw("chart-rate", [line("calls", "a", (one) => one.carried), line("batches", "b", (one) => one.out)], { log: true, format: thousands });
    draw("chart-limit", [line("limit", "a", (one) => one.limit), line("in flight", "b", (one) => one.flight), line("λW", "c", (one) => one.little)], { format: (value) => number(value, 1) });
    const ms = (value) => number(value, value < 1 ? 2 : value < 10 ? 1 : 0);
    draw("chart-latency", [line("p50", "a", (one) => one.p50 * 1e3), line("p99", "b", (one) => one.p99 * 1e3), line("without queue", "c", (one) => one.alone50 * 1e3)], { log: true, format: ms });
    draw("chart-size", [line("entries", "a", (one) => one.size)], { format: (value) => number(value, value < 10 ? 1 : 0) });
  }

  function rows(id, made, columns, empty) {
    const body = byId(id);
    // A phone shows a row as a list, each figure behind its column's name.
    const names = [...body.parentNode.querySelectorAll("th")].map((head) => head.textContent);
    body.replaceChildren();
    for (const cells of made) {
      const row = document.createElement("tr");
      cells.forEach((cell, at) => row.append(element("td", cell, at ? { "data-name": names[at] } : { title: cell })));
      // Nothing but noughts: a phone shows its name alone.
      if (cells.slice(1).every((cell) => cell === "0" || cell === "–")) row.dataset.idle = "";
      body.append(row);
    }
    if (!made.length) body.append(element("tr", "")), body.firstChild.append(element("td", empty, { colspan: columns }));
  }

  // Without the package: pages are narrow, and methods of one name are rare.
  const short = (method) => method.replace(/^\//, "").replace(/^.*\.([^.]+\/)/, "$1");

  function methods(before, after) {
    rows("method-rows", values(after.series, "ferry_batch_entries_count", "method").map((method) => {
      const of = figures(before, after, { method });
      const closed = values(after.series, "ferry_batches_total", "closed_by")
        .map((why) => [why, rate(before, after, "ferry_batches_total", { method, closed_by: why })])
        .filter(([, value]) => value > 0).sort((a, b) => b[1] - a[1])
        .map(([why, value]) => `${why} ${number((100 * value) / of.out)} %`);
      return [short(method), rateText(of.carried), rateText(of.out), number(of.size, 1),
        time(of.p50), time(of.p99), time(of.wait50), rateText(of.shed), rateText(of.failed), closed.join(", ") || "–"];
    }), 10, "No method batches.");
  }

  function groups(before, after) {
    const all = values(after.series, "ferry_raft_write_requests_total", "group");
    byId("groups-section").hidden = !all.length;
    // One group's limit bears no group.
    const only = !values(after.series, "ferry_limit", "group").length;
    rows("group-rows", all.map((group) => {
      const want = { group };
      const q = (at, name) => time(quantile(at, before, after, name, want));
      return [group, rateText(rate(before, after, "ferry_raft_write_requests_total", want)), rateText(rate(before, after, "ferry_raft_write_failures_total", want)),
        q(0.5, "ferry_raft_write_seconds"), q(0.5, "ferry_raft_log_append_seconds"), q(0.99, "ferry_raft_log_append_seconds"), q(0.5, "ferry_raft_apply_batch_seconds"),
        number(sum(after.series, "ferry_raft_apply_lag", want)), ...["ferry_limit", "ferry_in_flight"].map((name) => number(sum(after.series, name, only ? {} : want)))];
    }), 9, "No group.");
    const [durable, syncs] = ["sum", "count"].map((end) => rate(before, after, "ferry_raft_proposals_per_sync_" + end));
    say("sync-note", syncs > 0 ? `One log serves all groups: ${rateText(syncs)} syncs a second, proposals a sync ${number(durable / syncs, 1)}, p99 ${time(quantile(0.99, before, after, "ferry_raft_log_sync_seconds"))}.` : "");
  }

  // ---- the loop

  let paused = false, busy = false, turn = 0;
  const state = (kind, text) => { byId("state").dataset.state = kind; say("state", text); };
  async function text(path) {
    const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(3000) });
    return { ok: answer.ok, status: answer.status, body: await answer.text() };
  }

  async function sample() {
    const [metrics, ready] = await Promise.all([text("metrics"), text("ready")]);
    if (!metrics.ok) throw new Error(`/metrics answered ${metrics.status}`);
    const after = { at: performance.now(), series: parse(metrics.body) };
    samples.push(after);
    while (samples.length > 2 && after.at - samples[1].at > WINDOW * 1000) samples.shift();
    if (samples.length > 1) show(samples[0], after);
    const now = history[history.length - 1];
    const but = !now ? "" : now.failed > 0 ? ", but calls fail" : now.shed > 0 ? ", but calls are shed" : "";
    state(ready.ok && !but ? "good" : "warn", ready.ok ? `ready${but}` : ready.body.trim() || "not ready");
    say("fresh", `sampled ${new Date().toLocaleTimeString()}`);
  }

  async function slowly() {
    const optional = async (path, use) => {
      const answer = await text(path).catch(() => ({ ok: false }));
      if (answer.ok) use(answer.body);
    };
    await optional("debug/recent", recent);
    // A node has no policy, and is not asked for one.
    const last = samples[samples.length - 1];
    const sidecar = last && last.series.some((one) => one.name === "ferry_limit");
    byId("policy-section").hidden = !sidecar;
    if (sidecar) await optional("policy", policy);
  }

  function policy(body) {
    const told = JSON.parse(body), at = byId("reloads");
    say("policy", typeof told.policy === "string" ? told.policy : JSON.stringify(told.policy, null, 2));
    at.replaceChildren(...told.reloads.slice(-5).reverse().map((one) =>
      element("p", `${one.accepted ? "✓ reloaded" : "✕ refused"} ${new Date(one.unix_seconds * 1000).toLocaleTimeString()} (${one.cause})${one.faults.length ? ": " + one.faults.join("; ") : ""}`,
        one.accepted ? {} : { class: "failed" })));
    if (!told.reloads.length) at.append(element("p", "Not reloaded since it was started."));
  }

  function recent(body) {
    const at = byId("recent");
    const told = JSON.parse(body).batches || [];
    at.replaceChildren(...(told.length ? told.slice(0, 50) : [null]).map((one) => {
      if (!one) return element("p", "None recorded.");
      const parts = Object.entries(one.seconds || {}).map(([stage, value]) => `${stage} ${time(value)}`).join(" · ");
      const told = element("p", "", one.outcome === "committed" ? {} : { class: "failed" });
      const what = one.outcome === "committed" ? "slow" : "✕ failed";
      told.append(element("b", `${what} ${short(one.method)}`), `, ${one.entries} entries, ${time(one.seconds_ago)} ago: ${parts}`);
      return told;
    }));
  }

  async function tick() {
    if (paused || busy || document.hidden) return;
    busy = true;
    try {
      await sample();
      if (turn++ % 5 === 0) await slowly();
    } catch (error) {
      state("bad", "admin address does not answer");
    }
    busy = false;
  }

  byId("pause").addEventListener("click", (event) => {
    paused = !paused;
    event.target.setAttribute("aria-pressed", String(paused));
    event.target.textContent = paused ? "Resume" : "Pause";
  });
  document.addEventListener("visibilitychange", tick);
  setInterval(tick, 1000);
  tick();
})();
