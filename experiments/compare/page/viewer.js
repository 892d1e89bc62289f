"use strict";
// Side-by-side pictures of one image: all views of an example show the same region at the same zoom.
// `zoom` is screen pixels for each pixel of the embedded picture; where a view is, is how far it is scrolled.

const STEPS = [1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32];
const KEYS = { "+": "in", "=": "in", "-": "out", 1: "one", 0: "whole", d: "focus", f: "flip", " ": "flip" };
const ARROWS = { ArrowLeft: [-40, 0], ArrowRight: [40, 0], ArrowUp: [0, -40], ArrowDown: [0, 40] }; // screen pixels
const CLICK = 4; // a pointer that moved less than this was a click

const numbers = (text) => text.split(",").map(Number);

class Example {
  constructor(root) {
    this.root = root;
    this.crop = numbers(root.dataset.crop); // where the embedded picture lies in the whole one
    this.whole = numbers(root.dataset.whole); // width, height
    this.size = [this.crop[2] - this.crop[0], this.crop[3] - this.crop[1]];
    this.views = [...root.querySelectorAll(".view")];
    this.pair = root.querySelector(".pair");
    this.top = 0; // which of A and B is on top
    this.turned = 0; // wheel movement that was not yet a step
    this.actions = {
      in: () => this.step(1),
      out: () => this.step(-1),
      one: () => this.zoomTo(1),
      whole: () => this.zoomTo(Math.min(1, ...this.view.map((side, i) => side / this.size[i]))),
      focus: () => this.showFocus(),
      flip: () => this.flip(),
    };
    for (const view of this.views) this.listen(view);
    for (const button of root.querySelectorAll("button[data-do]")) {
      button.addEventListener("click", this.actions[button.dataset.do]);
    }
    for (const choice of root.querySelectorAll("select, input")) {
      choice.addEventListener("change", () => this.showPair());
    }
    const map = root.querySelector(".map");
    map.addEventListener("click", (event) => {
      const at = [event.offsetX / map.clientWidth, event.offsetY / map.clientHeight];
      this.moveTo(at.map((share, i) => share * this.whole[i] - this.crop[i]));
    });
    new ResizeObserver(() => this.markShown()).observe(this.views[0]);
    this.mark(".crop", this.crop);
    this.showPair();
    this.showFocus();
  }

  listen(view) {
    view.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    view.addEventListener("keydown", (event) => this.key(event));
    view.addEventListener("pointerdown", (event) => {
      if (event.button === 0) view.setPointerCapture(event.pointerId);
      this.moved = 0; // screen pixels since the button went down
      this.last = [event.clientX, event.clientY];
    });
    view.addEventListener("pointermove", (event) => {
      if (view.hasPointerCapture(event.pointerId)) this.drag(event);
    });
    view.addEventListener("click", () => {
      if (this.moved < CLICK && this.pair?.contains(view)) this.flip();
    });
  }

  /** Width and height of a view in screen pixels. */
  get view() {
    return [this.views[0].clientWidth, this.views[0].clientHeight];
  }

  /** How far a view is scrolled, in screen pixels. */
  get offset() {
    return [this.views[0].scrollLeft, this.views[0].scrollTop];
  }

  scrollTo(left, top) {
    for (const view of this.views) view.scrollTo(left, top);
    this.markShown();
  }

  /** Show this position of the picture in the middle. */
  moveTo(position) {
    this.scrollTo(...position.map((at, i) => at * this.zoom - this.view[i] / 2));
  }

  pan(across, down) {
    this.scrollTo(this.offset[0] + across, this.offset[1] + down);
  }

  /** Zoom; what is at `at`, screen pixels from the corner of a view, stays there; without it the middle. */
  zoomTo(zoom, at = this.view.map((side) => side / 2)) {
    const place = this.offset.map((offset, i) => ((offset + at[i]) * zoom) / this.zoom - at[i]);
    this.setZoom(zoom);
    this.scrollTo(...place);
  }

  /** The next zoom in or out: whole numbers above 100 % keep all pixels of one size. */
  step(direction, at) {
    const larger = STEPS.find((step) => step > this.zoom + 1e-6);
    const smaller = STEPS.findLast((step) => step < this.zoom - 1e-6);
    this.zoomTo((direction > 0 ? larger : smaller) ?? this.zoom, at);
  }

  showFocus() {
    const [left, top, right, bottom] = numbers(this.root.dataset.focus);
    const most = Math.min(this.view[0] / (right - left), this.view[1] / (bottom - top));
    this.setZoom(Math.max(1, ...STEPS.filter((step) => step <= most)));
    this.moveTo([(left + right) / 2, (top + bottom) / 2]);
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.root.style.setProperty("--width", `${this.size[0] * zoom}px`);
    this.root.style.setProperty("--height", `${this.size[1] * zoom}px`);
    this.root.style.setProperty("--rendering", zoom >= 1 ? "pixelated" : "auto");
    this.root.querySelector("output").textContent = `${Math.round(zoom * 100)} %`;
  }

  markShown() {
    const first = this.offset.map((offset, i) => this.crop[i] + offset / this.zoom);
    const last = first.map((start, i) => Math.min(this.crop[i + 2], start + this.view[i] / this.zoom));
    this.mark(".now", [...first, ...last]);
  }

  /** Lay a frame over a box of the overview. */
  mark(frame, box) {
    const style = this.root.querySelector(`.map ${frame}`).style;
    const [left, top, right, bottom] = box.map((side, i) => (100 * side) / this.whole[i % 2]);
    Object.assign(style, { left: `${left}%`, top: `${top}%`, width: `${right - left}%`, height: `${bottom - top}%` });
  }

  wheel(event) {
    // The wheel scrolls the page until a view was clicked: nobody is caught in a picture on the way down.
    if (!event.ctrlKey && !this.views.includes(document.activeElement)) return;
    event.preventDefault();
    this.turned += event.deltaMode === 0 ? event.deltaY : 60 * event.deltaY;
    if (Math.abs(this.turned) < 50) return;
    const frame = event.currentTarget.getBoundingClientRect();
    this.step(this.turned < 0 ? 1 : -1, [event.clientX - frame.left, event.clientY - frame.top]);
    this.turned = 0;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (ARROWS[event.key]) this.pan(...ARROWS[event.key]);
    else if (KEYS[event.key]) this.actions[KEYS[event.key]]();
    else return;
    event.preventDefault();
  }

  drag(event) {
    const [across, down] = [event.clientX - this.last[0], event.clientY - this.last[1]];
    this.last = [event.clientX, event.clientY];
    this.moved += Math.hypot(across, down);
    if (this.moved >= CLICK) this.pan(-across, -down);
  }

  flip() {
    this.top = 1 - this.top;
    this.showPair();
  }

  /** Draw A or B, or the difference of both, in the pair's view. */
  showPair() {
    if (!this.pair) return;
    const difference = this.root.querySelector("input").checked;
    const choices = [...this.root.querySelectorAll("select")];
    const panels = choices.map((select) => this.root.querySelector(`[data-panel="${select.value}"]`));
    const titles = panels.map((panel) => panel.querySelector(".name").textContent);
    this.pair.querySelectorAll("img").forEach((picture, side) => {
      const { src, alt } = panels[side].querySelector("img");
      Object.assign(picture, { src, alt });
      picture.style.visibility = difference || side === this.top ? "visible" : "hidden";
    });
    this.pair.classList.toggle("difference", difference);
    const both = `|${titles[0]} − ${titles[1]}| × 4`;
    this.pair.querySelector(".name").textContent = difference ? both : `${"AB"[this.top]}: ${titles[this.top]}`;
    const scores = panels[this.top].querySelector(".scores").textContent;
    this.pair.querySelector(".scores").textContent = difference ? "" : scores;
  }
}

document.querySelectorAll(".example").forEach((root) => new Example(root));
