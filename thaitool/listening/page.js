"use strict";
// One clip at a time; answers go to localStorage at every change and into a CSV file at the end.
const content = JSON.parse(document.getElementById("content").textContent);
const at = (id) => document.getElementById(id);
const player = at("player"), heard = at("heard");
const storageName = "thaitool-listening/" + content.pack + "/" + content.rater;
const fields = ["naturalness", "tones", "transcription"];
let state = { place: 0, answers: {} };
let url = "";

function load() {
  try {
    const kept = JSON.parse(localStorage.getItem(storageName));
    if (kept) state = kept;
  } catch (error) {
    at("unsaved").hidden = false;
  }
}

function keep() {
  try {
    localStorage.setItem(storageName, JSON.stringify(state));
  } catch (error) {
    at("unsaved").hidden = false;
  }
}

const clip = () => content.clips[state.place];
const answerOf = (one) => state.answers[one.name] || {};

function isDone(one) {
  const given = answerOf(one);
  const heardText = (given.transcription || "").trim(); // spaces alone are no answer in the file either
  return Boolean(given.naturalness && (one.text ? given.tones : heardText));
}

function set(field, value) {
  const name = clip().name;
  state.answers[name] = { ...state.answers[name], [field]: value };
  keep();
  showProgress();
}

function showProgress() {
  const done = content.clips.filter(isDone).length;
  at("done").value = done;
  at("count").textContent = (state.place + 1) + " / " + content.clips.length + " · ✓ " + done;
  at("missing").hidden = done === content.clips.length;
  showCsv();
}

function showCsv() {
  if (at("copying").open) at("csv").value = csv();
}

function bytesOf(base64) {
  return Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
}

function show(place) {
  state.place = Math.max(0, Math.min(content.clips.length - 1, place));
  const one = clip(), given = answerOf(one);
  if (url) URL.revokeObjectURL(url);
  url = URL.createObjectURL(new Blob([bytesOf(one.flac)], { type: "audio/flac" }));
  player.src = url;
  at("text").textContent = one.text;
  at("text").hidden = at("telling").hidden = !one.text;
  at("writing").hidden = Boolean(one.text);
  heard.value = given.transcription || "";
  for (const input of document.querySelectorAll("input[type=radio]")) {
    input.checked = given[input.name] === input.value;
  }
  at("back").disabled = state.place === 0;
  at("next").disabled = state.place === content.clips.length - 1;
  keep();
  showProgress();
}

function move(step) {
  at("help").open = false;
  show(state.place + step);
  window.scrollTo(0, 0);
  if (document.activeElement instanceof HTMLElement) document.activeElement.blur();
}

function toMissing() {
  const n = content.clips.length;
  for (let step = 1; step <= n; step += 1) {
    const place = (state.place + step) % n;
    if (!isDone(content.clips[place])) return move(place - state.place);
  }
}

function choose(name, value) {
  const input = document.querySelector('input[name="' + name + '"][value="' + value + '"]');
  input.checked = true;
  set(name, value);
}

// CRC-32, as in zlib: tells whether the file was changed on its way.
function crc32(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit += 1) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ((sum ^ 0xffffffff) >>> 0).toString(16).padStart(8, "0");
}

function quoted(text) {
  return '"' + text.replace(/\s+/g, " ").trim().replace(/"/g, '""') + '"';
}

function csv() {
  const lines = content.clips.map((one) => {
    const given = answerOf(one);
    const cells = fields.map((field) => given[field] || "");
    return [content.pack, content.rater, one.name, cells[0], cells[1], quoted(cells[2])].join(",");
  });
  const body = ["pack,rater,clip," + fields.join(","), ...lines].join("\n") + "\n";
  return body + "end," + lines.length + "," + crc32(new TextEncoder().encode(body)) + ",,,\n";
}

function save() {
  const link = document.createElement("a");
  // The mark at the front tells spreadsheets that the file is UTF-8.
  link.href = URL.createObjectURL(new Blob(["\ufeff" + csv()], { type: "text/csv" }));
  link.download = "ratings-" + content.pack + "-" + content.rater + ".csv";
  document.body.append(link);
  link.click();
  link.remove();
}

function play() {
  if (player.paused) player.play();
  else player.pause();
}

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  const target = event.target;
  if (target instanceof HTMLTextAreaElement) {
    if (target !== heard || event.key !== "Enter") return;
  } else if (event.key === " " && target !== document.body && !target.matches("input")) {
    return; // the button's or the player's own
  } else if (event.key === "Enter" && target.matches("button, summary, audio")) {
    return;
  }
  // By place on the keyboard: in a Thai layout these keys give Thai letters.
  const tones = { KeyY: "yes", KeyN: "no", KeyU: "unsure" }[event.code];
  const number = /^(?:Digit|Numpad)([1-5])$/.exec(event.code);
  if (number) choose("naturalness", number[1]);
  else if (tones && clip().text) choose("tones", tones);
  else if (event.key === " ") play();
  else if (event.key === "Enter" || event.key === "ArrowRight") move(1);
  else if (event.key === "ArrowLeft") move(-1);
  else return;
  event.preventDefault();
}

load();
for (const input of document.querySelectorAll("input[type=radio]")) {
  input.addEventListener("change", () => set(input.name, input.value));
}
heard.addEventListener("input", () => set("transcription", heard.value));
at("back").addEventListener("click", () => move(-1));
at("next").addEventListener("click", () => move(1));
at("missing").addEventListener("click", toMissing);
at("save").addEventListener("click", save);
at("copying").addEventListener("toggle", showCsv);
document.addEventListener("keydown", onKey);
show(state.place);
