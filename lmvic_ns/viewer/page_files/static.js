(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const inPage = Object.keys(data.pictures).map(Number);
const worst = inPage.filter((view) => data.views[view].psnr !== null).sort((a, b) => data.views[a].psnr - data.views[b].psnr);
let shown = inPage[0], byWorst = false, depth = false;

// --- one view ---------------------------------------------------------------------------------------------------------
const cut = (percent) => {
  at("cut").value = Math.max(0, Math.min(100, percent));
  at("compare").style.setProperty("--cut", at("cut").value + "%");
  at("swap")?.setAttribute("aria-pressed", String(Number(at("cut").value) >= 100));
};
const show = (view) => {
  shown = view;
  const facts = data.views[view], pictures = data.pictures[view], pair = pictures.original !== null && !depth;
  const single = depth && pictures.depth !== null ? pictures.depth : pictures.decoded;
  at("compare").classList.toggle("single", !pair);
  at("before").src = pair ? pictures.original : single;
  at("before").alt = facts.name + (pair ? ", original" : single === pictures.depth ? ", depth" : "");
  if (pair) at("after").src = pictures.decoded;
  else at("after").removeAttribute("src");
  at("after").alt = facts.name + ", decoded";
  at("cut").hidden = !pair;
  at("name").textContent = facts.name;
  at("compare").style.maxWidth = `calc(70vh * ${facts.width / facts.height})`; // as wide as the card, and seen as a whole
  const words = [`view ${view + 1} of ${data.views.length}`, `${facts.width} x ${facts.height} pixels`];
  if (facts.bits !== null) words.push(facts.bits.toFixed(3) + " bits a pixel");
  if (facts.psnr !== null) words.push(facts.psnr >= 99 ? "exact" : facts.psnr.toFixed(2) + " dB");
  if (depth) words.push(pictures.depth === null ? "no depth of this view" : "depth: red is near, blue is far, grey unknown");
  at("facts").textContent = words.join(", ");
  for (const button of at("thumbs").children) button.setAttribute("aria-current", String(Number(button.dataset.view) === view));
  draw();
};
const go = (view) => { byWorst = false; show(view); };
const step = (by) => go(inPage[(inPage.indexOf(shown) + by + inPage.length) % inPage.length]);
const nextWorst = () => {
  if (!worst.length) return;
  const place = byWorst ? worst.indexOf(shown) + 1 : 0;
  byWorst = true;
  show(worst[place % worst.length]);
};
const swap = () => cut(Number(at("cut").value) >= 100 ? 0 : 100);
const toggleDepth = () => {
  depth = !depth;
  at("depth").setAttribute("aria-pressed", String(depth));
  show(shown);
};
at("previous").addEventListener("click", () => step(-1));
at("next").addEventListener("click", () => step(1));
at("worst")?.addEventListener("click", nextWorst);
at("swap")?.addEventListener("click", swap);
at("depth")?.addEventListener("click", toggleDepth);
at("cut").addEventListener("input", () => cut(Number(at("cut").value)));
const slide = (event) => {
  const box = at("compare").getBoundingClientRect();
  if (event.buttons & 1) cut((100 * (event.clientX - box.left)) / box.width);
};
at("compare").addEventListener("pointerdown", (event) => {
  event.preventDefault();
  at("compare").setPointerCapture(event.pointerId);
  slide(event);
});
at("compare").addEventListener("pointermove", slide);
const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), x: nextWorst, o: () => at("swap") && swap(),
  d: () => at("depth") && toggleDepth(), "/": () => at("find").focus() };
document.addEventListener("keydown", (event) => {
  const action = keys[event.key];
  if (!action || event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input")) return;
  event.preventDefault();
  action();
});

// --- the list ---------------------------------------------------------------------------------------------------------
for (const button of at("thumbs").children)
  button.addEventListener("click", () => {
    go(Number(button.dataset.view));
    at("name").scrollIntoView({ block: "nearest" });
  });
const filter = () => {
  const wanted = at("find").value.trim().toLowerCase();
  let count = 0;
  for (const button of at("thumbs").children) {
    button.hidden = !button.dataset.name.includes(wanted);
    count += !button.hidden;
  }
  at("count").textContent = count + " of " + at("thumbs").children.length;
};
at("find").addEventListener("input", filter);
at("find").addEventListener("keydown", (event) => {
  const first = [...at("thumbs").children].find((button) => !button.hidden);
  if (event.key === "Enter" && first) first.click();
});

// --- cameras and points -----------------------------------------------------------------------------------------------
const bytes = (text) => Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
const points = new Int16Array(bytes(data.points).buffer), colours = bytes(data.colours);
const space = at("space"), pen = space.getContext("2d");
let yaw = 0, pitch = 0.5, zoom = 1;
const view3d = (x, y, z) => {
  const [c, s, u, v] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
  const across = c * x - s * y, along = s * x + c * y;
  const far = u * along - v * z + 3; // the eye stands 3 radii from the middle
  const scale = (zoom * Math.min(space.clientWidth, 1.6 * space.clientHeight) * 1.35) / Math.max(far, 0.3);
  return [space.clientWidth / 2 + scale * across, space.clientHeight / 2 - scale * (v * along + u * z), far];
};
function draw() {
  const ratio = devicePixelRatio || 1, width = space.clientWidth, height = space.clientHeight;
  space.width = width * ratio;
  space.height = height * ratio;
  pen.scale(ratio, ratio);
  const unit = data.reach / 32767;
  for (let i = 0; i < points.length; i += 3) {
    const [x, y, far] = view3d(points[i] * unit, points[i + 1] * unit, points[i + 2] * unit);
    if (far < 0.3) continue;
    pen.fillStyle = `rgb(${colours[i]},${colours[i + 1]},${colours[i + 2]})`;
    pen.fillRect(x - 1, y - 1, 2, 2);
  }
  const ink = getComputedStyle(document.body);
  data.cameras.forEach((ends, view) => {
    const [tip, a, b, c, d] = [0, 3, 6, 9, 12].map((i) => view3d(ends[i], ends[i + 1], ends[i + 2]));
    if (tip[2] < 0.3) return;
    const known = String(view) in data.pictures;
    pen.strokeStyle = view === shown ? "#e6007e" : ink.getPropertyValue(known ? "--accent" : "--soft");
    pen.lineWidth = view === shown ? 2.5 : 1;
    pen.globalAlpha = known ? 1 : 0.5;
    pen.beginPath();
    for (const [from, to] of [[tip, a], [tip, b], [tip, c], [tip, d], [a, b], [b, c], [c, d], [d, a]]) {
      pen.moveTo(from[0], from[1]);
      pen.lineTo(to[0], to[1]);
    }
    pen.stroke();
    pen.globalAlpha = 1;
  });
}
const fingers = new Map();
let moved = 0;
space.addEventListener("pointerdown", (event) => {
  space.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  moved = 0;
});
const apart = () => {
  const [one, two] = [...fingers.values()];
  return Math.hypot(one[0] - two[0], one[1] - two[1]);
};
space.addEventListener("pointermove", (event) => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const gap = fingers.size === 2 ? apart() : 0;
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
  const [dx, dy] = [event.clientX - before[0], event.clientY - before[1]];
  moved += Math.abs(dx) + Math.abs(dy);
  if (gap) zoom = Math.max(0.2, Math.min(20, (zoom * apart()) / gap));
  else {
    yaw += dx * 0.008;
    pitch = Math.max(-1.5, Math.min(1.5, pitch + dy * 0.008));
  }
  draw();
});
const lift = (event) => {
  const alone = fingers.size === 1;
  fingers.delete(event.pointerId);
  if (event.type === "pointercancel" || !alone || moved > 5) return;
  const box = space.getBoundingClientRect();
  let nearest = -1, least = 22;
  data.cameras.forEach((ends, view) => {
    if (!(String(view) in data.pictures)) return;
    const middle = [0, 1, 2].map((axis) => (ends[axis] * 2 + ends[3 + axis] + ends[9 + axis]) / 4);
    const [x, y] = view3d(...middle);
    const gap = Math.hypot(x - event.clientX + box.left, y - event.clientY + box.top);
    if (gap < least) [nearest, least] = [view, gap];
  });
  if (nearest >= 0) go(nearest);
};
space.addEventListener("pointerup", lift);
space.addEventListener("pointercancel", lift);
space.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom = Math.max(0.2, Math.min(20, zoom * Math.exp(-event.deltaY * 0.0015)));
  draw();
}, { passive: false });
addEventListener("resize", draw);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

filter();
cut(50);
show(shown);
})();
