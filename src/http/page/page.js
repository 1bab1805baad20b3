"use strict";
// Everything shown is set as text, never as markup: names, reasons and incarnations come from elsewhere.

const byId = (id) => document.getElementById(id);
const text = (tag, content, className) => {
  const element = document.createElement(tag);
  element.textContent = content;
  if (className) element.className = className;
  return element;
};
const STATES = ["alive", "suspect", "dead", "unknown"];
const known = (state) => (STATES.includes(state) ? state : "unknown");
const span = (nanos) => {
  const s = Math.max(0, nanos / 1e9);
  if (s < 60) return s.toFixed(1) + " s";
  if (s < 3600) return Math.floor(s / 60) + " min " + Math.floor(s % 60) + " s";
  if (s < 86400) return Math.floor(s / 3600) + " h " + Math.floor((s % 3600) / 60) + " min";
  return Math.floor(s / 86400) + " d " + Math.floor((s % 86400) / 3600) + " h";
};

function banner(status) {
  const snapshot = status.snapshot;
  if (status.config_error) return ["the configuration is invalid, nothing is judged:\n" + status.config_error, "bad"];
  if (!snapshot) return ["starting", "unknown"];
  const words = ["bus " + snapshot.trust.bus + " for " + span(status.now - snapshot.trust.since)];
  if (snapshot.trust.bus !== "trusted") words.push(snapshot.trust.detail);
  const settling = (snapshot.trust.settling_until || 0) - status.now;
  if (settling > 0) words.push("settling: no remedy for " + span(settling));
  if (snapshot.mass_silence) words.push("mass silence: " + snapshot.mass_silence.members.length + " peers");
  if (snapshot.pause) words.push("paused by " + snapshot.pause.by + ": " + snapshot.pause.reason);
  if (snapshot.dry_run) words.push("dry run: nothing is carried out");
  if (snapshot.draining) words.push("draining");
  if (status.config_refused) words.push("the last reload was refused: " + status.config_refused);
  return [words.join(" · "), snapshot.trust.bus === "trusted" ? "alive" : "bad"];
}

function row(peer, next, now) {
  const tr = document.createElement("tr");
  const name = document.createElement("td");
  const link = text("a", peer.name);
  link.href = "/api/v1/explain/" + encodeURIComponent(peer.name);
  name.append(link);
  tr.append(
    name,
    text("td", peer.liveness, "state " + known(peer.liveness)),
    text("td", span(now - peer.since)),
    text("td", peer.cause || ""),
    text("td", peer.detail),
    text("td", next || ""),
  );
  return tr;
}

async function refresh() {
  try {
    const status = await (await fetch("/api/v1/status")).json();
    const [words, className] = banner(status);
    byId("banner").textContent = words;
    byId("banner").className = className;
    const snapshot = status.snapshot;
    if (!snapshot) return;
    byId("node").textContent = snapshot.node + " in " + snapshot.group;
    byId("peers").replaceChildren(...snapshot.peers.map((peer, i) => row(peer, status.next[i], status.now)));
  } catch (error) {
    byId("banner").textContent = "this node does not answer: " + error;
    byId("banner").className = "bad";
  }
}

function tell(who, words, className) {
  const events = byId("events");
  const li = text("li", "", className);
  li.append(text("time", new Date().toTimeString().slice(0, 8)), text("b", who), text("span", words));
  events.prepend(li);
  while (events.childElementCount > 200) events.lastElementChild.remove();
}

const NAMES = ["liveness", "bus", "stalled", "incarnation", "goodbye", "episode_opened", "refused", "would_heal",
  "granted", "acted", "recovered", "gave_up", "episode_closed", "mass_silence_tripped", "mass_silence_ended",
  "operator", "duplicate_node", "exited_instead", "maintenance", "restart", "leave_overdue", "config_reloaded",
  "config_refused"];

function follow() {
  const source = new EventSource("/api/v1/events");
  let waiting = null;
  const soon = () => {
    if (waiting === null) waiting = setTimeout(() => { waiting = null; refresh(); }, 200);
  };
  for (const name of NAMES) {
    source.addEventListener(name, (message) => {
      const notice = JSON.parse(message.data);
      tell(notice.peer || "node", notice.text, notice.to ? known(notice.to) : "");
      soon();
    });
  }
  source.addEventListener("lagged", (message) => tell("page", "missed " + JSON.parse(message.data).missed + " events", "bad"));
  source.onopen = () => { byId("stream").textContent = "live"; };
  source.onerror = () => { byId("stream").textContent = "connection lost, trying again"; };
}

refresh();
setInterval(refresh, 2000);
follow();
