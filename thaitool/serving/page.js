"use strict";
// Records or takes a file, asks this server about it, and shows the answer as it grows. Keeps nothing.
const at = (id) => document.getElementById(id);
const NAMES = {
  asr: ["ถอดเสียง", "Transcribe"],
  ic: ["หาเจตนา", "Intent"],
  ner: ["หาชื่อเฉพาะ", "Names"],
  sr: ["เรียบเรียง", "Rewrite"],
  qa: ["ทำตามคำสั่ง", "Follow"],
  "": ["ถามเอง", "Own question"],
};
// What the server's decoder reads as it is; anything else the browser decodes first.
const READ_BY_SERVER = /\.(wav|flac|mp3|ogg|opus)$/i;
const LONGEST_RECORDING_S = 300;
let model = "", sound = null, url = "", recorder = null, asking = null;

function fail(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

async function sentence(response) {
  if (response.status === 401) at("locked").hidden = false;
  try {
    return (await response.json()).error.message;
  } catch (error) {
    return "HTTP " + response.status;
  }
}

function headers() {
  const key = at("key").value.trim();
  return key ? { Authorization: "Bearer " + key } : {};
}

async function loadTasks() {
  const response = await fetch("v1/models", { headers: headers() });
  if (!response.ok) return fail(await sentence(response));
  const found = (await response.json()).data[0];
  model = found.id;
  at("model").textContent = model;
  at("tasks").replaceChildren();
  const choices = found.prompts ? [...found.tasks, ""] : found.tasks;
  for (const [i, task] of choices.entries()) {
    const [thai, english] = NAMES[task] || [task, ""];
    const label = document.createElement("label"), radio = document.createElement("input");
    const small = document.createElement("small");
    Object.assign(radio, { type: "radio", name: "task", value: task, checked: i === 0 });
    radio.addEventListener("change", showPrompt);
    small.lang = "en";
    small.textContent = english;
    label.append(radio, thai, small);
    at("tasks").append(label);
  }
  fail("");
  showPrompt();
}

const task = () => document.querySelector("input[name=task]:checked")?.value;

function showPrompt() {
  at("asking").hidden = task() !== "";
  at("ask").disabled = asking === null && (!sound || task() === undefined);
}

async function take(blob, name) {
  fail("");
  let taken = blob;
  if (!READ_BY_SERVER.test(name)) {
    try {
      taken = await wav(blob);
      name = name.replace(/\.[^.]*$/, "") + ".wav";
    } catch (error) {
      return fail("เบราว์เซอร์อ่านไฟล์นี้ไม่ได้ · This browser cannot read " + name + ".");
    }
  }
  sound = { blob: taken, name };
  URL.revokeObjectURL(url);
  url = URL.createObjectURL(taken);
  at("player").src = url;
  at("name").textContent = name;
  at("chosen").hidden = false;
  at("result").hidden = true;
  showPrompt();
}

// Any sound that the browser reads, as 16-bit mono WAV at 16 kHz.
async function wav(blob) {
  const context = new OfflineAudioContext(1, 1, 16000);
  const heard = await context.decodeAudioData(await blob.arrayBuffer());
  const mixing = new OfflineAudioContext(1, Math.max(1, Math.round(heard.duration * 16000)), 16000);
  const source = mixing.createBufferSource();
  source.buffer = heard;
  source.connect(mixing.destination);
  source.start();
  const samples = (await mixing.startRendering()).getChannelData(0);
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const word = (offset, text) => [...text].forEach((c, i) => view.setUint8(offset + i, c.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * samples.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, 16000, true); view.setUint32(28, 32000, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * samples.length, true);
  samples.forEach((s, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, s)) * 32767, true));
  return new Blob([view.buffer], { type: "audio/wav" });
}

async function record() {
  if (recorder) return recorder.stop();
  fail("");
  let stream;
  // A second press while the browser asks for permission would start a recording that nothing stops.
  at("record").disabled = true;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch (error) {
    return fail("ใช้ไมโครโฟนไม่ได้ · The microphone cannot be used: " + error.message);
  } finally {
    at("record").disabled = false;
  }
  const pieces = [], began = Date.now();
  recorder = new MediaRecorder(stream);
  const clock = setInterval(() => {
    const s = Math.floor((Date.now() - began) / 1000);
    at("recordText").textContent = "หยุด · Stop " + Math.floor(s / 60) + ":" + String(s % 60).padStart(2, "0");
    if (s >= LONGEST_RECORDING_S && recorder) recorder.stop();
  }, 200);
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.addEventListener("stop", () => {
    clearInterval(clock);
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    at("record").classList.remove("recording");
    at("recordText").textContent = "อัดใหม่ · Record again";
    take(new Blob(pieces, { type: pieces[0] ? pieces[0].type : "" }), "recording.webm");
  });
  recorder.start();
  at("record").classList.add("recording");
}

function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  return btoa(text);
}

function words() {
  return at("hotwords").value.split(",").map((w) => w.trim()).filter(Boolean);
}

async function request(signal) {
  const scene = at("scene").value.trim();
  if (task() !== "") {
    const form = new FormData();
    form.append("file", sound.blob, sound.name);
    form.append("task", task());
    form.append("stream", "true");
    for (const word of words()) form.append("hotwords[]", word);
    if (scene) form.append("scene", scene);
    return fetch("v1/audio/transcriptions", { method: "POST", headers: headers(), body: form, signal });
  }
  const data = base64(new Uint8Array(await sound.blob.arrayBuffer()));
  const format = sound.name.split(".").pop().toLowerCase();
  const content = [{ type: "input_audio", input_audio: { data, format } }, { type: "text", text: at("prompt").value }];
  const body = { model, messages: [{ role: "user", content }], stream: true, hotwords: words(), scene };
  return fetch("v1/chat/completions", {
    method: "POST", headers: { ...headers(), "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
}

// The events of a stream, as objects.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (rest + value).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function ask() {
  if (asking) return asking.abort();
  asking = new AbortController();
  const began = performance.now();
  at("ask").textContent = "หยุด · Stop";
  at("answer").textContent = at("facts").textContent = "";
  at("result").hidden = true;
  fail("");
  try {
    const response = await request(asking.signal);
    if (!response.ok) return fail(await sentence(response));
    at("result").hidden = false;
    for await (const event of events(response)) {
      if (event.error) return fail(event.error.message);
      if (event.type === "transcript.text.done") at("answer").textContent = event.text;
      else at("answer").append(event.delta ?? event.choices[0]?.delta.content ?? "");
    }
    at("facts").textContent = ((performance.now() - began) / 1000).toFixed(2) + " s";
  } catch (error) {
    if (error.name !== "AbortError") fail("ติดต่อเซิร์ฟเวอร์ไม่ได้ · The server cannot be reached: " + error.message);
  } finally {
    asking = null;
    at("ask").textContent = "ถาม · Ask";
    showPrompt();
  }
}

at("ask").addEventListener("click", ask);
at("record").addEventListener("click", record);
at("key").addEventListener("change", loadTasks);
at("copy").addEventListener("click", () => navigator.clipboard.writeText(at("answer").textContent));
at("file").addEventListener("change", (event) => {
  const file = event.target.files[0];
  if (file) take(file, file.name);
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", kind === "dragenter" || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) take(event.dataTransfer.files[0], event.dataTransfer.files[0].name);
  });
}
if (!navigator.mediaDevices?.getUserMedia) {
  at("record").disabled = true;
  at("noMicrophone").hidden = false;
}
if (!navigator.clipboard) at("copy").hidden = true;
loadTasks().catch((error) => fail("ติดต่อเซิร์ฟเวอร์ไม่ได้ · The server cannot be reached: " + error.message));
