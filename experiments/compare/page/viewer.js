"use strict";
// Side-by-side pictures of one image: all views of an example show the same region at the same zoom.
// Positions are in pixels of the embedded picture; `zoom` is screen pixels for each of them.

const STEPS = [1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32];
const KEY_PAN = 40; // screen pixels that an arrow key moves
const CLICK = 4; // a pointer that moved less than this was a click

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

class Example {
  constructor(root) {
    this.root = root;
    this.width = Number(root.dataset.width);
    this.height = Number(root.dataset.height);
    this.focusBox = root.dataset.focus.split(",").map(Number); // left, top, right, bottom
    this.crop = root.dataset.crop.split(",").map(Number); // where the embedded picture lies in the whole one
    this.whole = root.dataset.whole.split(",").map(Number); // width, height
    this.views = [...root.querySelectorAll(".view")];
    this.pair = root.querySelector(".pair");
    this.chosen = [...root.querySelectorAll("select[data-side]")];
    this.readout = root.querySelector("output");
    this.pointers = new Map();
    this.turned = 0; // wheel movement that was not yet a step
    this.showing = 0; // which of A and B is on top
    this.listen();
    this.mark(root.querySelector(".map .crop"), this.crop);
    this.showFocus();
    this.showPair();
  }

  listen() {
    for (const view of this.views) {
      view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
      view.addEventListener("pointerdown", (event) => this.press(event));
      view.addEventListener("pointermove", (event) => this.move(event));
      for (const name of ["pointerup", "pointercancel"]) {
        view.addEventListener(name, (event) => this.release(event));
      }
      view.addEventListener("pointerleave", () => this.point(null));
      view.addEventListener("keydown", (event) => this.key(event));
    }
    for (const button of this.root.querySelectorAll("button[data-do]")) {
      button.addEventListener("click", () => this.act(button.dataset.do));
    }
    for (const select of this.chosen) select.addEventListener("change", () => this.showPair());
    this.root.querySelector("input[data-difference]")?.addEventListener("change", () => this.showPair());
    const overview = this.root.querySelector(".overview .map");
    const jump = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const frame = overview.getBoundingClientRect();
      this.x = ((event.clientX - frame.left) / frame.width) * this.whole[0] - this.crop[0];
      this.y = ((event.clientY - frame.top) / frame.height) * this.whole[1] - this.crop[1];
      this.draw();
    };
    overview.addEventListener("pointerdown", jump);
    overview.addEventListener("pointermove", jump);
    new ResizeObserver(() => this.resized()).observe(this.views[0]);
  }

  act(name) {
    const actions = {
      in: () => this.step(1),
      out: () => this.step(-1),
      one: () => this.zoomTo(1),
      whole: () => this.showWhole(),
      focus: () => this.showFocus(),
      flip: () => this.flip(),
    };
    actions[name]();
  }

  get size() {
    return [this.views[0].clientWidth, this.views[0].clientHeight];
  }

  get fitting() {
    const [width, height] = this.size;
    return Math.min(1, width / this.width, height / this.height);
  }

  showWhole() {
    [this.x, this.y] = [this.width / 2, this.height / 2];
    this.zoomTo(this.fitting);
    this.untouched = "whole";
  }

  showFocus() {
    const [left, top, right, bottom] = this.focusBox;
    [this.x, this.y] = [(left + right) / 2, (top + bottom) / 2];
    const [width, height] = this.size;
    const most = Math.min(width / (right - left), height / (bottom - top));
    this.zoomTo(Math.max(1, ...STEPS.filter((step) => step <= most)));
    this.untouched = "focus";
  }

  resized() {
    if (this.untouched === "whole") this.showWhole();
    else if (this.untouched === "focus") this.showFocus();
    else this.draw();
  }

  /** Zoom; the picture position `at` [x, y] stays where it is on the screen, without it the centre. */
  zoomTo(zoom, at = [this.x, this.y]) {
    const before = this.zoom || zoom;
    this.zoom = clamp(zoom, Math.min(this.fitting, 1), STEPS.at(-1));
    this.x = at[0] + ((this.x - at[0]) * before) / this.zoom;
    this.y = at[1] + ((this.y - at[1]) * before) / this.zoom;
    this.untouched = null;
    this.draw();
  }

  /** The next whole zoom in or out: whole numbers above 100 % keep all pixels of one size. */
  step(direction, at) {
    const near = 1e-6;
    const next =
      direction > 0
        ? STEPS.find((step) => step > this.zoom + near)
        : STEPS.findLast((step) => step < this.zoom - near);
    this.zoomTo(next ?? this.zoom, at);
  }

  draw() {
    const [width, height] = this.size;
    const place = (centre, shown, full) => {
      const half = shown / (2 * this.zoom);
      return 2 * half >= full ? full / 2 : clamp(centre, half, full - half);
    };
    this.x = place(this.x, width, this.width);
    this.y = place(this.y, height, this.height);
    const left = Math.round(width / 2 - this.x * this.zoom);
    const top = Math.round(height / 2 - this.y * this.zoom);
    for (const picture of this.root.querySelectorAll(".view img")) {
      picture.style.width = `${this.width * this.zoom}px`;
      picture.style.height = `${this.height * this.zoom}px`;
      picture.style.transform = `translate(${left}px, ${top}px)`;
      picture.style.imageRendering = this.zoom >= 1 ? "pixelated" : "auto";
    }
    const percent = Math.round(this.zoom * 100);
    this.readout.textContent = `${percent} %`;
    const [across, down] = [width / this.zoom, height / this.zoom];
    this.mark(this.root.querySelector(".now"), [
      this.crop[0] + clamp(this.x - across / 2, 0, this.width),
      this.crop[1] + clamp(this.y - down / 2, 0, this.height),
      this.crop[0] + clamp(this.x + across / 2, 0, this.width),
      this.crop[1] + clamp(this.y + down / 2, 0, this.height),
    ]);
  }

  mark(element, box) {
    const share = (value, full) => `${(100 * value) / full}%`;
    element.style.left = share(box[0], this.whole[0]);
    element.style.top = share(box[1], this.whole[1]);
    element.style.width = share(box[2] - box[0], this.whole[0]);
    element.style.height = share(box[3] - box[1], this.whole[1]);
  }

  /** Picture position under the pointer. */
  under(event) {
    const frame = event.currentTarget.getBoundingClientRect();
    const [width, height] = this.size;
    return [
      this.x + (event.clientX - frame.left - width / 2) / this.zoom,
      this.y + (event.clientY - frame.top - height / 2) / this.zoom,
    ];
  }

  wheel(event) {
    // The wheel scrolls the page until a view was clicked: nobody is caught in a picture on the way down.
    if (!event.ctrlKey && !this.views.includes(document.activeElement)) return;
    event.preventDefault();
    this.turned += event.deltaMode === 0 ? event.deltaY : 60 * event.deltaY;
    if (Math.abs(this.turned) < 50) return;
    this.step(this.turned < 0 ? 1 : -1, this.under(event));
    this.turned = 0;
  }

  press(event) {
    if (event.button !== 0) return;
    event.currentTarget.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.moved = this.pointers.size > 1 ? Infinity : 0;
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return this.point(event);
    const now = [event.clientX, event.clientY];
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    this.pointers.set(event.pointerId, now);
    if (this.moved < CLICK) return;
    const share = other ? 0.5 : 1; // two fingers move the picture by their middle
    this.x -= (share * (now[0] - before[0])) / this.zoom;
    this.y -= (share * (now[1] - before[1])) / this.zoom;
    if (other) {
      const distance = (from) => Math.max(1, Math.hypot(from[0] - other[0], from[1] - other[1]));
      const middle = { currentTarget: event.currentTarget, clientX: (now[0] + other[0]) / 2 };
      middle.clientY = (now[1] + other[1]) / 2;
      this.zoomTo((this.zoom * distance(now)) / distance(before), this.under(middle));
    }
    this.untouched = null;
    this.draw();
  }

  release(event) {
    const clicked = this.pointers.delete(event.pointerId) && this.moved < CLICK && event.type === "pointerup";
    if (clicked && this.pair?.contains(event.currentTarget)) this.flip();
  }

  /** The same place is marked in all views. */
  point(event) {
    const here = event && event.pointerType === "mouse";
    this.root.classList.toggle("pointing", Boolean(here));
    if (!here) return;
    const frame = event.currentTarget.getBoundingClientRect();
    this.root.style.setProperty("--point-x", `${event.clientX - frame.left}px`);
    this.root.style.setProperty("--point-y", `${event.clientY - frame.top}px`);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const action = { "+": "in", "=": "in", "-": "out", 1: "one", 0: "whole", d: "focus", f: "flip", " ": "flip" }[
      event.key
    ];
    if (pan) {
      this.x += (pan[0] * KEY_PAN) / this.zoom;
      this.y += (pan[1] * KEY_PAN) / this.zoom;
      this.untouched = null;
      this.draw();
    } else if (action && (action !== "flip" || this.pair)) this.act(action);
    else return;
    event.preventDefault();
  }

  flip() {
    this.showing = 1 - this.showing;
    this.showPair();
  }

  /** Draw A or B, or the difference of both, in the pair's view. */
  showPair() {
    if (!this.pair) return;
    const difference = this.root.querySelector("input[data-difference]").checked;
    const pictures = [...this.pair.querySelectorAll("img")];
    const titles = this.chosen.map((select) => select.selectedOptions[0].textContent);
    this.chosen.forEach((select, side) => {
      const source = this.root.querySelector(`[data-panel="${Number(select.value)}"]`);
      const picture = source.querySelector("img");
      if (pictures[side].src !== picture.src) pictures[side].src = picture.src;
      pictures[side].alt = picture.alt;
      pictures[side].style.visibility = difference || side === this.showing ? "visible" : "hidden";
    });
    this.pair.classList.toggle("difference", difference);
    const caption = this.pair.querySelector("figcaption");
    const side = this.showing;
    const panel = this.root.querySelector(`[data-panel="${Number(this.chosen[side].value)}"]`);
    const [name, scores] = caption.querySelectorAll("span");
    name.textContent = difference ? `|${titles[0]} − ${titles[1]}| × 4` : `${"AB"[side]}: ${titles[side]}`;
    scores.textContent = difference ? "" : panel.querySelector(".scores").textContent;
    this.draw();
  }
}

document.querySelectorAll(".example").forEach((root) => new Example(root));
