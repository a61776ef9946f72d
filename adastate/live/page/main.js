// The page: what its buttons and keys do to one stream, or two.
import { Steering, shortcuts } from "./keys.js";
import { parse, permalink } from "./link.js";
import { seconds } from "./pane.js";
import { PromptBox } from "./prompt.js";
import { Stream } from "./stream.js";
import { theme } from "./theme.js";
import { Door } from "./wire.js";

const KINDS = {
  keep: "The past stays in the cache as it is.",
  recache: "The last frames are encoded again under the new prompt.",
  flush: "Only the last frames of the past are kept.",
  cut: "The past is dropped: a hard cut to a new scene.",
};
const STATES = { lost: 3, over: 2, connecting: 1, asleep: 1, live: 0 };
const SAID = { lost: "connection lost, reconnecting", over: "ended", connecting: "connecting", asleep: "asleep", live: "live" };
const OWN = "the weights’ own";
const RECEIPTS = 3;
const NOTICE_MS = 7000;

const $ = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;

const token = new URLSearchParams(location.hash.slice(1)).get("token");
const door = new Door(token);
/** @type {Stream[]} */
let streams = [];
let info = null;
let linkAsked = false;
let opening = 0;

const prompt = new PromptBox({ box: $("prompt"), list: $("words"), note: $("prompt-note"), submit: change });
const steering = new Steering($("pad"), (keys) => info?.keys && targets().forEach((stream) => stream.act(keys)));

// ---- streams

/** Those that prompts and keys go to. The server tells the twin of a pair. */
function targets() {
  if (streams.length < 2 || streams[0].session.pair) return streams.slice(0, 1);
  return $("target").value === "both" ? streams : [streams[Number($("target").value)]];
}

function add(session, asked) {
  const stream = new Stream(session, { token, asked, to: listener });
  streams.push(stream);
  $("panes").append(stream.pane.root);
  arrange();
  return stream;
}

function drop(stream) {
  streams = streams.filter((other) => other !== stream);
  stream.close();
  door.end(stream.id).catch(() => {}); // it may have ended already
  arrange();
}

/** Names and places of the panes; where controls go is asked only where there is a choice. */
function arrange() {
  const two = streams.length > 1;
  $("panes").classList.toggle("two", two);
  streams.forEach((stream, n) => stream.pane.name(two ? `${"AB"[n]} · ${stream.session.system ?? OWN}` : "", two));
  $("target-field").hidden = !two || Boolean(streams[0].session.pair);
  $("compare").disabled = info.systems.length < 2;
  connection();
}

async function start({ prompt: text, seed, system, pair = null, script = [] }) {
  const asked = performance.now();
  const turn = (opening += 1);
  try {
    const answer = await door.open({ prompt: text, seed, system, pair, script });
    const sessions = [answer.session, answer.pair].filter(Boolean);
    if (turn !== opening) return sessions.forEach((session) => door.end(session.id).catch(() => {})); // superseded
    streams.slice().forEach(drop);
    sessions.forEach((session) => add(session, asked));
    $("download").hidden = true;
    if (script.length) say(`A replay: seed ${seed}, ${script.length} controls, bit for bit the same stream.`);
  } catch (error) {
    say(error.message);
    if (!streams.length) connection("over");
  }
}

function fresh(pair = null) {
  const seed = Math.max(0, Math.trunc(Number($("seed").value) || 0));
  $("seed").value = seed;
  return start({ prompt: prompt.value || info.examples[0] || "", seed, system: $("system").value || null, pair });
}

function forked(stream, session) {
  streams.filter((other) => other !== stream).forEach(drop);
  const twin = add(session, performance.now());
  twin.pane.past(stream.pane, session);
  $("target").value = "1";
  tell("forked", `from chunk ${session.chunk}`);
  twin.pane.root.scrollIntoView({ block: "nearest" });
}

const listener = {
  state(stream, sentence) {
    if (sentence) say(sentence);
    if (streams.includes(stream)) listener.changed();
  },
  changed() {
    const { speed, recording } = streams[0]?.session ?? {};
    $("pause").textContent = stopped() ? "Resume" : "Pause";
    $("speed").value = String(speed ?? 1);
    $("record").textContent = recording ? "Stop recording" : "Record";
    if (streams.length) arrange();
  },
  receipt(stream, { kind, chunk, what, seconds: took }) {
    if (stream !== streams[0] && stream.session.pair) return; // the first one's script covers both
    const where = streams.length > 1 ? `${"AB"[streams.indexOf(stream)]}: ` : "";
    const after = took === null ? `chunk ${chunk}` : `chunk ${chunk}, after ${seconds(took)}`;
    if (kind === "act") $("steer-note").textContent = `${where}${what}: ${after}`;
    else tell(where + what, after);
    if (kind === "rollback" && info.keys && stream.session.keys !== steering.told) stream.act(steering.told);
  },
  error: say,
  answer(stream, message) {
    if (message.type === "forked") forked(stream, message.session);
    else if (message.type === "recording") recorded(stream, message);
    else if (message.type === "script" && linkAsked) share(message.script);
  },
  fork(stream) {
    if (stream.session.pair) streams.filter((other) => other !== stream).forEach(drop);
  },
  close: drop,
};

function connection(state = null) {
  const worst = state ?? streams.map((stream) => stream.state).reduce((a, b) => (STATES[a] > STATES[b] ? a : b), "live");
  if ($("connection").dataset.state === worst) return;
  $("connection").dataset.state = worst;
  $("connection").querySelector(".text").textContent = SAID[worst];
}

// ---- messages on the page

function say(sentence) {
  $("notice").textContent = sentence;
  $("notice").hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => ($("notice").hidden = true), NOTICE_MS);
}

function tell(what, after) {
  const item = document.createElement("li");
  for (const text of [what, after]) item.append(Object.assign(document.createElement("span"), { textContent: text }));
  $("receipts").append(item);
  while ($("receipts").children.length > RECEIPTS) $("receipts").firstElementChild.remove();
}

// ---- controls

function change() {
  if (!prompt.value) return $("prompt").focus();
  prompt.close();
  targets().forEach((stream) => stream.prompt(prompt.value, chosen("kind"), chosen("anchor")));
}

const stopped = () => streams.some((stream) => stream.session.paused || stream.state === "asleep");

/** Those that pause and speed go to: all, but the server tells the twin of a pair. */
const leaders = () => (streams[0]?.session.pair ? streams.slice(0, 1) : streams);

function pause() {
  const on = !stopped();
  if (!on) streams.forEach((stream) => stream.wake());
  leaders().forEach((stream) => stream.pause(on));
}

function speed() {
  leaders().forEach((stream) => stream.speed(Number($("speed").value)));
}

function record() {
  const [stream] = targets();
  stream?.record(!stream.session.recording, $("record-states").checked);
}

async function recorded(stream, message) {
  stream.session = { ...stream.session, recording: message.on };
  $("record").textContent = message.on ? "Stop recording" : "Record";
  $("download").hidden = true;
  if (message.on) return tell("recording", "");
  tell("recorded", seconds(message.seconds));
  URL.revokeObjectURL($("download").href);
  // a link cannot carry a token, so then the file is fetched
  $("download").href = token ? URL.createObjectURL(await (await door.ask(message.url)).blob()) : message.url;
  $("download").download = `${stream.session.system ?? "stream"}-${stream.session.seed}.mp4`;
  $("download").textContent = `Save mp4, ${seconds(message.seconds)}`;
  $("download").hidden = false;
}

function link() {
  linkAsked = true;
  targets()[0]?.script();
}

async function share(script) {
  linkAsked = false;
  if (!script.replays) return say("This stream began with a picture or a file: a link alone cannot replay it.");
  const { run, prompt: text, seed, system, pair, script: controls } = script;
  const address = permalink({ run, prompt: text, seed, system, pair, script: controls });
  if (!address) return say("There are too many controls for a link: it would be longer than browsers accept.");
  history.replaceState(null, "", token ? `${address}&token=${encodeURIComponent(token)}` : address);
  const copied = await navigator.clipboard?.writeText(address).then(() => true, () => false);
  say(copied ? "Copied. The link replays this stream bit for bit." : "The link is in the address bar. It replays this stream bit for bit.");
}

/** The stream of the address, if it has one. */
function linked() {
  try {
    const stream = parse(location.hash);
    if (stream && stream.run !== info.run) say(`The link was made with ${stream.run}, but this server runs ${info.run}: the stream will look different.`);
    return stream;
  } catch (error) {
    say(error.message);
    return null;
  }
}

function begin() {
  const stream = linked();
  prompt.value = stream?.script.findLast?.((item) => item.kind === "prompt")?.text ?? stream?.prompt ?? info.examples[0] ?? "";
  if (!stream) return fresh();
  $("seed").value = stream.seed;
  if (info.systems.includes(stream.system)) $("system").value = stream.system;
  return start(stream);
}

function example() {
  const others = info.examples.filter((text) => text !== prompt.value);
  if (others.length) prompt.value = others[Math.floor(Math.random() * others.length)];
}

function pick(name, value) {
  const radio = document.querySelector(`input[name=${name}][value=${value}]`);
  radio.checked = true;
  note();
}

function note() {
  const state = chosen("anchor") === "reset" ? " The hidden state is reset." : "";
  $("kind-note").textContent = KINDS[chosen("kind")] + state;
}

// ---- the keyboard

const KEYS = [
  ["/", "write a prompt", () => $("prompt").focus()],
  ["p", "pause, resume", pause],
  ["b", "back by one chunk", () => targets().forEach((s) => s.back(Math.max(s.session.history[0], s.shown - 1)))],
  ["f", "fork", () => targets()[0]?.fork(null)],
  ["x", "close the second pane", () => streams[1] && drop(streams[1])],
  ["c", "compare two systems", () => $("compare").click()],
  ["n", "start over", () => fresh()],
  ["r", "record, stop", record],
  ["u", "copy the link", link],
  ["m", "colours", () => $("theme").click()],
  ["?", "this list", () => $("shortcuts").showModal()],
];

function keyboard() {
  const actions = Object.fromEntries(KEYS.map(([key, , action]) => [key, action]));
  Object.keys(KINDS).forEach((kind, n) => (actions[n + 1] = () => pick("kind", kind)));
  actions["0"] = () => pick("anchor", chosen("anchor") === "keep" ? "reset" : "keep");
  shortcuts(actions);
  const steer = info.keys ? [[info.keys.toUpperCase().split("").join(" "), "steer while held; arrows too"]] : [];
  const rows = [...steer, ...KEYS, ["1 2 3 4", "keep, recache, flush, cut"], ["0", "keep or reset the state"],
    ["← →, Enter", "in the strip: choose a chunk, go back to it"], ["F, Shift+Enter", "in the strip: fork at that chunk"]];
  for (const [key, text] of rows) {
    const term = document.createElement("dt");
    term.append(Object.assign(document.createElement("kbd"), { textContent: key.length === 1 ? key.toUpperCase() : key }));
    $("shortcut-list").append(term, Object.assign(document.createElement("dd"), { textContent: text }));
  }
}

function choices(select, names, value) {
  select.replaceChildren(...names.map((name) => new Option(name, name)));
  if (value) select.value = value;
}

function wire() {
  choices($("system"), info.systems, info.system);
  const family = (name) => name?.split("_")[0];
  choices($("rival"), info.systems, info.systems.find((name) => family(name) !== family(info.system ?? "adastate")));
  if (!info.system) $("system").prepend(new Option(OWN, "", true, true));
  prompt.know(info.vocabulary, info.examples);
  $("prompt").maxLength = info.limits.prompt_chars;
  $("steer").hidden = !info.keys;
  steering.know(info.keys, info.world === "flight");
  const on = (id, event, action) => $(id).addEventListener(event, action);
  on("prompt-form", "submit", (event) => (event.preventDefault(), change()));
  on("prompt-form", "change", note);
  on("example", "click", example);
  on("pause", "click", pause);
  on("speed", "change", speed);
  on("restart", "click", () => fresh());
  on("compare", "click", () => fresh($("rival").value));
  on("record", "click", record);
  on("link", "click", link);
  on("help", "click", () => $("shortcuts").showModal());
  on("shortcuts-close", "click", () => $("shortcuts").close());
  // keep the fragment: it may hold the token
  document.querySelector(".skip").addEventListener("click", (event) => (event.preventDefault(), $("prompt").focus()));
  addEventListener("hashchange", () => location.hash.includes("stream=") && begin());
  addEventListener("pagehide", (event) => event.persisted || streams.forEach((stream) => door.end(stream.id).catch(() => {})));
  keyboard();
  note();
}

theme($("theme"));
try {
  info = await door.info();
  wire();
  await begin();
} catch (error) {
  say(error.message);
  connection("over");
}
