// The page's behaviour: an API key in this tab, photos out, answers in. It knows the public HTTP API and nothing else.

const KEY = "poxvisio.key";
const PAGE = 60;
const OUTCOMES = ["classified", "abstained", "rejected", "failed", "cancelled", "expired", "waiting"];
const STATES = { receiving: "Receiving", queued: "Queued", running: "Running", completed: "Completed", stopped: "Stopped", cancelled: "Cancelled", expired: "Expired" };
const REASONS = {
  ambiguous: "More than one answer fits this photo.",
  no_label_fits: "No answer fits this photo well enough.",
  out_of_distribution: "Unlike anything the model was trained on.",
  blurred: "Too blurred to judge.",
  too_dark: "Too dark to judge.",
  too_bright: "Too bright to judge.",
  too_small: "Too small to judge.",
  flat_frame: "The frame shows nothing to judge.",
  empty: "The file has no bytes.",
  too_large: "The file has more bytes than a photo may have.",
  too_many_pixels: "The picture has more pixels than a photo may have.",
  unknown_type: "The file is no JPEG, PNG, WebP or HEIC picture.",
  damaged: "The picture is cut off or damaged.",
  unsupported_frames: "The file is an animation, not a photo.",
  metadata_too_large: "The file carries more metadata than a photo may have.",
  decoder_died: "No decoder could read this file to its end.",
  timed_out: "Reading this file takes longer than a photo may take.",
  photo_missing: "The photo is gone from the storage.",
  storage_unreachable: "The storage of the photos could not be reached. The photo can be sent to the model again.",
  bytes_changed: "The stored file is not the one that was sent.",
  decoder_unavailable: "The service was too busy to read this file. The photo can be sent to the model again.",
  network_failed: "The model failed over this photo.",
};

const $ = (id) => document.getElementById(id);
const number = (n) => n.toLocaleString();
const plural = (n, word) => `${number(n)} ${word}${n === 1 ? "" : "s"}`;
const when = (text) => new Date(text).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

let synthetic = false;
let watching = null; // the AbortController of the job on show
let shown = null; // {id, cursor, rows, visible}
let olderCursor = null;
let lastSent = null; // files whose sending failed, with their idempotency key

class Refused extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `The service answered ${status}.`);
    this.status = status;
  }
}

// Every call carries the key in a header, never in an address.
async function call(path, options = {}) {
  const headers = { Authorization: `Bearer ${sessionStorage.getItem(KEY)}`, ...options.headers };
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.ok || answer.status === 304) return answer;
  const problem = await answer.json().catch(() => ({}));
  if (answer.status === 401) signOut("This key is not valid any more.");
  throw new Refused(answer.status, problem);
}

const json = async (path, options) => (await call(path, options)).json();
const explain = (error) => (error instanceof Refused ? error.message : "The service cannot be reached. Check the connection and try again.");

// ---- the key ----

async function signIn() {
  const page = await json("/v1/jobs?limit=10");
  $("entry").hidden = true;
  $("work").hidden = false;
  $("forget").hidden = false;
  listJobs(page, true);
  await Promise.all([showModel(), showLimits()]);
  if (location.hash.startsWith("#job_")) open(location.hash.slice(1), false);
}

function signOut(why = "") {
  sessionStorage.removeItem(KEY);
  watching?.abort();
  for (const id of ["work", "forget", "job", "model"]) $(id).hidden = true;
  $("entry").hidden = false;
  $("results").replaceChildren();
  $("jobs").replaceChildren();
  $("key-error").textContent = why;
  $("key").value = "";
  $("key").focus();
}

$("key-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, $("key").value.trim());
  $("key-error").textContent = "";
  try {
    await signIn();
    $("main").focus();
  } catch (error) {
    signOut(error.status === 401 ? "There is no such key, or it has expired." : explain(error));
  }
});
// The page starts anew: nothing of this key, not even photos that are still on their way, is there for the next one.
$("forget").addEventListener("click", () => {
  signOut();
  history.replaceState(null, "", location.pathname);
  location.reload();
});

async function showModel() {
  const line = $("model");
  line.hidden = false;
  try {
    const [model] = (await json("/v1/models")).models;
    synthetic = model.synthetic;
    line.textContent = `Model ${model.id}`;
    if (synthetic) line.append(" ", mark("synthetic: shows how the service works, says nothing about patients"));
  } catch (error) {
    line.textContent = error.status === 503 ? "No model is served at present: photos are taken in and wait." : "";
  }
}

async function showLimits() {
  const limits = await json("/v1/limits");
  $("limits").textContent = `JPEG, PNG, WebP or HEIC · up to ${Math.round(limits.max_photo_bytes / 2 ** 20)} MB each · up to ${number(limits.max_photos)} at once`;
}

function mark(text) {
  const span = document.createElement("span");
  span.className = "mark";
  span.textContent = text;
  return span;
}

// ---- sending ----

const isPhoto = (file) => file.type.startsWith("image/") || /\.(jpe?g|png|webp|hei[cf])$/i.test(file.name);

for (const id of ["files", "folder"]) {
  $(id).addEventListener("change", (event) => {
    send([...event.target.files], id === "folder");
    event.target.value = "";
  });
}

const drop = $("drop");
for (const kind of ["dragenter", "dragover"]) {
  drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
}
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return send([...event.dataTransfer.files], false);
  const files = (await Promise.all(entries.map(filesOf))).flat();
  send(files, entries.some((entry) => entry.isDirectory));
});
// A photo dropped beside the field must not replace the page.
for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());

async function filesOf(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader();
  const found = [];
  for (;;) { // a reader gives a hundred at most each time
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (!some.length) return found;
    found.push(...(await Promise.all(some.map(filesOf))).flat());
  }
}

// In a folder other files lie about; what was chosen one by one is sent as it is, and answered as it is.
function send(files, fromFolder) {
  const photos = fromFolder ? files.filter(isPhoto) : files;
  $("send-error").textContent = "";
  if (!photos.length) {
    $("send-error").textContent = files.length ? "There are no photos in this folder." : "";
    return;
  }
  photos.sort((a, b) => (a.webkitRelativePath || a.name).localeCompare(b.webkitRelativePath || b.name));
  upload(photos, crypto.getRandomValues(new Uint32Array(4)).join("-"));
}

function upload(photos, idempotencyKey) {
  const form = new FormData();
  for (const photo of photos) form.append("photos", photo, photo.name);
  const request = new XMLHttpRequest();
  request.open("POST", "/v1/jobs");
  request.setRequestHeader("Authorization", `Bearer ${sessionStorage.getItem(KEY)}`);
  request.setRequestHeader("Idempotency-Key", idempotencyKey);
  request.responseType = "json";
  const bar = $("upload-bar");
  const text = $("upload-text");
  $("upload").hidden = false;
  $("again").hidden = true;
  bar.value = 0;
  text.textContent = `Sending ${plural(photos.length, "photo")}`;
  request.upload.onprogress = (event) => {
    if (!event.lengthComputable) return;
    bar.value = event.loaded / event.total;
    text.textContent = event.loaded < event.total
      ? `Sending ${plural(photos.length, "photo")}: ${Math.floor(100 * bar.value)} %`
      : "Sent. Waiting for the receipt…";
  };
  const failed = (why) => {
    $("upload").hidden = true;
    $("send-error").textContent = why;
    lastSent = { photos, idempotencyKey };
    $("again").hidden = false;
  };
  request.onload = () => {
    if (request.status === 401) return signOut("This key is not valid any more.");
    if (request.status !== 202) return failed(new Refused(request.status, request.response ?? {}).message);
    $("upload").hidden = true;
    lastSent = null;
    open(request.response.id, true);
    refreshJobs();
  };
  request.onerror = () => failed("The connection broke. Nothing is sent twice when you try again.");
  request.onabort = () => { $("upload").hidden = true; };
  $("upload-stop").onclick = () => request.abort();
  request.send(form);
}
$("again").addEventListener("click", () => lastSent && upload(lastSent.photos, lastSent.idempotencyKey));

// ---- one job ----

function open(id, focus) {
  watching?.abort();
  watching = new AbortController();
  for (const image of $("results").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("results").replaceChildren();
  $("job-error").textContent = "";
  $("job").hidden = false;
  shown = { id, cursor: null, rows: [], visible: PAGE, ended: false };
  history.replaceState(null, "", `#${id}`);
  for (const button of $("jobs").querySelectorAll("button")) button.setAttribute("aria-current", String(button.dataset.job === id));
  if (focus) $("job-title").focus();
  watch(shown, watching.signal);
}

async function watch(view, signal) {
  let etag = "";
  let trouble = 0;
  while (!signal.aborted) {
    try {
      const headers = etag ? { "If-None-Match": etag, Prefer: "wait=20" } : {};
      const answer = await call(`/v1/jobs/${view.id}`, { headers, signal });
      trouble = 0;
      $("job-error").textContent = "";
      if (answer.status === 200) {
        etag = answer.headers.get("ETag") ?? "";
        const job = await answer.json();
        if (signal.aborted) return;
        showJob(job);
        await readResults(view, job, signal);
        if (job.closed_at) { refreshJobs(); return; }
        // Answers come in bursts; the eye needs no more than two looks a second.
        await pause(answer.headers.has("Preference-Applied") ? 400 : 1000);
      } else if (!answer.headers.has("Preference-Applied")) await pause(2000);
    } catch (error) {
      if (signal.aborted) return;
      $("job-error").textContent = explain(error);
      if (error instanceof Refused && error.status < 500) return;
      await pause(Math.min(1000 * 2 ** trouble++, 15000));
    }
  }
}

function showJob(job) {
  const done = job.total - job.counts.waiting;
  $("job-title").textContent = `${plural(job.total, "photo")}, ${STATES[job.state].toLowerCase()}`;
  $("job-about").textContent = `${job.id} · sent ${when(job.created_at)}`;
  $("job-bar").value = job.progress;
  $("job-status").textContent = statusOf(job, done);
  $("counts").replaceChildren(...OUTCOMES.filter((name) => job.counts[name]).map((name) => {
    const item = document.createElement("li");
    const count = document.createElement("b");
    count.textContent = number(job.counts[name]);
    item.append(count, ` ${name}`);
    return item;
  }));
  $("cancel").hidden = Boolean(job.closed_at);
}

function statusOf(job, done) {
  if (job.closed_at) return `${number(done)} of ${number(job.total)} accounted for. Closed ${when(job.closed_at)}.`;
  const parts = [`${number(done)} of ${number(job.total)} done`];
  if (job.images_per_second) parts.push(`${job.images_per_second.toFixed(1)} photos a second`);
  if (job.eta) parts.push(`ready about ${new Date(job.eta).toLocaleTimeString(undefined, { timeStyle: "short" })}`);
  return parts.join(" · ");
}

async function readResults(view, job, signal) {
  // No more than what is looked at, and one page ahead.
  while (!signal.aborted && !view.ended && view.rows.length < view.visible + PAGE) {
    const query = new URLSearchParams({ limit: String(2 * PAGE) });
    if (view.cursor) query.set("cursor", view.cursor);
    const page = await json(`/v1/jobs/${view.id}/results?${query}`, { signal });
    if (signal.aborted) return;
    view.rows.push(...page.results);
    view.ended = page.next === null;
    view.cursor = page.next ?? view.cursor;
    draw(view);
    if (!page.results.length) break;
  }
  draw(view, job);
}

function draw(view) {
  const grid = $("results");
  for (const row of view.rows.slice(grid.childElementCount, view.visible)) grid.append(card(row));
  $("more").hidden = view.rows.length <= view.visible;
}

$("more").addEventListener("click", async () => {
  const first = shown.visible;
  shown.visible += PAGE;
  draw(shown);
  $("results").children[first]?.querySelector("button:not([hidden])")?.focus();
  try {
    await readResults(shown, null, watching.signal);
  } catch (error) {
    if (!watching.signal.aborted) $("job-error").textContent = explain(error);
  }
});

$("cancel").addEventListener("click", async () => {
  try {
    showJob(await json(`/v1/jobs/${shown.id}/cancel`, { method: "POST" }));
  } catch (error) {
    $("job-error").textContent = explain(error);
  }
});
$("receipt").addEventListener("click", () => save(`/v1/jobs/${shown.id}/receipt`, `${shown.id}-receipt.json`));
$("csv").addEventListener("click", () => save(`/v1/jobs/${shown.id}/results?format=csv`, `${shown.id}.csv`));

async function save(path, name) {
  try {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await (await call(path)).blob());
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  } catch (error) {
    $("job-error").textContent = explain(error);
  }
}

// ---- one photo ----

const arriving = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    arriving.unobserve(entry.target);
    entry.target.load();
  }
}, { rootMargin: "300px" });

function card(row) {
  const view = $("card").content.cloneNode(true).firstElementChild;
  const part = (name) => view.querySelector(`.${name}`);
  const name = row.file_name ?? `Photo ${row.ordinal + 1}`;
  part("name").textContent = row.custom_id ? `${row.custom_id} · ${name}` : name;
  part("badge").textContent = row.outcome;
  part("badge").classList.add(row.outcome);
  part("reasons").textContent = row.reasons.map((reason) => REASONS[reason] ?? `${reason.replaceAll("_", " ")}.`).join(" ");
  if (row.probabilities && row.label) showScore(part, row);
  if (row.duplicate_of) part("marks").append(mark("same bytes as an earlier photo"), " ");
  if (synthetic && row.model) part("marks").append(mark("synthetic"));
  part("blank").textContent = row.photo_url ? "" : "No picture";
  if (row.photo_url) {
    part("picture").load = () => showPhoto(part, row, name);
    arriving.observe(part("picture"));
  }
  return view;
}

function showScore(part, row) {
  const probability = row.probabilities[row.label] ?? 0;
  part("score").hidden = false;
  part("label").textContent = row.outcome === "abstained" ? `Not certain; closest: ${row.label}` : row.label;
  part("percent").textContent = `${(100 * probability).toFixed(1)} %`;
  const meter = part("score").querySelector("meter");
  meter.value = probability;
  meter.setAttribute("aria-label", `Calibrated probability of ${row.label}`);
}

async function showPhoto(part, row, name) {
  const photo = part("photo");
  try {
    photo.src = await picture(`/v1/images/${row.image}/photo`);
    await photo.decode();
  } catch {
    part("blank").textContent = "The picture could not be loaded";
    return;
  }
  photo.alt = `Photo ${name}`;
  photo.hidden = false;
  if (row.heatmap_url) offerHeat(part, row, photo);
}

function offerHeat(part, row, photo) {
  const toggle = part("toggle");
  const heat = part("heat");
  toggle.hidden = false;
  toggle.setAttribute("aria-label", `Heat map of ${photo.alt}`);
  toggle.addEventListener("click", async () => {
    const on = toggle.getAttribute("aria-pressed") !== "true";
    if (on && !heat.src) {
      // The layer has the photo's own shape, so that both fill the frame alike.
      const scale = Math.min(1, 512 / Math.max(photo.naturalWidth, photo.naturalHeight));
      const side = (pixels) => Math.max(16, Math.round(pixels * scale));
      try {
        heat.src = await picture(`/v1/images/${row.image}/heatmap?width=${side(photo.naturalWidth)}&height=${side(photo.naturalHeight)}`);
      } catch {
        return;
      }
      heat.alt = "Orange speaks for the first label, blue against it";
    }
    toggle.setAttribute("aria-pressed", String(on));
    heat.hidden = !on;
  });
}

async function picture(path) {
  return URL.createObjectURL(await (await call(path)).blob());
}

// ---- the list of jobs ----

function listJobs(page, fresh) {
  if (fresh) $("jobs").replaceChildren();
  for (const job of page.jobs) {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.job = job.id;
    button.setAttribute("aria-current", String(shown?.id === job.id));
    for (const [name, text] of [["when", when(job.created_at)], ["state", STATES[job.state]], ["what", whatOf(job)]]) {
      const span = document.createElement("span");
      span.className = name;
      span.textContent = text;
      button.append(span);
    }
    button.addEventListener("click", () => open(job.id, true));
    item.append(button);
    $("jobs").append(item);
  }
  olderCursor = page.next;
  $("older").hidden = !page.next;
  $("jobs-empty").hidden = $("jobs").childElementCount > 0;
}

function whatOf(job) {
  const parts = OUTCOMES.filter((name) => job.counts[name]).map((name) => `${number(job.counts[name])} ${name}`);
  return `${plural(job.total, "photo")}: ${parts.join(", ")}`;
}

async function refreshJobs() {
  try {
    listJobs(await json("/v1/jobs?limit=10"), true);
  } catch (error) {
    $("job-error").textContent = explain(error);
  }
}
$("refresh").addEventListener("click", refreshJobs);
$("older").addEventListener("click", async () => {
  if (olderCursor) listJobs(await json(`/v1/jobs?limit=10&cursor=${encodeURIComponent(olderCursor)}`), false);
});

if (sessionStorage.getItem(KEY)) signIn().catch((error) => signOut(explain(error)));
else $("key").focus();
