// The photograph, large, over the 3D scene; keys. The picture of the panel (data-lmvic-picture) is its source.
(() => {
  const make = (tag, name, parent, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text) element.textContent = text;
    parent?.append(element);
    return element;
  };
  const stage = make("section", "lmvic-stage"), bar = make("div", "lmvic-bar", stage), title = make("b", "", bar);
  stage.hidden = true;
  stage.setAttribute("aria-label", "the chosen view");
  const swap = make("button", "", bar, "Original"), cameras = make("button", "", bar, "Show cameras in 3D");
  const frame = make("div", "lmvic-frame", stage), pair = make("div", "lmvic-pair", frame);
  const after = make("img", "", pair), before = make("img", "before", pair), line = make("span", "line", pair);
  const tags = [make("span", "tag l", pair, "original"), make("span", "tag r", pair, "decoded")];
  const slider = make("input", "", stage);
  slider.type = "range";
  slider.value = 50;
  slider.setAttribute("aria-label", "original on the left, decoded on the right");
  const help = make("p", "lmvic-keys", stage);
  const open = make("button", "lmvic-open", null, "Show the photograph");
  open.hidden = true;
  const waiting = make("p", "lmvic-wait", frame);
  make("span", "lmvic-spin", waiting);
  waiting.append("decoding the first view ...");
  const lost = make("p", "lmvic-wait", frame, "This view cannot be decoded.");
  let wanted = true, source = null, busy = false;

  const cut = (percent) => pair.style.setProperty("--cut", percent + "%");
  const slide = (percent) => {
    slider.value = Math.max(0, Math.min(100, percent));
    cut(slider.value);
    swap.setAttribute("aria-pressed", String(slider.value >= 100));
  };
  slider.addEventListener("input", () => slide(Number(slider.value)));
  const point = (event) => {
    const box = pair.getBoundingClientRect();
    if (event.buttons & 1 && !before.hidden) slide((100 * (event.clientX - box.left)) / box.width);
  };
  pair.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    pair.setPointerCapture(event.pointerId);
    point(event);
  });
  pair.addEventListener("pointermove", point);
  swap.addEventListener("click", () => slide(Number(slider.value) >= 100 ? 0 : 100));

  const place = () => {
    // viser lays a wider canvas over that of the scene
    const boxes = [...document.querySelectorAll("canvas")].map((canvas) => canvas.parentElement.getBoundingClientRect());
    const box = boxes.filter((one) => one.width > 0).sort((a, b) => b.width - a.width)[0];
    if (!box) return;
    for (const [element, all] of [[stage, true], [open, false]]) {
      element.style.left = box.left + (all ? 0 : 12) + "px";
      element.style.top = box.top + (all ? 0 : 12) + "px";
    }
    // viser's panel stands at the right, and in narrow windows over the lower part
    let [right, below] = [box.right, box.bottom];
    for (let part = document.querySelector("[data-lmvic-picture], [data-lmvic-busy]"); part; part = part.parentElement) {
      if (!["absolute", "fixed"].includes(getComputedStyle(part).position)) continue;
      const panel = part.getBoundingClientRect();
      if (panel.left > box.left + 50 && panel.right >= innerWidth - 2) right = Math.min(right, panel.left);
      else if (panel.top > box.top + 50 && panel.bottom >= innerHeight - 2) below = Math.min(below, panel.top);
    }
    stage.style.width = right - box.left + "px";
    stage.style.height = Math.max(120, below - box.top) + "px";
    // a picture fills the frame in one direction
    const room = frame.getBoundingClientRect();
    const [width, height] = [after.naturalWidth, after.naturalHeight];
    if (!width || !room.height) return;
    const scale = Math.min(room.width / width, room.height / height);
    for (const side of [pair, after]) {
      side.style.width = width * scale + "px";
      side.style.height = height * scale + "px";
    }
  };
  const show = () => {
    const there = source !== null || busy;
    pair.hidden = !source?.decoded;
    cameras.hidden = source === null;
    waiting.hidden = source !== null;
    lost.hidden = source === null || source.decoded !== "";
    if (source === null) slider.hidden = swap.hidden = true;
    stage.hidden = !(there && wanted);
    open.hidden = !there || wanted;
    document.body.classList.toggle("lmvic-staged", !stage.hidden);
    place();
  };
  cameras.addEventListener("click", () => { wanted = false; show(); });
  open.addEventListener("click", () => { wanted = true; show(); });
  after.addEventListener("load", place);

  const named = (label) =>
    [...document.querySelectorAll("button")].find((button) => button.textContent.trim() === label && !button.disabled);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  let pressed = 0;
  const followBrowser = () => {
    const button = named("Switch dark and light");
    if (!button) return;
    button.style.display = "none";
    const now = document.documentElement.dataset.mantineColorScheme === "dark";
    if (now === dark.matches || Date.now() < pressed + 3000) return;
    pressed = Date.now();
    button.click();
  };
  const look = () => {
    followBrowser();
    const found = document.querySelector("[data-lmvic-picture]");
    if (found) {
      const { decoded, original, words } = found.dataset;
      if (!source || source.decoded !== decoded || source.original !== original) {
        source = { decoded, original };
        if (decoded) after.src = decoded;
        after.alt = words + ", " + (original ? "decoded" : "as it is");
        before.hidden = line.hidden = slider.hidden = swap.hidden = !original;
        for (const tag of tags) tag.hidden = !original;
        help.textContent = "Keys: N next, P previous, " + (original ? "X next worst, O original, " : "") + "C cameras, / find a view";
        if (original) {
          before.src = original;
          before.alt = words + ", original";
        }
        cut(slider.value);
        show();
      }
      title.textContent = words;
    }
    const now = !!document.querySelector("[data-lmvic-busy]");
    stage.classList.toggle("lmvic-busy", now && source !== null);
    if (now !== busy) {
      busy = now;
      show();
    }
  };

  const press = (label) => named(label)?.click();
  const find = () => {
    for (const label of document.querySelectorAll("label")) {
      if (label.textContent.trim() === "Find a view") return document.getElementById(label.htmlFor)?.focus();
    }
  };
  const keys = { n: () => press("Next"), p: () => press("Previous"), x: () => press("Next worst"), "/": find,
    o: () => before.hidden || swap.click(), c: () => source && (wanted = !wanted, show()) };
  document.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input:not([type=range]), textarea, select");
    const action = keys[event.key.toLowerCase()];
    if (typing || !action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });

  addEventListener("DOMContentLoaded", () => {
    document.body.append(stage, open);
    new MutationObserver(look).observe(document.getElementById("root"), { subtree: true, childList: true, attributes: true,
      attributeFilter: ["data-decoded", "data-original", "data-words"] });
    addEventListener("resize", place);
    setInterval(() => { place(); look(); }, 500); // the panel may be folded in or out
  });
})();
