// What pages do beyond what they do without this: they are live, a slider answers while it is moved, what is to be typed
// elsewhere can be copied, and the ledger is verified by the browser itself.

const news = document.querySelector("#news");
const say = (text) => { if (news) news.textContent = text; };

// On narrow screens the parts of the site are a line: the one that is shown is in sight.
document.querySelector(".side nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

// Ages, as the server says them.
function ago(seconds) {
  if (seconds < 60) return seconds < -5 ? "" : "just now";
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 48 * 3600) return `${Math.floor(seconds / 3600)} h ago`;
  return `${Math.floor(seconds / 86400)} days ago`;
}
setInterval(() => {
  for (const time of document.querySelectorAll("time[datetime]:not([data-fixed])")) {
    const text = ago((Date.now() - Date.parse(time.dateTime)) / 1000);
    if (text && text !== time.textContent) time.textContent = text;
  }
}, 30_000);

// Parts of a page are taken from a newer rendering of it; what somebody is typing in, or has opened, stays.
let asked = 0;
async function renew(url) {
  const mine = ++asked;
  const response = await fetch(url, { headers: { Accept: "text/html" } });
  if (!response.ok || response.redirected) { location.reload(); return null; }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  if (mine !== asked) return null;
  const changed = [];
  for (const part of document.querySelectorAll("[data-part]")) {
    const newer = page.getElementById(part.id);
    if (!newer || newer.innerHTML === part.innerHTML) continue;
    const before = new Map([...part.querySelectorAll("[data-cell]")].map((c) => [c.dataset.cell, c.dataset.digest]));
    const held = part.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
    part.replaceWith(newer);
    if (held) newer.querySelector(`[href="${CSS.escape(held)}"]`)?.focus();
    for (const cell of newer.querySelectorAll("[data-cell]")) {
      if (before.size && before.get(cell.dataset.cell) !== cell.dataset.digest) changed.push(cell);
    }
  }
  return { page, changed };
}

const live = document.querySelector("[data-live]");
if (live) {
  const text = live.querySelector("[data-live-text]");
  let waiting = false;
  const update = async () => {
    if (document.hidden) { waiting = true; return; }
    waiting = false;
    const result = await renew(location.href).catch(() => null);
    for (const cell of result?.changed ?? []) {
      cell.classList.add("fresh");
      say(`${cell.dataset.cell} is now ${cell.querySelector(".version")?.textContent ?? "empty"}`);
    }
  };
  const source = new EventSource(`/events?since=${live.dataset.live}`);
  source.addEventListener("open", () => { live.hidden = false; live.classList.remove("lost"); text.textContent = "live"; });
  source.addEventListener("error", () => {
    live.hidden = false;
    live.classList.add("lost");
    text.textContent = source.readyState === EventSource.CLOSED ? "not live; load the page again" : "connecting again";
  });
  source.addEventListener("changed", update);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && waiting) update(); });
  addEventListener("pagehide", () => source.close());
}

// The slider asks for the board at its instant while it is moved.
const slider = document.querySelector("[data-slider]");
if (slider) {
  const input = slider.querySelector("input");
  const heading = document.querySelector("h1");
  let timer;
  input.addEventListener("input", () => {
    const at = new Date(Number(input.value) * 1000);
    const now = input.value === input.max;
    const stamp = at.toISOString().slice(0, 16).replace("T", " ");
    input.setAttribute("aria-valuetext", `${stamp} UTC`);
    heading.textContent = now ? "What runs where" : `What ran where at ${stamp} UTC`;
    clearTimeout(timer);
    timer = setTimeout(() => { renew(now ? "/" : `/?at=${input.value}`).catch(() => {}); }, 120);
  });
  input.addEventListener("change", () => { location.assign(input.value === input.max ? "/" : `/?at=${input.value}`); });
}

// A list is filtered while one types; without this, the server does it.
for (const form of document.querySelectorAll("form[data-filter]")) {
  const input = form.querySelector("input[type=search]");
  const count = form.querySelector("[data-filter-count]");
  const items = [...document.querySelectorAll("[data-filter-words]")];
  // Only a list that the server has not cut itself can grow again.
  if (new URLSearchParams(location.search).get("q")) { form.querySelector("[data-go]").style.display = "inline-block"; continue; }
  const filter = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const item of items) {
      item.hidden = !words.every((w) => item.dataset.filterWords.includes(w));
      if (!item.hidden) shown++;
    }
    for (const group of document.querySelectorAll("[data-filter-group]")) group.hidden = !group.querySelector("[data-filter-words]:not([hidden])");
    document.querySelector("[data-filter-none]").hidden = shown > 0;
    count.textContent = `${shown} of ${items.length}`;
  };
  input.addEventListener("input", filter);
  form.addEventListener("submit", (event) => { event.preventDefault(); document.querySelector("[data-filter-words]:not([hidden]) a")?.focus(); });
  filter();
}

// A build's log goes on where the page was rendered, and stays at its end unless somebody reads further up.
const follow = document.querySelector("[data-follow]");
if (follow) {
  const most = 2_000_000; // characters that are kept on the page
  const indicator = document.querySelector("[data-follow-live]");
  const text = document.querySelector("[data-follow-text]");
  const source = new EventSource(follow.dataset.follow);
  let state = follow.dataset.state;
  let kept = follow.textContent.length;
  const toEnd = () => { follow.scrollTop = follow.scrollHeight; };
  toEnd();
  source.addEventListener("open", () => { indicator.hidden = false; indicator.classList.remove("lost"); text.textContent = "live"; });
  source.addEventListener("error", () => {
    indicator.hidden = false;
    indicator.classList.add("lost");
    text.textContent = source.readyState === EventSource.CLOSED ? "not live; load the page again" : "connecting again";
  });
  source.addEventListener("message", (event) => {
    const below = follow.scrollHeight - follow.scrollTop - follow.clientHeight;
    const lines = `${JSON.parse(event.data).join("\n")}\n`;
    follow.append(lines);
    for (kept += lines.length; kept > most && follow.childNodes.length > 1;) {
      kept -= follow.firstChild.textContent.length;
      follow.firstChild.remove();
    }
    if (below < 48) toEnd();
  });
  source.addEventListener("state", (event) => {
    if (event.data === state) return;
    state = event.data;
    say(`The build is ${state}`);
    renew(location.href).catch(() => {});
  });
  source.addEventListener("end", () => {
    source.close();
    indicator.hidden = true;
  });
  addEventListener("pagehide", () => source.close());
}

// Where the parts of the site do not fit, the one that is shown does.
const parts = document.querySelector(".side nav");
const here = parts?.querySelector("[aria-current]");
if (here && parts.scrollWidth > parts.clientWidth) parts.scrollLeft = here.offsetLeft - parts.clientWidth / 2;

// What takes a while says so.
for (const form of document.querySelectorAll("form[data-slow]")) {
  form.addEventListener("submit", () => {
    say(form.dataset.slow);
    form.classList.add("busy");
    for (const element of form.elements) if (element.type === "submit") element.textContent = form.dataset.slow;
  });
}

// What is to be typed elsewhere can be copied.
for (const element of navigator.clipboard ? document.querySelectorAll("[data-copy]") : []) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain small copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(element.textContent.trim());
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
  element.parentElement.append(button); // over its corner, so that nothing moves
}

// The ledger: RFC 6962's tree, and C2SP's signed notes.
const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
const base64 = (b) => btoa(String.fromCharCode(...b));
const join = (...parts) => {
  const all = new Uint8Array(parts.reduce((n, p) => n + p.length, 0));
  let at = 0;
  for (const p of parts) { all.set(p, at); at += p.length; }
  return all;
};
const same = (a, b) => a.length === b.length && a.every((v, i) => v === b[i]);
const sha256 = async (b) => new Uint8Array(await crypto.subtle.digest("SHA-256", b));
const leafHash = (leaf) => sha256(join(Uint8Array.of(0), leaf));
const nodeHash = (left, right) => sha256(join(Uint8Array.of(1), left, right));

// RFC 9162, section 2.1.3.2.
export async function rootOfInclusion(index, size, leaf, proof) {
  let fn = index, sn = size - 1, r = leaf;
  if (!(index < size)) throw new Error("the entry is not in the tree");
  for (const p of proof) {
    if (sn === 0) throw new Error("the proof is too long");
    if (fn % 2 === 1 || fn === sn) {
      r = await nodeHash(p, r);
      while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
    } else {
      r = await nodeHash(r, p);
    }
    fn = Math.floor(fn / 2); sn = Math.floor(sn / 2);
  }
  if (sn !== 0) throw new Error("the proof is too short");
  return r;
}

// RFC 9162, section 2.1.4.2.
export async function extendsTree(first, firstRoot, second, secondRoot, proof) {
  if (first === second) return proof.length === 0 && same(firstRoot, secondRoot);
  if (proof.length === 0) return false;
  const path = [...proof];
  if (Number.isInteger(Math.log2(first))) path.unshift(firstRoot);
  let fn = first - 1, sn = second - 1;
  while (fn % 2 === 1) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
  let fr = path[0], sr = path[0];
  for (const c of path.slice(1)) {
    if (sn === 0) return false;
    if (fn % 2 === 1 || fn === sn) {
      fr = await nodeHash(c, fr);
      sr = await nodeHash(c, sr);
      while (fn % 2 === 0 && fn !== 0) { fn = Math.floor(fn / 2); sn = Math.floor(sn / 2); }
    } else {
      sr = await nodeHash(sr, c);
    }
    fn = Math.floor(fn / 2); sn = Math.floor(sn / 2);
  }
  return sn === 0 && same(fr, firstRoot) && same(sr, secondRoot);
}

// openNote verifies a signed note by a key "name+hash+base64" and returns the checkpoint in it.
export async function openNote(note, verifier) {
  const [name, hash, key] = [verifier.slice(0, verifier.indexOf("+")), ...verifier.slice(verifier.indexOf("+") + 1).split(/\+(.*)/s)];
  const raw = bytes(key);
  if (raw[0] !== 1) throw new Error("the key is not of Ed25519");
  const id = (await sha256(join(new TextEncoder().encode(`${name}\n`), raw))).slice(0, 4);
  if ([...id].map((b) => b.toString(16).padStart(2, "0")).join("") !== hash) throw new Error("the key and its hash do not belong together");
  const split = note.lastIndexOf("\n\n");
  const text = note.slice(0, split + 1);
  const line = note.slice(split + 2).split("\n").find((l) => l.startsWith(`— ${name} `));
  if (!line) throw new Error("the key did not sign it");
  const signature = bytes(line.slice(line.lastIndexOf(" ") + 1));
  if (!same(signature.slice(0, 4), id)) throw new Error("the signature is by another key");
  const imported = await crypto.subtle.importKey("raw", raw.slice(1), { name: "Ed25519" }, false, ["verify"]);
  if (!await crypto.subtle.verify("Ed25519", imported, signature.slice(4), new TextEncoder().encode(text))) throw new Error("the signature is not valid");
  const [origin, size, root] = text.split("\n");
  return { origin, size: Number(size), root: bytes(root) };
}

const verify = document.querySelector("[data-verify]");
if (verify) {
  const button = verify.querySelector("[data-verify-button]");
  const steps = verify.querySelector("[data-verify-steps]");
  const step = (ok, text) => {
    const li = document.createElement("li");
    li.className = ok ? "met" : "unmet";
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.textContent = ok ? "✓" : "✕";
    const p = document.createElement("p");
    p.textContent = text;
    li.append(mark, p);
    steps.append(li);
  };
  const remembered = () => { try { return JSON.parse(localStorage.getItem("waybill ledger")) ?? {}; } catch { return {}; } };

  const run = async () => {
    const seen = remembered();
    const from = Number(verify.dataset.from), to = Number(verify.dataset.to);
    const response = await fetch(`/ledger/proofs?from=${from}&to=${to}&seen=${seen.size ?? 0}`);
    if (!response.ok) throw new Error(`the server gave no proofs: ${response.status}`);
    const { checkpoint, verifier, inclusion, consistency } = await response.json();
    if (seen.verifier && seen.verifier !== verifier) throw new Error(`the key is another one than this browser saw before, ${seen.verifier}`);
    const head = await openNote(checkpoint, verifier);
    step(true, `The root of ${head.size} entries is signed by the ledger's key${seen.verifier ? ", the one that this browser saw before" : ", which this browser will remember"}.`);
    for (const entry of document.querySelectorAll("[data-entry]")) {
      const index = Number(entry.dataset.entry);
      const mark = entry.querySelector("[data-proof]");
      const leaf = await leafHash(new TextEncoder().encode(entry.querySelector("[data-leaf]").textContent));
      let ok = false;
      try {
        ok = same(await rootOfInclusion(index, head.size, leaf, (inclusion[index - from] ?? []).map(bytes)), head.root);
      } catch { /* it is not in the tree */ }
      mark.textContent = ok ? "✓ proved" : "✕ not in the tree";
      mark.classList.toggle("bad", !ok);
      if (!ok) throw new Error(`entry ${index} is not what the signed root commits to`);
    }
    step(true, `Each of the entries ${from} to ${to}, as this page shows it, is in that tree.`);
    if (seen.size) {
      if (head.size < seen.size) throw new Error(`the ledger has ${head.size} entries, and had ${seen.size} when this browser verified it last`);
      if (!await extendsTree(seen.size, bytes(seen.root), head.size, head.root, (consistency ?? []).map(bytes))) throw new Error("the tree does not extend the one that this browser verified last: something was rewritten");
      step(true, `It extends the tree of ${seen.size} entries that this browser verified last: nothing was rewritten.`);
    }
    localStorage.setItem("waybill ledger", JSON.stringify({ verifier, size: head.size, root: base64(head.root) }));
    say("Verified");
  };
  if (!globalThis.crypto?.subtle) {
    step(false, "Browsers verify only on pages that come by HTTPS, or from this machine. waybill audit does it everywhere.");
  } else {
    button.disabled = false;
    button.addEventListener("click", async () => {
      steps.replaceChildren();
      button.disabled = true;
      try { await run(); } catch (error) { step(false, `It does not verify: ${error.message}.`); say("It does not verify"); }
      button.disabled = false;
    });
  }
}
