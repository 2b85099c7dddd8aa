// What a person would see of a page.

globalThis.eyes = {
  /** What a person would call an element: its label, or what is written on it. */
  name(element) {
    const label = element.getAttribute("aria-label") ?? element.labels?.[0]?.textContent ?? element.textContent;
    return label.trim();
  },

  isSeen(element) {
    return element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;
  },

  /** The control of this name; in a dialog, where one is open. */
  find(name) {
    const scope = document.querySelector("dialog[open]") ?? document;
    const controls = [...scope.querySelectorAll("a, button, input, select, textarea, [tabindex='0']")];
    return controls.find((control) => this.isSeen(control) && !control.disabled && this.name(control) === name);
  },

  /** The middle of it, in the window, when it lies still and nothing lies over it; null while that is not so. */
  async place(name) {
    const middle = () => {
      const { left, top, width, height } = this.find(name)?.getBoundingClientRect() ?? {};
      return { x: left + width / 2, y: top + height / 2 };
    };
    this.find(name)?.scrollIntoView({ block: "center", behavior: "instant" });
    const before = middle();
    await new Promise((done) => setTimeout(done, 100));
    const { x, y } = middle();
    const found = this.find(name);
    const isStill = x === before.x && y === before.y;
    return isStill && found?.contains(document.elementFromPoint(x, y)) ? { x, y } : null;
  },

  /** What has the focus, and whether that is to be seen. */
  focused() {
    const element = document.activeElement;
    if (!element || element === document.body) return { name: "", shown: false };
    const outlined = (one) => one && getComputedStyle(one).outlineStyle !== "none" && getComputedStyle(one).outlineWidth !== "0px";
    const shown = element.matches(":focus-visible") && (outlined(element) || outlined(element.parentElement));
    return { name: this.name(element), shown };
  },

  /** Relative luminance of a colour (WCAG 2.2). */
  luminance(channels) {
    const [red, green, blue] = channels.map((channel) => {
      const part = channel / 255;
      return part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  },

  channels(colour) {
    const [red, green, blue, alpha = 1] = colour.match(/[\d.]+/g).map(Number);
    return { channels: [red, green, blue], alpha };
  },

  /** Text with a contrast below 4.5 to what is behind it, and how many texts were looked at. */
  faint() {
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = [];
    let looked = 0;
    while (walker.nextNode()) {
      const { parentElement: parent, textContent } = walker.currentNode;
      if (textContent.trim() === "" || !this.isSeen(parent) || parent.closest("noscript, .unseen, svg")) continue;
      looked += 1;
      let behind = parent;
      while (behind.parentElement && this.channels(getComputedStyle(behind).backgroundColor).alpha < 1) behind = behind.parentElement;
      const front = this.luminance(this.channels(getComputedStyle(parent).color).channels);
      const back = this.luminance(this.channels(getComputedStyle(behind).backgroundColor).channels);
      const contrast = (Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05);
      if (contrast < 4.5) faint.push(`${contrast.toFixed(2)}: ${textContent.trim().slice(0, 40)}`);
    }
    return { faint, looked };
  },

  /** Pixels by which the page is wider than the window. */
  overflow() {
    return document.documentElement.scrollWidth - innerWidth;
  },
};
